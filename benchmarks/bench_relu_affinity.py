"""How long does the exact non-local layer take, against its other forms and against attention?

    python benchmarks/bench_relu_affinity.py      four minutes; writes benchmarks/results/relu_affinity_cpu.json
    python benchmarks/plot_relu_affinity.py       draws it: docs/nonlocal.svg

On one thread, in float32, y_i = (1/N) Σ_j relu(a_i + b_j) g_j over N positions of C = 128 channels:

    dense      the N×N matrix, a slab at a time so that it fits in memory; its backward is written out by hand, since
               autograd would keep all slabs
    composed   the algorithm of dgcn from torch.sort, cumsum, searchsorted and gather, backward by hand as well; its
               prefix sums are float64, without which keys with an offset cost it all its digits
    attention  scaled_dot_product_attention, one head, on q, k, v of the same shape: another function, but the usual
               alternative
    dgcn       dgcn_ext.functional.relu_affinity

Before they are timed, those that compute y must agree with dgcn_ext.reference in float64, at 50 positions.
"""

from collections.abc import Callable, Iterator
from typing import Any

import harness
import machine
import pytest
import torch
from harness import Claim, Variant
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from dgcn_ext import functional, reference

CHANNELS = 128
SLAB = 256  # rows of the matrix at a time: the fastest of 64, 128, ... 2048
POSITIONS = (41**2, 81**2, 161**2, 321**2, 1001**2)  # 161² is stride 4 of a 641 px input
CASES = [*((positions, "forward+backward") for positions in POSITIONS), (161**2, "forward")]
CLAIMS = [Claim("dense", "dgcn", 100, at_least=True), Claim("composed", "dgcn", 4, at_least=True)]
QUADRATIC_UP_TO = 161**2  # where dense takes seconds and attention some more
COMPOSED_UP_TO = 321**2
TOLERANCE = 1e-5  # norm of the difference from the reference, relative to the norm of the reference

Gradients = tuple[Tensor, Tensor, Tensor]


class Dense(torch.autograd.Function):
    @staticmethod
    def slabs(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Some positions i at a time, and relu(a_i + b_j) [B, N (j), some (i)]."""
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


@pytest.mark.benchmark(min_rounds=1, max_time=2)  # a round of the slowest takes a minute
@pytest.mark.parametrize(("positions", "direction"), CASES)
def test_relu_affinity(benchmark: BenchmarkFixture, positions: int, direction: str) -> None:
    benchmark.group = f"relu_affinity, {direction}, float32, 1 thread"
    case = str([1, CHANNELS, positions])
    benchmark.extra_info.update(case=case, direction=direction, dtype="float32", threads=1, positions=positions)
    torch.manual_seed(0)
    a, b = torch.randn(2, 1, positions)
    g, h = torch.randn(2, 1, CHANNELS, positions)
    grad_y = h if direction == "forward+backward" else None
    missing = {}
    if positions > QUADRATIC_UP_TO:
        missing = dict.fromkeys(("dense", "attention"), f"{positions}² pairs would take minutes")
    if positions > COMPOSED_UP_TO:
        missing["composed"] = "its float64 prefix sums would take 10 GB"
    with machine.cores(1):
        calls = {name: bind(form, [a, b, g], grad_y) for name, form in FORMS.items() if name not in missing}
        check(calls, a, b, g, h)
        if "attention" not in missing:
            q, k, v, grad = torch.randn(4, 1, 1, positions, CHANNELS)
            calls["attention"] = bind(scaled_dot_product_attention, [q, k, v], None if grad_y is None else grad)
        variants = {name: Variant(call) for name, call in calls.items()}
        claims = CLAIMS if (positions, direction) == (161**2, "forward+backward") else []
        harness.interleave(benchmark, variants, baselines=["dgcn"], claims=claims, missing=missing)


def check(calls: dict[str, Callable[[], tuple[Tensor, ...]]], a: Tensor, b: Tensor, g: Tensor, h: Tensor) -> None:
    """Raise AssertionError unless every form computes what the reference does."""
    rows = torch.randperm(a.shape[1])[:50]
    a, b, g, h = (tensor.double() for tensor in (a, b, g, h))
    y, grad_a = reference_at(rows, a, b, g, h)
    grad_g, grad_b = reference_at(rows, b, a, h, g)  # the same with the parts of (a, h) and (b, g) exchanged
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


if __name__ == "__main__":
    raise SystemExit(harness.main(__file__))
