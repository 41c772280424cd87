"""Persons with MPII's keypoints, and results that find them badly: what the tests of several metrics share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dgcn.records import Annotation, ImageRecord
from dgcn.skeleton import Skeleton

_RIGHT = ("right_ankle", "right_knee", "right_hip")
_LEFT = ("left_hip", "left_knee", "left_ankle")
_MIDDLE = ("pelvis", "thorax", "upper_neck", "head_top")
_ARMS = ("right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist")
_NAMES = (*_RIGHT, *_LEFT, *_MIDDLE, *_ARMS)

MPII = Skeleton(
    name="mpii",
    keypoints=_NAMES,
    limbs=(),
    sigmas=(0.08,) * 16,
    flip=(5, 4, 3, 2, 1, 0, 6, 7, 8, 9, 15, 14, 13, 12, 11, 10),
    upright_pose=np.zeros((16, 2)),
)


def annotated(xy: np.ndarray, head_size: float | None = None, visibility: Any = 2) -> Annotation:
    """A person with keypoints at `xy` [K, 2], whose box and area are those around the annotated ones."""
    keypoints = np.column_stack([xy, np.broadcast_to(visibility, len(xy))]).astype(float)
    keypoints[keypoints[:, 2] == 0] = 0
    seen = keypoints[keypoints[:, 2] > 0, :2]
    (x, y), (width, height) = seen.min(axis=0).tolist(), np.ptp(seen, axis=0).tolist()
    return Annotation(keypoints, (x, y, width, height), width * height, head_size=head_size)


def image(image_id: int | str, *persons: Annotation, crowd_index: float | None = None) -> ImageRecord:
    return ImageRecord(image_id, Path(), persons, crowd_index=crowd_index)


def found(image_id: int | str, xy: np.ndarray, score: float, scores: Sequence[float] | None = None) -> dict[str, Any]:
    """A result with keypoints at `xy` [K, 2]; those at (0, 0) are not found."""
    keypoints = np.column_stack([xy, np.where(np.any(xy, axis=1), 2, 0)])
    result = {"image_id": image_id, "category_id": 1, "keypoints": keypoints.ravel().tolist(), "score": score}
    return result if scores is None else result | {"keypoint_scores": list(scores)}


def find_badly(records: Sequence[ImageRecord], seed: int) -> list[dict[str, Any]]:
    """Results in which persons and keypoints are near, far, missing, doubled and made up; no two scores are equal."""
    rng = np.random.default_rng(seed)
    results = []
    for record in records:
        for person in record.persons:
            for _ in range(rng.integers(0, 4) % 3):
                xy = person.keypoints[:, :2] + rng.normal(0, rng.choice([0.02, 0.1]) * person.scale, (16, 2))
                xy[rng.random(16) < 0.1] = 0
                results.append(found(record.image_id, xy, rng.random(), rng.random(16).tolist()))
        if rng.random() < 0.2:
            xy = rng.uniform(1, 500, (16, 2))
            results.append(found(record.image_id, xy, rng.random(), rng.random(16).tolist()))
    return results


def repeat(
    records: Sequence[ImageRecord], results: Sequence[Mapping[str, Any]], counts: Sequence[int]
) -> tuple[list[ImageRecord], list[dict[str, Any]]]:
    """The data set in which image i occurs `counts[i]` times, with new ids."""
    drawn = [record for record, count in zip(records, counts, strict=True) for _ in range(count)]
    copies = [image(index, *record.annotations, crowd_index=record.crowd_index) for index, record in enumerate(drawn)]
    repeated = [
        {**result, "image_id": index}
        for index, record in enumerate(drawn)
        for result in results
        if result["image_id"] == record.image_id
    ]
    return copies, repeated
