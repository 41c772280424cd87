"""Find the people in a video, a camera's picture or a stream, and follow them from frame to frame.

examples:
  dgcn video --source dance.mp4 -o out.mp4 --track
  dgcn video --source match.mkv --start 60 --duration 10 --frame-stride 3 --track --csv-output people.csv
  dgcn video --source 0 --track --json-output people.jsonl
  dgcn video --source rtsp://camera.example/stream -o out.mp4

Needs PyAV: `pip install "dgcn[video]"`. At least one of the outputs must be named; the sound is left out.

results:
  The video is an MP4 (H.264) that browsers play, in the frame times of the source. With --track a person has the colour
  of its id, without it an orange left and a blue right side.

  Of the JSON lines each is a frame: {"frame", "time_s", "predictions"}. frame is its number in the source, from 0, and
  time_s its time in seconds; predictions are COCO keypoint results in pixels of the upright picture, image_id is the
  frame, and attributes.track_id the person's id.

  The CSV has a row for each keypoint: source,frame,track_id,person,score,keypoint,x,y,confidence.

Frames reach the disk as they are done. Ctrl-C, SIGTERM and a full disk end the video there; after a kill,
FILE.NUMBER.partial plays up to there. What JSON and CSV held before is replaced once the first frame is done, what the
video held at the end. A frame that is damaged is named and counted, and the exit status is 1, as it is where the source
ends early.

A camera, a live stream and --realtime do not wait: frames that come while the network is at work are dropped, and
counted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import (
    add_batch_argument,
    add_model_arguments,
    check_outputs,
    describe,
    load_predictor,
    make_parser,
    positive,
    warn,
)

if TYPE_CHECKING:
    from ..predict.predictor import Predictor
    from ..predict.video import VideoFrame, VideoReader


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("video", __doc__)
    parser.add_argument(
        "--source", required=True, metavar="FILE", help="a video, the URL of a stream, or 0 for a camera"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.mp4", help="write a video with the persons drawn in")
    parser.add_argument("--json-output", type=Path, metavar="FILE", help="write JSON lines")
    parser.add_argument("--csv-output", type=Path, metavar="FILE", help="write a CSV")
    parser.add_argument("--track", action="store_true", help="give persons ids that stay from frame to frame")
    parser.add_argument(
        "--frame-stride", type=positive, default=1, metavar="N", help="take every Nth frame (default: 1)"
    )
    parser.add_argument("--start", type=float, default=0.0, metavar="S", help="begin S seconds into the video")
    parser.add_argument("--duration", type=float, metavar="S", help="take S seconds (default: to the end)")
    parser.add_argument("--realtime", action="store_true", help="drop frames rather than fall behind the video")
    add_model_arguments(parser)
    add_batch_argument(parser)
    args = parser.parse_args(argv)

    from ..data.coco_writer import find_journals
    from ..interrupt import InterruptGuard
    from ..predict.video import VideoReader, find_poses
    from ..progress import Progress

    outputs = [args.output, args.json_output, args.csv_output]
    if not any(outputs):
        raise ValueError("--output, --json-output or --csv-output must be given")
    if args.output and args.output.suffix.lower() != ".mp4":
        raise ValueError(f"--output must end in .mp4, got {args.output}")
    source = int(args.source) if args.source.isdigit() else args.source
    stretch = {"start": args.start, "duration": args.duration, "frame_stride": args.frame_stride}
    with VideoReader(source, realtime=args.realtime, **stretch) as reader:
        check_outputs(outputs, [args.checkpoint, Path(args.source) if os.path.exists(args.source) else None])
        for journal in find_journals(args.output) if args.output else ():
            what = "has the video of another run, which was killed or is not done; it is left as it is"
            warn("video", f"{journal} {what}")
        predictor = load_predictor(args, args.batch_size)
        results = Results(args, reader, predictor)
        failure: OSError | None = None
        progress = Progress("video", reader.num_frames, unit="frame")
        with InterruptGuard(lambda: results.done) as guard:
            frames = find_poses(predictor, reader, track=args.track)
            try:
                with contextlib.closing(frames), progress:
                    for frame in guard.each(frames):
                        results.add(frame)
                        progress.step()
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"interrupted; {results.done}") from None
            except OSError as error:  # of an output, as on a full disk
                failure = error
            finally:
                results.finish()
                results.report()
    if failure:
        print(f"dgcn video: error: {describe(failure)}; {results.done}", file=sys.stderr)
    elif not results.num_frames:
        raise ValueError(f"{reader.name} has no frames from {args.start:g} s on")
    return 1 if failure or reader.problem or reader.num_damaged else 0


class Results:
    """The outputs that `args` names, each opened with the first frame.

    Attributes:
        num_frames, num_persons, num_ids: how many were written.
    """

    def __init__(self, args: argparse.Namespace, reader: VideoReader, predictor: Predictor) -> None:
        """
        Args:
            args: with the paths, of which those that are None are not written.
            reader: of the source.
            predictor: that finds the persons.
        """
        self.num_frames = self.num_persons = self.num_ids = 0
        self._args, self._reader = args, reader
        self._skeleton, self._category = predictor.skeleton, predictor.category
        self._writers: list[Callable[[VideoFrame], None]] = []
        self._files = contextlib.ExitStack()

    @property
    def done(self) -> str:
        return f"{self.num_frames} frames were finished and written"

    def add(self, frame: VideoFrame) -> None:
        """Write what is in `frame` to every output. Raises OSError if there is no room, ..."""
        if not self.num_frames:
            self._writers = list(self._open())
        for write in self._writers:
            write(frame)
        self.num_frames += 1
        self.num_persons += len(frame.poses)
        self.num_ids = max(self.num_ids, *frame.track_ids or [0])

    def finish(self) -> None:
        """Complete the outputs."""
        self._files.close()

    def report(self) -> None:
        """Print what was found, and where it is."""
        if not self.num_frames:
            return
        ids = f" with {self.num_ids} ids" if self._args.track else ""
        print(f"{self.num_persons} persons{ids} in {self.num_frames} frames")
        if self._reader.num_dropped:
            print(f"{self._reader.num_dropped} frames came while the network was at work and were dropped")
        if self._reader.num_damaged:
            print(f"{self._reader.num_damaged} frames are damaged")
        outputs = {"video": self._args.output, "JSON": self._args.json_output, "CSV": self._args.csv_output}
        print("\n".join(f"{name:<6} {path}" for name, path in outputs.items() if path))

    def _open(self) -> Iterator[Callable[[VideoFrame], None]]:
        from ..files import AppendedFile
        from ..predict.tables import TableWriter
        from ..predict.video_writer import VideoWriter
        from ..predict.visualize import draw_poses

        args, name = self._args, os.path.basename(self._reader.name)
        if args.json_output:
            lines = self._files.enter_context(AppendedFile(args.json_output))
            yield lambda frame: lines.append(json.dumps(self._to_json(frame), allow_nan=False) + "\n")
        if args.csv_output:
            table = self._files.enter_context(TableWriter(args.csv_output, self._skeleton))
            yield lambda frame: table.add(name, frame.index, frame.track_ids, frame.poses)
        if args.output:
            video = VideoWriter(args.output, self._reader.rate)
            self._files.callback(video.finish)
            yield lambda frame: video.add(
                draw_poses(frame.image, frame.poses, self._skeleton, track_ids=frame.track_ids), frame.time_s
            )

    def _to_json(self, frame: VideoFrame) -> dict[str, Any]:
        predictions = [pose.to_coco(frame.index, self._category.category_id) for pose in frame.poses]
        for prediction, track_id in zip(predictions, frame.track_ids or (), strict=False):
            prediction["attributes"] = {"track_id": track_id}
        return {"frame": frame.index, "time_s": round(frame.time_s, 6), "predictions": predictions}
