"""The one writer of COCO keypoint data sets."""

from __future__ import annotations

import contextlib
import glob
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..files import AppendedFile, atomic_write
from ..records import Category, Pose
from ..skeleton import Skeleton

JOURNAL_SUFFIX = ".partial"
"""End of the name of the file that has the results until `CocoWriter` writes the data set."""


class CocoWriter:
    """Writes the poses of pictures as a COCO keypoint data set: images, annotations, categories.

    Every picture goes to a journal beside the data set as soon as it is added, as a line of JSON, so that a killed
    process or a full disk costs at most one picture. `finish` makes the data set of the journal and removes it. No
    more than one picture is held in memory.

    Attributes:
        path: of the data set.
        journal: its path, that of the data set with the first free number and ".partial" at the end.
        num_images, num_persons: how many were added.
    """

    def __init__(self, path: Path, skeleton: Skeleton, category: Category | None = None) -> None:
        """
        Args:
            path: of the data set.
            skeleton: of the poses.
            category: id and name of what they are the poses of; default: 1, person.
        """
        category = category or Category()
        for number in itertools.count(1):
            with contextlib.suppress(FileExistsError):  # of another run
                self._file = AppendedFile(path.with_name(f"{path.name}.{number}{JOURNAL_SUFFIX}"), "x")
                break
        self.journal = self._file.path
        self.num_images = self.num_persons = 0
        self.path = path
        self._category: dict[str, Any] = {
            "id": category.category_id,
            "name": category.name,
            "supercategory": category.name,
            "keypoints": list(skeleton.keypoints),
            "skeleton": [[i + 1, j + 1] for i, j in skeleton.limbs],  # COCO counts from 1
        }

    def add(self, name: str, image: np.ndarray, poses: Iterable[Pose]) -> None:
        """Add the picture `image` [H, W, 3] of the file `name`; ids count from 1 in the order of the calls.

        Raises OSError that names the journal if that cannot be written."""
        image_id = self.num_images + 1
        height, width = image.shape[:2]
        picture = {
            "image": {"id": image_id, "file_name": name, "width": width, "height": height, "upright": True},
            # An empty mask, because the import of labelling tools asks for the field.
            "annotations": [pose.to_coco(image_id, self._category["id"]) | {"segmentation": []} for pose in poses],
        }
        self._file.append(json.dumps(picture, allow_nan=False) + "\n")
        self.num_images += 1
        self.num_persons += len(picture["annotations"])

    def finish(self) -> None:
        """Write the data set and remove the journal; raises OSError, and keeps the journal, if there is no room."""
        self._file.close()
        try:
            with atomic_write(self.path) as file:
                file.writelines(text.encode() for text in self._document())
        except OSError as error:
            if self.num_images and error.strerror:
                error.strerror += f"; the results are in {self.journal}"
            raise
        self.journal.unlink(missing_ok=True)

    def discard(self) -> None:
        """Write no data set and remove the journal."""
        self._file.close()
        self.journal.unlink(missing_ok=True)

    def _document(self) -> Iterator[str]:
        """The data set as JSON, in pieces, with a line for each image and each annotation."""
        annotations = (annotation for picture in self._pictures() for annotation in picture["annotations"])
        yield '{\n"images": ['
        yield from _json_lines(picture["image"] for picture in self._pictures())
        yield '],\n"annotations": ['
        yield from _json_lines({"id": number, **each} for number, each in enumerate(annotations, start=1))
        yield f'],\n"categories": {json.dumps([self._category])}\n}}\n'

    def _pictures(self) -> Iterator[dict[str, Any]]:
        with open(self.journal, encoding="utf-8") as journal:
            yield from map(json.loads, journal)


def _json_lines(entries: Iterable[Any]) -> Iterator[str]:
    """The entries of a JSON array, each on a line of its own."""
    for index, entry in enumerate(entries):
        yield f"{',' if index else ''}\n{json.dumps(entry)}"


def find_journals(path: Path) -> list[Path]:
    """The journals that other runs of `CocoWriter` have left beside the data set at `path`."""
    return sorted(path.parent.glob(f"{glob.escape(path.name)}.*{JOURNAL_SUFFIX}"))
