"""``graph_conv``: the contract of the operators, and what is special to this one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from graph_conv_cases import (
    FORMATS,
    OPTIONAL,
    PARAMETER_TOLERANCE,
    GraphConvContract,
    check_against_reference,
    make_grad_y,
    make_inputs,
    options_on,
)
from op_contract import DTYPES, differentiate
from torch import Tensor

from dgcn_ext import functional, reference


class TestContract(GraphConvContract):
    pass


# ---- Values and gradients -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_format_is_kept(device: torch.device, dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    inputs = make_inputs((2, 17, 5, 3), dtype, device, memory_format)
    y, gradients = differentiate(functional.graph_conv, inputs, {}, make_grad_y(inputs, {}))
    assert y.is_contiguous(memory_format=memory_format)
    assert gradients["x"].is_contiguous(memory_format=memory_format)


def test_residual_may_be_x(device: torch.device) -> None:
    inputs = make_inputs((2, 17, 5, 7), torch.float64, device, optional=())
    x = inputs.pop("x").requires_grad_()
    y = functional.graph_conv(x, residual=x, **inputs)
    torch.testing.assert_close(y, functional.graph_conv(x, **inputs) + x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    (expected,) = torch.autograd.grad(reference.graph_conv(x, residual=x, **inputs).sum(), x)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_stays_in_its_pixel(device: torch.device, dtype: torch.dtype) -> None:
    """ReLU passes NaN on, and it reaches no other pixel."""
    inputs = make_inputs((2, 17, 5, 7), dtype, device, optional=("weight", "bias"))
    inputs["x"][1, 4, 2, 3] = torch.nan
    y = functional.graph_conv(**inputs, semantics="literal")
    expected = torch.zeros_like(y, dtype=torch.bool)
    expected[1, :, 2, 3] = True
    assert torch.equal(y.isnan(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("optional", [("weight", "bias"), OPTIONAL])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_nan_passes_its_gradient(
    device: torch.device, memory_format: torch.memory_format, optional: tuple[str, ...], dtype: torch.dtype
) -> None:
    """As through torch.relu, whether NaN comes with x or with a parameter; a residual makes backward recompute it."""
    finite = make_inputs((2, 17, 5, 7), dtype, device, memory_format, optional)
    grad_y = make_grad_y(finite, {})
    for name, place in (("x", (1, 4, 2, 3)), ("bias", (3,))):
        inputs = finite | {name: finite[name].clone()}
        inputs[name][place] = torch.nan
        check_against_reference(inputs, {}, grad_y)


@pytest.mark.parametrize("semantics", ["literal", "mask"])
def test_softmax_does_not_overflow(device: torch.device, semantics: str) -> None:
    inputs = make_inputs((1, 17, 3, 3), device=device)
    inputs["edge_weight"] *= 1e4
    y = functional.graph_conv(**inputs, semantics=semantics)
    wide = {name: value.double() for name, value in inputs.items()}
    torch.testing.assert_close(y.double(), reference.graph_conv(**wide, semantics=semantics), rtol=1e-4, atol=1e-4)


# ---- The graph ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, -(2**63), 1234567890123])
@pytest.mark.parametrize("num_nodes", [1, 2, 14, 17, 133])
def test_graph_is_that_of_sample_adjacency(device: torch.device, num_nodes: int, seed: int, per_sample: bool) -> None:
    """With one-hot pixels the result is S. With "mask" and W_d = 0, S is positive where an edge was drawn."""
    batch = 3
    adjacency = torch.rand(num_nodes, num_nodes, generator=torch.Generator().manual_seed(0)).to(device)
    one_hot = torch.eye(num_nodes, device=device)[:, :, None].expand(batch, -1, -1, 1)  # pixel i shows node i
    options = options_on(device, seed=seed, per_sample=per_sample, semantics="mask")
    s = functional.graph_conv(one_hot, torch.zeros_like(adjacency), adjacency, **options)[..., 0].mT
    drawn = functional.sample_adjacency(adjacency, options["seed"], batch if per_sample else None)
    assert torch.equal(s > 0, drawn.bool().expand_as(s))


def test_seed_may_be_a_view(device: torch.device) -> None:
    seeds = torch.tensor([3, 4, 5, 6], device=device)
    inputs = make_inputs((3, 17, 5, 7), device=device)
    results = []
    for seed in (seeds[3], seeds[3].clone()):
        y, gradients = differentiate(functional.graph_conv, inputs, {"seed": seed, "per_sample": True})
        results.append([y, *gradients.values(), functional.sample_adjacency(inputs["adjacency"], seed)])
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("dtype", DTYPES)
def test_parts_of_a_batch_have_the_graphs_of_the_whole(device: torch.device, dtype: torch.dtype) -> None:
    inputs = make_inputs((5, 17, 9, 7), dtype, device)
    options = options_on(device, seed=3, per_sample=True)
    grad_y = make_grad_y(inputs, options)
    y, gradients = differentiate(functional.graph_conv, inputs, options, grad_y)
    parts = []
    for images in (slice(0, 2), slice(2, 5)):
        part = inputs | {name: inputs[name][images] for name in ("x", "residual")}
        first = options | {"first_sample": images.start}
        parts.append(differentiate(functional.graph_conv, part, first, grad_y[images]))
    assert torch.equal(torch.cat([part[0] for part in parts]), y)
    for name, gradient in gradients.items():
        first, second = (part[1][name] for part in parts)
        if name in ("x", "residual"):
            assert torch.equal(torch.cat([first, second]), gradient)
        else:
            atol = PARAMETER_TOLERANCE[dtype] * max(gradient.abs().max().item(), 1.0)
            torch.testing.assert_close(first + second, gradient, rtol=0, atol=atol)


@pytest.mark.parametrize("function", [functional.graph_conv, reference.graph_conv])
def test_one_draw_for_the_batch_is_the_same_in_its_parts(device: torch.device, function: Callable[..., Tensor]) -> None:
    inputs = make_inputs((2, 17, 5, 7), device=device)
    options = options_on(device, seed=3)
    assert torch.equal(function(**inputs, **options, first_sample=2), function(**inputs, **options))


def test_an_empty_row_gives_zeros_and_no_nan_gradient(device: torch.device) -> None:
    inputs = make_inputs((2, 17, 5, 7), device=device, optional=())
    inputs["adjacency"].zero_()
    ones = torch.ones_like(inputs["x"])
    y, gradients = differentiate(functional.graph_conv, inputs, {"semantics": "mask", "activation": "none"}, ones)
    assert not y.any()
    assert not any(gradient.any() for gradient in gradients.values())


def test_eq8_by_hand() -> None:
    """Two nodes, S = [[¾, ¼], [½, ½]]: "source" multiplies by the columns of S, "target" by its rows."""
    x = torch.tensor([4.0, 8.0]).reshape(1, 2, 1, 1)
    edge_weight = torch.tensor([[3.0, 5.0], [5.0, 5.0]]).log()
    adjacency = torch.tensor([[1.0, 0.0], [1.0, 1.0]])  # ln 3 against the 0 of an absent edge: weights ¾ and ¼
    for function in (functional.graph_conv, reference.graph_conv):
        source = function(x, edge_weight, adjacency).flatten().tolist()
        target = function(x, edge_weight, adjacency, aggregate="target").flatten().tolist()
        assert source == pytest.approx([4 * 0.75 + 8 * 0.5, 4 * 0.25 + 8 * 0.5])
        assert target == pytest.approx([4 * 0.75 + 8 * 0.25, 4 * 0.5 + 8 * 0.5])


# ---- Determinism and threads ----------------------------------------------------------------------------------------


def test_concurrent_calls_do_not_interfere() -> None:
    cases = [make_inputs((2, num_nodes, 9, 11)) for num_nodes in (2, 14, 17, 19) for _ in range(8)]
    expected = [functional.graph_conv(**inputs) for inputs in cases]
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda inputs: functional.graph_conv(**inputs), cases)
    assert all(torch.equal(result, y) for result, y in zip(results, expected, strict=True))


# ---- Autograd and torch.compile --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "optional", "kept"),
    [
        ({}, (), True),
        ({"activation": "none"}, (), False),
        ({}, ("residual",), False),  # backward computes it again
    ],
)
def test_y_is_saved_for_backward_only_as_the_gate_of_relu(
    options: dict[str, str], optional: tuple[str, ...], kept: bool
) -> None:
    inputs = make_inputs((2, 17, 5, 7), optional=optional)
    inputs["x"].requires_grad_()
    packed = []

    def pack(tensor: Tensor) -> Tensor:
        packed.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = functional.graph_conv(**inputs, **options)
    assert inputs["x"].data_ptr() in packed
    assert (y.data_ptr() in packed) == kept


def test_compile_with_x_as_residual() -> None:
    torch.compiler.reset()
    inputs = make_inputs((2, 17, 5, 7), optional=())
    x = inputs.pop("x").requires_grad_()
    compiled = torch.compile(lambda x: functional.graph_conv(x, residual=x, **inputs), fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), functional.graph_conv(x, residual=x, **inputs))
