"""MP4 files that browsers play, written so that what is done can be played whatever happens."""

from __future__ import annotations

import contextlib
import itertools
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..extras import extra
from ..files import atomic_write

TIME_BASE = Fraction(1, 90_000)  # s, divides the frame times of all usual rates
BT709 = 1  # the colours that players expect in a video that does not say, as FFmpeg numbers them


class VideoWriter:
    """Writes pictures as H.264 in an MP4, with their times.

    Until `finish`, the video grows in a journal beside the MP4, in fragments that play up to the last one. `finish`
    makes an MP4 of them that has its index in front, so that browsers show it while it loads.

    Attributes:
        journal: path of it, that of the MP4 with the first free number and ".partial" at the end.
    """

    def __init__(self, path: str | os.PathLike[str], rate: float | None = None) -> None:
        """
        Args:
            path: of the MP4; what it held stays until `finish`.
            rate: frames per second to expect, by which the encoder chooses the quality; default: 25.

        Raises:
            ImportError: PyAV is not installed.
        """
        with extra("video", "videos need PyAV"):
            import av
        self._av = av
        self._path = Path(path)
        self._rate = Fraction(rate or 25.0).limit_denominator(1001)
        self.journal: Path | None = None
        self._first_time = 0.0
        self._pts = -1
        self._whole_bytes = 0  # of the journal: what it has of whole fragments
        self._container: Any = None
        self._is_broken = True  # until it is opened, and once a frame could not be written

    def add(self, image: np.ndarray, time_s: float) -> None:
        """Add a picture uint8 [H, W, 3] RGB, shown from `time_s` on, in seconds.

        One of another size than the first is scaled into that.

        Raises:
            OSError: no room, ...
            ValueError: a picture that is too large for H.264.
        """
        if self.journal is None:
            self._open(image, time_s)
        frame = self._av.VideoFrame.from_ndarray(_fit(image, self._size), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=BT709)
        self._pts = frame.pts = max(self._pts + 1, round((time_s - self._first_time) / TIME_BASE))
        frame.time_base = TIME_BASE
        self._mux(frame)

    def finish(self) -> None:
        """Complete the MP4. Where there is no room for that, the journal, which plays as well, becomes the MP4."""
        if self.journal is None:
            return
        with contextlib.suppress(OSError, ValueError):  # a full disk
            if not self._is_broken:
                self._mux(None)
        with contextlib.suppress(self._av.FFmpegError):  # the same
            if self._container is not None:
                self._container.close()
            if not self._is_broken:
                self._whole_bytes = self.journal.stat().st_size
        if not self._whole_bytes:
            self.journal.unlink()
            return
        os.truncate(self.journal, self._whole_bytes)
        try:
            with atomic_write(self._path) as file:
                self._copy(self.journal, file.name)
        except OSError:
            os.replace(self.journal, os.path.realpath(self._path))
        else:
            self.journal.unlink()

    def _open(self, image: np.ndarray, time_s: float) -> None:
        height, width = image.shape[:2]
        self._size = width + width % 2, height + height % 2  # colours have half the resolution
        self._first_time = time_s
        for number in itertools.count(1):
            self.journal = self._path.with_name(f"{self._path.name}.{number}.partial")
            with contextlib.suppress(FileExistsError):  # of another run
                open(self.journal, "x").close()
                break
        flags = "frag_every_frame+empty_moov+default_base_moof"
        options = {"movflags": flags, "flush_packets": "1"}
        self._container = self._av.open(str(self.journal), "w", format="mp4", options=options)
        # The encoder holds no frame back, so that each is on the disk once it is added.
        settings = {"preset": "veryfast", "tune": "zerolatency"}
        stream: Any = self._container.add_stream("libx264", rate=self._rate, options=settings)
        stream.width, stream.height = self._size
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = TIME_BASE
        context.colorspace = context.color_primaries = context.color_trc = context.color_range = BT709
        self._stream = stream
        self._is_broken = False

    def _mux(self, frame: Any) -> None:
        """Encode a frame; None: what the encoder still holds."""
        assert self.journal is not None
        self._is_broken = True  # until this has worked
        try:
            self._container.mux(self._stream.encode(frame))
            self._whole_bytes, self._is_broken = self.journal.stat().st_size, False
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        except self._av.FFmpegError as error:
            width, height = self._size
            raise ValueError(f"{self._path}: {width} x {height} px cannot be encoded: {error.strerror}") from error

    def _copy(self, source: Path, target: str) -> None:
        """Write the video of `source` with its index in front, without encoding it again. Raises OSError."""
        av, options = self._av, {"movflags": "faststart"}
        try:
            with av.open(str(source)) as parts, av.open(target, "w", format="mp4", options=options) as whole:
                stream = whole.add_stream_from_template(parts.streams.video[0])
                for packet in parts.demux(video=0):
                    if packet.dts is not None:  # the last one is a mark of the end
                        packet.stream = stream
                        whole.mux(packet)
        except av.FFmpegError as error:
            raise OSError(error.errno, error.strerror) from error


def _fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`image` scaled into `size` (width, height) px, where it is larger or smaller by more than the even edge."""
    width, height = size
    if (image.shape[1] + image.shape[1] % 2, image.shape[0] + image.shape[0] % 2) != size:
        scale = min(width / image.shape[1], height / image.shape[0])
        inner = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        image = cv2.resize(image, inner, interpolation=cv2.INTER_AREA)
    down, right = height - image.shape[0], width - image.shape[1]
    if max(down, right) > 1:
        return cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_CONSTANT)
    return cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_REPLICATE)
