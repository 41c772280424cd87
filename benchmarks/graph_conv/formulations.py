"""The formulations of the graph convolution that the benchmarks compare, and their common task.

y = ReLU(X W' S + b), S = row_softmax(W_d ⊙ A_d), with A_d ~ Bernoulli(A) drawn anew by each call (Eq. 4, 7, 8):

    eager              operation by operation, as the paper writes it
    compiled           the same under torch.compile
    baddbmm            W·S folded into one K×K matrix first: the best plain PyTorch
    compiled baddbmm   the same under torch.compile
    dgcn               dgcn_ext.functional.graph_conv, its seed from torch's generator as in DGCMFused

"forward" runs without autograd; "forward+backward" takes the gradients of x, W_d, W and b. Each formulation gets its
parameters in the shapes that suit it best. Before they are timed, all must agree with dgcn_ext.reference in float64.

Legend: B images, K nodes, H×W positions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from benchmarks import machine
from benchmarks.harness import captured
from dgcn_ext import functional, reference

Shape = tuple[int, int, int, int]  # B, K, H, W


def shape_id(shape: Shape) -> str:
    """The name of a case, as pytest's option -k takes it."""
    return "x".join(map(str, shape))


# On a GPU: in a step of training, and so large (x: 282 MB) that only memory bandwidth counts.
TRAINING_SHAPE = (8, 17, 81, 81)
LARGE_SHAPES = {torch.float32: (160, 17, 161, 161), torch.bfloat16: (320, 17, 161, 161)}

DIRECTIONS = ("forward", "forward+backward")
# Norm of the difference from the reference, relative to the norm of the reference.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


def eager(x: Tensor, adjacency: Tensor, edge_weight: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    s = torch.softmax(edge_weight * torch.bernoulli(adjacency), dim=-1)
    return torch.einsum("bihw,ij->bjhw", conv2d(x, weight), s).add_(bias).relu_()


def baddbmm(x: Tensor, adjacency: Tensor, edge_weight: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    s = torch.softmax(edge_weight * torch.bernoulli(adjacency), dim=-1)
    folded = (s.T @ weight).expand(len(x), -1, -1)
    return torch.baddbmm(bias, folded, x.flatten(2)).relu_().view_as(x)


def dgcn(x: Tensor, adjacency: Tensor, edge_weight: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    seed = torch.randint(2**63 - 1, (), device=x.device)
    return functional.graph_conv(x, edge_weight, adjacency, weight, bias, seed=seed)


def specification(x: Tensor, adjacency: Tensor, edge_weight: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return reference.graph_conv(x, edge_weight, adjacency, weight, bias)


@dataclass(frozen=True)
class Inputs:
    x: Tensor  # [B, K, H, W]
    adjacency: Tensor  # [K, K]
    edge_weight: Tensor  # [K, K]
    weight: Tensor  # [K, K]
    bias: Tensor  # [K]
    grad_y: Tensor | None  # [B, K, H, W]; None: forward only

    @classmethod
    def random(
        cls,
        shape: Shape,
        direction: str,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> "Inputs":
        """The same values at each call. x and grad_y get the dtype and the format, the parameters are float32."""
        torch.manual_seed(0)
        k = shape[1]

        def features() -> Tensor:
            return torch.randn(shape).to(dtype=dtype, memory_format=memory_format)

        with torch.device(device):
            return cls(
                x=features(),
                adjacency=torch.rand(k, k),
                edge_weight=torch.randn(k, k),
                weight=torch.randn(k, k) / k**0.5,
                bias=torch.randn(k),
                grad_y=features() if direction == "forward+backward" else None,
            )

    def double(self) -> "Inputs":
        return replace(self, **{name: value.double() for name, value in vars(self).items() if value is not None})


@dataclass(frozen=True)
class Formulation:
    """One way to compute y.

    Attributes:
        graph_conv: x, A, W_d, W, b -> y.
        weight_ndim, bias_ndim: number of dimensions of W and b; trailing ones are added to [K, K] and [K].
        cuda_graph: the call is captured once and replayed.
    """

    graph_conv: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    weight_ndim: int = 2
    bias_ndim: int = 1
    cuda_graph: bool = False

    def compiled(self, dynamic: bool = False) -> "Formulation":
        return replace(self, graph_conv=torch.compile(self.graph_conv, fullgraph=True, dynamic=dynamic))

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

        call = (lambda: (forward(),)) if inputs.grad_y is None else forward_backward
        return captured(call) if self.cuda_graph else call


def formulations(device: str = "cpu", dynamic: bool = False) -> tuple[dict[str, Formulation], dict[str, str]]:
    """The formulations that can run here, and why the others cannot. ``dynamic``: compiled once for all sizes."""
    torch.compiler.reset()
    all_of_them = {
        "eager": (plain_eager := Formulation(eager, weight_ndim=4, bias_ndim=3)),
        "compiled": plain_eager.compiled(dynamic),
        "baddbmm": (plain_baddbmm := Formulation(baddbmm, bias_ndim=2)),
        "compiled baddbmm": plain_baddbmm.compiled(dynamic),
        "dgcn": Formulation(dgcn),
    }
    why_not = machine.why_not_compiled(device)
    missing = {name: why_not for name in all_of_them if name.startswith("compiled") and why_not}
    return {name: one for name, one in all_of_them.items() if name not in missing}, missing


def check(present: Mapping[str, Formulation], inputs: Inputs) -> None:
    """Raise AssertionError unless every formulation computes what the reference does, drawing a new graph each time."""
    # Edges of probability 0 and 1 leave nothing to chance: all formulations draw this very graph.
    fixed = replace(inputs, adjacency=torch.bernoulli(inputs.adjacency))
    if inputs.grad_y is not None:  # no gradient where rounding decides whether ReLU lets it through
        exact = fixed.double()
        argument = reference.graph_conv(
            exact.x, exact.edge_weight, exact.adjacency, exact.weight, exact.bias, activation="none"
        )
        fixed = replace(fixed, grad_y=inputs.grad_y * (argument.abs() > 1e-4))
    tolerance = TOLERANCE[inputs.x.dtype]
    expected = Formulation(specification).bind(fixed.double())()
    for name, formulation in present.items():
        actual = formulation.bind(fixed)()
        for what, wanted, got in zip(("y", "grad x", "grad W_d", "grad W", "grad b"), expected, actual, strict=False):
            error = ((got.flatten() - wanted.flatten()).norm() / wanted.norm()).item()
            assert error < tolerance, f"{name}: {what} is off by {error:.1e} of its norm"
        call = formulation.bind(inputs)
        assert not torch.equal(call()[0].clone(), call()[0]), f"{name} draws the same graph twice"


def flops(shape: Shape, direction: str) -> int:
    """Useful floating-point operations: 2·K² per position for y, for the gradient of x, and for that of W·S."""
    b, k, h, w = shape
    return (1 if direction == "forward" else 3) * 2 * k * k * b * h * w


def bytes_moved(shape: Shape, direction: str, dtype: torch.dtype = torch.float32) -> int:
    """Bytes that any implementation moves: forward reads x, writes y; backward reads x, grad_y, writes grad_x."""
    b, k, h, w = shape
    return (2 if direction == "forward" else 5) * b * k * h * w * dtype.itemsize
