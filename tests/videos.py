"""Videos to read; needs PyAV."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

RATE = 10


def write_video(path: Path, images: Iterable[np.ndarray], times: Sequence[float] | None = None) -> Path:
    """H.264 of the pictures in an MP4, ..., `RATE` a second or at `times` in seconds; a key frame every 8 frames."""
    import av

    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream("libx264", rate=RATE, options={"g": "8"})
        stream.pix_fmt = "yuv420p"
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index, image in enumerate(images):
            if not index:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = round(1000 * times[index]) if times else index
            frame.time_base = Fraction(1, 1000 if times else RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
