"""What several sub-commands share: parsers, the flags of a model, and the files that predictions are written to."""

from __future__ import annotations

import argparse
import inspect
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from ..predictor import Pose, Predictor
    from ..skeleton import Skeleton


def make_parser(command: str, documentation: str) -> argparse.ArgumentParser:
    """A parser whose --help opens with the first paragraph of a module's docstring and ends with the rest, as it is."""
    summary, _, examples = inspect.cleandoc(documentation).partition("\n\n")
    return argparse.ArgumentParser(
        prog=f"dgcn {command}",
        description=summary,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def positive(text: str) -> int:
    """Type of a flag that counts something."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def input_size(text: str) -> int:
    """Type of a flag for a size of the network's input: 16n+1 pixels."""
    from ..transforms import normalize_size

    try:
        return normalize_size(int(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_device_argument(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda where there is a GPU, else cpu)")


def choose_device(requested: str | None) -> str:
    """The device that was asked for, or the best there is."""
    import torch

    return requested or ("cuda" if torch.cuda.is_available() else "cpu")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that `load_predictor` reads."""
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="model, a .safetensors file (default: the one shipped with dgcn)",
    )
    parser.add_argument(
        "--long-edge",
        type=input_size,
        metavar="N",
        help="scale the long edge of pictures to N = 16n+1 pixels (default: what the checkpoint was evaluated at)",
    )
    add_device_argument(parser)


def add_batch_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch-size",
        type=positive,
        default=1,
        metavar="N",
        help="pictures in one pass of the network, where they have the same shape (default: 1)",
    )


def load_predictor(args: argparse.Namespace, batch_size: int = 1) -> Predictor:
    from ..predictor import Predictor

    device = choose_device(args.device)
    return Predictor(args.checkpoint, device=device, long_edge=args.long_edge, batch_size=batch_size)


def write_overlay(path: Path, image: np.ndarray, poses: Sequence[Pose], skeleton: Skeleton) -> None:
    """Write `image` (uint8 [H, W, 3] RGB) with the poses drawn on it as a JPEG, atomically."""
    import cv2

    from ..checkpoint import atomic_write
    from ..visualize import draw_poses

    overlay = cv2.cvtColor(draw_poses(image, poses, skeleton), cv2.COLOR_RGB2BGR)
    _, content = cv2.imencode(".jpg", overlay, [cv2.IMWRITE_JPEG_QUALITY, 92])
    with atomic_write(path) as file:
        file.write(content.tobytes())


class CocoWriter:
    """Collects the poses of pictures as a COCO keypoint data set: images, annotations, categories."""

    def __init__(self, skeleton: Skeleton) -> None:
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._category = {
            "id": 1,
            "name": "person",
            "supercategory": "person",
            "keypoints": list(skeleton.keypoints),
            "skeleton": [[i + 1, j + 1] for i, j in skeleton.limbs],  # COCO counts from 1
        }

    @property
    def num_images(self) -> int:
        return len(self._images)

    @property
    def num_persons(self) -> int:
        return len(self._annotations)

    def add(self, source: Path, image: np.ndarray, poses: Iterable[Pose]) -> None:
        """Add the picture `image` [H, W, 3] of the file `source`; ids count from 1 in the order of the calls."""
        image_id = len(self._images) + 1
        height, width = image.shape[:2]
        self._images.append(
            {"id": image_id, "file_name": str(source), "width": width, "height": height, "upright": True}
        )
        for pose in poses:
            self._annotations.append({"id": len(self._annotations) + 1, **pose.to_coco(image_id)})

    def write(self, path: Path) -> None:
        from ..checkpoint import write_json

        write_json(path, {"images": self._images, "annotations": self._annotations, "categories": [self._category]})


def check_writable(path: Path) -> None:
    """Create the folder of `path` and try that a file can be written there; raises OSError that names it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            open(path, "ab").close()
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
