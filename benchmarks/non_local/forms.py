"""The forms of the non-local layer's aggregation that the benchmarks compare.

y_i = (1/N) Σ_j relu(a_i + b_j) g_j over N positions of C = 128 channels:

    dense      the N×N matrix, a slab of rows at a time so that it fits in memory; its backward is written out, because
               autograd would keep all slabs
    composed   the algorithm of dgcn out of torch.sort, cumsum, searchsorted and gather, with a backward of its own; its
               prefix sums are float64: in float32, keys with an offset would cost all digits
    dgcn       dgcn_ext.functional.relu_affinity

Before they are timed, all must agree with dgcn_ext.reference in float64, at 50 positions.

Legend: B images, N positions, C channels; a, b [B, N]; g [B, C, N].
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from dgcn_ext import functional, reference

DIRECTIONS = ("forward", "forward+backward")
CHANNELS = 128
POSITIONS = 161**2  # stride 4 of a 641 px input
SLAB = 256  # rows of the matrix at a time: the fastest of 64, 128, ... 2048
TOLERANCE = 1e-5  # norm of the difference from the reference, relative to the norm of the reference

Gradients = tuple[Tensor, Tensor, Tensor]


class Dense(torch.autograd.Function):
    @staticmethod
    def slabs(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yields a slice of the positions i, and relu(a_i + b_j) [B, N (j), len(slice) (i)]."""
        for first in range(0, a.shape[1], SLAB):
            rows = slice(first, first + SLAB)
            yield rows, (b[:, :, None] + a[:, None, rows]).relu_()

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, g: Tensor) -> Tensor:
        ctx.save_for_backward(a, b, g)
        return torch.cat([g @ affinity for _, affinity in Dense.slabs(a, b)], dim=2).div_(g.shape[2])

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> Gradients:
        a, b, g = ctx.saved_tensors
        grad_a, grad_b, grad_g = torch.empty_like(a), torch.zeros_like(b), torch.zeros_like(g)
        for rows, affinity in Dense.slabs(a, b):
            h = grad_y[:, :, rows] / g.shape[2]
            grad_g.baddbmm_(h, affinity.mT)
            grad_affinity = torch.ops.aten.threshold_backward(g.mT @ h, affinity, 0)
            grad_a[:, rows] = grad_affinity.sum(1)
            grad_b += grad_affinity.sum(2)
        return grad_a, grad_b, grad_g


class Composed(torch.autograd.Function):
    @staticmethod
    def sums(a: Tensor, b: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """Σ_j g_j and Σ_j (a_i + b_j) g_j over the j with a_i + b_j > 0, in float64."""
        b, order = b.sort(dim=1, descending=True)
        count = torch.searchsorted(-b, a)[:, None].expand_as(g)
        g = g.gather(2, order[:, None].expand_as(g)).double()
        plain, weighted = (pad(terms.cumsum(2), (1, 0)).gather(2, count) for terms in (g, b[:, None] * g))
        return plain, weighted.addcmul_(a[:, None], plain)

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, g: Tensor) -> Tensor:
        plain, weighted = Composed.sums(a, b, g)
        ctx.save_for_backward(a, b, g, plain)
        return weighted.div_(g.shape[2]).to(g.dtype)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> Gradients:
        a, b, g, plain = ctx.saved_tensors
        grad_plain, grad_weighted = Composed.sums(b, a, grad_y)
        positions = g.shape[2]
        grad_a, grad_b = (plain * grad_y).sum(1).div_(positions), (grad_plain * g).sum(1).div_(positions)
        return grad_a.to(a.dtype), grad_b.to(b.dtype), grad_weighted.div_(positions).to(g.dtype)


FORMS = {"dense": Dense.apply, "composed": Composed.apply, "dgcn": functional.relu_affinity}


def bind(form: Callable[..., Tensor], inputs: list[Tensor], grad_y: Tensor | None) -> Callable[[], tuple[Tensor, ...]]:
    """A function without arguments that returns y and, with a ``grad_y``, the gradients of the inputs."""
    leaves = [tensor.detach().requires_grad_(grad_y is not None) for tensor in inputs]

    def forward_backward() -> tuple[Tensor, ...]:
        y = form(*leaves)
        return y, *torch.autograd.grad(y, leaves, grad_y)

    return (lambda: (form(*leaves),)) if grad_y is None else forward_backward


def check(calls: dict[str, Callable[[], tuple[Tensor, ...]]], a: Tensor, b: Tensor, g: Tensor, h: Tensor) -> None:
    """Raise AssertionError unless every form computes what the reference does."""
    rows = torch.randperm(a.shape[1])[:50]
    a, b, g, h = (tensor.double() for tensor in (a, b, g, h))
    y, grad_a = reference_at(rows, a, b, g, h)
    grad_g, grad_b = reference_at(rows, b, a, h, g)  # (a, h) and (b, g) exchanged
    for name, call in calls.items():
        expected = {"y": y, "grad a": grad_a, "grad b": grad_b, "grad g": grad_g}
        for (what, wanted), got in zip(expected.items(), call(), strict=False):
            error = ((got[..., rows] - wanted).norm() / wanted.norm()).item()
            assert error < TOLERANCE, f"{name}: {what} is off by {error:.1e} of its norm"


def reference_at(rows: Tensor, a: Tensor, b: Tensor, g: Tensor, grad_y: Tensor) -> tuple[Tensor, Tensor]:
    """y and the gradient of a, at some of the positions i."""
    some = a[:, rows].requires_grad_()
    y = reference.relu_affinity(some, b, g)
    return y.detach(), *torch.autograd.grad(y, some, grad_y[:, :, rows])
