"""The one writer of COCO keypoint data sets."""

from __future__ import annotations

import contextlib
import glob
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_json
from ..records import Category, Pose
from ..skeleton import Skeleton

JOURNAL_SUFFIX = ".partial"
"""End of the name of the file that has the results until `CocoWriter` writes the data set."""


class CocoWriter:
    """Writes the poses of pictures as a COCO keypoint data set: images, annotations, categories.

    Every picture goes to a journal beside the data set as soon as it is added, as a line of JSON, so that a killed
    process or a full disk costs at most one picture. `finish` writes the data set and removes the journal.

    Attributes:
        journal: its path, that of the data set with the first free number and ".partial" at the end.
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
            self.journal = path.with_name(f"{path.name}.{number}{JOURNAL_SUFFIX}")
            with contextlib.suppress(FileExistsError):  # of another run
                open(self.journal, "x").close()
                break
        self._path = path
        self._pictures: list[dict[str, Any]] = []  # {"image": ..., "annotations": [...]}, as in the journal
        self._category: dict[str, Any] = {
            "id": category.category_id,
            "name": category.name,
            "supercategory": category.name,
            "keypoints": list(skeleton.keypoints),
            "skeleton": [[i + 1, j + 1] for i, j in skeleton.limbs],  # COCO counts from 1
        }

    @property
    def num_images(self) -> int:
        return len(self._pictures)

    @property
    def num_persons(self) -> int:
        return sum(len(picture["annotations"]) for picture in self._pictures)

    def add(self, name: str, image: np.ndarray, poses: Iterable[Pose]) -> None:
        """Add the picture `image` [H, W, 3] of the file `name`; ids count from 1 in the order of the calls.

        Raises OSError that names the journal if that cannot be written."""
        image_id = len(self._pictures) + 1
        height, width = image.shape[:2]
        picture = {
            "image": {"id": image_id, "file_name": name, "width": width, "height": height, "upright": True},
            # An empty mask, because the import of labelling tools asks for the field.
            "annotations": [pose.to_coco(image_id, self._category["id"]) | {"segmentation": []} for pose in poses],
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
