"""COCO keypoint data sets: the one reader of training, prediction and evaluation, and the one writer.

A field that is absent or null has one default everywhere: `area` is 0.53 times that of the box, `iscrowd` is 0, and
`keypoints` are none. `num_keypoints` is counted, not read; of a keypoint with v = 0, x and y are not read either.
`segmentation`, `info` and `licenses` say nothing about keypoints and may be anything.

What does not fit is a ValueError of one line: the file, the entry, the field, what is required and what arrived.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import json
import math
import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

import numpy as np
from numpy.typing import ArrayLike

from ..files import write_json
from ..records import Annotation, CocoId, ImageRecord, Pose
from ..skeleton import Skeleton

Annotations = str | os.PathLike[str] | Mapping[str, Any]
"""Path of a COCO keypoint JSON, or its content."""

AREA_OF_BOX = 0.53
"""A person's area as a fraction of its box, where only the box is known: the factor of the CrowdPose tools."""

JOURNAL_SUFFIX = ".partial"
"""End of the name of the file that has the results until `CocoWriter` writes the data set."""

LARGEST_COORDINATE = 2.0**24
"""In pixels, and far beyond any picture: up to here float32, in which targets are made, holds every whole pixel."""


def read_coco(images: str | Path, annotations: str | Path, skeleton: Skeleton) -> list[ImageRecord]:
    """Every picture of a COCO keypoint file, in file order.

    Args:
        images: the folder in which the pictures lie.
        annotations: the JSON; one category of it has the keypoints of `skeleton`.
        skeleton: whose keypoints are annotated.

    Raises:
        OSError: no such folder or file, or a picture is missing.
        ValueError: content that is not COCO keypoints of `skeleton`.
    """
    folder = Path(images)
    if not folder.is_dir():
        raise FileNotFoundError(f"the image folder {folder} does not exist")
    records = _Reader(annotations, skeleton.num_keypoints, skeleton).records(folder)
    for record in records:
        if not record.path.is_file():
            raise FileNotFoundError(f"image {record.image_id} of {annotations} is missing: {record.path}")
    return records


def read_ground_truth(annotations: Annotations, num_keypoints: int) -> list[ImageRecord]:
    """The records of `read_coco` without looking for pictures: their paths are empty.

    Args:
        annotations: one category of it has keypoints, so many of them, whatever their names.
        num_keypoints: K.

    Raises:
        OSError, ValueError: as `read_coco`.
    """
    return _Reader(annotations, num_keypoints).records()


def is_id(value: Any) -> TypeGuard[CocoId]:
    """Whether `value` may be an id: a whole number or a string."""
    return isinstance(value, str) or (isinstance(value, Real) and not isinstance(value, bool) and value % 1 == 0)


