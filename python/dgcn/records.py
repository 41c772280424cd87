"""What is known of pictures: who is annotated on them, what a data set says of its keypoints, and who was found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import conversions

if TYPE_CHECKING:
    import pandas
    import supervision

CocoId = int | str
"""Id of an image or a category; COCO has numbers, other tools write strings."""


@dataclass(frozen=True, eq=False)
class Annotation:
    """One annotation: a person, or a crowd.

    keypoints: float [K, 3], (x px, y px, visibility: 0 not annotated, 1 hidden, 2 visible); float64 as read from a
        file, so that evaluation rounds nothing.
    box: (x, y, width, height) in pixels.
    area: of the person's mask, in square pixels.
    iscrowd: the box holds many people, none of them annotated one by one.
    head_size: in pixels, the unit of PCKh; None in a data set without it.
    """

    keypoints: np.ndarray
    box: tuple[float, float, float, float]
    area: float
    iscrowd: bool = False
    head_size: float | None = None

    @property
    def num_keypoints(self) -> int:
        """How many keypoints are annotated."""
        return int(np.count_nonzero(self.keypoints[:, 2] > 0))

    @property
    def is_ignored(self) -> bool:
        """Whether the box holds people whose keypoints nobody marked: neither persons nor background."""
        return self.iscrowd or self.num_keypoints == 0

    @property
    def scale(self) -> float:
        """The person's size in pixels, as in Eq. 5: the square root of its area, of its box's where that is 0."""
        return math.sqrt(self.area or self.box[2] * self.box[3])


@dataclass(frozen=True)
class ImageRecord:
    """One picture of a keypoint data set.

    image_id: as in the file.
    path: of the picture.
    annotations: what is annotated on it, in pixels.
    category_id: of the persons, as in the file; the same for every picture of a set.
    size: (width, height) in pixels that the annotations were made for; None if the file does not say.
    upright: the annotations were made on the picture as its EXIF orientation says, as those of `dgcn predict` are.
    crowd_index: CrowdPose's `crowdIndex`, from 0 (nobody overlaps) to about 1; None in other data sets.
    """

    image_id: CocoId
    path: Path
    annotations: tuple[Annotation, ...]
    category_id: CocoId = 1
    size: tuple[int, int] | None = None
    upright: bool = False
    crowd_index: float | None = None

    @property
    def persons(self) -> list[Annotation]:
        """Those of the annotations that are one person with keypoints."""
        return [annotation for annotation in self.annotations if not annotation.is_ignored]


@dataclass(frozen=True)
class Rule:
    """How something that a data set left open was decided.

    name: what was open, such as "limbs".
    value: what was taken.
    source: why, such as the file that says so.
    is_assumed: a guess, of which users are warned.
    """

    name: str
    value: str
    source: str
    is_assumed: bool = False

    def __str__(self) -> str:
        return f"{self.name}: {self.value} ({self.source})"


@dataclass(frozen=True, kw_only=True)
class Category:
    """What an annotation file says of the kind of object that has keypoints, as it says it.

    category_id, name: as in the file.
    keypoints: K names; None if the file has none.
    skeleton: limbs as pairs of keypoints, counted from 1; not checked.
    sigmas: OKS sigmas; not checked.
    """

    category_id: CocoId = 1
    name: str = "person"
    keypoints: tuple[str, ...] | None = None
    skeleton: Any = None
    sigmas: Any = None


@dataclass(frozen=True)
class KeypointFile:
    """The content of an annotation file: its pictures, in file order, and how its gaps were filled."""

    category: Category
    records: list[ImageRecord]
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, eq=False)
class Pose:
    """One person.

    keypoints: float32 [K, 2], (x, y) in pixels of the original picture; (0, 0) where not found.
    scores: float32 [K], confidence of each keypoint in [0, 1]; 0 where not found.
    score: confidence in the person, by which COCO ranks it: a mean of `scores` in which the best three count more.
    keypoint_names: K names; None where they are not known.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    score: float
    keypoint_names: tuple[str, ...] | None = None

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(x, y, width, height) in pixels, around the keypoints that were found; zeros where none was."""
        found = self.keypoints[self.scores > 0]
        if not len(found):
            return 0.0, 0.0, 0.0, 0.0
        (x, y), (right, bottom) = found.min(axis=0).tolist(), found.max(axis=0).tolist()
        return x, y, right - x, bottom - y

    def to_coco(self, image_id: CocoId = 0, category_id: CocoId = 1) -> dict[str, Any]:
        """A COCO keypoint result, JSON-serialisable; v is 2 for a keypoint that was found and 0 otherwise.

        `keypoint_scores` is an addition to the format, and so are the fields that make it a COCO annotation as well.
        """
        found = self.scores > 0
        keypoints = np.column_stack([self.keypoints, np.where(found, 2, 0)])
        box = self.box
        return {
            "image_id": image_id,
            "category_id": category_id,
            "keypoints": [round(value, 2) for value in keypoints.ravel().tolist()],
            "num_keypoints": int(found.sum()),
            "bbox": [round(value, 2) for value in box],
            "area": round(box[2] * box[3], 2),
            "iscrowd": 0,
            "score": round(self.score, 6),
            "keypoint_scores": [round(value, 4) for value in self.scores.tolist()],
        }

    def to_numpy(self) -> np.ndarray:
        """float32 [K, 3], (x px, y px, confidence); zeros where not found."""
        return np.column_stack([self.keypoints, self.scores])

    def to_pandas(self) -> pandas.DataFrame:
        """A table with the columns person (0), score, keypoint, x, y, confidence, and a row for each keypoint.

        `dgcn.conversions.to_pandas` makes one of several poses. Raises ImportError where pandas is not installed."""
        return conversions.to_pandas([self])

    def to_supervision(self) -> supervision.KeyPoints:
        """The person as supervision's KeyPoints, which its annotators draw.

        `dgcn.conversions.to_supervision` takes several. Raises ImportError where supervision is not installed."""
        return conversions.to_supervision([self])
