"""What several sub-commands share: parsers, the flags of a model, and the files that predictions are written to."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import errno
import inspect
import io
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from ..data.description import Description
    from ..predict.predictor import Predictor
    from ..records import Pose
    from ..skeleton import Skeleton

JPEG_MAX_EDGE = 65500  # px; libjpeg's limit


def make_parser(command: str, documentation: str) -> argparse.ArgumentParser:
    """A parser whose --help begins with the first paragraph of a module's docstring and ends with the rest."""
    summary, _, examples = inspect.cleandoc(documentation).partition("\n\n")
    return argparse.ArgumentParser(
        prog=f"dgcn {command}",
        description=summary,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def describe(error: BaseException) -> str:
    """What an error says, in one line; an OSError names its file first."""
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{os.fsdecode(error.filename)}: {error.strerror}"
    return " ".join(text.split()) or type(error).__name__


def positive(text: str) -> int:
    """Type of a flag that counts something."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def fraction(text: str) -> float:
    """Type of a flag for a score or a confidence."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be in [0, 1], got {text}")
    return value


def decoder_option(text: str) -> tuple[str, Any]:
    """Type of a flag KEY=VALUE: the name of a field of `DecoderConfig`, and a value that it takes."""
    from dgcn_ext.decoder import DecoderConfig

    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE, got {text!r}")
    defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(DecoderConfig)}
    if name not in defaults:
        near = difflib.get_close_matches(name, defaults)
        choice = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(defaults)}"
        raise argparse.ArgumentTypeError(f"the decoder has no option {name!r}: {choice}")
    kind = type(defaults[name])
    parsed: Any = value  # about which DecoderConfig complains
    with contextlib.suppress(KeyError, ValueError):
        parsed = {"true": True, "false": False}[value.lower()] if kind is bool else kind(value)
    try:
        DecoderConfig(**{name: parsed})
    except (TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return name, parsed


def input_size(text: str) -> int:
    """Type of a flag for a size of the network's input: 16n+1 pixels."""
    from ..sizes import check_size

    try:
        return check_size(int(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_device_argument(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda where there is a GPU, else cpu)")


def warn(command: str, message: str) -> None:
    """One line on stderr, above a progress bar if one is shown."""
    from tqdm import tqdm

    tqdm.write(f"dgcn {command}: warning: {' '.join(message.split())}", file=sys.stderr)


def choose_device(requested: str | None, checkpoint: Path | None = None) -> str:
    """The requested device; by default a GPU if there is one, else the CPU, on which an .onnx checkpoint runs."""
    if checkpoint is not None and checkpoint.suffix == ".onnx":  # where torch may be missing
        return requested or "cpu"
    import torch

    return requested or ("cuda" if torch.cuda.is_available() else "cpu")


def add_checkpoint_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="model, a .safetensors file, or an .onnx file of dgcn export (default: the one shipped with dgcn)",
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that `load_predictor` reads."""
    add_checkpoint_argument(parser)
    parser.add_argument(
        "--long-edge",
        type=input_size,
        metavar="N",
        help="scale the long edge of pictures to N = 16n+1 pixels (default: what the checkpoint was evaluated at)",
    )
    parser.add_argument(
        "--flip-test",
        action="store_true",
        help="average what the network sees in a picture and in its mirror image: better, at twice the time",
    )
    add_device_argument(parser)


def add_decoder_argument(parser: argparse.ArgumentParser) -> None:
    """The flag whose pairs of name and value `load_predictor` takes as `decoder`."""
    parser.add_argument(
        "--decoder",
        type=decoder_option,
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change constants of the decoder, the fields of dgcn_ext.decoder.DecoderConfig",
    )


def add_data_argument(parser: argparse._ActionsContainer, *, required: bool = False) -> None:
    text = "description of a data set, a YAML file: see dgcn data --help"
    parser.add_argument("--data", type=Path, required=required, metavar="FILE", help=text)


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that `describe_data` reads: a description, or a folder of pictures and an annotation file."""
    add_data_argument(parser)
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the pictures, without --data")
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="their annotations, without --data")


def describe_data(args: argparse.Namespace, split: str) -> Description:
    """What --data describes; --images and --annotations are described as `split`.

    Raises ValueError unless it is one of both."""
    from ..data.description import Description, Split, read_description

    if args.data is not None:
        if args.images or args.annotations:
            raise ValueError("--images and --annotations must be given without --data, which names them already")
        return read_description(args.data)
    if not args.images or not args.annotations:
        raise ValueError("--data, or else --images and --annotations must be given")
    return Description(splits={split: Split(args.images, args.annotations)})


def add_batch_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch-size",
        type=positive,
        default=1,
        metavar="N",
        help="pictures in one pass of the network, where they have the same shape (default: 1)",
    )


def load_predictor(args: argparse.Namespace, batch_size: int = 1, decoder: Iterable[tuple[str, Any]] = ()) -> Predictor:
    """The predictor with the flags' settings, which may be given large pictures.

    Args:
        args: with the flags of `add_model_arguments`.
        batch_size: pictures in one pass of the network.
        decoder: names and values of fields of `DecoderConfig`, which replace those of the checkpoint.
    """
    from ..predict.predictor import Predictor

    allow_large_pictures()
    options: dict[str, Any] = {
        "device": choose_device(args.device, args.checkpoint),
        "long_edge": args.long_edge,
        "batch_size": batch_size,
    }
    predictor = Predictor(args.checkpoint, flip_test=args.flip_test, **options)
    if changes := dict(decoder):
        config = dataclasses.replace(predictor.config, **changes)
        predictor = Predictor(predictor.network, config=config, **options)
    return predictor


def allow_large_pictures() -> None:
    """Raise Pillow's limit on the size of a picture to 2^29 pixels, 6 GB: its default refuses those of some phones."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = 2**28  # up to this it does not warn, up to twice this it does not refuse


def check_outputs(outputs: Iterable[Path | None], inputs: Iterable[Path | None]) -> None:
    """Before the work: raise OSError or ValueError unless `outputs` can be written, all different and over no input.

    None stands for an optional file that was not requested."""
    needed = {os.path.realpath(path) for path in inputs if path}
    for path in outputs:
        if path:
            target = os.path.realpath(path)
            if target in needed:
                raise ValueError(f"{path} cannot be written: it is an input or another output of this command")
            needed.add(target)
            check_writable(path)


def check_writable(path: Path) -> None:
    """Create the folder of `path` and try that a file can be written there; raises OSError that names it."""
    target = Path(os.path.realpath(path))  # of a link, which stays as it is; resolve() raises where links form a loop
    try:
        if target.parent.exists() and not target.parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_fifo() or path.is_char_device():
            # Files are written beside `path` and renamed, which would replace /dev/null.
            raise OSError(errno.EINVAL, "is a pipe or a device, not a file")
        existed = target.exists()
        open(target, "ab").close()
        if not existed:
            target.unlink()
        with tempfile.TemporaryFile(dir=target.parent) as file:
            file.write(b"\n")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_overlay(path: Path, image: np.ndarray, poses: Sequence[Pose], skeleton: Skeleton) -> None:
    """`write_jpeg` of `image` with the poses drawn on it."""
    from ..predict.visualize import draw_poses

    write_jpeg(path, draw_poses(image, poses, skeleton))


def write_jpeg(path: Path, image: np.ndarray) -> None:
    """Write `image` (uint8 [H, W, 3] RGB) as a JPEG, complete or not at all, even if the process is killed.

    Raises:
        OSError: no room, a name too long, ...; it names `path`.
        ValueError: the picture is too large for a JPEG.
    """
    from PIL import Image

    from ..files import atomic_write

    height, width = image.shape[:2]
    if max(height, width) > JPEG_MAX_EDGE:
        raise ValueError(f"{path}: {width} x {height} px do not fit a JPEG, whose edges have at most {JPEG_MAX_EDGE}")
    content = io.BytesIO()
    Image.fromarray(image).save(content, "JPEG", quality=92)
    with atomic_write(path, durable=False) as file:  # with fsyncs this would take longer than all else but the network
        file.write(content.getbuffer())
