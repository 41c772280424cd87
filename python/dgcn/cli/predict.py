"""Find the people in pictures; write overlay pictures and one COCO-format JSON.

examples:
  dgcn predict --source photo.jpg -o out
  dgcn predict --source holiday/ more/a.png --checkpoint runs/a/best.safetensors -o out --json-output out/poses.json

Every picture gives DIR/NAME.dgcn.jpg; where two pictures have the same NAME, the later one becomes NAME-2, and so on.
Of a folder, the pictures directly inside are taken, by name. A picture that cannot be read or an overlay that cannot be
written is reported: the rest is done, and the exit status is 1. Ctrl-C and SIGTERM stop and write what is done.

The JSON is a COCO keypoint data set, {"images", "annotations", "categories"}: keypoints (x, y, v) in pixels of the
upright picture, v = 2 where found, else 0, 0, 0; with score and keypoint_scores beside COCO's own fields; file_name is
relative to the deepest folder that holds all pictures. CVAT and Label Studio import it as pre-labels. It is written
at the end. Until then FILE.NUMBER.partial has the results, a line of JSON for each picture: {"image", "annotations"}.
After a kill or on a full disk it stays.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .common import (
    add_batch_argument,
    add_model_arguments,
    check_outputs,
    check_writable,
    describe,
    load_predictor,
    make_parser,
    write_overlay,
)

if TYPE_CHECKING:
    import numpy as np

    from ..data.coco_writer import CocoWriter
    from ..predict.predictor import Predictor

# HEIC cannot be read: it is listed so that such a picture in a folder is reported.
SUFFIXES = {
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"),
    *(".pnm", ".ppm", ".tif", ".tiff", ".webp"),
}
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

    from ..data.coco_writer import CocoWriter, find_journals

    paths = list_pictures(args.source)
    json_path = args.json_output or args.output / "predictions.json"
    check_outputs([json_path], [*paths, args.checkpoint])
    check_writable(args.output / f"any{OVERLAY_SUFFIX}")
    for journal in find_journals(json_path):
        warn(f"{journal} has the results of another run, which was killed or is not done; it is left as it is")
    predictor = load_predictor(args, args.batch_size)
    writer = CocoWriter(json_path, predictor.skeleton, predictor.category)
    problems = None
    with sigterm_interrupts():
        try:
            problems = predict(predictor, paths, args.output, writer)
        except KeyboardInterrupt:
            done = f"{writer.num_images} of {len(paths)} pictures were finished and written"
            raise KeyboardInterrupt(f"interrupted; {done}") from None
        finally:
            if problems is None and writer.num_images == 0:
                writer.discard()  # and an earlier JSON stays
            else:
                writer.finish()
                print(f"{writer.num_persons} persons in {writer.num_images} of {len(paths)} pictures")
                print(f"overlays {args.output}\nJSON     {json_path}")
    return 1 if problems else 0


def predict(predictor: Predictor, paths: Sequence[Path], output: Path, writer: CocoWriter) -> int:
    """Add what is found in each picture to `writer` and draw it into the folder `output`.

    Returns how many pictures could not be read or drawn; a warning names each."""
    from ..data.images import read_image
    from ..progress import Progress

    problems = 0
    progress = Progress("prediction", len(paths), unit="image")
    waiting: deque[tuple[Path, Path, np.ndarray]] = deque()  # read, on its way through the network

    def read() -> Iterator[np.ndarray]:
        nonlocal problems
        for path, name in zip(paths, overlay_names(paths), strict=True):
            try:
                image = read_image(path, upright=True)
            except (OSError, ValueError) as error:
                warn(describe(error))
                problems += 1
                progress.step()
                continue
            waiting.append((path, output / name, image))
            yield image

    root = common_folder(paths)
    with progress:
        for poses in predictor.batch(read()):
            path, overlay, image = waiting.popleft()
            writer.add(os.path.relpath(path, root), image, poses)
            try:
                write_overlay(overlay, image, poses, predictor.skeleton)
            except (OSError, ValueError) as error:
                warn(describe(error))
                problems += 1
            progress.step()
    return problems


def list_pictures(sources: Sequence[Path]) -> list[Path]:
    """The files among `sources`, and the pictures directly in the folders among them, sorted by name.

    Hidden files of a folder are left out, such as the `._NAME` that macOS puts beside NAME.

    Raises FileNotFoundError for a source that does not exist, ValueError for a folder without pictures."""
    paths: list[Path] = []
    for source in sources:
        if not source.is_dir():
            if not source.exists():
                what = "a link that leads nowhere" if source.is_symlink() else "no such picture or folder"
                raise FileNotFoundError(f"{what}: {source}")
            paths.append(source)
            continue
        # Overlays of an earlier run into the same folder are not pictures to predict on.
        files = sorted(p for p in source.iterdir() if not p.name.startswith(".") and not p.is_dir())
        files = [p for p in files if not p.name.endswith(OVERLAY_SUFFIX)]
        pictures = [p for p in files if p.suffix.lower() in SUFFIXES]
        if not pictures:
            raise ValueError(f"no pictures in the folder {source} (looking for {' '.join(sorted(SUFFIXES))})")
        if others := [p.name for p in files if p.suffix.lower() not in SUFFIXES]:
            shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
            warn(f"skipped {len(others)} files in {source} that are not pictures: {shown}")
        paths += pictures
    return paths


def common_folder(paths: Sequence[Path]) -> str:
    """The deepest folder that all files are in, or in folders of."""
    return os.path.commonpath([os.path.abspath(path.parent) for path in paths])


def overlay_names(paths: Sequence[Path]) -> list[str]:
    """A file name for the overlay of each path, all different even where upper and lower case are the same."""
    taken: set[str] = set()
    last: dict[str, int] = {}  # number given to a stem
    names = []
    for path in paths:
        stem, number = path.stem, last.get(path.stem, 1)
        while stem.lower() in taken:
            number += 1
            stem = f"{path.stem}-{number}"
        last[path.stem] = number
        taken.add(stem.lower())
        names.append(stem + OVERLAY_SUFFIX)
    return names


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Within the block SIGTERM raises KeyboardInterrupt, as Ctrl-C does."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def warn(message: str) -> None:
    from tqdm import tqdm

    tqdm.write(f"dgcn predict: warning: {message}", file=sys.stderr)
