"""The decoder's thresholds and the input size, chosen on training pictures."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from dgcn_ext.decoder import DecoderConfig

from ..data.images import read_record
from ..model.network import DGCN
from ..predict.predictor import DEFAULT_LONG_EDGE, PictureFields, Predictor
from ..progress import Progress
from ..records import ImageRecord
from .oks import evaluate_keypoints

log = logging.getLogger(__name__)

LONG_EDGES = (385, 449, 513, 577, 641)
"""Input sizes that are tried, in pixels."""

OPTIONS: Mapping[str, Sequence[float]] = {
    "connection_threshold": (0.01, 0.02, 0.05, 0.1, 0.2, 0.3),
    "map_threshold": (0.05, 0.1, 0.15, 0.2, 0.3),
    "seed_threshold": (0.05, 0.1, 0.15, 0.2, 0.3),
    "instance_threshold": (0.02, 0.05, 0.1, 0.15),
    "refine_rounds": (0, 1, 2),
}
"""Values that are tried for fields of `DecoderConfig`. `keypoint_threshold` and `keypoint_threshold_relative` are not
among them: force-complete, with which AP is measured, fills in what these leave out."""


@dataclass(frozen=True)
class Tuned:
    """What was chosen, and the AP (with force-complete) that it has on the pictures it was chosen on."""

    long_edge: int
    config: DecoderConfig
    ap: float

    def metadata(self) -> dict[str, Any]:
        """The entries of a checkpoint's metadata from which `Predictor` takes its defaults."""
        values = {field.name: getattr(self.config, field.name) for field in fields(DecoderConfig)}
        changed = {name: value for name, value in values.items() if value != getattr(DecoderConfig, name)}
        return {"long_edge": self.long_edge, "decoder": changed}


def tune(
    model: DGCN,
    records: Sequence[ImageRecord],
    *,
    config: DecoderConfig | None = None,
    long_edge: int = DEFAULT_LONG_EDGE,
    flip_test: bool = False,
    device: str | torch.device = "cpu",
) -> Tuned:
    """Raise the AP on `records` by one threshold after the other, then by the input size, then by thresholds again.

    Args:
        model: to tune for.
        records: annotated pictures that the model was trained on. A choice made on validation pictures would flatter
            every number that is measured on them.
        config: thresholds to start from.
        long_edge: input size to start from, in pixels.
        flip_test: as the predictor's.
        device: where the network runs.
    """

    def scorer_at(long_edge: int) -> _Scorer:
        return _Scorer(Predictor(model, long_edge=long_edge, flip_test=flip_test, device=device), records)

    best = scorer_at(long_edge).choose_options(config or DecoderConfig())
    sizes = [best, *(scorer_at(size).score(best.config) for size in LONG_EDGES if size != long_edge)]
    best = max(sizes, key=lambda tuned: tuned.ap)
    for tuned in sorted(sizes, key=lambda tuned: tuned.long_edge):
        log.info(f"long edge {tuned.long_edge}: AP {tuned.ap:.4f}")
    return best if best is sizes[0] else scorer_at(best.long_edge).choose_options(best.config)


class _Scorer:
    """The fields of all pictures at one input size, to be decoded again and again."""

    def __init__(self, predictor: Predictor, records: Sequence[ImageRecord]) -> None:
        self.predictor = predictor
        self.records = records
        self.fields: list[PictureFields] = []
        with Progress(f"fields at {predictor.long_edge} px", len(records), unit="image") as progress:
            for record in records:
                self.fields += predictor.fields([read_record(record)])
                progress.step()

    def score(self, config: DecoderConfig) -> Tuned:
        """AP under these thresholds."""
        poses = self.predictor.decode(self.fields, force_complete=True, config=config)
        results = [
            pose.to_coco(record.image_id, record.category_id)
            for record, of_picture in zip(self.records, poses, strict=True)
            for pose in of_picture
        ]
        ap = evaluate_keypoints(self.records, results, sigmas=self.predictor.skeleton.sigmas)["AP"]
        return Tuned(self.predictor.long_edge, config, ap)

    def choose_options(self, config: DecoderConfig) -> Tuned:
        """The best value of each threshold in turn, until a round changes none."""
        best, before = self.score(config), None
        while before != best.config:
            before = best.config
            for name, values in OPTIONS.items():
                changes: list[dict[str, Any]] = [{name: value} for value in values if value != getattr(before, name)]
                tried = [self.score(replace(best.config, **change)) for change in changes]
                best = max([best, *tried], key=lambda tuned: tuned.ap)
                log.info(f"{name} {getattr(best.config, name)}: AP {best.ap:.4f}")
        return best
