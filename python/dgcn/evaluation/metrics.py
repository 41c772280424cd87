"""The metrics of `dgcn eval`, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..records import ImageRecord
from ..skeleton import Skeleton
from .bootstrap import Evaluation
from .crowdpose import CrowdPoseEvaluation
from .oks import KeypointEvaluation
from .pckh import MpiiApEvaluation, PckhEvaluation


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
