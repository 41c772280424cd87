"""CrowdPose's average precision (OKS), by how crowded the images are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..data.coco_format import AREA_OF_BOX
from ..records import ImageRecord
from ..skeleton import Skeleton, words_of
from .bootstrap import Evaluation, Matches, resample
from .oks import match, person_truths
from .results import by_id, check_results

UNCOUNTED = (("head",), ("neck",))
"""Keypoints of CrowdPose, by their words, that its files do not count in `num_keypoints`."""

EASY_BELOW, HARD_FROM = 0.2, 0.8
"""Of `crowd_index`."""


class CrowdPoseEvaluation(Evaluation):
    """COCO's average precision with the rules of the CrowdPose tools.

    A person's area is 0.53 times that of its box, and there are no area ranges. A person of whom nothing but head and
    neck is annotated is ignored, as CrowdPose's files do not count these two. The skeleton's OKS sigmas are used. All
    else is COCO's: OKS over the annotated keypoints, at most 20 persons an image, and crowds and persons without
    keypoints ignored within twice their box.

    An image is easy with a crowd index below 0.2, hard from 0.8 on, and medium between. This is what the tools do; the
    paper (Li et al., CVPR 2019) says that easy ends at 0.1.

    Args:
        records: the images.
        results: COCO keypoint results on them; may be empty.
        skeleton: the keypoints of both.

    Raises:
        TypeError, ValueError: results that do not fit the images and the skeleton.
    """

    def __init__(
        self, records: Sequence[ImageRecord], results: Sequence[Mapping[str, Any]], skeleton: Skeleton
    ) -> None:
        images = by_id(records)
        counted = [words_of(name) not in UNCOUNTED for name in skeleton.keypoints]
        truths = person_truths(images.values(), skeleton.num_keypoints)
        for truth in truths:
            _, _, width, height = truth["bbox"]
            truth["area"] = AREA_OF_BOX * width * height
            truth["num_keypoints"] = np.count_nonzero(truth["keypoints"][2::3][counted] > 0)
        detections = check_results(results, images, skeleton.num_keypoints)
        self._matches = Matches(match(list(images), truths, detections, skeleton.sigmas))
        index = [np.nan if record.crowd_index is None else record.crowd_index for record in images.values()]
        self._crowd_index = np.array(index)

    def metrics(self) -> dict[str, float]:
        """AP and AR over the thresholds 0.50 to 0.95, at 0.50 and at 0.75, and AP of easy, medium and hard images.

        -1 where there is no ground truth; images without a crowd index are neither easy, medium nor hard."""
        precision, recall = self._matches.by_threshold(np.ones_like(self._crowd_index, dtype=np.int64))
        easy, hard = self._crowd_index < EASY_BELOW, self._crowd_index >= HARD_FROM
        medium = (self._crowd_index >= EASY_BELOW) & (self._crowd_index < HARD_FROM)
        numbers: dict[str, float] = {}
        for name, values in (("AP", precision), ("AR", recall)):
            numbers |= {name: values.mean(), f"{name}50": values[0], f"{name}75": values[5]}
        for name, chosen in (("easy", easy), ("medium", medium), ("hard", hard)):
            numbers[f"AP_{name}"] = self._matches.average_precision(chosen.astype(np.int64))
        return {name: float(value) for name, value in numbers.items()}

    def resampled(self, resamples: int = 1000, seed: int = 0) -> np.ndarray:
        return resample(self._matches.average_precision, self._matches.num_images, resamples, seed)
