"""The description of a data set: the file that `--data` takes.

A YAML or JSON file, of which every word is one that users of COCO or Ultralytics know. `dgcn data --help` shows one
with all fields.

What is not given of the skeleton follows the rules of `dgcn.data.rules`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from ..records import KeypointFile
from .reader import ReadOptions, read_keypoint_file
from .rules import SkeletonOptions, is_number

SPLITS = ("train", "val", "test")
_LISTS = ("keypoints", "skeleton", "flip_idx", "sigmas")
_FIELDS = ("path", "format", *SPLITS, "category", *_LISTS)


@dataclass(frozen=True)
class Split:
    """Where the pictures of a split lie, and its annotation file."""

    images: Path
    annotations: Path


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a description says. `source` is its file; None where flags name the files."""

    splits: Mapping[str, Split]
    source: Path | None = None
    reading: ReadOptions = field(default_factory=ReadOptions)
    skeleton: SkeletonOptions = field(default_factory=SkeletonOptions)

    def split(self, name: str) -> Split:
        """Raises ValueError where the description has no such split."""
        if name not in self.splits:
            raise ValueError(f"{self.source} must have the split {name}, got {sorted(self.splits)}")
        return self.splits[name]

    def read(self, name: str, *, with_images: bool = True) -> KeypointFile:
        """The annotation file of the split `name`, read as `read_keypoint_file` does."""
        split = self.split(name)
        images = split.images if with_images else None
        return read_keypoint_file(split.annotations, images, self.reading, needs_annotations=name != "test")


def read_description(path: Path) -> Description:
    """Read and check the file; the files that it names are not looked at.

    Raises:
        OSError: no such file.
        ValueError: content that is no description; the message names file and field.
    """
    try:
        values = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a YAML or JSON file: {' '.join(str(error).split())}") from error
    if not isinstance(values, Mapping):
        raise ValueError(f"{path} must be a description of a data set, with the fields {_FIELDS}, got {_short(values)}")
    if "images" in values and "annotations" in values:
        raise ValueError(f"{path} is an annotation file: --data takes a description that names it under train and val")
    if unknown := [key for key in values if key not in _FIELDS]:
        raise ValueError(f"{path}: fields must be among {_FIELDS}, got {_short(unknown)}")
    root = _text(path, "path", values.get("path", "."))
    splits = {name: _split(path, name, values[name], path.parent / root) for name in SPLITS if name in values}
    if not splits:
        raise ValueError(f"{path} must have at least one of the splits {SPLITS}, got none")
    formats = get_args(get_type_hints(ReadOptions)["format"])
    if (kind := values.get("format", "auto")) not in formats:
        raise ValueError(f"{path}: format must be one of {formats[1:]}, got {_short(kind)}")
    category = values.get("category")
    if not isinstance(category, str | int | None) or isinstance(category, bool):
        raise ValueError(f"{path}: category must be the name or the id of one, got {_short(category)}")
    lists = {name: _list(path, name, values.get(name)) for name in _LISTS}
    names = lists.pop("keypoints")
    if names is not None and (
        not names or len(set(map(str, names))) < len(names) or not all(isinstance(n, str) and n for n in names)
    ):
        raise ValueError(f"{path}: keypoints must be different names of text, at least one, got {_short(names)}")
    if any(
        not isinstance(limb, list) or len(limb) != 2 or not all(map(is_number, limb))
        for limb in lists["skeleton"] or ()
    ):
        raise ValueError(
            f"{path}: skeleton must be pairs of keypoints, counted from 1, got {_short(lists['skeleton'])}"
        )
    for name in ("flip_idx", "sigmas"):
        if not all(map(is_number, lists[name] or ())):
            raise ValueError(f"{path}: {name} must be numbers, got {_short(lists[name])}")
    if lists["skeleton"] is not None:
        lists["skeleton"] = tuple((i, j) for i, j in lists["skeleton"])
    return Description(
        source=path,
        splits=splits,
        reading=ReadOptions(format=kind, category=category, keypoints=names),
        skeleton=SkeletonOptions(**lists, source=str(path)),
    )


def _split(path: Path, name: str, value: Any, root: Path) -> Split:
    if not isinstance(value, Mapping) or set(value) != {"images", "annotations"}:
        raise ValueError(f"{path}: {name} must have the fields images and annotations, got {_short(value)}")
    return Split(*(root / _text(path, f"{name}.{part}", value[part]) for part in ("images", "annotations")))


def _text(path: Path, name: str, value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{path}: {name} must be a path, got {_short(value)}")
    return value


def _list(path: Path, name: str, value: Any) -> Any:
    """A list as a tuple; None where there is none."""
    if value is None:
        return None
    if not isinstance(value, list):
        raise ValueError(f"{path}: {name} must be a list, got {_short(value)}")
    return tuple(value)


def _short(value: Any) -> str:
    return reprlib.repr(value)
