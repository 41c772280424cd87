"""The two metrics of the MPII data set: PCKh, and the average precision of several persons.

Both call a keypoint correct whose distance from the true one is at most half the head size of the annotated person.
Both look at 14 of MPII's 16 keypoints: pelvis and thorax are left out, as MPII's own evaluation leaves them out. Both
look at annotated persons with a head size; persons without one, crowds and persons without keypoints do not exist for
them. K = 14 below.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..records import ImageRecord
from ..skeleton import Skeleton, words_of
from .bootstrap import Evaluation, precision_envelope, resample
from .people import People, assign, collect_people

HEADS = 0.5
"""Distance up to which a keypoint is correct, in head sizes."""

LIMBS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")

KEYPOINTS = ("head_top", "upper_neck", *(f"{side}_{limb}" for limb in LIMBS for side in ("left", "right")))
"""The keypoints that count."""


class PckhEvaluation(Evaluation):
    """PCKh@0.5: the fraction of the annotated keypoints that were found within half a head size.

    Each annotated person is given one found person, each found person at most once, so that as many keypoints as
    possible are correct. Only annotated keypoints count; one that was not found is wrong, and nothing else that was
    found matters.

    Args:
        records: the images.
        results: COCO keypoint results on them; may be empty.
        skeleton: the keypoints of both; MPII's among them, by name.

    Raises:
        TypeError, ValueError: results that do not fit, a skeleton without these keypoints, or persons of whom none has
            a head size.
    """

    def __init__(
        self, records: Sequence[ImageRecord], results: Sequence[Mapping[str, Any]], skeleton: Skeleton
    ) -> None:
        people = _collect("pckh", records, results, skeleton)
        self._annotated = np.zeros((len(people), len(KEYPOINTS)), dtype=np.int64)  # how many persons, [I, K]
        self._correct = np.zeros_like(self._annotated)
        for index, image in enumerate(people):
            distances = image.distances()
            self._annotated[index] = image.annotated.sum(axis=0)
            self._correct[index] = (distances[assign(distances, HEADS)] <= HEADS).sum(axis=0)

    def metrics(self) -> dict[str, float]:
        """The columns of Table 8: "Mean", "Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle".

        "Mean" is over all annotated keypoints, as in MPII's evaluation. "Head" is the top of the head, the others are
        the means of left and right; the upper neck counts in "Mean" only. -1 where nothing is annotated.
        """
        annotated, correct = self._annotated.sum(axis=0), self._correct.sum(axis=0)
        rates = np.where(annotated > 0, correct / np.maximum(annotated, 1), -1.0)
        return {"Mean": self._mean(np.ones(len(self._annotated), dtype=np.int64)), **_groups(rates, ("head_top",))}

    def resampled(self, resamples: int = 1000, seed: int = 0) -> np.ndarray:
        return resample(self._mean, len(self._annotated), resamples, seed)

    def _mean(self, counts: np.ndarray) -> float:
        annotated, correct = (int((counts @ of_image).sum()) for of_image in (self._annotated, self._correct))
        return correct / annotated if annotated else -1.0


class MpiiApEvaluation(Evaluation):
    """The multi-person average precision of Pishchulin et al. (DeepCut, CVPR 2016), which PoseTrack took over.

    In every image each found person belongs to the annotated person with the highest PCKh, of whose found persons the
    one with the highest PCKh is kept. The keypoints found are then ranked by their own scores, one keypoint of the
    skeleton at a time, over all images. One of a kept person is a true positive if it is within half a head size of
    the annotated keypoint. All others are false positives: those farther off, those that are not annotated, and those
    of persons not kept. AP is the area under the precision-recall curve after precision is made monotone.

    Arguments and errors are those of `PckhEvaluation`.
    """

    def __init__(
        self, records: Sequence[ImageRecord], results: Sequence[Mapping[str, Any]], skeleton: Skeleton
    ) -> None:
        people = _collect("mpii-ap", records, results, skeleton)
        self._truths = np.array([image.annotated.sum(axis=0) for image in people]).reshape(-1, len(KEYPOINTS))  # [I, K]
        detections: list[list[tuple[float, int, bool]]] = [[] for _ in KEYPOINTS]  # score, image, whether it is right
        for index, image in enumerate(people):
            positives = _true_positives(image)
            for person, k in np.argwhere(image.found).tolist():
                detections[k].append((image.scores[person, k], index, positives[person, k]))
        self._ranked = []  # by keypoint, from the best score down: images int [D], whether they are right bool [D]
        for of_keypoint in detections:
            of_keypoint.sort(key=lambda detection: -detection[0])
            images = np.array([index for _, index, _ in of_keypoint], dtype=np.int64)
            self._ranked.append((images, np.array([hit for _, _, hit in of_keypoint], dtype=bool)))

    def metrics(self) -> dict[str, float]:
        """The columns of Table 8: "Mean", "Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle".

        "Mean" is that of the other seven. "Head" is the mean of upper neck and top of the head, the others are the
        means of left and right. A keypoint that is annotated nowhere is left out of the means; a mean of none is -1.
        """
        groups = self._average_precisions(np.ones(len(self._truths), dtype=np.int64))
        return {"Mean": _mean(groups.values()), **groups}

    def resampled(self, resamples: int = 1000, seed: int = 0) -> np.ndarray:
        def mean(counts: np.ndarray) -> float:
            return _mean(self._average_precisions(counts).values())

        return resample(mean, len(self._truths), resamples, seed)

    def _average_precisions(self, counts: np.ndarray) -> dict[str, float]:
        """By column of Table 8, of the set in which image i occurs `counts[i]` times."""
        precisions = []
        for (owner, hits), truths in zip(self._ranked, (counts @ self._truths).tolist(), strict=True):
            weight = counts[owner]
            _, envelope = precision_envelope(hits * weight, ~hits * weight)
            precisions.append(float((envelope * hits) @ weight) / truths if truths else -1.0)
        return _groups(np.array(precisions), ("upper_neck", "head_top"))


def _true_positives(image: People) -> np.ndarray:
    """Whether each found keypoint is a true positive, bool [D, K]."""
    correct = image.distances() <= HEADS  # [P, D, K]
    positives = np.zeros(image.found.shape, dtype=bool)
    if len(correct):
        pckh = correct.sum(axis=-1) / np.maximum(image.annotated.sum(axis=-1), 1)[:, None]  # [P, D]
        belongs_to = pckh.argmax(axis=0)
        for person, of_person in enumerate(np.where(belongs_to == np.arange(len(pckh))[:, None], pckh, 0)):
            if of_person.any():
                kept = of_person.argmax()
                positives[kept] = correct[person, kept]
    return positives


def _collect(
    metric: str, records: Sequence[ImageRecord], results: Sequence[Mapping[str, Any]], skeleton: Skeleton
) -> list[People]:
    index_of = {words_of(name): index for index, name in enumerate(skeleton.keypoints)}
    missing = [name for name in KEYPOINTS if words_of(name) not in index_of]
    if missing:
        raise ValueError(
            f"the metric {metric} must have MPII's keypoints, by name, got the skeleton '{skeleton.name}' without"
            f" {', '.join(missing)}"
        )
    persons = [person for record in records for person in record.persons]
    if persons and all(person.head_size is None for person in persons):
        raise ValueError(f"the metric {metric} must have the head sizes of the annotated persons, got none")
    keypoints = [index_of[words_of(name)] for name in KEYPOINTS]
    return collect_people(records, results, skeleton.num_keypoints, lambda person: person.head_size, keypoints)


def _groups(values: np.ndarray, head: Sequence[str]) -> dict[str, float]:
    """The values [K] of `KEYPOINTS`, averaged to the columns of Table 8."""
    by_name = dict(zip(KEYPOINTS, values.tolist(), strict=True))
    columns = {"Head": head} | {limb.capitalize(): (f"left_{limb}", f"right_{limb}") for limb in LIMBS}
    return {column: _mean([by_name[name] for name in names]) for column, names in columns.items()}


def _mean(values: Iterable[float]) -> float:
    """Of those that are defined; -1 if none is."""
    defined = [value for value in values if value >= 0]
    return sum(defined) / len(defined) if defined else -1.0
