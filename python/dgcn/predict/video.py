"""Videos: files, cameras and streams, read ahead of the network, and the persons in their frames.

PyAV, an optional extra, decodes.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np

from dgcn_ext.arguments import check_at_least

from ..extras import extra
from ..records import Pose
from .track import Tracker

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

    from .predictor import Predictor

log = logging.getLogger(__name__)

T = TypeVar("T")

VideoSource = str | os.PathLike[str] | int
"""Path of a file, URL of a stream, or number of a camera from 0."""

LIVE_PROTOCOLS = ("rtsp", "rtsps", "rtp", "rtmp", "rtmps", "srt", "udp")
"""Of the streams that do not wait for who reads them. Of one over HTTP that cannot be told: `realtime` says it."""

CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}
"""By platform: what FFmpeg calls the cameras there, all of them and one."""

FRAMES_AHEAD = 4
TIMEOUT_SECONDS = 10.0  # of a stream, to answer and for each frame
MAX_SKIPPED_PACKETS = 1000  # held at most, until it is known whether they need be decoded
MAX_DAMAGE_NAMED = 10


@dataclass(frozen=True, eq=False)
class VideoFrame:
    """The persons in a frame of a video.

    index: number of the frame in the video, from 0; of a live one since it was opened.
    time_s: when it is shown, in seconds from the start of the video.
    poses: in pixels of `image`, the one of the highest score first; none as `VideoReader` gives the frame.
    image: uint8 [H, W, 3] RGB, upright.
    track_ids: an id for each pose, the same from frame to frame; None where persons are not tracked.
    """

    index: int
    time_s: float
    poses: list[Pose]
    image: np.ndarray
    track_ids: list[int] | None = None


class QuarterTurn(NamedTuple):
    """Rows become columns, then what is on the left comes to the right, then what is on top comes to the bottom."""

    transposes: bool = False
    mirrors_x: bool = False
    mirrors_y: bool = False

    def __call__(self, image: np.ndarray) -> np.ndarray:
        image = image.transpose(1, 0, 2) if self.transposes else image
        return np.ascontiguousarray(image[:: -1 if self.mirrors_y else 1, :: -1 if self.mirrors_x else 1])


def find_poses(predictor: Predictor, reader: VideoReader, *, track: bool = False) -> Generator[VideoFrame, None, None]:
    """The persons in each frame of `reader`, which is closed at the end.

    Args:
        predictor: finds them.
        reader: of the video.
        track: give them ids.
    """
    tracker = Tracker(predictor.skeleton) if track else None
    waiting: deque[VideoFrame] = deque()  # on its way through the network

    def images() -> Iterator[np.ndarray]:
        for frame in reader:
            waiting.append(frame)
            yield frame.image

    # Of a live video the newest frame counts, so that none is taken before the network is free.
    predictions = predictor.batch(images(), on_the_way=1 if reader.drops else 3)
    with contextlib.closing(predictions), reader:  # the reader first, which ends the wait for a frame
        for poses in predictions:
            frame = waiting.popleft()
            track_ids = tracker.update(poses, frame.time_s) if tracker else None
            yield replace(frame, poses=poses, track_ids=track_ids)


class VideoReader:
    """Iterates over the frames of a video; a thread decodes up to `FRAMES_AHEAD` of them in advance.

    A frame is upright, as the display matrix and the shape of the pixels of the video say. A frame that is damaged is
    named in a warning: what can be decoded of it is taken, or it is left out.

    Attributes:
        name: of the source, for messages.
        rate: mean frames per second, with `frame_stride`; None where it is not known.
        num_frames: how many there should be; None where it is not known.
        num_damaged: how many were damaged.
        drops: whether frames are dropped that come while the one before is at work.
        num_dropped: how many were decoded, but not taken in time.
        problem: why the video ended early, as a warning said; None if it did not.
    """

    def __init__(
        self,
        source: VideoSource,
        *,
        frame_stride: int = 1,
        start: float = 0.0,
        duration: float | None = None,
        realtime: bool = False,
    ) -> None:
        """
        Args:
            source: path, URL or number of a camera.
            frame_stride: take only every `frame_stride`-th frame.
            start: take frames from this time on, in seconds of the video.
            duration: take frames for this long, in seconds; default: to the end.
            realtime: drop frames that are older than the newest one when the next is taken, and play a file at its own
                speed. A camera and a stream of one of `LIVE_PROTOCOLS` are always read like this.

        Raises:
            OSError: no such file or camera, no permission, no answer.
            ValueError, TypeError: not a video, or a bad argument.
            ImportError: PyAV is not installed.
        """
        self._stride = check_at_least("frame_stride", frame_stride, 1)
        self._start = _check_seconds("start", start)
        self._end = math.inf if duration is None else self._start + _check_seconds("duration", duration)
        if self._end <= self._start:
            raise ValueError(f"duration must be positive, got {duration}")
        with extra("video", "videos need PyAV"):
            import av
        self._errors = av.FFmpegError
        self.name, url, options = _address(source)
        is_live = isinstance(source, int) or url.split("://")[0].lower() in LIVE_PROTOCOLS
        self._container = _open(self.name, url, options)
        try:
            self._stream = _video_stream(self._container, self.name)
        except ValueError:
            self._container.close()
            raise
        # One thread. With slice threads FFmpeg does not mark frames in which it concealed damage; with frame threads it
        # reports an error with a later packet.
        self._stream.thread_count = 1
        self._origin = None if is_live else _seconds(self._stream.start_time or 0, self._stream)
        self._paced = realtime and not is_live
        self._closing = threading.Event()
        self._rotation: int | None = None  # degrees, of the last frame
        self._turn = QuarterTurn()
        self._index = 0
        self._lost: list[float] = []  # times of frames that could not be decoded, after the last one that could
        self.num_damaged = 0
        self.problem: str | None = None

        rate = float(self._stream.average_rate or self._stream.guessed_rate or 0)
        self.rate = rate / self._stride if rate else None
        length = None if is_live else _length(self._container, self._stream)
        self.num_frames: int | None = None
        if length is not None and rate:
            self.num_frames = max(0, math.ceil((min(self._end, length) - self._start) * rate / self._stride))
        self.drops = realtime or is_live
        self._ahead = ReadAhead(self._frames(), 1 if self.drops else FRAMES_AHEAD, drops=self.drops)

    @property
    def num_dropped(self) -> int:
        return self._ahead.num_dropped

    def __iter__(self) -> Iterator[VideoFrame]:
        return self._ahead

    def close(self) -> None:
        """Stop reading; what waits is lost. A stream that is silent may take `TIMEOUT_SECONDS` to close."""
        self._closing.set()
        self._ahead.close()
        self._container.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _frames(self) -> Iterator[VideoFrame]:
        taken, played_from, time_s = 0, 0.0, 0.0
        for frame in self._decode():
            time_s = self._time_of(frame)
            self._index += sum(lost < time_s for lost in self._lost)
            self._lost = [lost for lost in self._lost if lost >= time_s]
            index, self._index = self._index, self._index + 1
            if frame.is_corrupt:
                self._report_damage(f"the frame at {time_s:.3f} s")
            if time_s < self._start:
                continue
            if time_s >= self._end:
                return
            number, taken = taken, taken + 1
            if number % self._stride:
                continue
            if self._paced:
                played_from = played_from or time.monotonic() - time_s
                self._closing.wait(played_from + time_s - time.monotonic())
            yield VideoFrame(index, time_s, [], self._upright(frame))
        length = _length(self._container, self._stream)
        if not self.problem and length is not None and self._index and length - time_s > 1 + 2 / (self.rate or 1):
            self._report_end(f"is cut short: it ends at {time_s:.1f} s of {length:.1f} s")

    def _decode(self) -> Iterator[av.VideoFrame]:
        for packet in self._packets():
            try:
                frames = packet.decode()
            except self._errors as error:
                near = self._packet_time(packet)
                where = "a frame" if near is None else f"the frame at {near:.3f} s"
                self._report_damage(f"{where} cannot be decoded: {error.strerror}")
                self._lost.append(-math.inf if near is None else near)
                continue
            yield from frames

    def _packets(self) -> Iterator[av.Packet]:
        """From the last key frame before `start` on. Those before are counted, not decoded.

        Seeking is faster, but then nobody knows the number of the frame, and many sources cannot seek."""
        packets = self._demux()
        held: list[av.Packet] = []  # since the last key frame, and all that `start` may need
        for packet in packets:
            time_s = self._packet_time(packet)
            if time_s is None or time_s >= self._start or len(held) == MAX_SKIPPED_PACKETS:
                held.append(packet)
                break
            if packet.is_keyframe:
                self._index += sum(not skipped.is_discard for skipped in held)
                held.clear()
            held.append(packet)
        yield from held
        yield from packets

    def _demux(self) -> Iterator[av.Packet]:
        try:
            yield from self._container.demux(self._stream)
        except self._errors as error:
            self._report_end(f"cannot be read on: {_reason(error)}")

    def _time_of(self, frame: av.VideoFrame) -> float:
        if frame.time is None:  # in files that have no times
            return (self._index + len(self._lost)) / float(self._stream.guessed_rate or 25)
        if self._origin is None:
            self._origin = frame.time
        return frame.time - self._origin

    def _upright(self, frame: av.VideoFrame) -> np.ndarray:
        """uint8 [H, W, 3] RGB, with square pixels, turned and mirrored as the display matrix says."""
        if frame.rotation != self._rotation:
            # Not for every frame: PyAV's side data are a reference cycle, which keeps frames until it is collected.
            self._rotation, self._turn = frame.rotation, _quarter_turn(frame)
        width = max(1, round(frame.width * (self._stream.sample_aspect_ratio or 1)))
        return self._turn(frame.to_ndarray(format="rgb24", width=width))

    def _packet_time(self, packet: av.Packet) -> float | None:
        if packet.pts is None or self._origin is None:
            return None
        return _seconds(packet.pts, self._stream) - self._origin

    def _report_end(self, what: str) -> None:
        self.problem = f"{self.name} {what}"
        log.warning(self.problem)

    def _report_damage(self, what: str) -> None:
        self.num_damaged += 1
        if self.num_damaged <= MAX_DAMAGE_NAMED:
            log.warning("%s is damaged: %s", self.name, what)
        elif self.num_damaged == MAX_DAMAGE_NAMED + 1:
            log.warning("%s is damaged in more frames, which are counted", self.name)


class ReadAhead(Iterator[T], Generic[T]):
    """Iterates over `items`, which a thread takes in advance, from the first `next` on.

    Attributes:
        num_dropped: how many items nobody took in time.
    """

    def __init__(self, items: Iterator[T], depth: int, *, drops: bool = False) -> None:
        """
        Args:
            items: raises in the thread, and then here.
            depth: how many items wait at most.
            drops: where so many wait, drop the oldest and go on, instead of waiting for room.
        """
        self.num_dropped = 0
        self._items, self._depth, self._drops = items, depth, drops
        self._waiting: deque[T] = deque()
        self._changed = threading.Condition()
        self._is_done = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="dgcn-read-ahead", daemon=True)

    def __next__(self) -> T:
        if not self._thread.ident:
            self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_done)
            if self._waiting:
                self._changed.notify()
                return self._waiting.popleft()
        if self._error:
            raise self._error
        raise StopIteration

    def close(self) -> None:
        """Take no more items."""
        with self._changed:
            self._is_done = True
            self._waiting.clear()
            self._changed.notify()
        if self._thread.ident:
            self._thread.join()

    def _run(self) -> None:
        try:
            for item in self._items:
                with self._changed:
                    if self._drops and len(self._waiting) == self._depth:
                        self._waiting.popleft()
                        self.num_dropped += 1
                    self._changed.wait_for(lambda: len(self._waiting) < self._depth or self._is_done)
                    if self._is_done:
                        return
                    self._waiting.append(item)
                    self._changed.notify()
        except Exception as error:  # for the thread that takes the items
            self._error = error
        finally:
            with self._changed:
                self._is_done = True
                self._changed.notify()


def _check_seconds(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"{name} must be a number of seconds, got {value!r}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a number of seconds from 0 on, got {value}")
    return float(value)


def _address(source: VideoSource) -> tuple[str, str, dict[str, str]]:
    """Name for messages, address for FFmpeg, and what else FFmpeg is told.

    Raises OSError if a file does not exist, TypeError if it is no source."""
    if isinstance(source, int) and not isinstance(source, bool):
        if source < 0:
            raise ValueError(f"source must be a path, a URL or the number of a camera from 0, got {source}")
        if sys.platform not in CAMERAS:
            raise ValueError(f"source must be a path or a URL on this system ({sys.platform}), got {source}")
        device_format, device = CAMERAS[sys.platform]
        return f"camera {source}", device.format(source), {"format": device_format}
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"source must be a path, a URL or the number of a camera, got {type(source).__name__}")
    name = os.fspath(source)
    if isinstance(source, str) and "://" in source:
        return re.sub(r"//[^/]*@", "//", source), source, {}  # messages and results tell no password
    os.stat(name)  # its error names the file
    return name, f"file:{name}", {}  # without this a name with a colon would be one of FFmpeg's protocols


def _open(name: str, url: str, options: dict[str, str]) -> InputContainer:
    import av

    # Before version 19, PyAV refused files with a title in another encoding.
    strictness: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
    try:
        return av.open(
            url,
            format=options.get("format"),
            options={"rtsp_flags": "prefer_tcp"} if url.startswith("rtsp") else {},
            timeout=None if url.startswith("file:") else TIMEOUT_SECONDS,
            **strictness,
        )
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from error
    except av.error.InvalidDataError as error:
        raise ValueError(f"{name} is damaged or not a video") from error
    except av.FFmpegError as error:
        raise ValueError(f"{name} cannot be opened: {_reason(error)}") from error


def _reason(error: av.FFmpegError) -> str:
    import av

    is_timeout = isinstance(error, av.error.ExitError)  # PyAV's, who stops FFmpeg
    return f"no answer for {TIMEOUT_SECONDS:g} s" if is_timeout else str(error.strerror)


def _video_stream(container: InputContainer, name: str) -> av.VideoStream:
    """The stream of `container` that a player shows."""
    from av.stream import Disposition

    stream: Any = container.streams.best("video")
    if container.format.name == "tty":  # FFmpeg draws any text
        raise ValueError(f"{name} is a text, not a video")
    if stream is None or stream.disposition & Disposition.attached_pic:  # the cover of a song
        kinds = sorted({stream.type for stream in container.streams} - {"video"})
        raise ValueError(f"{name} has no video in it, only {' and '.join(kinds) or 'nothing'}")
    if stream.codec_context is None:
        raise ValueError(f"{name} has a video of a kind that cannot be decoded here")
    return stream


def _length(container: InputContainer, stream: av.VideoStream) -> float | None:
    """In seconds, as the file says: a guess where other streams may be longer."""
    if stream.duration is not None:
        return _seconds(stream.duration, stream)
    if container.duration is not None and len(container.streams) == 1:
        return container.duration / 1e6
    return None


def _seconds(ticks: int, stream: av.VideoStream) -> float:
    return float(ticks * stream.time_base) if stream.time_base else 0.0


def _quarter_turn(frame: av.VideoFrame) -> QuarterTurn:
    """How the display matrix of `frame` turns and mirrors it."""
    side_data: Any = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return QuarterTurn()
    # x' = a x + c y, y' = b x + d y, in fixed point.
    a, b, _, c, d = np.frombuffer(bytes(side_data), np.int32)[:5].tolist()
    return QuarterTurn(True, c < 0, b < 0) if abs(b) > abs(a) else QuarterTurn(False, a < 0, d < 0)
