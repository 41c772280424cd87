"""The uncertainty of AP: how much it changes when the images are drawn anew, with replacement.

Detections are matched to ground truth once per image; each resample only accumulates again, so a thousand cost seconds.
Index legend: T OKS thresholds, D detections, I images.
"""

from __future__ import annotations

import numpy as np
from pycocotools.cocoeval import COCOeval


def resample_images(evaluation: COCOeval, resamples: int, seed: int) -> tuple[float, float]:
    """Percentiles 2.5 and 97.5 of AP over `resamples` draws of as many images as `evaluation` has matched.

    Draws without ground truth are left out; (-1, -1) if that are all.
    """
    matches = _Matches(evaluation)
    rng = np.random.default_rng(seed)
    samples = rng.multinomial(matches.num_images, np.full(matches.num_images, 1 / matches.num_images), size=resamples)
    precisions = [matches.average_precision(counts) for counts in samples]
    defined = [precision for precision in precisions if precision >= 0]
    if not defined:
        return -1.0, -1.0
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


class _Matches:
    """Matched detections of all images, sorted by score: what AP needs, in a form in which images can be weighted."""

    def __init__(self, evaluation: COCOeval) -> None:
        params = evaluation.params
        self.num_images = len(params.imgIds)
        self._recall_thresholds = np.asarray(params.recThrs)
        # evalImgs is [category][area range][image], flattened; area range 0 is "all". None: neither truth nor result.
        per_category = np.array(evaluation.evalImgs, dtype=object).reshape(-1, len(params.areaRng), self.num_images)
        self._categories = [self._collect(images, len(params.iouThrs)) for images in per_category[:, 0]]

    def _collect(self, images: np.ndarray, num_thresholds: int) -> tuple[np.ndarray, ...]:
        """Image index [D], true positives and false positives [T, D] by falling score; ground truths per image [I]."""
        truths = np.zeros(self.num_images, dtype=np.int64)
        owner, scores = [np.empty(0, dtype=np.int64)], [np.empty(0)]
        hits, misses = [np.empty((num_thresholds, 0), dtype=bool)], [np.empty((num_thresholds, 0), dtype=bool)]
        for index, image in enumerate(images):
            if image is None:
                continue
            truths[index] = np.count_nonzero(np.logical_not(image["gtIgnore"]))
            matched, counted = image["dtMatches"] != 0, np.logical_not(image["dtIgnore"])
            owner.append(np.full(len(image["dtScores"]), index))
            scores.append(np.asarray(image["dtScores"], dtype=float))
            hits.append(matched & counted)
            misses.append(~matched & counted)
        order = np.argsort(-np.concatenate(scores), kind="stable")
        return (
            np.concatenate(owner)[order],
            np.concatenate(hits, axis=1)[:, order],
            np.concatenate(misses, axis=1)[:, order],
            truths,
        )

    def average_precision(self, counts: np.ndarray) -> float:
        """AP of the set in which image i occurs `counts[i]` times; -1 if it holds no ground truth.

        Weighting a detection is repeating it, save for the arbitrary order of equal scores within an image: inside a
        run of repeated hits precision rises, and repeated misses add no recall.
        """
        values = []
        for owner, hits, misses, truths in self._categories:
            num_truths = int(counts @ truths)
            if num_truths == 0:
                continue
            weight = counts[owner]
            true_positives = np.cumsum(hits * weight, axis=1)
            positives = true_positives + np.cumsum(misses * weight, axis=1)
            precision = true_positives / np.maximum(positives, 1)
            envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            for row_precision, row_hits in zip(envelope, true_positives, strict=True):
                where = np.searchsorted(row_hits / num_truths, self._recall_thresholds, side="left")
                values.append(np.append(row_precision, 0.0)[where].mean())
        return float(np.mean(values)) if values else -1.0
