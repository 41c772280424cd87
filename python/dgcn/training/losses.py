"""The training loss (Eq. 1-3) with the intermediate supervision of every DGCM's node logits.

The weights α, θ, β, δ only mean something together with these reductions: a confidence loss is the mean over valid
cells (all fields, all images), a regression loss the sum over positive cells / 1000 / batch size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checks import check_at_least, check_choice, check_positive, check_types
from ..data.dataset import TargetBatch
from ..model.network import Output

REGRESSIONS = ("smooth_l1", "laplace")
REGRESSION_UNIT = 1000.0


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of Eq. 2 and 3; the defaults are the paper's."""

    alpha: float = 30.0
    """PIF confidence; α/N weighs the node logits of each of the N DGCMs."""
    theta: float = 2.0
    """PIF offset."""
    beta: float = 50.0
    """PAF confidence."""
    delta: float = 3.0
    """PAF offset."""
    scale: float = 2.0
    """PIF scale σ, which the decoder needs and the paper's equations leave out."""
    regression: str = "smooth_l1"
    """'smooth_l1' (Eq. 2, 3; the spread b is not supervised) or 'laplace' (PifPaf's: |d|·exp(-b) + b)."""
    smooth_l1_beta: float = 0.5
    """Where Smooth-L1 turns from quadratic to linear, in cells."""

    def __post_init__(self) -> None:
        check_types(self)
        check_at_least(self, 0, "alpha", "theta", "beta", "delta", "scale")
        check_choice(self, "regression", REGRESSIONS)
        check_positive(self, "smooth_l1_beta")


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
        pif, paf = output.pif, output.paf
        terms = {
            "pif_confidence": config.alpha * confidence_loss(pif[:, :, 0], target.pif_confidence),
            "pif_offset": config.theta * self.vector_loss(pif[:, :, 1:3], target.pif_offset, pif[:, :, 3]),
            "pif_scale": config.scale * self.regression_loss(F.softplus(pif[:, :, 4].float()), target.pif_scale),
            "paf_confidence": config.beta * confidence_loss(paf[:, :, 0], target.paf_confidence),
            "paf_offset": config.delta
            * (
                self.vector_loss(paf[:, :, 1:3], target.paf_offset[:, :, :2], paf[:, :, 5])
                + self.vector_loss(paf[:, :, 3:5], target.paf_offset[:, :, 2:], paf[:, :, 6])
            ),
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
