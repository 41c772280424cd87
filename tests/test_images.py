"""How pictures are read: formats, orientations, and files that are none."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps
from PIL.Image import Transpose

from dgcn.data.images import read_image, read_size

ORIENTATION = 0x0112
LOSSLESS = ("BMP", "JPEG2000", "PNG", "PPM", "TIFF")
STORED_AS = {  # what a camera that was held like this stores of an upright picture
    1: None,
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_90,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_270,
}


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """90 × 60 px, smooth, without symmetry."""
    noise = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(cv2.resize(noise, (90, 60), interpolation=cv2.INTER_CUBIC))


def encode(picture: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def turned(picture: Image.Image, format: str, orientation: int) -> bytes:
    """`picture` as a camera stores it that was held in this way and says so."""
    how = STORED_AS[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encode(picture if how is None else picture.transpose(how), format, exif=exif)


def assert_close(read: np.ndarray, expected: Image.Image, tolerance: float) -> None:
    assert read.dtype == np.uint8
    assert read.flags.writeable
    assert read.shape == (expected.height, expected.width, 3)
    assert np.abs(read.astype(int) - np.asarray(expected.convert("RGB"))).mean() <= tolerance


@pytest.mark.parametrize("format", ["AVIF", "GIF", "JPEG", "WEBP", *LOSSLESS])
def test_formats(picture, format) -> None:
    tolerance = 0 if format in LOSSLESS else 12
    assert_close(read_image(encode(picture, format)), picture, tolerance)


def test_a_jpeg_is_decoded_as_by_opencv(picture) -> None:
    content = encode(picture, "JPEG")
    expected = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(read_image(content), expected[:, :, ::-1])


@pytest.mark.parametrize("orientation", STORED_AS)
def test_orientation(picture, orientation, tmp_path) -> None:
    content = turned(picture, "JPEG", orientation)
    assert_close(read_image(content, upright=True), picture, 6)
    stored = Image.open(io.BytesIO(content))
    assert_close(read_image(content), Image.fromarray(np.asarray(stored)), 0)
    (tmp_path / "a.jpg").write_bytes(content)
    assert read_size(tmp_path / "a.jpg") == stored.size
    assert_close(read_image(stored, upright=True), picture, 6)
    assert_close(read_image(ImageOps.exif_transpose(stored), upright=True), picture, 6)  # not turned twice


@pytest.mark.parametrize("format", ["AVIF", "PNG", "TIFF", "WEBP"])
def test_orientation_in_other_formats(picture, format) -> None:
    content = turned(picture, format, 6)
    assert_close(read_image(content, upright=True), picture, 12)
    assert read_image(content).shape == ((60, 90, 3) if format == "TIFF" else (90, 60, 3))


def test_a_damaged_exif_block_does_no_harm(picture) -> None:
    exif = Image.Exif()
    exif[ORIENTATION], exif[282] = 6, 72.0  # XResolution, a fraction
    content = bytearray(encode(picture.transpose(Transpose.ROTATE_90), "JPEG", exif=exif))
    entry = content.index((282).to_bytes(2, "big"))
    content[entry + 2 : entry + 4] = (2).to_bytes(2, "big")  # ... which now says that it is text
    assert_close(read_image(bytes(content), upright=True), picture, 6)
    start = content.index(b"Exif") + 6
    content[start : start + 4] = b"none"
    assert read_image(bytes(content), upright=True).shape == (90, 60, 3)
    for block in (b"Exif\0\0none", b"MM\0*\0"):  # no TIFF, and one that ends too early
        for format in ("PNG", "WEBP"):
            assert read_image(encode(picture, format, exif=block), upright=True).shape == (60, 90, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_modes(picture, mode) -> None:
    converted = picture.convert(mode)
    assert_close(read_image(converted), converted, 0)
    format = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    assert_close(read_image(encode(converted, format)), converted, 4)


def test_lab(picture) -> None:
    profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
    lab = ImageCms.profileToProfile(picture, *profiles, outputMode="LAB")
    assert_close(read_image(encode(lab, "TIFF")), picture, 2)


def test_a_picture_too_large_for_the_memory_is_named(picture, tmp_path, monkeypatch) -> None:
    def load(self: Image.Image) -> None:
        raise MemoryError

    picture.save(tmp_path / "large.png")
    monkeypatch.setattr(Image.Image, "load", load)
    with pytest.raises(ValueError, match=r"large\.png cannot be read as a picture: MemoryError"):
        read_image(tmp_path / "large.png")


def test_what_is_transparent_shows_white(picture) -> None:
    """Not the colours that an editor has left below, nor the black of a drawing that is nothing but its alpha."""
    cut_out = picture.convert("RGBA")
    cut_out.putalpha(Image.fromarray(np.repeat([[0] * 30 + [255] * 60], 60, axis=0).astype(np.uint8)))
    expected = picture.copy()
    expected.paste("white", (0, 0, 30, 60))
    assert_close(read_image(encode(cut_out, "PNG")), expected, 0)
    assert_close(read_image(cut_out), expected, 0)

    few = picture.quantize(8)
    content = encode(few, "PNG", transparency=bytes([0, 127, *[255] * 6]))  # one alpha for each colour of the palette
    alpha = np.array([0, 127, *[255] * 6])[np.asarray(few)][..., None] / 255
    blended = alpha * np.asarray(few.convert("RGB")) + (1 - alpha) * 255
    assert np.abs(read_image(content) - blended).max() <= 1

    drawing = Image.new("LA", picture.size)
    drawing.putalpha(picture.convert("L"))
    assert_close(read_image(encode(drawing, "PNG")), ImageOps.invert(picture.convert("L")), 0)
    assert_close(read_image(drawing.convert("La")), ImageOps.invert(picture.convert("L")), 0)

    deep = Image.fromarray(np.array([[0, 0x8000]], np.uint16))
    assert read_image(encode(deep, "PNG", transparency=0))[0, :, 0].tolist() == [255, 0x80]


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".pgm"])
def test_sixteen_bits(picture, suffix) -> None:
    deep = np.asarray(picture.convert("L")).astype(np.uint16) * 256 + 255
    content = cv2.imencode(suffix, deep)[1].tobytes()
    assert_close(read_image(content), picture.convert("L"), 0)


def grey_tiff(grey: np.ndarray, bits: int, photometric: int) -> bytes:
    """uint8 [H, W] as a TIFF of `bits` to a pixel; photometric 0: the largest number is black, 1: white."""
    deep = grey.astype(np.uint16) << (bits - 8)
    deep = deep if photometric else 2**bits - 1 - deep
    if bits == 12:  # two pixels in three bytes
        left, right = deep.reshape(-1, 2).T
        data = np.column_stack([left >> 4, (left & 15) << 4 | right >> 8, right & 255]).astype(np.uint8).tobytes()
    else:
        data = deep.astype("<u2").tobytes()
    height, width = grey.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(("bits", "photometric"), [(12, 1), (16, 1), (16, 0)])
def test_deep_tiff(picture, bits, photometric) -> None:
    grey = picture.convert("L")
    assert_close(read_image(grey_tiff(np.asarray(grey), bits, photometric)), grey, 0)


@pytest.mark.parametrize("format", ["GIF", "PNG", "TIFF", "WEBP"])
def test_the_first_of_several(picture, format, tmp_path, caplog) -> None:
    other = picture.transpose(Transpose.ROTATE_180)
    path = tmp_path / f"a.{format}"
    picture.save(path, format)
    read_image(path)
    assert not caplog.messages
    picture.save(path, format, save_all=True, append_images=[other])
    assert_close(read_image(path), picture, 12)
    assert caplog.messages == [f"{path} has several frames or pages, of which the first is taken"]


def test_the_preview_in_a_photograph_is_no_second_frame(picture, caplog) -> None:
    content = encode(picture, "MPO", save_all=True, append_images=[picture.resize((9, 6))])
    assert_close(read_image(content), picture, 6)
    assert not caplog.messages


def test_the_frame_that_pillow_shows(picture, caplog) -> None:
    other = picture.transpose(Transpose.ROTATE_180)
    animation = Image.open(io.BytesIO(encode(picture, "PNG", save_all=True, append_images=[other])))
    animation.seek(1)
    assert_close(read_image(animation), other, 0)
    assert not caplog.messages


def test_names_of_all_kinds(picture, tmp_path) -> None:
    content = encode(picture, "PNG")
    for name in (b"a b.png", b"[1]*?.jpg", b"-o", b"\xff\xfe.png", "ä.png".encode()):
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        path.write_bytes(content)
        for source in (path, str(path)):
            assert_close(read_image(source), picture, 0)


@pytest.mark.parametrize("format", ["AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"])
def test_a_truncated_file_is_refused_and_named(picture, format, tmp_path) -> None:
    content = encode(picture, format)
    for share in (0.3, 0.7, 0.97):
        (tmp_path / "cut").write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match=r"cut (cannot be read|is damaged)"):
            read_image(tmp_path / "cut")
    assert_close(read_image(content + bytes(100) + b"appended"), picture, 12)


def test_files_that_are_no_pictures(tmp_path, picture) -> None:
    size = (60_000).to_bytes(4, "big") * 2
    header = b"IHDR" + size + b"\x08\x02\0\0\0"
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\r" + header + zlib.crc32(header).to_bytes(4, "big") + b"\0\0\0\0IDAT" + bytes(99)
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    postscript = encode(picture, "EPS")
    floats = encode(Image.fromarray(np.zeros((9, 9), np.float32)), "TIFF")
    for name, content, message in (
        ("empty.jpg", b"", "is empty"),
        ("text.jpg", b"not a picture", "is damaged or not a picture"),
        ("bomb.png", bomb, "3600000000 pixels"),
        ("photo.heic", heic, "not a picture of a known format"),
        ("drawing.jpg", postscript, "not a picture of a known format"),
        ("floats.tif", floats, "32 bits"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} .*{message}") as error:
            read_image(tmp_path / name)
        if name not in ("empty.jpg", "floats.tif"):
            with pytest.raises(ValueError, match=rf"{name} .*{message}"):
                read_size(tmp_path / name)
        assert "\n" not in str(error.value)
        with pytest.raises(ValueError, match=f"the picture .*{message}"):
            read_image(content)


def test_paths_that_are_no_files(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.jpg"):
        read_image(tmp_path / "absent.jpg")
    with pytest.raises(IsADirectoryError):
        read_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")
    for read in (read_image, read_size):
        for path in (tmp_path / "pipe.jpg", "/dev/zero"):
            with pytest.raises(ValueError, match=f"{path} is a pipe or a device, not a file"):
                read(path)
