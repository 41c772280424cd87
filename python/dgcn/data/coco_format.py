"""COCO keypoint files, as COCO, CrowdPose and the export of labelling tools have them.

What a file may leave out has one default everywhere: `area` is 0.53 times that of the box, `bbox` the box around the
keypoints, `iscrowd` 0, `category_id` that of the only category, and `keypoints` are none. `num_keypoints` is counted,
not read; of a keypoint with v = 0, x and y are not read either. `segmentation`, `info` and `licenses` say nothing about
keypoints and may be anything. `KeypointFile.rules` tells which defaults were used, and how often.

What does not fit is a ValueError of one line: the file, the entry, the field, what is required and what arrived.
"""

from __future__ import annotations

import json
import math
import os
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path, PureWindowsPath
from typing import Any, NoReturn, TypeGuard

import numpy as np
from numpy.typing import ArrayLike

from ..records import Annotation, Category, CocoId, ImageRecord, KeypointFile, Rule
from ..skeleton import same_names

Annotations = str | os.PathLike[str] | Mapping[str, Any]
"""Path of a COCO keypoint JSON, or its content."""

AREA_OF_BOX = 0.53
"""A person's area as a fraction of its box, where only the box is known: the factor of the CrowdPose tools."""

LARGEST_COORDINATE = 2.0**24
"""In pixels, and far beyond any picture: up to here float32, in which targets are made, holds every whole pixel."""


def read_coco(
    annotations: Annotations,
    *,
    images: str | os.PathLike[str] | None = None,
    keypoints: Sequence[str] | None = None,
    num_keypoints: int | None = None,
    category: CocoId | None = None,
    needs_annotations: bool = True,
) -> KeypointFile:
    """Every picture of a COCO keypoint file, in file order.

    Args:
        annotations: the JSON, or its content.
        images: the folder in which the pictures lie; without it the paths of the records are empty.
        keypoints: the names of the keypoints that are wanted; default: any.
        num_keypoints: how many keypoints are wanted, whatever their names; default: any number.
        category: id or name of the category; default: the only one that has such keypoints.
        needs_annotations: whether the file must have a list of annotations.

    Raises:
        OSError: no such file.
        ValueError: content that is not COCO keypoints, or not those that are wanted.
    """
    return _Reader(annotations, keypoints, num_keypoints, category, needs_annotations).read(images)


def read_ground_truth(annotations: Annotations, num_keypoints: int) -> list[ImageRecord]:
    """The records of `read_coco` for a category with so many keypoints, without pictures."""
    return read_coco(annotations, num_keypoints=num_keypoints).records


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


