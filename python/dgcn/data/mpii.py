"""MPII's annotations, one entry for each person, in the three forms in which they are passed around.

- .h5 of the stacked hourglass networks: with head sizes; MPII's `scale` is enlarged by 1.25, its `center` moved down
- .json of HRNet and MMPose: without head sizes
- .mat of MPII itself, which needs SciPy; persons without keypoints are left out, and so are pictures of the test set

Coordinates are those of Matlab there, whose first pixel is (1, 1). A person's size s_n is 200·`scale` pixels: the area
of a record is its square, and the box is the square of that size around MPII's `center`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..records import Annotation, Category, ImageRecord, KeypointFile, Rule
from ..skeleton import MPII
from .coco_format import LARGEST_COORDINATE, load_json

PIXELS_PER_SCALE = 200.0  # MPII's definition of `scale`: a person's height over 200 pixels
H5_SCALE_FACTOR = 1.25  # by which the .h5 files enlarge `scale`, to crop pictures with a margin
H5_CENTER_SHIFT = 15.0  # px for each unit of MPII's scale, by which they move `center` down
HEAD_SIZE_FACTOR = 0.6  # of the head box's diagonal, in MPII's own evaluation
H5_ENTRIES = {"imgname": (), "part": (16, 2), "visible": (16,), "center": (2,), "scale": (), "normalize": ()}
JSON_ENTRIES = {"joints": (16, 2), "joints_vis": (16,), "center": (2,), "scale": ()}


class _Person(NamedTuple):
    image: str
    joints: np.ndarray  # [16, 2] px, Matlab's
    visibility: np.ndarray  # [16], COCO's v
    center: np.ndarray  # [2] px
    scale: float  # MPII's
    head_size: float | None  # px


def is_mpii(path: Path) -> bool:
    """Whether a file is one of the three forms, by its suffix or by the first entry of a list."""
    if path.suffix.lower() in (".h5", ".hdf5", ".mat"):
        return True
    with open(path, "rb") as file:
        head = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
    return head[:1] == b"[" and b'"joints"' in head


def read_mpii(annotations: Path, images: Path | None = None) -> KeypointFile:
    """Every picture of the file with its persons; the id of a picture is its file name.

    Args:
        annotations: .h5, .json or .mat.
        images: the folder of the pictures; without it the paths of the records are empty.

    Raises:
        OSError: no such file.
        ModuleNotFoundError: h5py or SciPy is needed for this form, and not installed.
        ValueError: another content; the message names the file, the person and the field.
    """
    annotations.stat()  # whose error names the file, where those of h5py and SciPy do not
    readers = {".h5": _read_h5, ".hdf5": _read_h5, ".mat": _read_mat}
    persons = readers.get(annotations.suffix.lower(), _read_json)(annotations)
    by_image: dict[str, list[Annotation]] = {}
    for person in persons:
        by_image.setdefault(person.image, []).append(_annotation(person))
    if not by_image:
        raise ValueError(f"{annotations} must list at least one person, got none")
    records = [
        ImageRecord(name, Path() if images is None else images / name, tuple(persons))
        for name, persons in by_image.items()
    ]
    rule = Rule("area", f"({PIXELS_PER_SCALE:.0f}·scale)²", "MPII has no areas")
    return KeypointFile(Category(keypoints=MPII.keypoints), records, (rule,))


def _annotation(person: _Person) -> Annotation:
    size = PIXELS_PER_SCALE * person.scale
    seen = person.visibility > 0
    keypoints = np.where(seen[:, None], np.column_stack([person.joints - 1, person.visibility]), 0)
    x, y = (person.center - 1 - size / 2).tolist()
    return Annotation(keypoints, (x, y, size, size), size * size, head_size=person.head_size)


def _read_h5(path: Path) -> list[_Person]:
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{path} needs h5py: pip install h5py") from error
    try:
        with h5py.File(path) as file:
            columns = {name: np.asarray(file[name]) for name in H5_ENTRIES if name in file}
    except OSError as error:
        raise ValueError(f"{path} is not an HDF5 file or is damaged: {error}") from error
    for name in H5_ENTRIES:
        if name not in columns:
            raise ValueError(f"{path} must have the entries {sorted(H5_ENTRIES)} of MPII, got no {name}")
    count = columns["imgname"].shape[0] if columns["imgname"].ndim else 0
    numbers = {
        name: _numbers(str(path), name, columns[name], (count, *shape))
        for name, shape in H5_ENTRIES.items()
        if name != "imgname"
    }
    scale = numbers["scale"] / H5_SCALE_FACTOR
    center = numbers["center"] - np.column_stack([np.zeros(count), H5_CENTER_SHIFT * scale])
    # A joint that nobody marked is (0, 0); `visible` tells hidden from seen.
    visibility = np.where((numbers["part"] > 0).any(axis=2), np.where(numbers["visible"] > 0, 2, 1), 0)
    persons = zip(columns["imgname"], numbers["part"], visibility, center, scale, numbers["normalize"], strict=True)
    return [
        _person(f"{path}: person {index}", _text(f"{path}: person {index}", image), *values)
        for index, (image, *values) in enumerate(persons)
    ]


def _read_json(path: Path) -> list[_Person]:
    entries = load_json(path)
    if not isinstance(entries, list):
        raise ValueError(f"{path} must be a list of MPII's persons, got {type(entries).__name__}")
    persons = []
    for index, entry in enumerate(entries):
        name = f"{path}: person {index}"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("image"), str):
            raise ValueError(f"{name} must be an object with the name of its `image`, got {reprlib.repr(entry)}")
        values = {field: _numbers(name, field, entry.get(field), shape) for field, shape in JSON_ENTRIES.items()}
        visibility = np.where(values["joints_vis"] > 0, 2, 0)
        head_size = entry.get("head_size")
        if head_size is not None:
            head_size = _numbers(name, "head_size", head_size, ())
        persons.append(
            _person(name, entry["image"], values["joints"], visibility, values["center"], values["scale"], head_size)
        )
    return persons


def _read_mat(path: Path) -> list[_Person]:
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{path} needs SciPy: pip install scipy") from error
    try:
        release = loadmat(path, struct_as_record=False, squeeze_me=True).get("RELEASE")
    except (MatReadError, ValueError, IndexError, TypeError, NotImplementedError) as error:
        raise ValueError(f"{path} is not a Matlab file or is damaged: {error}") from error
    if not hasattr(release, "annolist"):
        raise ValueError(f"{path} must hold MPII's struct RELEASE with annolist, got none")
    persons = []
    for index, picture in enumerate(np.atleast_1d(release.annolist)):
        for number, rect in enumerate(_structs(picture, "annorect")):
            points = [point for holder in _structs(rect, "annopoints") for point in _structs(holder, "point")]
            if not points or not _structs(rect, "objpos"):
                continue
            name = f"{path}: person {number} of picture {index}"
            try:
                image, objpos = str(picture.image.name), [rect.objpos.x, rect.objpos.y]
                head, scale = [rect.x2 - rect.x1, rect.y2 - rect.y1], rect.scale
                # Absent or empty for the joints of the head, which are always seen.
                marks = [(point.id, point.x, point.y, getattr(point, "is_visible", 1)) for point in points]
            except (AttributeError, TypeError) as error:
                raise ValueError(f"{name} must have MPII's fields, got {error}") from error
            joints, visibility = np.zeros((16, 2)), np.zeros(16)
            for joint, x, y, is_visible in marks:
                if joint not in range(16):
                    raise ValueError(f"{name}: id of a joint must be 0 to 15, got {joint!r}")
                joints[joint] = _numbers(name, "joint", [x, y], (2,))
                visibility[joint] = 1 if np.array_equal(is_visible, 0) else 2
            head_size = HEAD_SIZE_FACTOR * np.linalg.norm(_numbers(name, "head box", head, (2,)))
            center = _numbers(name, "objpos", objpos, (2,))
            scale = _numbers(name, "scale", scale, ())
            persons.append(_person(name, image, joints, visibility, center, scale, head_size))
    return persons


def _structs(parent: Any, name: str) -> list[Any]:
    """The structs in a field that Matlab may leave empty, or hold one or many in."""
    return [each for each in np.atleast_1d(getattr(parent, name, [])) if hasattr(each, "_fieldnames")]


def _numbers(name: str, field: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """`value` as float64 of this shape; ValueError for anything else."""
    try:
        numbers = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        numbers = np.zeros(0)
    if numbers.shape != shape:
        got = f"shape {list(value.shape)}" if isinstance(value, np.ndarray) else reprlib.repr(value)
        raise ValueError(f"{name}: {field} must be numbers of shape {list(shape)}, got {got}")
    return numbers


def _person(
    name: str, image: str, joints: np.ndarray, visibility: np.ndarray, center: np.ndarray, scale: Any, head_size: Any
) -> _Person:
    """The person, after errors for what is out of range."""
    for field, value in (("joints", joints[visibility > 0]), ("center", center)):
        if not (abs(value) < LARGEST_COORDINATE).all():
            required = f"within {LARGEST_COORDINATE:.0f} px"
            raise ValueError(f"{name}: {field} must be {required}, got {reprlib.repr(np.asarray(value).tolist())}")
    for field, value in (("scale", scale), ("head size", head_size)):
        if value is not None and not 0 < value < LARGEST_COORDINATE:
            raise ValueError(f"{name}: {field} must be positive and below {LARGEST_COORDINATE:.0f}, got {float(value)}")
    return _Person(image, joints, visibility, center, float(scale), None if head_size is None else float(head_size))


def _text(name: str, value: bytes | str | np.ndarray) -> str:
    """A file name: text, or, as some .h5 files have it, the codes of its letters."""
    try:
        raw = bytes(int(code) for code in value if code) if isinstance(value, np.ndarray) else value
        return raw.decode() if isinstance(raw, bytes) else str(raw)
    except ValueError as error:
        raise ValueError(f"{name}: imgname must be text, got {error}") from error
