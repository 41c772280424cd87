"""``relu_affinity`` for op_contract.py: arguments, layouts, tolerances and the comparison with the dense form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from op_contract import Call, OpContract, Vmap, accumulation_dtype
from op_contract import differentiate as differentiate_call
from torch import Tensor

from dgcn_ext import functional, ops, reference

# Sums are held in float64 and rounded once, to the dtype of the result: half a unit in its last place. Besides, they
# may be off by so much of the sum of their terms' magnitudes.
ROUNDING = {torch.float64: 0.0, torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
OF_MAGNITUDES = 1e-13
SMALLEST = {torch.float64: 0.0, torch.float32: 1e-38, torch.bfloat16: 1e-38, torch.float16: 2.0**-25}


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


def make_inputs(
    shape: tuple[int, int, int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Inputs:
    """Of order one; half of the pairs pass ReLU. In the first image many keys are equal and many pairs on its kink."""
    generator = torch.Generator().manual_seed(sum(shape))
    batch, _, positions = shape
    a, b = torch.randn(2, batch, positions, generator=generator, dtype=torch.float64)
    a[:1], b[:1] = a[:1].mul(4).round() / 4, b[:1].mul(4).round() / 4
    g, grad_y = torch.randn(2, *shape, generator=generator, dtype=torch.float64).to(dtype)
    keys = (key.to(device, accumulation_dtype(dtype)) for key in (a, b))
    return Inputs(*keys, g.to(device), grad_y.to(device))


def differentiate(function: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: Inputs) -> Results:
    y, gradients = differentiate_call(function, dict(zip("abg", inputs[:3], strict=True)), {}, inputs.grad_y)
    return Results(y, *gradients.values())


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


# Arguments that replace good ones, the error, its message, and whether torch.compile is tried as well.
BAD_INPUT: list[tuple[Any, ...]] = [
    ({"g": [1.0]}, TypeError, "g must be a tensor, got list"),
    ({"g": torch.ones(2, 3, 4, 5)}, ValueError, r"g must have shape \[B, C, N\], got \[2, 3, 4, 5\]"),
    ({"g": torch.ones(3, 43, 150).int()}, TypeError, "g must be float64, float32, bfloat16 or float16.*int32"),
    ({"g": torch.ones(3, 43, 150, dtype=torch.complex64)}, TypeError, "g must be float64.*complex64"),
    ({"g": torch.ones(3, 43, 150).to_sparse()}, TypeError, "g must be a dense tensor, got .* torch.sparse_coo"),
    ({"a": torch.ones(3, 150).to_sparse()}, TypeError, "a must be a dense tensor, got .* torch.sparse_coo"),
    ({"a": np.ones((3, 150))}, TypeError, "a must be a tensor, got ndarray", True),
    ({"a": None}, TypeError, "a must be a tensor, got NoneType"),
    ({"a": torch.ones(3, 150).long()}, TypeError, "a must have a floating dtype.*int64"),
    ({"a": torch.ones(3, 149)}, ValueError, r"a must have shape \[3, 150\], got \[3, 149\]", True),
    ({"a": torch.ones(1, 150)}, ValueError, r"a must have shape \[3, 150\], got \[1, 150\]"),
    ({"b": 0.0}, TypeError, "b must be a tensor, got float"),
    ({"b": torch.ones(3, 1, 150)}, ValueError, r"b must have shape \[3, 150\], got \[3, 1, 150\]"),
    ({"b": torch.ones(3, 150, device="meta")}, ValueError, "b must be on cpu, where g is.*meta"),
]


class ReluAffinityContract(OpContract):
    function = staticmethod(functional.relu_affinity)
    reference = staticmethod(reference.relu_affinity)
    overload = ops.relu_affinity_forward
    raw = staticmethod(ops.relu_affinity_forward)
    differentiable = ("a", "b", "g")
    features = ("g",)
    per_image = ("a", "b", "g")
    shape = (3, 43, 150)
    layouts = LAYOUTS
    bad_input = BAD_INPUT
    vmaps = (Vmap(("a",)), Vmap(("g",)), Vmap(("a", "b", "g")))

    def sample(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Call:
        a, b, g, _ = make_inputs(shape, dtype, device)
        return Call({"a": a, "b": b, "g": g})

    def samples(self, dtype: torch.dtype, device: torch.device) -> dict[str, Callable[[], Iterable[Call]]]:
        def sizes(channels: int) -> Iterator[Call]:
            """Every remainder of a block of channels, and of a tile of positions."""
            for batch, positions in [(1, 1), (2, 2), (3, 9), (1, 127), (2, 128), (2, 301)]:
                yield self.sample((batch, channels, positions), dtype, device)

        def empty() -> Iterator[Call]:
            for shape in ((0, 5, 7), (2, 0, 7), (2, 5, 0), (0, 0, 0)):
                yield self.sample(shape, dtype, device)

        def nan() -> Iterator[Call]:
            for name in ("a", "b", "g"):
                for sign in (1, -1):
                    call = self.sample((3, 20, 150), dtype, device)
                    call.tensors[name][1, ..., 70] = sign * torch.nan
                    yield call

        return {"empty": empty, "nan": nan} | {
            f"C = {number}": lambda number=number: sizes(number) for number in (1, 2, 7, 8, 9, 15, 16, 17, 40, 128)
        }

    def large(self, device: torch.device) -> Call:
        return self.sample((2, 130, 4001), torch.float32, device)

    def small(self, seed: int = 0) -> Call:
        generator = torch.Generator().manual_seed(seed)
        a, b, g = (torch.randn(s, generator=generator, dtype=torch.float64) for s in [(2, 6), (2, 6), (2, 3, 6)])
        return Call({"a": a, "b": b, "g": g})

    def gradchecks(self) -> Iterable[Call]:
        """The keys a_i + b_j of all pairs are at least 0.02 from the kink."""
        a = torch.tensor([[0.1, -1.4, 1.3, 0.5, -0.3], [2.1, 1.2, -0.6, -0.8, 0.0]], dtype=torch.float64)
        b = torch.tensor([[0.05, 1.12, -0.73, 0.42, -2.2], [-1.15, 0.33, 0.33, 0.95, -0.04]], dtype=torch.float64)
        assert (a[:, :, None] + b[:, None, :]).abs().min() > 0.02
        for layout in ("neighbouring channels", "sliced"):
            yield Call({"a": a.clone(), "b": b.clone(), "g": LAYOUTS[layout](make_inputs((2, 3, 5), torch.float64).g)})

    def opchecks(self, device: torch.device) -> Iterable[tuple[Any, tuple[Any, ...]]]:
        for layout in ("neighbouring channels", "sliced"):
            a, b, g, grad_y = make_inputs((2, 5, 12), device=device)
            g = LAYOUTS[layout](g)
            yield ops.relu_affinity_forward, (a, b, g)
            yield ops.relu_affinity_forward, tuple(value.clone().requires_grad_() for value in (a, b, g))
            for needs in [(True, True), (False, True), (True, False)]:
                yield ops.relu_affinity_backward, (grad_y, a, b, g, *needs)

    def compiled_calls(self) -> Iterable[tuple[Call, ...]]:
        calls = [self.sample(shape, torch.float32, torch.device("cpu")) for shape in [(2, 20, 50), (3, 20, 77)]]
        yield tuple(call.replaced(g=LAYOUTS["neighbouring channels"](call.tensors["g"])) for call in calls)

    def check(self, call: Call, grad_y: Tensor | None = None) -> None:
        check_against_dense(Inputs(**call.tensors, grad_y=self.make_grad_y(call) if grad_y is None else grad_y))