class _Reader:
    """The content of one file, and how it is checked."""

    def __init__(
        self,
        annotations: Annotations,
        keypoints: Sequence[str] | None,
        num_keypoints: int | None,
        category: CocoId | None,
        needs_annotations: bool,
    ) -> None:
        self.wanted = None if keypoints is None else tuple(keypoints)
        self.num_keypoints = num_keypoints if self.wanted is None else len(self.wanted)
        self.category = category
        self.rules: list[Rule] = []
        if isinstance(annotations, Mapping):
            self.source, self.document = "annotations", annotations
        else:
            self.source, self.document = str(annotations), load_json(Path(annotations))
        needed = {"images", "annotations"} if needs_annotations else {"images"}
        if not isinstance(self.document, Mapping) or not needed <= self.document.keys():
            found = list(self.document) if isinstance(self.document, Mapping) else type(self.document).__name__
            lists = "lists 'images' and 'annotations'" if needs_annotations else "list 'images'"
            raise ValueError(f"{self.source} must be a COCO file, an object with the {lists}, got {found}")

    def read(self, images: str | os.PathLike[str] | None) -> KeypointFile:
        pictures = self.by_id("images")
        if not pictures:
            raise ValueError(f"{self.source} must list at least one image, got none")
        category, entries = self.of_category()
        by_image: dict[CocoId, list[Annotation]] = {image_id: [] for image_id in pictures}
        for entry in entries:
            image_id = entry.get("image_id")
            if not is_id(image_id) or image_id not in pictures:
                self.refuse(_name(entry), "image_id", "the id of a listed image", image_id)
        for entry, annotation in zip(entries, self.annotations(entries), strict=True):
            by_image[entry["image_id"]].append(annotation)
        paths = self.paths(list(pictures.values()), images)
        records = [
            ImageRecord(
                image_id,
                path,
                tuple(by_image[image_id]),
                category.category_id,
                self.size(image),
                image.get("upright") is True,
                self.crowd_index(image),
            )
            for (image_id, image), path in zip(pictures.items(), paths, strict=True)
        ]
        return KeypointFile(category, records, tuple(self.rules))

    def note(self, name: str, value: str, source: str) -> None:
        """Add a rule that was used."""
        self.rules.append(Rule(name, value, source))

    def entries(self, key: str) -> Sequence[Mapping[str, Any]]:
        """The list `key` of the file, checked to hold objects; empty where there is none."""
        entries = [] if self.document.get(key) is None else self.document[key]
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

    def paths(self, images: Sequence[Mapping[str, Any]], folder: str | os.PathLike[str] | None) -> list[Path]:
        """Where the pictures lie: under their names in `folder` or, where tools have written the path of another
        machine, under the last part of these."""
        if folder is None:
            return [Path()] * len(images)
        paths: list[Path] = []
        owners: dict[Path, Any] = {}
        shortened = 0
        for image in images:
            name = image.get("file_name")
            if not isinstance(name, str) or not name or "\0" in name:
                self.refuse(f"image {image['id']!r}", "file_name", "the name of a file", name)
            path = Path(folder, name)
            exists = is_file(path)
            if not exists:
                last = Path(folder, PureWindowsPath(name).name)  # which splits at / and at \
                if is_file(last):
                    path, exists, shortened = last, True, shortened + 1
            if exists and path in owners:
                other = f"{path}, which is that of image {owners[path]!r}"
                self.refuse(f"image {image['id']!r}", "file_name", "that of a picture of its own", other)
            owners[path] = image["id"]
            paths.append(path)
        if shortened:
            self.note("file_name", "the last part of the path", f"{shortened} pictures lie nowhere else in {folder}")
        return paths

    def size(self, image: Mapping[str, Any]) -> tuple[int, int] | None:
        width, height = image.get("width"), image.get("height")
        if width is None or height is None:
            return None
        for field, value in (("width", width), ("height", height)):
            if not is_id(value) or isinstance(value, str) or value < 1:
                self.refuse(f"image {image['id']!r}", field, "a whole number of pixels", value)
        return int(width), int(height)

    def crowd_index(self, image: Mapping[str, Any]) -> float | None:
        value = image.get("crowdIndex")
        if value is not None and not (isinstance(value, int | float) and 0 <= value < math.inf):
            self.refuse(f"image {image['id']!r}", "crowdIndex", "at least 0 and finite", value)
        return None if value is None else float(value)

    def of_category(self) -> tuple[Category, list[Mapping[str, Any]]]:
        """The category that has the keypoints, and its annotations."""
        entries = self.entries("annotations")
        categories = self.by_id("categories")
        ids = self.category_ids(entries, categories)
        if self.category is not None:
            chosen = self.named_category(categories)
        else:
            chosen = self.only_category(categories, ids, entries)
        described = categories.get(chosen, {})
        names = self.keypoint_names(described)
        category = Category(
            category_id=chosen,
            name=str(described.get("name", "person")),
            keypoints=names,
            skeleton=described.get("skeleton"),
            sigmas=described.get("sigmas"),
        )
        mine = [entry for i, entry in zip(ids, entries, strict=True) if i == chosen]
        if len(mine) < len(entries):
            others = f"{len(entries) - len(mine)} annotations of other categories in {self.source} are not read"
            self.note("category", category.name, others)
        if self.num_keypoints is None:
            given = (entry["keypoints"] for entry in mine if not _is_empty(entry.get("keypoints")))
            lengths = (len(each) // (1 if isinstance(each[0], list | tuple) else 3) for each in given if is_list(each))
            self.num_keypoints = len(names) if names else next(lengths, 0)
        return category, mine

    def named_category(self, categories: Mapping[CocoId, Mapping[str, Any]]) -> CocoId:
        """The category that was asked for, by its id or name."""
        named = [i for i, entry in categories.items() if self.category in (i, entry.get("name"))]
        named = named or [i for i in categories if str(i) == str(self.category)]
        # Roboflow has a group of the same name, without keypoints.
        named = [i for i in named if self.keypoint_names(categories[i])] or named
        if len(named) != 1:
            known = reprlib.repr({i: entry.get("name") for i, entry in categories.items()})
            raise ValueError(f"{self.source}: category must be one of {known}, got {self.category!r}")
        names = self.keypoint_names(categories[named[0]])
        if names is not None and not self.has_keypoints(names):
            wanted = list(self.wanted or [self.num_keypoints])
            raise ValueError(
                f"{self.source}: category {self.category!r} must have the keypoints {wanted}, got {list(names)}"
            )
        return named[0]

    def only_category(
        self,
        categories: Mapping[CocoId, Mapping[str, Any]],
        ids: Sequence[CocoId],
        entries: Sequence[Mapping[str, Any]],
    ) -> CocoId:
        """The only category with the right keypoints. Where none names its keypoints, it is the one whose annotations
        have some; in a file of pictures alone, as of a test set, it is that of persons, or the first."""
        names_of = {i: names for i, entry in categories.items() if (names := self.keypoint_names(entry))}
        if names_of:
            suitable = [i for i, names in names_of.items() if self.has_keypoints(names)]
        elif entries:
            of_entries = zip(ids, entries, strict=True)
            suitable = list(dict.fromkeys(i for i, entry in of_entries if not _is_empty(entry.get("keypoints"))))
        else:
            suitable = [i for i, entry in categories.items() if entry.get("name") == "person"][:1]
            suitable = suitable or [next(iter(categories), 1)]
        if len(suitable) == 1:
            return suitable[0]
        if suitable:
            several = [categories.get(i, {}).get("name", i) for i in suitable]
            found = f"{several}: choose one by `category` of a description, which --data takes"
        else:
            found = reprlib.repr({i: list(names) for i, names in names_of.items()}) if names_of else "none"
        wanted = "" if self.num_keypoints is None else f"the {self.num_keypoints} "
        which = "" if self.wanted is None else f" {list(self.wanted)}"
        raise ValueError(f"{self.source} must have one category with {wanted}keypoints{which}, got {found}")

    def keypoint_names(self, category: Mapping[str, Any]) -> tuple[str, ...] | None:
        """The names of a category's keypoints, None where it has none."""
        names = category.get("keypoints")
        if names is None or names == []:
            return None
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
            self.refuse(f"category {category['id']!r}", "keypoints", "a list of names", names)
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            self.refuse(f"category {category['id']!r}", "keypoints", "different names", twice)
        return tuple(names)

    def category_ids(
        self, entries: Sequence[Mapping[str, Any]], categories: Mapping[CocoId, Mapping[str, Any]]
    ) -> list[CocoId]:
        """The category of each annotation. It may be left out where the file has only one category, or lists none."""
        ids = []
        default = None if len(categories) > 1 else next(iter(categories), 1)
        given = [entry.get("category_id") for entry in entries]
        self.note_absent("category_id", repr(default), np.array([value is None for value in given], dtype=bool))
        for entry, category_id in zip(entries, given, strict=True):
            if category_id is None:
                category_id = default
            if not is_id(category_id) or (categories and category_id not in categories):
                self.refuse(_name(entry), "category_id", "the id of a listed category", category_id)
            ids.append(category_id)
        return ids

    def has_keypoints(self, names: tuple[str, ...]) -> bool:
        """Whether a category with keypoints of these names has those that are wanted."""
        return self.num_keypoints in (None, len(names)) if self.wanted is None else same_names(names, self.wanted)

    def annotations(self, entries: Sequence[Mapping[str, Any]]) -> list[Annotation]:
        """Entries of the list 'annotations', checked all together: one numpy call for each would take minutes."""

        def check(field: str, good: ArrayLike, required: str) -> None:
            for index in np.flatnonzero(np.logical_not(good))[:1]:
                self.refuse(_name(entries[index]), field, required, entries[index].get(field))

        count = self.num_keypoints or 0
        given = [entry.get("keypoints") for entry in entries]
        nobody = [0] * (3 * count)
        flat = to_rows([nobody if _is_empty(value) else value for value in given], (3 * count,), (count, 3))
        check("keypoints", ~np.isnan(flat).all(axis=1), f"{3 * count} numbers, x px, y px and v of each keypoint")
        keypoints = flat.reshape(len(entries), count, 3)
        keypoints[keypoints[..., 2] == 0] = 0
        valid = np.isin(keypoints[..., 2], (0, 1, 2)) & (abs(keypoints[..., :2]) < LARGEST_COORDINATE).all(axis=2)
        for i, k in np.argwhere(~valid)[:1]:
            required = f"x and y within {LARGEST_COORDINATE:.0f} px and v 0, 1 or 2"
            self.refuse(_name(entries[i]), f"keypoint {k}", required, keypoints[i, k].tolist())

        given = [entry.get("bbox") for entry in entries]
        absent = np.array([value is None or value == [] for value in given], dtype=bool)
        boxes = to_rows(given, (4,))
        has_joints = (keypoints[..., 2] > 0).any(axis=1)
        with_joints = has_joints & (absent | (boxes[:, 2:] == 0).all(axis=1))
        boxes[with_joints] = _boxes_around(keypoints[with_joints])
        self.note_absent("bbox", "the box around the keypoints", with_joints)
        good = (abs(boxes) < LARGEST_COORDINATE).all(axis=1) & (boxes[:, 2:] >= 0).all(axis=1)
        check("bbox", good, f"x, y, width >= 0 and height >= 0, within {LARGEST_COORDINATE:.0f} px")

        given = [entry.get("area") for entry in entries]
        zero = np.array([value == 0 and not isinstance(value, str) for value in given], dtype=bool) & has_joints
        absent = np.array([value is None for value in given], dtype=bool) | zero
        areas = np.where(absent, AREA_OF_BOX * (boxes[:, 2] * boxes[:, 3]), to_rows(given, ())[:, 0])
        self.note_absent("area", f"{AREA_OF_BOX} times that of the box", absent)
        check("area", (areas >= 0) & np.isfinite(areas), "at least 0 and finite")

        crowds = [entry.get("iscrowd") for entry in entries]
        self.note_absent("iscrowd", "0", np.array([value is None for value in crowds], dtype=bool))
        check("iscrowd", [value in (None, 0, 1) for value in crowds], "0 or 1")
        return [
            Annotation(points, (x, y, width, height), area, bool(crowd))
            for points, (x, y, width, height), area, crowd in zip(
                keypoints, boxes.tolist(), areas.tolist(), crowds, strict=True
            )
        ]

    def note_absent(self, name: str, value: str, absent: np.ndarray) -> None:
        """Add the rule that fills in a field where it is absent [annotations]."""
        if absent.any():
            self.note(
                name, value, f"absent or 0 in {np.count_nonzero(absent)} of {len(absent)} annotations of {self.source}"
            )

    def refuse(self, entry: str, field: str, required: str, got: Any) -> NoReturn:
        count = f"{len(got)} values " if isinstance(got, list | tuple) else ""
        raise ValueError(f"{self.source}: {field} of {entry} must be {required}, got {count}{reprlib.repr(got)}")


def load_json(path: Path) -> Any:
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


def _boxes_around(keypoints: np.ndarray) -> np.ndarray:
    """(x, y, width, height) [P, 4] around the annotated ones of `keypoints` [P, K, 3]."""
    seen = keypoints[..., 2:] > 0
    low = np.where(seen, keypoints[..., :2], np.inf).min(axis=1, initial=np.inf)
    high = np.where(seen, keypoints[..., :2], -np.inf).max(axis=1, initial=-np.inf)
    return np.column_stack([low, high - low])


def is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def is_file(path: Path) -> bool:
    """Whether there is such a file; False for a name that is too long for one."""
    try:
        return path.is_file()
    except OSError:
        return False


def _is_empty(keypoints: Any) -> bool:
    return keypoints is None or (isinstance(keypoints, list | tuple) and not keypoints)
