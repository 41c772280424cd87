"""The metrics of `dgcn eval`, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ..records import ImageRecord
from ..skeleton import Skeleton
from .crowdpose import CrowdPoseEvaluation
from .oks import KeypointEvaluation
from .pckh import MpiiApEvaluation, PckhEvaluation


class Evaluation(Protocol):
    """Results matched to ground truth once, for the numbers and for their uncertainty."""

    def metrics(self) -> dict[str, float]:
        """The numbers by name, in [0, 1], the main one first; -1 where there is no ground truth."""

    def interval(self, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
        """95 % interval of the main number under resampling of the images; (-1, -1) without ground truth."""


def _coco(
    records: Sequence[ImageRecord], results: Sequence[Mapping[str, Any]], skeleton: Skeleton
) -> KeypointEvaluation:
    return KeypointEvaluation(records, results, sigmas=skeleton.sigmas)


EVALUATIONS: Mapping[str, Callable[[Sequence[ImageRecord], Sequence[Mapping[str, Any]], Skeleton], Evaluation]] = {
    "coco": _coco,
    "crowdpose": CrowdPoseEvaluation,
    "pckh": PckhEvaluation,
    "mpii-ap": MpiiApEvaluation,
}
"""Each takes records, COCO keypoint results on them and their skeleton, and raises TypeError or ValueError where they
do not fit. What is wrong with records and skeleton shows without results as well."""
