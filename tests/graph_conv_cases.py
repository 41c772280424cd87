"""``graph_conv`` for op_contract.py: arguments, layouts, tolerances and the comparison with the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import Any

import numpy as np
import torch
from op_contract import Call, OpContract, Vmap, accumulation_dtype, differentiate
from torch import Tensor

from dgcn_ext import functional, ops, reference

# Per dtype of x: relative and absolute tolerance between two results. The features are of order one.
FEATURE_TOLERANCE = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.float32: {"rtol": 2e-5, "atol": 2e-5},
    torch.bfloat16: {"rtol": 8e-3, "atol": 1e-4},
    torch.float16: {"rtol": 1e-3, "atol": 1e-4},
}
# Against float64: a result is rounded once, to the nearest number (2⁻⁸ and 2⁻¹¹). Truncating costs up to twice as much.
ROUNDED_ONCE = FEATURE_TOLERANCE | {
    torch.bfloat16: {"rtol": 5e-3, "atol": 1e-4},
    torch.float16: {"rtol": 6e-4, "atol": 1e-4},
}
# Gradients of parameters are sums over the batch, held in the accumulation dtype: relative to the largest one.
PARAMETER_TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-5, torch.float16: 2e-5}

FORMATS = [torch.contiguous_format, torch.channels_last]
OPTIONAL = ("weight", "bias", "residual")
DRAWS = {
    "as given": {},
    "drawn": {"seed": -5},
    "per sample": {"seed": 2**40 + 3, "per_sample": True, "first_sample": 2**31 + 5},
}


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "sliced": lambda x: x.repeat_interleave(2, 2).repeat(1, 1, 1, 2)[:, :, ::2, : x.shape[3]],
    "transposed": lambda x: x.mT.contiguous().mT,
    "expanded over images": lambda x: x[:1].expand(x.shape),
    "expanded over pixels": lambda x: x[:, :, :1, :1].expand(x.shape),
    "nodes reversed in memory": lambda x: x.flip(1).movedim(1, 0).contiguous().movedim(0, 1),
    "unaligned": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
}


def make_inputs(
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    memory_format: torch.memory_format = torch.contiguous_format,
    optional: tuple[str, ...] = OPTIONAL,
    random_seed: int | None = None,
) -> dict[str, Tensor]:
    """Tensor arguments of order one; the adjacency holds zeros, ones, an empty row and values between."""
    num_nodes = shape[1]
    generator = torch.Generator().manual_seed(sum(shape) if random_seed is None else random_seed)
    accumulation = accumulation_dtype(dtype)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    adjacency = (1.5 * torch.rand(num_nodes, num_nodes, generator=generator) - 0.25).clamp(0, 1)
    adjacency[num_nodes // 2] = 0
    features = {"x": normal(*shape), "residual": normal(*shape)}
    parameters = {
        "edge_weight": 2 * normal(num_nodes, num_nodes),
        "adjacency": adjacency,
        "weight": normal(num_nodes, num_nodes) / num_nodes**0.5,
        "bias": normal(num_nodes),
    }
    inputs = {name: value.to(device, dtype, memory_format=memory_format) for name, value in features.items()}
    inputs |= {name: value.to(device, accumulation) for name, value in parameters.items()}
    return {name: value for name, value in inputs.items() if name not in OPTIONAL or name in optional}


def options_on(device: torch.device | str, **options: Any) -> dict[str, Any]:
    if "seed" in options:
        options["seed"] = torch.tensor(options["seed"], device=device)
    return options


def make_grad_y(inputs: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
    """Random, in the layout of x, and zero where x is too near the kink of ReLU to tell which side it is on."""
    wide = {name: value.double() for name, value in inputs.items() if name != "residual"}
    distance = reference.graph_conv(**wide, **(options | {"activation": "none"})).abs()
    x = inputs["x"]
    grad_y = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(x.device)
    return (grad_y * (distance > 1e-4)).to(x.dtype).to(memory_format=suggested_format(x))


def suggested_format(x: Tensor) -> torch.memory_format:
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last


def check_against_reference(inputs: dict[str, Tensor], options: dict[str, Any], grad_y: Tensor | None = None) -> None:
    x = inputs["x"]
    grad_y = make_grad_y(inputs, options) if grad_y is None else grad_y
    y, gradients = differentiate(functional.graph_conv, inputs, options, grad_y)
    wide = {name: value.double() for name, value in inputs.items()}
    expected_y, expected_gradients = differentiate(reference.graph_conv, wide, options, grad_y.double())

    assert y.dtype == x.dtype
    torch.testing.assert_close(y.double(), expected_y, equal_nan=True, **ROUNDED_ONCE[x.dtype])
    for name, gradient in gradients.items():
        expected = expected_gradients[name]
        if name in ("x", "residual"):
            tolerance = ROUNDED_ONCE[x.dtype]
        elif expected.numel():
            scale = max(expected.nan_to_num().abs().max().item(), 1.0)
            tolerance = {"rtol": 0.0, "atol": PARAMETER_TOLERANCE[x.dtype] * scale}
        else:
            continue
        torch.testing.assert_close(gradient.double(), expected, equal_nan=True, **tolerance, msg=in_context(name))


def in_context(name: str) -> Any:
    return lambda message: f"gradient of {name}: {message}"


# Arguments that replace good ones, the error, its message, and whether torch.compile is tried as well.
BAD_INPUT: list[tuple[Any, ...]] = [
    ({"x": [1.0]}, TypeError, "x must be a tensor, got list"),
    ({"x": torch.ones(2, 17, 5)}, ValueError, r"x must have shape \[B, K, H, W\].*got \[2, 17, 5\]"),
    ({"x": torch.ones(2, 0, 5, 7)}, ValueError, r"x must have shape \[B, K, H, W\] with K >= 1, got \[2, 0, 5, 7\]"),
    ({"x": torch.ones(2, 17, 5, 7).int()}, TypeError, "x must be float64, float32, bfloat16 or float16.*int32"),
    ({"x": torch.ones(2, 17, 5, 7, dtype=torch.complex64)}, TypeError, "x must be float64.*complex64"),
    ({"edge_weight": None}, TypeError, "edge_weight must be a tensor, got NoneType"),
    ({"edge_weight": torch.ones(17, 16)}, ValueError, r"edge_weight must have shape \[17, 17\], got \[17, 16\]"),
    ({"edge_weight": torch.ones(17, 17).long()}, TypeError, "edge_weight must have a floating dtype.*int64"),
    ({"adjacency": torch.ones(14, 14)}, ValueError, r"adjacency must have shape \[17, 17\], got \[14, 14\]"),
    ({"adjacency": torch.ones(17, 17).bool()}, TypeError, "adjacency must have a floating dtype.*bool"),
    ({"adjacency": torch.ones(17, 17, requires_grad=True)}, ValueError, "adjacency must not require a gradient"),
    ({"adjacency": torch.full((17, 17), -0.1)}, RuntimeError, "adjacency"),
    ({"adjacency": torch.full((17, 17), 1.1)}, RuntimeError, "adjacency"),
    ({"adjacency": torch.full((17, 17), torch.nan)}, RuntimeError, "adjacency"),
    (
        {"weight": torch.ones(17, 17, 1, 1)},
        ValueError,
        r"weight must have shape \[17, 17\], got \[17, 17, 1, 1\]",
        True,
    ),
    ({"bias": torch.ones(1)}, ValueError, r"bias must have shape \[17\], got \[1\]"),
    ({"bias": torch.ones(17, device="meta")}, ValueError, "bias must be on cpu, where x is.*meta"),
    ({"residual": torch.ones(1, 17, 5, 7)}, ValueError, r"residual must have shape \[2, 17, 5, 7\]"),
    ({"residual": torch.ones(2, 17, 5, 7).int()}, TypeError, "residual must have the dtype of x.*int32"),
    ({"residual": torch.ones(2, 17, 5, 7).double()}, TypeError, "residual must have the dtype of x.*float64"),
    ({"residual": 0}, TypeError, "residual must be a tensor, got int", True),
    ({"seed": 3}, TypeError, "seed must be a 0-dim int64 tensor.*got int", True),
    ({"seed": torch.tensor(3, dtype=torch.int32)}, TypeError, "seed must be int64, got torch.int32"),
    ({"seed": torch.tensor([3])}, ValueError, r"seed must be 0-dim, got shape \[1\]"),
    ({"seed": torch.tensor(3, device="meta")}, ValueError, "seed must be on cpu"),
    ({"seed": True}, TypeError, "seed must be a 0-dim int64 tensor.*got bool"),
    ({"seed": torch.tensor(3.0)}, TypeError, "seed must be int64, got torch.float32"),
    ({"per_sample": "no"}, TypeError, "per_sample must be True or False, got 'no'", True),
    ({"per_sample": 1}, TypeError, "per_sample must be True or False, got 1"),
    ({"per_sample": None}, TypeError, "per_sample must be True or False, got NoneType"),
    ({"first_sample": -1}, ValueError, r"first_sample must be in \[0, 2\*\*32 - 1\], got -1"),
    (
        {"first_sample": 2**32 - 1, "per_sample": True, "seed": torch.tensor(3)},
        ValueError,
        r"first_sample must be in \[0, 2\*\*32 - 2\], got 4294967295",
    ),
    ({"first_sample": 1.0}, TypeError, r"first_sample must be an integer, got 1\.0", True),
    ({"first_sample": True}, TypeError, "first_sample must be an integer, got True"),
    ({"semantics": ["literal"]}, ValueError, r"semantics must be 'literal' or 'mask', got \['literal'\]", True),
    ({"activation": None}, ValueError, "activation must be 'relu' or 'none', got None"),
    ({"x": np.ones((2, 17, 5, 7))}, TypeError, "x must be a tensor, got ndarray", True),
    ({"adjacency": [[1.0]]}, TypeError, "adjacency must be a tensor, got list", True),
    ({"x": torch.ones(2, 17, 5, 7).to_sparse()}, TypeError, "x must be a dense tensor, got .* torch.sparse_coo"),
    ({"bias": torch.ones(17).to_sparse()}, TypeError, "bias must be a dense tensor, got .* torch.sparse_coo"),
    ({"semantics": "soft"}, ValueError, "semantics must be 'literal' or 'mask', got 'soft'"),
    ({"aggregate": "sum"}, ValueError, "aggregate must be 'source' or 'target', got 'sum'"),
    ({"activation": "gelu"}, ValueError, "activation must be 'relu' or 'none', got 'gelu'"),
]


class GraphConvContract(OpContract):
    function = staticmethod(functional.graph_conv)
    reference = staticmethod(reference.graph_conv)
    overload = ops.graph_conv_forward
    differentiable = ("x", "residual", "edge_weight", "weight", "bias")
    features = per_image = ("x", "residual")
    shape = (2, 17, 5, 7)
    layouts = LAYOUTS
    bad_input = BAD_INPUT
    vmaps = (
        Vmap(("x",)),
        Vmap(("x",), {"per_sample": True, "first_sample": 4}),  # the n-th image of every element gets the n-th draw
        Vmap(("residual",)),
        Vmap(("weight", "bias")),
        Vmap(("seed",), {"per_sample": True}),
        Vmap(("x", "residual", "edge_weight", "adjacency", "weight", "bias", "seed"), {"per_sample": True}),
    )

    def raw(
        self,
        x: Tensor,
        edge_weight: Tensor,
        adjacency: Tensor,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        seed: Tensor | None = None,
        per_sample: bool = False,
        **first_sample: int,
    ) -> Tensor:
        tensors = (x, edge_weight, adjacency, weight, bias, residual, seed)
        return self.overload(*tensors, per_sample, False, False, True, **first_sample)

    def sample(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Call:
        return Call(make_inputs(shape, dtype, device))

    def samples(self, dtype: torch.dtype, device: torch.device) -> dict[str, Callable[[], Iterable[Call]]]:
        def call(
            shape: tuple[int, ...],
            memory_format: torch.memory_format = torch.contiguous_format,
            optional: tuple[str, ...] = OPTIONAL,
            **options: Any,
        ) -> Call:
            inputs = make_inputs(shape, dtype, device, memory_format, optional)
            return Call(inputs, options_on(device, **options))

        def empty() -> Iterator[Call]:
            for shape, draw in product(((0, 17, 5, 7), (2, 17, 0, 7), (2, 17, 5, 0), (0, 1, 0, 0)), DRAWS):
                yield call(shape, **DRAWS[draw])

        def matrices(draw: str) -> Iterator[Call]:
            """How the K×K matrix is made: independent of the features."""
            for semantics, aggregate, optional in product(("literal", "mask"), ("source", "target"), ((), OPTIONAL)):
                options = DRAWS[draw] | {"semantics": semantics, "aggregate": aggregate}
                yield call((3, 17, 5, 7), optional=optional, **options)

        def features(activation: str) -> Iterator[Call]:
            """What is done with the features: independent of how the matrix was made."""
            for memory_format, *optional in product(FORMATS, *((name, "") for name in OPTIONAL)):
                yield call((2, 14, 3, 5), memory_format, tuple(optional), activation=activation)

        def sizes(num_nodes: int) -> Iterator[Call]:
            """Every remainder of a vector, of a block of registers and of a tile."""
            large = (41, 41) if num_nodes < 100 else (23, 29)
            for memory_format in FORMATS:
                for batch, height, width in [(1, 1, 1), (3, 13, 11), (1, *large), (70, 3, 2)]:
                    yield call((batch, num_nodes, height, width), memory_format, seed=9, per_sample=batch == 3)

        def widths() -> Iterator[Call]:
            for memory_format in FORMATS:
                for width in range(1, 71, 1 if dtype == torch.float32 else 3):
                    yield call((2, 17, 1, width), memory_format)

        return (
            {"empty": empty}
            | {f"matrix {draw}": lambda draw=draw: matrices(draw) for draw in DRAWS}
            | {f"activation {name}": lambda name=name: features(name) for name in ("relu", "none")}
            | {f"K = {number}": lambda number=number: sizes(number) for number in (1, 2, 14, 17, 19, 133)}
            | {"widths": widths}
        )

    def large(self, device: torch.device) -> Call:
        return Call(make_inputs((5, 17, 41, 43), device=device), options_on(device, seed=1, per_sample=True))

    def small(self, seed: int = 0) -> Call:
        inputs = make_inputs((2, 4, 2, 3), torch.float64, random_seed=seed)
        order = ("x", "edge_weight", "adjacency", "weight", "bias", "residual")
        return Call({name: inputs[name] for name in order} | {"seed": torch.tensor(seed + 7)})

    def gradchecks(self) -> Iterable[Call]:
        for draw, semantics, aggregate in product(DRAWS, ("literal", "mask"), ("source", "target")):
            options = options_on("cpu", semantics=semantics, aggregate=aggregate, **DRAWS[draw])
            yield Call(make_inputs((2, 5, 2, 3), torch.float64), options)

    def opchecks(self, device: torch.device) -> Iterable[tuple[Any, tuple[Any, ...]]]:
        for optional, memory_format in zip(((), OPTIONAL), FORMATS, strict=True):
            inputs = make_inputs((2, 5, 3, 4), torch.float32, device, memory_format, optional)
            seed = torch.tensor(3, device=device) if optional else None
            x, edge_weight, adjacency = inputs["x"], inputs["edge_weight"], inputs["adjacency"]
            weight, bias, residual = (inputs.get(name) for name in OPTIONAL)
            flags = (seed is not None, False, True, True)
            first_sample = () if seed is None else (4,)
            arguments = (x, edge_weight, adjacency, weight, bias, residual, seed, *flags, *first_sample)
            if device.type == "cuda":
                gated = (x, edge_weight, adjacency, weight, bias, residual, seed, *flags[:-1], *first_sample)
                yield ops.graph_conv_forward_gate, gated
                _, gate = ops.graph_conv_forward_gate(*gated)
            else:
                gate = None if residual is not None else ops.graph_conv_forward(*arguments)
            for needs in [(True, True), (False, True), (True, False)] if optional else [(True, True)]:
                rest = (*flags, *needs, *first_sample)
                yield ops.graph_conv_backward, (x, x, gate, edge_weight, adjacency, weight, bias, seed, *rest)
            yield ops.graph_conv_forward, arguments
            for name in inputs.keys() - {"adjacency"}:
                inputs[name].requires_grad_()
            yield ops.graph_conv_forward, arguments

    def compiled_calls(self) -> Iterable[tuple[Call, ...]]:
        for options in (
            {"seed": 3, "per_sample": True},
            {"semantics": "mask", "aggregate": "target", "activation": "none"},
        ):
            yield tuple(
                Call(make_inputs(shape, memory_format=torch.channels_last), options_on("cpu", **options))
                for shape in [(2, 17, 5, 7), (3, 17, 9, 4)]
            )

    def make_grad_y(self, call: Call) -> Tensor:
        return make_grad_y(call.tensors, call.options)

    def check(self, call: Call, grad_y: Tensor | None = None) -> None:
        check_against_reference(call.tensors, call.options, grad_y)
