"""What the tests of ``relu_affinity`` share: arguments, layouts, tolerances and the comparison with the dense form."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dgcn_ext import functional, reference

# Sums are held in float64 and rounded once, to the dtype of the result: half a unit in its last place. Besides, they
# may be off by so much of the sum of their terms' magnitudes.
ROUNDING = {torch.float64: 0.0, torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
OF_MAGNITUDES = 1e-13
SMALLEST = {torch.float64: 0.0, torch.float32: 1e-38, torch.bfloat16: 1e-38, torch.float16: 2.0**-25}
DTYPES = list(ROUNDING)


class Inputs(NamedTuple):
    a: Tensor  # [B, N]
    b: Tensor  # [B, N]
    g: Tensor  # [B, C, N]
    grad_y: Tensor  # [B, C, N]

    def double(self) -> Inputs:
        return Inputs(*(tensor.double() for tensor in self))

    def magnitudes(self) -> Inputs:
        return Inputs(self.a, self.b, self.g.abs(), self.grad_y.abs())


class Results(NamedTuple):
    y: Tensor
    grad_a: Tensor
    grad_b: Tensor
    grad_g: Tensor


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "neighbouring channels": lambda g: g.mT.contiguous().mT,
    "sliced": lambda g: g.repeat_interleave(2, 2).repeat(1, 2, 1)[:, : g.shape[1], ::2],
    "expanded over images": lambda g: g[:1].expand(g.shape),
    "expanded over channels": lambda g: g[:, :1].expand(g.shape),
    "expanded over positions": lambda g: g[:, :, :1].expand(g.shape),
    "channels before images": lambda g: g.transpose(0, 1).contiguous().transpose(0, 1),
    "unaligned": lambda g: torch.cat([g.new_zeros(1), g.flatten()])[1:].view(g.shape),
}


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def make_inputs(
    shape: tuple[int, int, int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Inputs:
    """Of order one; half of the pairs meet, and in the first image many keys are equal and many pairs on the kink."""
    generator = torch.Generator().manual_seed(sum(shape))
    batch, _, positions = shape
    a, b = torch.randn(2, batch, positions, generator=generator, dtype=torch.float64)
    a[:1], b[:1] = a[:1].mul(4).round() / 4, b[:1].mul(4).round() / 4
    g, grad_y = torch.randn(2, *shape, generator=generator, dtype=torch.float64).to(dtype)
    keys = (key.to(device, accumulation_dtype(dtype)) for key in (a, b))
    return Inputs(*keys, g.to(device), grad_y.to(device))


def differentiate(function: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: Inputs) -> Results:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs[:3]]
    y = function(*leaves)
    return Results(y.detach(), *torch.autograd.grad(y, leaves, inputs.grad_y))


def check_against_dense(inputs: Inputs) -> Results:
    """Raise AssertionError where a result is not the float64 one, rounded; returns the results."""
    wide = inputs.double()
    results = differentiate(functional.relu_affinity, inputs)
    expected = differentiate(reference.relu_affinity, wide)
    magnitudes = differentiate(reference.relu_affinity, wide.magnitudes())
    dtypes = (inputs.g.dtype, inputs.a.dtype, inputs.b.dtype, inputs.g.dtype)
    for name, actual, want, magnitude, dtype in zip(
        Results._fields, results, expected, magnitudes, dtypes, strict=True
    ):
        assert (actual.dtype, actual.shape) == (dtype, want.shape), name
        check_rounded(name, actual, want, magnitude)
    return results


def check_rounded(name: str, actual: Tensor, expected: Tensor, magnitude: Tensor) -> None:
    """``actual`` is ``expected`` (float64), rounded, where ``magnitude`` is what its terms' absolute values sum to."""
    dtype = actual.dtype
    allowed = (1 + 1e-6) * ROUNDING[dtype] * expected.abs() + OF_MAGNITUDES * magnitude + SMALLEST[dtype]
    excess = (actual.double() - expected).abs() - allowed
    assert not (excess > 0).any(), f"{name} is off by {excess.max().item():.1e} more than allowed"
    assert torch.equal(actual.isnan(), expected.isnan()), f"{name}: NaN in other places"
