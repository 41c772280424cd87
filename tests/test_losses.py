"""The loss against its definition, and what must not move it."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, smooth_l1_loss, softplus

from dgcn.codec import Output
from dgcn.data.dataset import TargetBatch
from dgcn.training.config import LossConfig
from dgcn.training.losses import PifPafLoss, confidence_loss

B, K, M, H, W = 2, 3, 2, 5, 7
NAN = float("nan")


@pytest.fixture
def output() -> Output:
    torch.manual_seed(0)
    nodes = [(16, torch.randn(B, K, 3, 4)), (16, torch.randn(B, K, 3, 4))]
    return Output(torch.randn(B, K, 5, H, W), torch.randn(B, M, 7, H, W), nodes)


@pytest.fixture
def target() -> TargetBatch:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    pif = (draw(B, K, H, W) > 0).float()
    paf = (draw(B, M, H, W) > 0).float()
    nodes = (draw(B, K, 3, 4) > 0).float()
    pif[0, 0, :2] = NAN
    nodes[1, 2, 0, 0] = NAN
    return TargetBatch(
        pif_confidence=pif,
        pif_offset=draw(B, K, 2, H, W).where(pif[:, :, None] == 1, NAN),
        pif_scale=draw(B, K, H, W).abs().where(pif == 1, NAN),
        paf_confidence=paf,
        paf_offset=draw(B, M, 4, H, W).where(paf[:, :, None] == 1, NAN),
        node_confidence={16: nodes},
    )


def test_terms_are_those_of_equations_1_to_3(output, target):
    """Written out cell by cell, with the reductions of the module docstring."""
    terms = PifPafLoss(LossConfig())(output, target)

    def cross_entropy(logits, confidence):
        pairs = [(z, t) for z, t in zip(logits.flatten(), confidence.flatten(), strict=True) if not math.isnan(t)]
        return sum(binary_cross_entropy_with_logits(z, t) for z, t in pairs) / len(pairs)

    def regression(values, wanted):
        pairs = [(v, t) for v, t in zip(values.flatten(), wanted.flatten(), strict=True) if not math.isnan(t)]
        return sum(smooth_l1_loss(v, t, beta=0.5) for v, t in pairs) / 1000 / B

    wanted = {
        "pif_confidence": 30 * cross_entropy(output.pif[:, :, 0], target.pif_confidence),
        "pif_offset": 2 * regression(output.pif[:, :, 1:3], target.pif_offset),
        "pif_scale": 2 * regression(softplus(output.pif[:, :, 4]), target.pif_scale),
        "paf_confidence": 50 * cross_entropy(output.paf[:, :, 0], target.paf_confidence),
        "paf_offset": 3 * regression(output.paf[:, :, 1:5], target.paf_offset),
        "nodes": 30 / 2 * sum(cross_entropy(logits, target.node_confidence[16]) for _, logits in output.node_logits),
    }
    assert terms.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("regression", ["smooth_l1", "laplace"])
def test_ignored_cells_move_nothing(output, target, regression):
    loss = PifPafLoss(LossConfig(regression=regression))
    pif = output.pif.clone().requires_grad_()
    sum(loss(output._replace(pif=pif), target).values()).backward()
    ignored = target.pif_confidence.isnan()
    assert ignored.any()
    assert pif.grad.movedim(2, -1)[ignored].abs().sum() == 0
    assert pif.grad.isfinite().all()


def test_laplace_has_its_minimum_where_the_spread_is_the_error(output, target):
    """d·exp(-b) + b is least at b = ln d; the offset term must fall towards it from both sides."""
    loss = PifPafLoss(LossConfig(regression="laplace"))

    def term(b: float) -> float:
        pif = output.pif.clone()
        pif[:, :, 1:3] = target.pif_offset.nan_to_num() + torch.tensor([0.3, 0.4])[:, None, None]  # 0.5 cells off
        pif[:, :, 3] = 3 * math.atanh(b / 3)
        return loss(output._replace(pif=pif), target)["pif_offset"].item()

    best = math.log(0.5)
    assert term(best) < min(term(best - 0.2), term(best + 0.2))


def test_nothing_supervised_is_zero_not_nan():
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    value = confidence_loss(logits, torch.full_like(logits, NAN), torch.zeros(()))
    value.backward()
    assert value == 0
    assert logits.grad.abs().sum() == 0


def test_a_perfect_output_costs_nothing(target):
    big = 40.0
    pif, paf = torch.zeros(B, K, 5, H, W), torch.zeros(B, M, 7, H, W)
    pif[:, :, 0] = (target.pif_confidence.nan_to_num() * 2 - 1) * big
    paf[:, :, 0] = (target.paf_confidence * 2 - 1) * big
    pif[:, :, 1:3] = target.pif_offset.nan_to_num()
    pif[:, :, 4] = torch.log(torch.expm1(target.pif_scale.nan_to_num(1.0).clamp(min=1e-4)))
    paf[:, :, 1:5] = target.paf_offset.nan_to_num()
    nodes = [(16, (target.node_confidence[16].nan_to_num() * 2 - 1) * big)]
    total = sum(PifPafLoss()(Output(pif, paf, nodes), target).values())
    assert total < 1e-4


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="regression must be one of"):
        LossConfig(regression="l2")
    with pytest.raises(ValueError, match="smooth_l1_beta must be positive, got 0"):
        LossConfig(smooth_l1_beta=0)
    for name in ("alpha", "theta", "beta", "delta", "scale"):
        with pytest.raises(ValueError, match=f"{name} must be at least 0, got -1"):
            LossConfig(**{name: -1.0})
    with pytest.raises(ValueError, match="alpha must be finite, got nan"):
        LossConfig(alpha=NAN)
    with pytest.raises(TypeError, match="beta must be a number, got '50'"):
        LossConfig(beta="50")