def to_rows(values: Sequence[Any], *shapes: tuple[int, ...]) -> np.ndarray:
    """`values` as rows of float64; NaN for a value that is not numbers in one of `shapes`, which are of one size."""
    size = math.prod(shapes[0])
    try:  # all at once takes a tenth of the time
        array = np.array(values, dtype=np.float64)
        if array.shape[1:] in shapes:
            return array.reshape(len(values), size)
    except (TypeError, ValueError, OverflowError):
        pass
    rows = np.full((len(values), size), np.nan)
    for row, value in zip(rows, values, strict=True):
        try:
            numbers = np.array(value, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            continue
        if numbers.shape in shapes:
            row[:] = numbers.ravel()
    return rows


class CocoWriter:
    """Writes the poses of pictures as a COCO keypoint data set: images, annotations, categories.

    Every picture goes to a journal beside the data set as soon as it is added, as a line of JSON, so that a killed
    process or a full disk costs at most one picture. `finish` writes the data set and removes the journal.

    Attributes:
        journal: its path, that of the data set with the first free number and ".partial" at the end.
    """

    def __init__(self, path: Path, skeleton: Skeleton) -> None:
        for number in itertools.count(1):
            self.journal = path.with_name(f"{path.name}.{number}{JOURNAL_SUFFIX}")
            with contextlib.suppress(FileExistsError):  # of another run
                open(self.journal, "x").close()
                break
        self._path = path
        self._pictures: list[dict[str, Any]] = []  # {"image": ..., "annotations": [...]}, as in the journal
        self._category = {
            "id": 1,
            "name": "person",
            "supercategory": "person",
            "keypoints": list(skeleton.keypoints),
            "skeleton": [[i + 1, j + 1] for i, j in skeleton.limbs],  # COCO counts from 1
        }

    @property
    def num_images(self) -> int:
        return len(self._pictures)

    @property
    def num_persons(self) -> int:
        return sum(len(picture["annotations"]) for picture in self._pictures)

    def add(self, source: Path, image: np.ndarray, poses: Iterable[Pose]) -> None:
        """Add the picture `image` [H, W, 3] of the file `source`; ids count from 1 in the order of the calls.

        Raises OSError that names the journal if that cannot be written."""
        image_id = len(self._pictures) + 1
        height, width = image.shape[:2]
        picture = {
            "image": {"id": image_id, "file_name": str(source), "width": width, "height": height, "upright": True},
            "annotations": [pose.to_coco(image_id) for pose in poses],
        }
        try:
            with open(self.journal, "a", encoding="utf-8") as file:
                file.write(json.dumps(picture) + "\n")
        except OSError as error:  # that of a full disk names no file
            raise OSError(error.errno, error.strerror, str(self.journal)) from error
        self._pictures.append(picture)

    def finish(self) -> None:
        """Write the data set and remove the journal; raises OSError, and keeps the journal, if there is no room."""
        annotations = [annotation for picture in self._pictures for annotation in picture["annotations"]]
        document = {
            "images": [picture["image"] for picture in self._pictures],
            "annotations": [{"id": number, **each} for number, each in enumerate(annotations, start=1)],
            "categories": [self._category],
        }
        try:
            write_json(self._path, document)
        except OSError as error:
            if self._pictures and error.strerror:
                error.strerror += f"; the results are in {self.journal}"
            raise
        self.journal.unlink(missing_ok=True)


def find_journals(path: Path) -> list[Path]:
    """The journals that other runs of `CocoWriter` have left beside the data set at `path`."""
    return sorted(path.parent.glob(f"{glob.escape(path.name)}.*{JOURNAL_SUFFIX}"))


class _Reader:
    """The content of one file, and how it is checked."""

    def __init__(self, annotations: Annotations, num_keypoints: int, skeleton: Skeleton | None = None) -> None:
        self.num_keypoints = num_keypoints
        self.skeleton = skeleton
        if isinstance(annotations, Mapping):
            self.source, self.document = "annotations", annotations
        else:
            self.source, self.document = str(annotations), _load(Path(annotations))
        if not isinstance(self.document, Mapping) or not {"images", "annotations"} <= self.document.keys():
            found = list(self.document) if isinstance(self.document, Mapping) else type(self.document).__name__
            raise ValueError(
                f"{self.source} must be a COCO file, an object with the lists 'images' and 'annotations', got {found}"
            )

    def records(self, folder: Path | None = None) -> list[ImageRecord]:
        """All pictures, their paths in `folder`; with None the paths are left empty."""
        images = self.by_id("images")
        if not images:
            raise ValueError(f"{self.source} must list at least one image, got none")
        category_id, entries = self.of_category()
        by_image: dict[CocoId, list[Annotation]] = {image_id: [] for image_id in images}
        for entry in entries:
            image_id = entry.get("image_id")
            if not is_id(image_id) or image_id not in images:
                self.refuse(_name(entry), "image_id", "the id of a listed image", image_id)
        for entry, annotation in zip(entries, self.annotations(entries), strict=True):
            by_image[entry["image_id"]].append(annotation)
        return [
            ImageRecord(
                image_id,
                Path() if folder is None else folder / self.file_name(image),
                tuple(by_image[image_id]),
                category_id,
                self.size(image),
                image.get("upright") is True,
            )
            for image_id, image in images.items()
        ]

    def entries(self, key: str) -> Sequence[Mapping[str, Any]]:
        """The list `key` of the file, checked to hold objects."""
        entries = self.document[key]
        if not isinstance(entries, list | tuple):
            raise ValueError(f"{self.source}: {key} must be a list, got {reprlib.repr(entries)}")
        for index, entry in enumerate(entries):
            if not isinstance(entry, Mapping):
                raise ValueError(f"{self.source}: {key}[{index}] must be an object, got {reprlib.repr(entry)}")
        return entries

    def by_id(self, key: str) -> dict[CocoId, Mapping[str, Any]]:
        """The objects of the list `key` by their ids, in file order."""
        by_id: dict[CocoId, Mapping[str, Any]] = {}
        for index, entry in enumerate(self.entries(key)):
            entry_id = entry.get("id")
            if not is_id(entry_id):
                self.refuse(f"{key}[{index}]", "id", "a whole number or a string", entry_id)
            if entry_id in by_id:
                raise ValueError(f"{self.source}: {key} must have different ids, got {entry_id!r} twice")
            by_id[entry_id] = entry
        return by_id

    def file_name(self, image: Mapping[str, Any]) -> str:
        name = image.get("file_name")
        if not isinstance(name, str) or not name:
            self.refuse(f"image {image['id']!r}", "file_name", "a string", name)
        return name

    def size(self, image: Mapping[str, Any]) -> tuple[int, int] | None:
        width, height = image.get("width"), image.get("height")
        if width is None or height is None:
            return None
        for field, value in (("width", width), ("height", height)):
            if not is_id(value) or isinstance(value, str) or value < 1:
                self.refuse(f"image {image['id']!r}", field, "a whole number of pixels", value)
        return int(width), int(height)

    def of_category(self) -> tuple[CocoId, list[Mapping[str, Any]]]:
        """Id of the category of the persons, and its annotations.

        It is the only one with the right keypoints, or, where no category names its keypoints, the one whose
        annotations have some."""
        entries = self.entries("annotations")
        categories = self.by_id("categories") if self.document.get("categories") else {}
        ids = self.category_ids(entries, categories)
        named = {category_id: entry["keypoints"] for category_id, entry in categories.items() if entry.get("keypoints")}
        if named:
            suitable = [category_id for category_id, names in named.items() if self.has_keypoints(names)]
        else:
            of_entries = zip(ids, entries, strict=True)
            suitable = list(dict.fromkeys(i for i, entry in of_entries if not _is_empty(entry.get("keypoints"))))
        if len(suitable) != 1:
            skeleton = (
                f" of the skeleton '{self.skeleton.name}' {list(self.skeleton.keypoints)}" if self.skeleton else ""
            )
            found = reprlib.repr(suitable or named) if suitable or named else "none"
            raise ValueError(
                f"{self.source} must have one category with the {self.num_keypoints} keypoints{skeleton}, got {found}"
            )
        return suitable[0], [entry for i, entry in zip(ids, entries, strict=True) if i == suitable[0]]

    def category_ids(
        self, entries: Sequence[Mapping[str, Any]], categories: Mapping[CocoId, Mapping[str, Any]]
    ) -> list[CocoId]:
        """The category of each annotation. It may be left out where the file has only one category, or lists none."""
        ids = []
        default = None if len(categories) > 1 else next(iter(categories), 1)
        for entry in entries:
            category_id = entry.get("category_id")
            if category_id is None:
                category_id = default
            if not is_id(category_id) or (categories and category_id not in categories):
                self.refuse(_name(entry), "category_id", "the id of a listed category", category_id)
            ids.append(category_id)
        return ids

    def has_keypoints(self, names: Any) -> bool:
        """Whether a category with keypoints of these names has the right ones."""
        if not isinstance(names, list | tuple):
            return False
        return tuple(names) == self.skeleton.keypoints if self.skeleton else len(names) == self.num_keypoints

    def annotations(self, entries: Sequence[Mapping[str, Any]]) -> list[Annotation]:
        """Entries of the list 'annotations', checked all together: one numpy call for each would take minutes."""

        def check(field: str, good: ArrayLike, required: str) -> None:
            for index in np.flatnonzero(np.logical_not(good))[:1]:
                self.refuse(_name(entries[index]), field, required, entries[index].get(field))

        count = self.num_keypoints
        given = [entry.get("keypoints") for entry in entries]
        nobody = [0] * (3 * count)
        flat = to_rows([nobody if _is_empty(value) else value for value in given], (3 * count,), (count, 3))
        check("keypoints", ~np.isnan(flat).all(axis=1), f"{3 * count} numbers, x px, y px and v of each keypoint")
        keypoints = flat.reshape(-1, count, 3)
        keypoints[keypoints[..., 2] == 0] = 0
        valid = np.isin(keypoints[..., 2], (0, 1, 2)) & (abs(keypoints[..., :2]) < LARGEST_COORDINATE).all(axis=2)
        for i, k in np.argwhere(~valid)[:1]:
            required = f"x and y within {LARGEST_COORDINATE:.0f} px and v 0, 1 or 2"
            self.refuse(_name(entries[i]), f"keypoint {k}", required, keypoints[i, k].tolist())

        boxes = to_rows([entry.get("bbox") for entry in entries], (4,))
        good = (abs(boxes) < LARGEST_COORDINATE).all(axis=1) & (boxes[:, 2:] >= 0).all(axis=1)
        check("bbox", good, f"x, y, width >= 0 and height >= 0, within {LARGEST_COORDINATE:.0f} px")

        given = [entry.get("area") for entry in entries]
        areas = to_rows(given, ())[:, 0]
        areas = np.where([value is None for value in given], AREA_OF_BOX * (boxes[:, 2] * boxes[:, 3]), areas)
        check("area", (areas >= 0) & np.isfinite(areas), "at least 0 and finite")

        crowds = [entry.get("iscrowd") for entry in entries]
        check("iscrowd", [value in (None, 0, 1) for value in crowds], "0 or 1")
        return [
            Annotation(points, (x, y, width, height), area, bool(crowd))
            for points, (x, y, width, height), area, crowd in zip(
                keypoints, boxes.tolist(), areas.tolist(), crowds, strict=True
            )
        ]

    def refuse(self, entry: str, field: str, required: str, got: Any) -> NoReturn:
        count = f"{len(got)} values " if isinstance(got, list | tuple) else ""
        raise ValueError(f"{self.source}: {field} of {entry} must be {required}, got {count}{reprlib.repr(got)}")


def _load(path: Path) -> Any:
    """The content of a JSON file in any Unicode encoding."""

    def drop_masks(entry: dict[str, Any]) -> dict[str, Any]:
        entry.pop("segmentation", None)  # nobody reads it, and it is most of the memory of the file
        return entry

    try:
        return json.loads(path.read_bytes(), object_hook=drop_masks)
    except (ValueError, RecursionError) as error:  # not Unicode, not JSON, or nested without end
        raise ValueError(f"{path} is not a JSON file: {error}") from error


def _name(entry: Mapping[str, Any]) -> str:
    return f"annotation {entry.get('id')!r} on image {entry.get('image_id')!r}"


def _is_empty(keypoints: Any) -> bool:
    return keypoints is None or (isinstance(keypoints, list | tuple) and not keypoints)
