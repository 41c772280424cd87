"""What the tests of ``graph_conv`` share: arguments, layouts, tolerances and the comparison with the reference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dgcn_ext import functional, reference

# Per dtype of x: relative and absolute tolerance. The features are of order one, and the result is rounded once.
FEATURE_TOLERANCE = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.float32: {"rtol": 2e-5, "atol": 2e-5},
    torch.bfloat16: {"rtol": 8e-3, "atol": 1e-4},
    torch.float16: {"rtol": 1e-3, "atol": 1e-4},
}
# Gradients of parameters are sums over the batch, held in the accumulation dtype: relative to the largest one.
PARAMETER_TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-5, torch.float16: 2e-5}

FORMATS = [torch.contiguous_format, torch.channels_last]
DTYPES = list(FEATURE_TOLERANCE)
OPTIONAL = ("weight", "bias", "residual")
DRAWS = {"as given": {}, "drawn": {"seed": -5}, "per sample": {"seed": 2**40 + 3, "per_sample": True}}


STRIDED = {
    "sliced": lambda x: x.repeat_interleave(2, 2).repeat(1, 1, 1, 2)[:, :, ::2, : x.shape[3]],
    "transposed": lambda x: x.mT.contiguous().mT,
    "expanded over images": lambda x: x[:1].expand(x.shape),
    "expanded over pixels": lambda x: x[:, :, :1, :1].expand(x.shape),
    "nodes reversed in memory": lambda x: x.flip(1).movedim(1, 0).contiguous().movedim(0, 1),
    "unaligned": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
}


def make_inputs(
    shape: tuple[int, int, int, int],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    memory_format: torch.memory_format = torch.contiguous_format,
    optional: tuple[str, ...] = OPTIONAL,
) -> dict[str, Tensor]:
    """Tensor arguments of order one; the adjacency holds zeros, ones, an empty row and values between."""
    num_nodes = shape[1]
    generator = torch.Generator().manual_seed(sum(shape))
    accumulation = torch.float64 if dtype == torch.float64 else torch.float32

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


def differentiate(function: Any, inputs: dict[str, Tensor], options: dict[str, Any], grad_y: Tensor) -> Any:
    """y and the gradient of every differentiable input."""
    leaves = {name: value.detach().requires_grad_(name != "adjacency") for name, value in inputs.items()}
    y = function(**leaves, **options)
    y.backward(grad_y)
    return y.detach(), {name: leaf.grad for name, leaf in leaves.items() if name != "adjacency"}


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
    torch.testing.assert_close(y.double(), expected_y, **FEATURE_TOLERANCE[x.dtype])
    for name, gradient in gradients.items():
        expected = expected_gradients[name]
        if name in ("x", "residual"):
            torch.testing.assert_close(gradient.double(), expected, **FEATURE_TOLERANCE[x.dtype], msg=in_context(name))
        elif expected.numel():
            atol = PARAMETER_TOLERANCE[x.dtype] * max(expected.abs().max().item(), 1.0)
            torch.testing.assert_close(gradient.double(), expected, rtol=0, atol=atol, msg=in_context(name))


def in_context(name: str) -> Any:
    return lambda message: f"gradient of {name}: {message}"
