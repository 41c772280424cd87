"""MPII's annotations, one entry for each person, in the three forms in which they are passed around.

- .h5 of the stacked hourglass networks: with head sizes; MPII's `scale` is enlarged by 1.25, its `center` moved down
- .json of HRNet and MMPose: without head sizes
- .mat of MPII itself, which needs SciPy; persons without keypoints are left out, and so are pictures of the test set

Coordinates are those of Matlab there, whose first pixel is (1, 1). A person's size s_n is 200·`scale` pixels: the area
of a record is its square, and the box is the square of that size around MPII's `center`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..records import Annotation, Category, ImageRecord, KeypointFile, Rule
from ..skeleton import MPII
from .coco_format import load_json

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
    count = len(columns.get("imgname", ()))
    for name, shape in H5_ENTRIES.items():
        if name not in columns:
            raise ValueError(f"{path} must have the entries {sorted(H5_ENTRIES)} of MPII, got no {name}")
        if name != "imgname" and columns[name].shape != (count, *shape):
            raise ValueError(f"{path}: {name} must have shape {[count, *shape]}, got {list(columns[name].shape)}")
    joints, scale = columns["part"].astype(float), columns["scale"] / H5_SCALE_FACTOR
    center = columns["center"] - np.column_stack([np.zeros(count), H5_CENTER_SHIFT * scale])
    annotated = (joints > 0).any(axis=2)  # a joint that nobody marked is (0, 0); `visible` tells hidden from seen
    return [
        _Person(_text(name), *_checked(f"{path}: person {index}", *values))
        for index, (name, *values) in enumerate(
            zip(
                columns["imgname"],
                joints,
                np.where(annotated, np.where(columns["visible"] > 0, 2, 1), 0),
                center,
                scale,
                columns["normalize"],
                strict=True,
            )
        )
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
        values = []
        for field, shape in JSON_ENTRIES.items():
            try:
                value = np.array(entry.get(field), dtype=float)
            except (TypeError, ValueError):
                value = np.full(1, np.nan)
            if value.shape != shape:
                raise ValueError(
                    f"{name}: {field} must be numbers of shape {list(shape)}, got {reprlib.repr(entry.get(field))}"
                )
            values.append(value)
        joints, is_annotated, center, scale = values
        head_size = entry.get("head_size")
        visibility = np.where(is_annotated > 0, 2, 0)
        persons.append(_Person(entry["image"], *_checked(name, joints, visibility, center, scale, head_size)))
    return persons


def _read_mat(path: Path) -> list[_Person]:
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{path} needs SciPy: pip install scipy") from error
    try:
        release = loadmat(path, struct_as_record=False, squeeze_me=True).get("RELEASE")
    except (MatReadError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{path} is not a Matlab file or is damaged: {error}") from error
    if not hasattr(release, "annolist"):
        raise ValueError(f"{path} must hold MPII's struct RELEASE with annolist, got none")
    persons = []
    for index, picture in enumerate(np.atleast_1d(release.annolist)):
        for number, rect in enumerate(_structs(picture, "annorect")):
            points = [point for holder in _structs(rect, "annopoints") for point in _structs(holder, "point")]
            if not points or not _structs(rect, "objpos"):
                continue
            joints, visibility = np.zeros((16, 2)), np.zeros(16)
            for point in points:
                joints[point.id] = point.x, point.y
                # Absent or empty for the joints of the head, which are always seen.
                visibility[point.id] = 1 if np.array_equal(getattr(point, "is_visible", 1), 0) else 2
            head = np.array([rect.x2 - rect.x1, rect.y2 - rect.y1], dtype=float)
            values = joints, visibility, np.array([rect.objpos.x, rect.objpos.y]), rect.scale
            name = f"{path}: person {number} of picture {index}"
            head_size = HEAD_SIZE_FACTOR * float(np.linalg.norm(head))
            persons.append(_Person(str(picture.image.name), *_checked(name, *values, head_size)))
    return persons


def _structs(parent: Any, name: str) -> list[Any]:
    """The structs in a field that Matlab may leave empty, or hold one or many in."""
    return [each for each in np.atleast_1d(getattr(parent, name, [])) if hasattr(each, "_fieldnames")]


def _checked(
    name: str, joints: np.ndarray, visibility: np.ndarray, center: np.ndarray, scale: Any, head_size: Any
) -> Iterator[Any]:
    """The values, after `name`d errors for what is not finite or not positive."""
    for field, value in (("joints", joints[visibility > 0]), ("center", center)):
        if not np.isfinite(value).all():
            raise ValueError(f"{name}: {field} must be finite, got {np.asarray(value).tolist()}")
    for field, value in (("scale", scale), ("head size", head_size)):
        if value is not None and not 0 < float(value) < np.inf:
            raise ValueError(f"{name}: {field} must be positive, got {value}")
    yield from (joints, visibility, center, float(scale), None if head_size is None else float(head_size))


def _text(name: bytes | str | Sequence[float] | np.ndarray) -> str:
    """A file name: text, or, as some .h5 files have it, the codes of its letters."""
    if isinstance(name, np.ndarray):
        name = bytes(int(code) for code in name if code)
    return name.decode() if isinstance(name, bytes) else str(name)
