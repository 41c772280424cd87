"""Find the people in pictures; write overlay pictures and one COCO-format JSON.

examples:
  dgcn predict --source photo.jpg -o out
  dgcn predict --source holiday/ more/a.png --checkpoint runs/a/best.safetensors -o out --json-output out/poses.json

Every picture gives DIR/NAME.dgcn.jpg; where two pictures have the same NAME, the later one becomes NAME-2, and so on.
Of a folder, the pictures directly inside are taken, by name. A picture that cannot be read is reported and left out:
the rest is done, and the exit status is 1.

The JSON is a COCO keypoint data set, {"images", "annotations", "categories"}: keypoints (x, y, v) in pixels of the
upright picture, v = 2 where found, else 0, 0, 0; with score and keypoint_scores beside COCO's own fields.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .common import CocoWriter, add_batch_argument, add_model_arguments, load_predictor, make_parser, write_overlay

if TYPE_CHECKING:
    import numpy as np

    from ..predictor import Predictor

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".jp2", ".png", ".tif", ".tiff", ".webp"}
OVERLAY_SUFFIX = ".dgcn.jpg"


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("predict", __doc__)
    parser.add_argument(
        "--source", type=Path, nargs="+", required=True, metavar="PATH", help="pictures, or folders of them"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the overlays")
    parser.add_argument("--json-output", type=Path, metavar="FILE", help="the JSON (default: DIR/predictions.json)")
    add_model_arguments(parser)
    add_batch_argument(parser)
    args = parser.parse_args(argv)

    paths = list_pictures(args.source)
    json_path = args.json_output or args.output / "predictions.json"
    predictor = load_predictor(args, args.batch_size)
    writer = CocoWriter(predictor.skeleton)
    interrupted = False
    try:
        predict(predictor, paths, args.output, writer)
    except KeyboardInterrupt:
        interrupted = True
    writer.write(json_path)
    done = f"{writer.num_images} of {len(paths)} pictures"
    print(f"{writer.num_persons} persons in {done}\noverlays {args.output}\nJSON     {json_path}")
    if interrupted:
        raise KeyboardInterrupt(f"interrupted; {done} were finished and written")
    return 0 if writer.num_images == len(paths) else 1


def predict(predictor: Predictor, paths: Sequence[Path], output: Path, writer: CocoWriter) -> None:
    """Draw what is found in each picture into the folder `output` and add it to `writer`; warn of unreadable ones."""
    from tqdm import tqdm

    from ..images import read_image

    bar = tqdm(total=len(paths), unit="image", leave=False, disable=None)
    waiting: deque[tuple[Path, Path, np.ndarray]] = deque()  # read, on its way through the network

    def read() -> Iterator[np.ndarray]:
        for path, name in zip(paths, overlay_names(paths), strict=True):
            try:
                image = read_image(path, upright=True)
            except (OSError, ValueError) as error:
                warn(str(error))
                bar.update()
                continue
            waiting.append((path, output / name, image))
            yield image

    with bar:
        for poses in predictor.batch(read()):
            path, overlay, image = waiting.popleft()
            write_overlay(overlay, image, poses, predictor.skeleton)
            writer.add(path, image, poses)
            bar.update()


def list_pictures(sources: Sequence[Path]) -> list[Path]:
    """The files among `sources`, and the pictures directly in the folders among them, sorted by name.

    Raises FileNotFoundError for a source that does not exist, ValueError for a folder without pictures."""
    paths: list[Path] = []
    for source in sources:
        if not source.is_dir():
            if not source.exists():
                raise FileNotFoundError(f"no such picture or folder: {source}")
            paths.append(source)
            continue
        # Overlays of an earlier run into the same folder are not pictures to predict on.
        files = sorted(p for p in source.iterdir() if p.is_file() and not p.name.endswith(OVERLAY_SUFFIX))
        pictures = [p for p in files if p.suffix.lower() in SUFFIXES]
        if not pictures:
            raise ValueError(f"no pictures in the folder {source} (looking for {' '.join(sorted(SUFFIXES))})")
        if others := [p.name for p in files if p.suffix.lower() not in SUFFIXES and not p.name.startswith(".")]:
            shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
            warn(f"skipped {len(others)} files in {source} that are not pictures: {shown}")
        paths += pictures
    return paths


def overlay_names(paths: Sequence[Path]) -> list[str]:
    """A file name for the overlay of each path, all different even where upper and lower case are the same."""
    taken: set[str] = set()
    names = []
    for path in paths:
        stem, number = path.stem, 1
        while stem.lower() in taken:
            number += 1
            stem = f"{path.stem}-{number}"
        taken.add(stem.lower())
        names.append(stem + OVERLAY_SUFFIX)
    return names


def warn(message: str) -> None:
    from tqdm import tqdm

    tqdm.write(f"dgcn predict: warning: {message}", file=sys.stderr)
