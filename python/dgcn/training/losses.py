"""The training loss (Eq. 1-3) with the intermediate supervision of every DGCM's node logits.

The weights α, θ, β, δ only mean something together with these reductions: a confidence loss is the mean over valid
cells (all fields, all images), a regression loss the sum over positive cells / 1000 / batch size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..codec import Output
from ..data.dataset import TargetBatch
from .config import LossConfig

REGRESSION_UNIT = 1000.0


def confidence_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy, mean over the cells where `target` is not NaN (0 where there is none)."""
    valid = ~target.isnan()
    losses = F.binary_cross_entropy_with_logits(logits[valid].float(), target[valid], reduction="sum")
    return losses / valid.sum().clamp(min=1)


class PifPafLoss:
    """Eq. 1: call with the network's `Output` and a `TargetBatch`; returns the named, weighted terms to sum."""

    def __init__(self, config: LossConfig | None = None) -> None:
        self.config = config or LossConfig()

    def __call__(self, output: Output, target: TargetBatch) -> dict[str, Tensor]:
        config = self.config
        ends = zip(
            output.paf_offset.split(2, dim=2),
            target.paf_offset.split(2, dim=2),
            output.paf_spread.unbind(2),
            strict=True,
        )
        scale = F.softplus(output.pif_scale.float())
        terms = {
            "pif_confidence": config.alpha * confidence_loss(output.pif_confidence, target.pif_confidence),
            "pif_offset": config.theta * self.vector_loss(output.pif_offset, target.pif_offset, output.pif_spread),
            "pif_scale": config.scale * self.regression_loss(scale, target.pif_scale),
            "paf_confidence": config.beta * confidence_loss(output.paf_confidence, target.paf_confidence),
            "paf_offset": config.delta * torch.stack([self.vector_loss(*end) for end in ends]).sum(),
        }
        if output.node_logits:
            nodes = [confidence_loss(logits, target.node_confidence[stride]) for stride, logits in output.node_logits]
            terms["nodes"] = config.alpha / len(nodes) * torch.stack(nodes).sum()
        return terms

    def regression_loss(self, value: Tensor, target: Tensor) -> Tensor:
        """Smooth-L1 over the entries whose target is not NaN, in the unit of the module docstring."""
        valid = ~target.isnan()
        losses = F.smooth_l1_loss(value[valid].float(), target[valid], reduction="sum", beta=self.config.smooth_l1_beta)
        return losses / REGRESSION_UNIT / len(value)

    def vector_loss(self, vector: Tensor, target: Tensor, spread: Tensor) -> Tensor:
        """Loss of vectors [B, F, 2, h, w] whose spread b [B, F, h, w] only 'laplace' reads."""
        if self.config.regression == "smooth_l1":
            return self.regression_loss(vector, target)
        valid = ~target[:, :, 0].isnan()
        distance = (vector - target).movedim(2, -1)[valid].float().square().sum(-1).add(1e-6).sqrt()
        # An unbounded spread would let exp(-b) overflow before training has settled.
        b = 3.0 * torch.tanh(spread[valid].float() / 3.0)
        return (distance * torch.exp(-b) + b).sum() / REGRESSION_UNIT / len(vector)
