"""The uncertainty of a number: how much it changes when the images are drawn anew, with replacement.

Detections are matched to ground truth once per image; each resample only accumulates again, so a thousand cost seconds.
Index legend: T OKS thresholds, D detections, I images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
from pycocotools.cocoeval import COCOeval

from dgcn_ext.arguments import check_at_least


class Evaluation(ABC):
    """Results matched to ground truth once, for the numbers and for their uncertainty."""

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """The numbers by name, in [0, 1], the main one first; -1 where there is no ground truth."""

    @abstractmethod
    def resampled(self, resamples: int = 1000, seed: int = 0) -> np.ndarray:
        """The main number of each draw of the images with replacement, float [resamples]; NaN without ground truth.

        The draws depend on the seed and the number of images alone, so those of several results on the same images
        can be subtracted.
        """

    def interval(self, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
        """95 % interval of the main number under resampling of the images; (-1, -1) without ground truth."""
        return percentiles(self.resampled(resamples, seed))


def resample(value: Callable[[np.ndarray], float], num_images: int, resamples: int, seed: int) -> np.ndarray:
    """`value` of each of `resamples` draws of `num_images` images, float [resamples]; NaN where there are no images.

    Args:
        value: the number, from how often each image was drawn, int [I]; below 0, which becomes NaN, where that is no
            ground truth.
        num_images: I.
        resamples: how many draws, at least 1.
        seed: of the draws.
    """
    check_at_least("resamples", resamples, 1)
    if num_images == 0:
        return np.full(resamples, np.nan)
    rng = np.random.default_rng(seed)
    samples = rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=resamples)
    numbers = np.array([value(counts) for counts in samples])
    return np.where(numbers >= 0, numbers, np.nan)


def percentiles(numbers: np.ndarray) -> tuple[float, float]:
    """Percentiles 2.5 and 97.5 of the numbers that are not NaN; (-1, -1) if that is none."""
    defined = numbers[~np.isnan(numbers)]
    if not defined.size:
        return -1.0, -1.0
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def precision_envelope(hits: np.ndarray, misses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The precision-recall curve, made monotone, of detections [..., D] by falling score.

    Args:
        hits: how often each detection counts as a true positive.
        misses: how often each counts as a false positive.

    Returns:
        Down to each detection the number of true positives, and the highest precision there or further down.
    """
    true_positives = np.cumsum(hits, axis=-1)
    positives = true_positives + np.cumsum(misses, axis=-1)
    precision = true_positives / np.maximum(positives, 1)
    return true_positives, np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]


class Matches:
    """Matched detections of all images, sorted by score: what AP needs, in a form in which images can be weighted.

    Persons of all sizes count, and the data set has one category.
    """

    def __init__(self, evaluation: COCOeval) -> None:
        params = evaluation.params
        self.num_images = len(params.imgIds)
        self._recall_thresholds = np.asarray(params.recThrs)
        num_thresholds = len(params.iouThrs)
        truths = np.zeros(self.num_images, dtype=np.int64)
        owner, scores = [np.empty(0, dtype=np.int64)], [np.empty(0)]
        hits, misses = [np.empty((num_thresholds, 0), dtype=bool)], [np.empty((num_thresholds, 0), dtype=bool)]
        # evalImgs is [area range][image], flattened; area range 0 is "all". None: neither truth nor result.
        for index, image in enumerate(evaluation.evalImgs[: self.num_images]):
            if image is None:
                continue
            truths[index] = np.count_nonzero(np.logical_not(image["gtIgnore"]))
            matched, counted = image["dtMatches"] != 0, np.logical_not(image["dtIgnore"])
            owner.append(np.full(len(image["dtScores"]), index))
            scores.append(np.asarray(image["dtScores"], dtype=float))
            hits.append(matched & counted)
            misses.append(~matched & counted)
        order = np.argsort(-np.concatenate(scores), kind="stable")
        self._owner = np.concatenate(owner)[order]  # [D]
        self._hits = np.concatenate(hits, axis=1)[:, order]  # [T, D]
        self._misses = np.concatenate(misses, axis=1)[:, order]
        self._truths = truths  # [I]

    def by_threshold(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Average precision and recall [T] of the set in which image i occurs `counts[i]` times.

        -1 if it holds no ground truth. Weighting a detection is repeating it, save for the arbitrary order of equal
        scores within an image: inside a run of repeated hits precision rises, and repeated misses add no recall.
        """
        num_truths = int(counts @ self._truths)
        if num_truths == 0:
            undefined = np.full(len(self._hits), -1.0)
            return undefined, undefined
        weight = counts[self._owner]
        true_positives, envelope = precision_envelope(self._hits * weight, self._misses * weight)
        recall = true_positives / num_truths
        precision = [
            np.append(row_precision, 0.0)[np.searchsorted(row_recall, self._recall_thresholds, side="left")].mean()
            for row_precision, row_recall in zip(envelope, recall, strict=True)
        ]
        return np.array(precision), recall.max(axis=1, initial=0.0)

    def average_precision(self, counts: np.ndarray | None = None) -> float:
        """Mean over the thresholds of the average precision; every image occurs once by default."""
        counts = np.ones(self.num_images, dtype=np.int64) if counts is None else counts
        return float(self.by_threshold(counts)[0].mean())
