"""Poses in the forms of other libraries: several of them at once. `Pose` has the same as methods, for one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .extras import extra

if TYPE_CHECKING:
    import pandas
    import supervision

    from .records import Pose

COLUMNS = ("person", "score", "keypoint", "x", "y", "confidence")
"""Of a long table of poses, in which every keypoint has a row."""


def table_rows(
    poses: Sequence[Pose], names: Sequence[str] | None = None
) -> Iterator[tuple[int, float, str | int, float, float, float]]:
    """A row with `COLUMNS` for each keypoint of each pose; one that was not found has zeros for x, y and confidence.

    Args:
        poses: numbered from 0, in this order.
        names: of the keypoints; default: those of each pose, and their numbers where it has none.
    """
    for person, pose in enumerate(poses):
        keypoints = names or pose.keypoint_names or range(len(pose.keypoints))
        for keypoint, values in zip(keypoints, pose.to_numpy().tolist(), strict=True):
            yield person, pose.score, keypoint, *values


def to_pandas(poses: Sequence[Pose]) -> pandas.DataFrame:
    """Poses as a table with the columns `COLUMNS` and a row for each keypoint.

    Raises ImportError where pandas is not installed."""
    with extra("pandas", "to_pandas needs pandas"):
        import pandas

    # Of no rows pandas could not tell the types, nor would it join such a table with others.
    numbers = {"person": int, "score": float, "x": float, "y": float, "confidence": float}
    return pandas.DataFrame(table_rows(poses), columns=list(COLUMNS)).astype(numbers)


def to_supervision(poses: Sequence[Pose]) -> supervision.KeyPoints:
    """Poses as supervision's KeyPoints, which its annotators draw; a keypoint is visible where it was found.

    Raises ImportError where supervision is not installed."""
    with extra("supervision", "to_supervision needs supervision"):
        import supervision

    if not poses:
        return supervision.KeyPoints.empty()
    confidence = np.stack([pose.scores for pose in poses])
    return supervision.KeyPoints(
        xy=np.stack([pose.keypoints for pose in poses]),
        class_id=np.zeros(len(poses), int),
        keypoint_confidence=confidence,
        detection_confidence=np.array([pose.score for pose in poses], np.float32),
        visible=confidence > 0,
    )
