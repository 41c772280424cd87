"""Find people in pictures and videos; write overlay pictures, one COCO-format JSON, and a CSV.

examples:
  dgcn predict --source photo.jpg -o out
  dgcn predict --source holiday/ more/a.png --checkpoint runs/a/best.safetensors -o out --json-output out/poses.json
  dgcn predict --source archive/ --recursive --no-overlay --csv-output poses.csv -o out
  dgcn predict --source 'archive/**/2024*.jpg' --threshold 0.3 --decoder seed_threshold=0.3 refine_rounds=2 -o out
  curl https://example.org/photo.jpg | dgcn predict --source - -o out

sources:
  A folder stands for the pictures directly in it, by name, and with --recursive for those in its folders, but not
  behind links to folders. A pattern in quotes stands for the pictures and videos that match; ** matches any folders.
  - stands for one picture, whose bytes come from stdin. Every frame of a video is a picture; dgcn video makes a video
  of it, and follows persons.

results:
  Every picture gives DIR/NAME.dgcn.jpg, within the same folders of folders as the picture; where two pictures have the
  same NAME, the later one becomes NAME-2, and so on. Frame 12 of a video gives DIR/NAME.mp4/000012.dgcn.jpg. What is
  transparent shows white, and of an animation or of several pages the first is taken.

  The JSON is a COCO keypoint data set, {"images", "annotations", "categories"}: keypoints (x, y, v) in pixels of the
  upright picture, v = 2 where found, else 0, 0, 0; with score and keypoint_scores beside COCO's own fields; file_name
  is relative to the deepest folder that holds all sources. CVAT and Label Studio import it as pre-labels.

  The CSV has a row for each keypoint: source,frame,track_id,person,score,keypoint,x,y,confidence. source is file_name;
  frame, from 0, is empty for a picture, and track_id always; x, y and confidence are 0 where not found.

A picture that cannot be read or an overlay that cannot be written is reported: the rest is done, and the exit status is
1. Ctrl-C, SIGTERM and a full disk stop and write what is done. All results of a picture are written before the next
one's. The JSON is written at the end: until then FILE.NUMBER.partial has the results, a line of JSON for each picture:
{"image", "annotations"}. After a kill, or where the JSON does not fit on the disk, it stays.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..interrupt import Interrupted, InterruptGuard
from .common import (
    add_batch_argument,
    add_decoder_argument,
    add_model_arguments,
    check_outputs,
    check_writable,
    describe,
    fraction,
    load_predictor,
    make_parser,
    warn,
    write_overlay,
)
from .sources import OVERLAY_SUFFIX, Source, list_sources

if TYPE_CHECKING:
    import numpy as np

    from ..data.coco_writer import CocoWriter
    from ..predict.predictor import Predictor
    from ..predict.tables import TableWriter
    from ..records import Pose

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors after which nothing more can be written."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("predict", __doc__)
    parser.add_argument(
        "--source", nargs="+", required=True, metavar="PATH", help="pictures, folders, patterns, videos, or - for stdin"
    )
    parser.add_argument("--recursive", action="store_true", help="also take the pictures in the folders of a folder")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--no-overlay", dest="overlay", action="store_false", help="draw no pictures")
    parser.add_argument("--json-output", type=Path, metavar="FILE", help="the JSON (default: DIR/predictions.json)")
    parser.add_argument("--csv-output", type=Path, metavar="FILE", help="write a CSV, too")
    parser.add_argument(
        "--threshold", type=fraction, default=0.0, metavar="T", help="leave out persons of a lower score (default: 0)"
    )
    add_model_arguments(parser)
    add_decoder_argument(parser)
    add_batch_argument(parser)
    args = parser.parse_args(argv)

    from ..data.coco_writer import CocoWriter, find_journals
    from ..predict.tables import TableWriter

    sources = list_sources(args.source, recursive=args.recursive, warn=partial(warn, "predict"))
    json_path = args.json_output or args.output / "predictions.json"
    inputs = [source.path for source in sources if not source.is_stdin]
    check_outputs([json_path, args.csv_output], [*inputs, args.checkpoint])
    overlays = args.output if args.overlay else None
    if overlays:
        check_writable(overlays / f"any{OVERLAY_SUFFIX}")
        check_overlays(overlays, sources)
    for journal in find_journals(json_path):
        warn(
            "predict", f"{journal} has the results of another run, which was killed or is not done; it is left as it is"
        )
    predictor = load_predictor(args, args.batch_size, args.decoder)
    try:
        with contextlib.ExitStack() as files:
            table = files.enter_context(TableWriter(args.csv_output, predictor.skeleton)) if args.csv_output else None
            writer = CocoWriter(json_path, predictor.skeleton, predictor.category)
            run = Run(predictor, sources, writer, table, overlays, args.threshold)
            try:
                run.predict()
            finally:
                run.finish()
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        print(f"dgcn predict: error: {describe(error)}", file=sys.stderr)
        return 1
    return 1 if run.problems else 0


@dataclass(frozen=True)
class Found:
    """Who is on a picture, or on a frame of a video; frames are numbered from 0."""

    source: Source
    frame: int | None
    image: np.ndarray
    poses: list[Pose]


class Run:
    """Predicts on sources, and writes what is found on a picture before it goes on to the next.

    Attributes:
        problems: how many pictures and videos could not be read or drawn, wholly; a warning named each.
    """

    def __init__(
        self,
        predictor: Predictor,
        sources: Sequence[Source],
        writer: CocoWriter,
        table: TableWriter | None,
        overlays: Path | None,
        threshold: float,
    ) -> None:
        """
        Args:
            predictor: with which.
            sources: on what.
            writer: gets everything.
            table: too, if there is one.
            overlays: folder of the overlay pictures, if there are to be any.
            threshold: persons of a lower score are left out.
        """
        from ..progress import Progress

        self.problems = 0
        self._num_done = 0
        self._is_complete = False
        self._predictor = predictor
        self._sources = sources
        self._writer = writer
        self._table = table
        self._overlays = overlays
        self._threshold = threshold
        self._root = common_folder([source.path for source in sources if not source.is_stdin])
        self._progress = Progress("prediction", len(sources), unit="source")

    def predict(self) -> None:
        """Raises OSError if a result cannot be written, but for an overlay on a disk that has room."""
        done = "interrupted; {} were finished and written"
        try:
            with InterruptGuard(lambda: done.format(self._done)) as self._guard, self._progress:
                for finds, group in itertools.groupby(self._sources, self._way):
                    for found in finds(group):
                        self._write(found)
                    self._guard.check()
        except Interrupted:
            raise
        except KeyboardInterrupt:
            raise KeyboardInterrupt(done.format(self._done)) from None
        except OSError as error:
            if error.errno in NO_ROOM:
                error.strerror = f"{error.strerror}; {self._done} were finished and written"
            raise
        self._is_complete = True

    def finish(self) -> None:
        """Write the JSON and say what there is. After a stop before the first picture, an earlier JSON stays.

        Raises OSError if the JSON cannot be written."""
        if not self._is_complete and not self._writer.num_images:
            self._writer.discard()
            return
        if self._table:
            self._table.start()
        self._writer.finish()
        print(f"{self._writer.num_persons} persons in {self._of_all(self._writer.num_images)}")
        table = self._table and self._table.path
        for name, path in (("overlays", self._overlays), ("JSON", self._writer.path), ("CSV", table)):
            if path:
                print(f"{name:<8} {path}")

    def _way(self, source: Source) -> Callable[[Iterable[Source]], Iterator[Found]]:
        if source.is_video:
            return self._frames
        return self._stdin if source.is_stdin else self._pictures

    def _stdin(self, sources: Iterable[Source]) -> Iterator[Found]:
        """Its bytes may come late: a signal ends the wait for them."""
        for source in sources:
            try:
                with self._guard.at_once():
                    image = source.read()
            except (OSError, ValueError) as error:
                self._fail(error)
            else:
                yield Found(source, None, image, self._predictor(image))
            self._progress.step()

    def _pictures(self, sources: Iterable[Source]) -> Iterator[Found]:
        """After a signal, what is on its way is still found, and nothing more is read."""
        waiting: deque[tuple[Source, np.ndarray]] = deque()  # read, on its way through the network

        def read() -> Iterator[np.ndarray]:
            for source in sources:
                if self._guard.is_requested:
                    return
                try:
                    image = source.read()
                except (OSError, ValueError) as error:
                    self._fail(error)
                    self._progress.step()
                    continue
                waiting.append((source, image))
                yield image

        for poses in self._predictor.batch(read()):
            source, image = waiting.popleft()
            yield Found(source, None, image, poses)
            self._progress.step()

    def _frames(self, videos: Iterable[Source]) -> Iterator[Found]:
        from ..predict.video import VideoReader, find_poses

        for video in videos:
            try:
                reader = VideoReader(video.path)
                for frame in find_poses(self._predictor, reader):
                    yield Found(video, frame.index, frame.image, frame.poses)
                    self._guard.check()
            except (OSError, ValueError) as error:
                self._fail(error)
            else:
                if reader.problem or reader.num_damaged:
                    self.problems += 1  # the reader said which
            self._progress.step()

    def _write(self, found: Found) -> None:
        poses = [pose for pose in found.poses if pose.score >= self._threshold]
        source, frame = found.source, found.frame
        file_name = "stdin" if source.is_stdin else os.path.relpath(source.path, self._root)
        self._writer.add(file_name if frame is None else f"{file_name}/{frame:06}.jpg", found.image, poses)
        if self._table:
            self._table.add(file_name, frame, None, poses)
        if self._overlays:
            name = source.name if frame is None else f"{source.name}/{frame:06}"
            try:
                write_overlay(self._overlays / f"{name}{OVERLAY_SUFFIX}", found.image, poses, self._predictor.skeleton)
            except (OSError, ValueError) as error:
                if isinstance(error, OSError) and error.errno in NO_ROOM:
                    raise
                self._fail(error)
        self._num_done += 1

    @property
    def _done(self) -> str:
        """How many pictures have all their results, in words."""
        return self._of_all(self._num_done)

    def _of_all(self, number: int) -> str:
        """So many pictures, in words."""
        if any(source.is_video for source in self._sources):
            return f"{number} pictures and frames"
        return f"{number} of {len(self._sources)} pictures"

    def _fail(self, error: Exception) -> None:
        warn("predict", describe(error))
        self.problems += 1


def check_overlays(folder: Path, sources: Sequence[Source]) -> None:
    """Raise ValueError where the overlay of a picture would be written over a source."""
    inputs = {os.path.realpath(source.path): source.path for source in sources if not source.is_stdin}
    for source in sources:
        overlay = folder / f"{source.name}{OVERLAY_SUFFIX}"
        if not source.is_video and (lost := inputs.get(os.path.realpath(overlay))):
            raise ValueError(f"{lost} must not be a source: the overlay of {source.path} would be written over it")


def common_folder(paths: Sequence[Path]) -> str:
    """The deepest folder that all files are in, or in folders of."""
    return os.path.commonpath([os.path.abspath(path.parent) for path in paths]) if paths else os.curdir
