"""How a picture is read, in one place: as stored for data sets, upright for prediction.

Pillow decodes. It refuses a truncated file, where OpenCV fills what is missing with grey, and it reads the same formats
wherever it is installed, where OpenCV's depend on the build.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from ..records import ImageRecord

log = logging.getLogger(__name__)

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is read, by Pillow's names. It knows others, and hands some to other programs: PostScript to Ghostscript."""

EncodedImage = str | os.PathLike | bytes | bytearray | memoryview | Image.Image
"""Path of a picture, the content of such a file, or a picture of Pillow's."""

# ImageOps.exif_transpose also writes the EXIF block anew, and fails where some other part of that is damaged.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(source: EncodedImage, *, upright: bool = False) -> np.ndarray:
    """A picture as uint8 [H, W, 3] RGB.

    It is what a viewer on a white background shows: grey becomes RGB, what is transparent shows white, and of 16 bits
    the upper 8 are kept. Of an animation or of several pages the first is taken, and a warning is logged. Colour
    profiles are not applied, as in the pictures that networks are trained on.

    Args:
        source: a path, the content of a file, or a picture of Pillow's; files are of one of `FORMATS`.
        upright: turn the picture as its EXIF orientation says. Data sets are read as stored, because the coordinates
            of COCO's annotations ignore that orientation. TIFF is upright always: there the orientation belongs to
            the format, and every reader applies it.

    Raises:
        OSError: no such file, or not readable.
        ValueError: empty, damaged, truncated, or not a picture; the message names the file.
    """
    name = "the picture"
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        with _open_file(source) as file:
            source = file.read()
    if not source:
        raise ValueError(f"{name} is empty")
    with _errors_name(name):
        image = source if isinstance(source, Image.Image) else Image.open(io.BytesIO(source), formats=FORMATS)
        pixels = _to_rgb(image, upright)
        # Phones put a preview or a depth map behind a JPEG, which is then an MPO.
        if image is not source and getattr(image, "is_animated", False) and image.format != "MPO":
            _warn_of_frames(name)
        return pixels


def read_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(width, height) in pixels of the picture in a file as stored, from the first bytes of it alone.

    Raises:
        OSError: no such file, or not readable.
        ValueError: empty, or not a picture; the message names the file.
    """
    with _open_file(path) as file, _errors_name(os.fspath(path)):
        return Image.open(file, formats=FORMATS).size


def read_record(record: ImageRecord) -> np.ndarray:
    """The picture of a data set, uint8 [H, W, 3] RGB, turned so that its annotations lie on it.

    COCO's coordinates are those of the stored pixels. Some tools write those of the picture as it is shown, which its
    EXIF orientation may turn by 90 degrees; then the annotated width and height show it.

    Raises:
        OSError, ValueError: no picture, a damaged one, or one of another size than is annotated.
    """
    image = read_image(record.path, upright=record.upright)
    if record.size in (None, _size(image)):
        return image
    upright = read_image(record.path, upright=True)
    if record.size == _size(upright):
        _warn_of_turning(record.path.parent)
        return upright
    raise _wrong_size(record, _size(image))


def check_record(record: ImageRecord) -> None:
    """Raise the errors of `read_record` that the file's header shows: a thousand times faster."""
    size = read_size(record.path)
    if record.size not in (None, size, size[::-1]):
        raise _wrong_size(record, size)


def _wrong_size(record: ImageRecord, found: tuple[int, int]) -> ValueError:
    expected, got = (None if size is None else "×".join(map(str, size)) for size in (record.size, found))
    return ValueError(f"{record.path} must have the {expected} pixels that its annotations are for, got {got}")


def _size(image: np.ndarray) -> tuple[int, int]:
    """(width, height)."""
    height, width = image.shape[:2]
    return width, height


@functools.cache  # once for each folder, not for each picture
def _warn_of_turning(folder: Path) -> None:
    log.warning("%s: pictures annotated upright are turned as their EXIF orientation says, not read as stored", folder)


@functools.cache  # once for each file, not in each epoch
def _warn_of_frames(name: str) -> None:
    log.warning("%s has several frames or pages, of which the first is taken", name)


def _open_file(path: str | os.PathLike[str]) -> BinaryIO:
    mode = os.stat(path).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        raise ValueError(f"{os.fspath(path)} is a pipe or a device, not a file")  # reading it might never end
    return open(path, "rb")


@contextlib.contextmanager
def _errors_name(name: str) -> Iterator[None]:
    """Whatever goes wrong in the block becomes a ValueError on the picture `name`."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is damaged or not a picture of a known format ({', '.join(FORMATS)})") from error
    except Exception as error:  # damaged files make Pillow raise almost anything: SyntaxError, RuntimeError, ...
        raise ValueError(f"{name} cannot be read as a picture: {str(error) or type(error).__name__}") from error


def _to_rgb(image: Image.Image, upright: bool) -> np.ndarray:
    image.load()
    # Only now: PNG may hold its orientation after the pixels, and TIFF drops it once it is applied.
    turn = _TURNS.get(_orientation(image)) if upright else None
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        numbers = "floats" if image.mode == "F" else "integers"
        raise ValueError(f"its pixels must be unsigned integers of up to 16 bits, got {numbers} of 32 bits")
    if image.mode.startswith("I"):
        image = _to_8_bits(image)
    elif image.has_transparency_data:
        image = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode != "RGB":  # of one that is, this would be a copy
        image = image.convert("RGB")
    return np.array(image if turn is None else image.transpose(turn))


def _to_8_bits(image: Image.Image) -> Image.Image:
    """The upper 8 bits of grey pixels of 16, which PPM files hold as mode I."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF, whose deep pixels Pillow gives as they are stored
    (bits,) = tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))
    grey = np.clip(np.asarray(image) >> (bits - 8), 0, 255).astype(np.uint8)
    if isinstance(clear := image.info.get("transparency"), int):  # of a PNG: the one value that shows the background
        grey[np.asarray(image) == clear] = 255
    return Image.fromarray(255 - grey if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0 else grey)


def _orientation(image: Image.Image) -> Any:
    """What the EXIF block of the picture says, of any type: None without a block, or with one that is damaged."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except (SyntaxError, struct.error):  # Pillow's, of a PNG or WebP; it forgives a JPEG the same damage
        return None
