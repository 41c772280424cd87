"""The training loss (Eq. 1-3) with the intermediate supervision of every DGCM's node logits.

The weights α, θ, β, δ only mean something together with these reductions: a confidence loss is the mean over valid
cells (all fields, all images), a regression loss the sum over positive cells / 1000 / batch size. The denominators are
those of the whole batch, so the losses of its parts, on several GPUs or one after another, add up to that of the whole.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..codec import Output
from ..data.dataset import TargetBatch
from .config import LossConfig

REGRESSION_UNIT = 1000.0


def count_targets(target: TargetBatch) -> Tensor:
    """What the losses are divided by, float32: images, cells with a PIF and a PAF confidence, the same of the nodes at
    each stride. Sums of the counts of its parts are those of a batch."""
    confidences = (target.pif_confidence, target.paf_confidence, *target.node_confidence.values())
    cells = [(~confidence.isnan()).sum() for confidence in confidences]
    return torch.stack([cells[0].new_tensor(len(target.pif_confidence)), *cells]).float()


def confidence_loss(logits: Tensor, target: Tensor, num_valid: Tensor) -> Tensor:
    """Binary cross-entropy summed over the cells where `target` is not NaN, per valid cell of the batch."""
    # A mask, because an index would make the host wait for a GPU.
    valid = ~target.isnan()
    losses = F.binary_cross_entropy_with_logits(
        logits.float(), target.nan_to_num(), weight=valid.float(), reduction="sum"
    )
    return losses / num_valid.clamp(min=1)


class PifPafLoss:
    """Eq. 1: call with the network's `Output` and a `TargetBatch`; returns the named, weighted terms to sum.

    The two may be a part of a batch. `counts` are then the `count_targets` of the whole.
    """

    def __init__(self, config: LossConfig | None = None) -> None:
        self.config = config or LossConfig()

    def __call__(self, output: Output, target: TargetBatch, counts: Tensor | None = None) -> dict[str, Tensor]:
        config = self.config
        num_images, pif_cells, paf_cells, *node_cells = (count_targets(target) if counts is None else counts).unbind()
        unit = REGRESSION_UNIT * num_images
        ends = zip(
            output.paf_offset.split(2, dim=2),
            target.paf_offset.split(2, dim=2),
            output.paf_spread.unbind(2),
            strict=True,
        )
        scale = F.softplus(output.pif_scale.float())
        pif_offset = self.vector_loss(output.pif_offset, target.pif_offset, output.pif_spread)
        terms = {
            "pif_confidence": config.alpha * confidence_loss(output.pif_confidence, target.pif_confidence, pif_cells),
            "pif_offset": config.theta * pif_offset / unit,
            "pif_scale": config.scale * self.regression_loss(scale, target.pif_scale) / unit,
            "paf_confidence": config.beta * confidence_loss(output.paf_confidence, target.paf_confidence, paf_cells),
            "paf_offset": config.delta * torch.stack([self.vector_loss(*end) for end in ends]).sum() / unit,
        }
        if output.node_logits:
            num_valid = dict(zip(target.node_confidence, node_cells, strict=True))
            nodes = [
                confidence_loss(logits, target.node_confidence[stride], num_valid[stride])
                for stride, logits in output.node_logits
            ]
            terms["nodes"] = config.alpha / len(nodes) * torch.stack(nodes).sum()
        return terms

    def regression_loss(self, value: Tensor, target: Tensor) -> Tensor:
        """Smooth-L1 summed over the entries whose target is not NaN."""
        valid = ~target.isnan()
        losses = F.smooth_l1_loss(value.float(), target.nan_to_num(), reduction="none", beta=self.config.smooth_l1_beta)
        return losses.where(valid, 0.0).sum()

    def vector_loss(self, vector: Tensor, target: Tensor, spread: Tensor) -> Tensor:
        """Loss of vectors [B, F, 2, h, w] whose spread b [B, F, h, w] only 'laplace' reads, summed."""
        if self.config.regression == "smooth_l1":
            return self.regression_loss(vector, target)
        valid = ~target[:, :, 0].isnan()
        distance = (vector.float() - target.nan_to_num()).square().sum(2).add(1e-6).sqrt()
        # An unbounded spread would let exp(-b) overflow before training has settled.
        b = 3.0 * torch.tanh(spread.float() / 3.0)
        return (distance * torch.exp(-b) + b).where(valid, 0.0).sum()
