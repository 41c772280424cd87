"""The uncertainty of a number: how much it changes when the images are drawn anew, with replacement.

Detections are matched to ground truth once per image; each resample only accumulates again, so a thousand cost seconds.
Index legend: T OKS thresholds, D detections, I images.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pycocotools.cocoeval import COCOeval

from dgcn_ext.arguments import check_at_least


def resample(
    value: Callable[[np.ndarray], float], num_images: int, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Percentiles 2.5 and 97.5 of `value` over `resamples` draws of `num_images` images.

    Args:
        value: the number, from how often each image was drawn, int [I]; below 0 where that is no ground truth. Such
            draws are left out; the interval is (-1, -1) if that are all.
        num_images: I.
        resamples: how many draws, at least 1.
        seed: of the draws.
    """
    check_at_least("resamples", resamples, 1)
    if num_images == 0:
        return -1.0, -1.0
    rng = np.random.default_rng(seed)
    samples = rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=resamples)
    defined = [number for number in map(value, samples) if number >= 0]
    if not defined:
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
