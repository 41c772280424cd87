"""The people annotated and found in an image, and who was found for whom: what PCK, PCKh and MPII's AP share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..records import Annotation, ImageRecord
from .results import by_id, check_results, keypoint_scores


@dataclass(frozen=True, eq=False)
class People:
    """P annotated and D found persons of one image, each of K keypoints.

    truths: float [P, K, 2], px.
    annotated: bool [P, K].
    sizes: float [P], px; the unit of each annotated person's distances.
    points: float [D, K, 2], px; the persons by falling score.
    found: bool [D, K].
    scores: float [D, K], of the keypoints.
    """

    truths: np.ndarray
    annotated: np.ndarray
    sizes: np.ndarray
    points: np.ndarray
    found: np.ndarray
    scores: np.ndarray

    def distances(self, keypoints: Sequence[int] | slice = slice(None)) -> np.ndarray:
        """From found keypoint k to the annotated one `keypoints[k]`, float [P, D, K], in sizes of the annotated person.

        Infinite where the one is not found or the other not annotated.
        """
        pixels = np.linalg.norm(self.truths[:, None, keypoints] - self.points, axis=-1)
        known = self.annotated[:, None, keypoints] & self.found
        return np.where(known, pixels / np.maximum(self.sizes, np.spacing(1))[:, None, None], np.inf)


def collect_people(
    records: Sequence[ImageRecord],
    results: Sequence[Mapping[str, Any]],
    count: int,
    size: Callable[[Annotation], float | None],
    keypoints: Sequence[int] | slice = slice(None),
) -> list[People]:
    """The people of every image, in the order of the images' ids.

    A keypoint with x = y = v = 0 counts as not found. Crowds and persons without keypoints are left out.

    Args:
        records: the images.
        results: COCO keypoint results; without `keypoint_scores`, the person's score is that of every keypoint.
        count: how many keypoints a person has.
        size: a person's size in pixels; a person for whom it is None is left out.
        keypoints: which of the keypoints to look at.

    Raises:
        TypeError, ValueError: results that do not fit the images, or persons of another number of keypoints.
    """
    images = by_id(records)
    checked = check_results(results, images, count)
    found: dict[Any, list[tuple[float, np.ndarray, np.ndarray]]] = {image_id: [] for image_id in images}
    for result, scores in zip(checked, keypoint_scores(results, count), strict=True):
        person = result["keypoints"].reshape(count, 3)[keypoints]
        found[result["image_id"]].append((result["score"], person, scores[keypoints]))
    width = len(np.arange(count)[keypoints])
    people = []
    for image_id, record in images.items():
        for person in record.persons:
            if len(person.keypoints) != count:
                raise ValueError(f"records must have persons of {count} keypoints, got {len(person.keypoints)}")
        measured = [(person.keypoints[keypoints], size(person)) for person in record.persons]
        measured = [(truth, unit) for truth, unit in measured if unit is not None]
        ranked = sorted(found[image_id], key=lambda of_person: -of_person[0])
        truths = np.array([truth for truth, _ in measured]).reshape(-1, width, 3)
        points = np.array([person for _, person, _ in ranked]).reshape(-1, width, 3)
        people.append(
            People(
                truths[..., :2],
                truths[..., 2] > 0,
                np.array([unit for _, unit in measured], dtype=float),
                points[..., :2],
                np.count_nonzero(points, axis=-1) > 0,
                np.array([scores for _, _, scores in ranked]).reshape(-1, width),
            )
        )
    return people


def assign(distances: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Give each annotated person one found person at most, and each found person to one annotated person at most.

    The choice has the largest number of keypoints within `limit` of the true ones and, among equals, the nearest ones.
    A person all of whose keypoints are one size or more off is not given.

    Args:
        distances: [P, D, K], in sizes of the annotated person.
        limit: in the same unit.

    Returns:
        Indices of the annotated and of the found persons that belong together, [n] each.
    """
    correct = np.count_nonzero(distances <= limit, axis=-1)
    nearness = np.clip(1 - distances, 0, None).mean(axis=-1) if distances.size else np.zeros(correct.shape)
    benefit = correct + nearness / (len(distances) + 1)  # all P together, nearness counts for less than one keypoint
    truths, found = linear_sum_assignment(benefit, maximize=True)
    given = benefit[truths, found] > 0
    return truths[given], found[given]
