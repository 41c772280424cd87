"""How a picture is read, in one place: as stored for data sets, upright for prediction."""

from __future__ import annotations

import os

import cv2
import numpy as np
from PIL import Image


def read_image(path: str | os.PathLike[str], *, upright: bool = False) -> np.ndarray:
    """The picture in a file as uint8 [H, W, 3] RGB; grey becomes RGB and an alpha channel is dropped.

    Args:
        path: of the file.
        upright: turn the picture as its EXIF orientation says. Data sets are read as stored, because the coordinates
            of COCO's annotations ignore that orientation.

    Raises:
        OSError: no such file, or not readable.
        ValueError: empty, damaged, or not a picture; the message names the file.
    """
    content = np.fromfile(path, dtype=np.uint8)
    if content.size == 0:
        raise ValueError(f"{path} is empty")
    flags = cv2.IMREAD_COLOR if upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(content, flags)
    except cv2.error as error:
        raise ValueError(f"{path} cannot be read as a picture: {error.err}") from error
    if image is None:
        raise ValueError(f"{path} is damaged or not a picture")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(width, height) in pixels of the picture in a file as stored, from the first bytes of it alone.

    Raises:
        OSError: no such file, or not readable.
        ValueError: empty, or not a picture; the message names the file.
    """
    with open(path, "rb") as file:
        try:
            return Image.open(file).size
        except Exception as error:  # damaged files make Pillow raise almost anything: SyntaxError, OSError, ...
            raise ValueError(f"{path} cannot be read as a picture: {error}") from error
