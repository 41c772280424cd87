"""How long does a graph convolution take, its sampling included, against what PyTorch offers?

    python benchmarks/bench_graph_conv.py              all of it; writes benchmarks/results/graph_conv_cpu.json
    python benchmarks/bench_graph_conv.py -k 81x81     a part of it; any options of pytest

y = ReLU(X W' S + b), S = row_softmax(W_d ⊙ A_d), with A_d ~ Bernoulli(A) drawn anew by each call (Eq. 4, 7, 8):

    eager              operation by operation, as the paper writes it
    compiled           the same under torch.compile
    baddbmm            W·S folded into one K×K matrix first: the best plain PyTorch
    compiled baddbmm   the same under torch.compile
    dgcn               dgcn_ext.functional.graph_conv, its seed from torch's generator as in DGCMFused

"forward" records nothing for a gradient; "forward+backward" takes the gradients of x, W_d, W and b. Each variant gets
its parameters in the shapes it likes best, and torch.compile static shapes. Before they are timed, all must agree with
dgcn_ext.reference in float64.

Legend: B images, K nodes, H×W positions.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import harness
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.nn.functional import conv2d

from dgcn_ext import functional, reference

CALL_OVERHEAD = (1, 17, 8, 8)  # [B, K, H, W] so small that the way to the arithmetic is what takes the time
SHAPES = ((8, 17, 41, 41), (8, 17, 81, 81), (1, 17, 161, 161))
CASES = [(1, CALL_OVERHEAD), *((threads, shape) for threads in (1, 2) for shape in SHAPES)]
CASE_IDS = [f"threads{threads}-{'x'.join(map(str, shape))}" for threads, shape in CASES]
TOLERANCE = 1e-5  # norm of the difference from the reference, relative to the norm of the reference


def eager(x: Tensor, adjacency: Tensor, edge_weight: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    s = torch.softmax(edge_weight * torch.bernoulli(adjacency), dim=-1)
    return torch.einsum("bihw,ij->bjhw", conv2d(x, weight), s).add_(bias).relu_()


def baddbmm(x: Tensor, adjacency: Tensor, edge_weight: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    s = torch.softmax(edge_weight * torch.bernoulli(adjacency), dim=-1)
    folded = (s.T @ weight).expand(len(x), -1, -1)
    return torch.baddbmm(bias, folded, x.flatten(2)).relu_().view_as(x)


def dgcn(x: Tensor, adjacency: Tensor, edge_weight: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.graph_conv(x, edge_weight, adjacency, weight, bias, seed=torch.randint(2**63 - 1, ()))


def specification(x: Tensor, adjacency: Tensor, edge_weight: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return reference.graph_conv(x, edge_weight, adjacency, weight, bias)


@dataclass(frozen=True)
class Inputs:
    x: Tensor  # [B, K, H, W]
    adjacency: Tensor  # [K, K]
    edge_weight: Tensor  # [K, K]
    weight: Tensor  # [K, K]
    bias: Tensor  # [K]
    grad_y: Tensor | None  # [B, K, H, W]; None where only the forward is wanted

    @classmethod
    def random(cls, shape: tuple[int, int, int, int], backward: bool) -> "Inputs":
        k = shape[1]
        return cls(
            x=torch.randn(shape),
            adjacency=torch.rand(k, k),
            edge_weight=torch.randn(k, k),
            weight=torch.randn(k, k) / k**0.5,
            bias=torch.randn(k),
            grad_y=torch.randn(shape) if backward else None,
        )

    def double(self) -> "Inputs":
        return replace(self, **{name: value.double() for name, value in vars(self).items() if value is not None})


@dataclass(frozen=True)
class Variant:
    graph_conv: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    weight_ndim: int = 2  # W [K, K] and b [K] get trailing ones up to so many dimensions
    bias_ndim: int = 1

    def compiled(self) -> "Variant":
        return replace(self, graph_conv=torch.compile(self.graph_conv, fullgraph=True, dynamic=False))

    def bind(self, inputs: Inputs) -> Callable[[], tuple[Tensor, ...]]:
        """A function without arguments that returns y and, with a ``grad_y``, the gradients of x, W_d, W and b."""
        weight = inputs.weight.reshape(inputs.weight.shape + (1,) * (self.weight_ndim - 2))
        bias = inputs.bias.reshape(inputs.bias.shape + (1,) * (self.bias_ndim - 1))
        leaves = [
            leaf.detach().requires_grad_(inputs.grad_y is not None)
            for leaf in (inputs.x, inputs.edge_weight, weight, bias)
        ]
        forward = partial(self.graph_conv, leaves[0], inputs.adjacency, *leaves[1:])

        def forward_backward() -> tuple[Tensor, ...]:
            y = forward()
            return y, *torch.autograd.grad(y, leaves, inputs.grad_y)

        return (lambda: (forward(),)) if inputs.grad_y is None else forward_backward


def variants() -> tuple[dict[str, Variant], dict[str, str]]:
    """The variants that can run here, and why the others cannot."""
    plain_eager = Variant(eager, weight_ndim=4, bias_ndim=3)
    plain_baddbmm = Variant(baddbmm, bias_ndim=2)
    fused = Variant(dgcn)
    if why_not := harness.why_not_compiled():
        missing = {"compiled": why_not, "compiled baddbmm": why_not}
        return {"eager": plain_eager, "baddbmm": plain_baddbmm, "dgcn": fused}, missing
    return {
        "eager": plain_eager,
        "compiled": plain_eager.compiled(),
        "baddbmm": plain_baddbmm,
        "compiled baddbmm": plain_baddbmm.compiled(),
        "dgcn": fused,
    }, {}


@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
@pytest.mark.parametrize(("threads", "shape"), CASES, ids=CASE_IDS)
def test_graph_conv(
    benchmark: BenchmarkFixture, threads: int, shape: tuple[int, int, int, int], direction: str
) -> None:
    benchmark.group = f"graph_conv, {direction}, float32, {threads} thread{'s' if threads > 1 else ''}"
    benchmark.extra_info.update(case=str(list(shape)), direction=direction, dtype="float32", threads=threads)
    torch.manual_seed(0)
    inputs = Inputs.random(shape, backward=direction == "forward+backward")
    torch.compiler.reset()
    present, missing = variants()
    with harness.num_threads(threads):
        check(present, inputs)
        calls = {name: variant.bind(inputs) for name, variant in present.items()}
        harness.interleave(benchmark, calls, baselines=("baddbmm", "eager"), missing=missing)


def check(present: dict[str, Variant], inputs: Inputs) -> None:
    """Raise AssertionError unless every variant computes what the reference does, drawing a new graph each time."""
    # Edges of probability 0 and 1 leave nothing to chance: all variants draw this very graph.
    fixed = replace(inputs, adjacency=torch.bernoulli(inputs.adjacency))
    if inputs.grad_y is not None:  # no gradient where rounding decides whether ReLU lets it through
        exact = fixed.double()
        argument = reference.graph_conv(
            exact.x, exact.edge_weight, exact.adjacency, exact.weight, exact.bias, activation="none"
        )
        fixed = replace(fixed, grad_y=inputs.grad_y * (argument.abs() > 1e-4))
    expected = Variant(specification).bind(fixed.double())()
    for name, variant in present.items():
        actual = variant.bind(fixed)()
        for what, wanted, got in zip(("y", "grad x", "grad W_d", "grad W", "grad b"), expected, actual, strict=False):
            error = ((got.flatten() - wanted.flatten()).norm() / wanted.norm()).item()
            assert error < TOLERANCE, f"{name}: {what} is off by {error:.1e} of its norm"
        call = variant.bind(inputs)
        assert not torch.equal(call()[0], call()[0]), f"{name} draws the same graph twice"


if __name__ == "__main__":
    raise SystemExit(harness.main(__file__))
