"""``graph_conv`` as a citizen of torch: autograd, opcheck, torch.compile, autocast, fake tensors, and bad input."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo
from graph_conv_cases import (
    DRAWS,
    FORMATS,
    OPTIONAL,
    STRIDED,
    differentiate,
    make_grad_y,
    make_inputs,
    options_on,
)
from torch import Tensor
from torch.autograd import forward_ad

from dgcn_ext import functional, ops


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


# ---- Autograd, compilation, dispatch --------------------------------------------------------------------------------


@pytest.mark.parametrize("optional", [(), OPTIONAL], ids=["bare", "full"])
@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("aggregate", ["source", "target"])
@pytest.mark.parametrize("semantics", ["literal", "mask"])
def test_gradcheck(device: torch.device, semantics: str, aggregate: str, draw: str, optional: tuple[str, ...]) -> None:
    inputs = make_inputs((2, 5, 2, 3), torch.float64, device, optional=optional)
    options = options_on(device, semantics=semantics, aggregate=aggregate, **DRAWS[draw])
    names = [name for name in inputs if name != "adjacency"]

    def function(*values: Tensor) -> Tensor:
        arguments = dict(zip(names, values, strict=True))
        return functional.graph_conv(adjacency=inputs["adjacency"], **arguments, **options)

    assert torch.autograd.gradcheck(function, [inputs[name].requires_grad_() for name in names])


@pytest.mark.parametrize("only", ["x", "edge_weight", "weight", "bias", "residual"])
def test_each_gradient_alone(device: torch.device, only: str) -> None:
    inputs = make_inputs((2, 17, 5, 7), device=device)
    grad_y = make_grad_y(inputs, {})
    _, expected = differentiate(functional.graph_conv, inputs, {}, grad_y)
    inputs[only].requires_grad_()
    functional.graph_conv(**inputs).backward(grad_y)
    assert all((value.grad is not None) == (name == only) for name, value in inputs.items())
    torch.testing.assert_close(inputs[only].grad, expected[only])


def test_no_graph_is_recorded_without_need(device: torch.device) -> None:
    inputs = make_inputs((2, 17, 5, 7), device=device)
    assert functional.graph_conv(**inputs).grad_fn is None
    inputs["bias"].requires_grad_()
    assert functional.graph_conv(**inputs).grad_fn is not None
    with torch.no_grad():
        assert functional.graph_conv(**inputs).grad_fn is None


@pytest.mark.parametrize(
    ("options", "optional", "kept"),
    [
        ({}, (), True),
        ({"activation": "none"}, (), False),
        ({}, ("residual",), False),  # backward computes it again
    ],
)
def test_y_is_kept_only_where_it_tells_what_relu_let_through(
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


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # raised inside forward_ad
def test_unsupported_derivatives_raise(device: torch.device) -> None:
    inputs = make_inputs((2, 3, 2, 2), torch.float64, device)
    x = inputs.pop("x")
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(functional.graph_conv(leaf, **inputs).square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward mode AD"):
        functional.graph_conv(forward_ad.make_dual(x, x), **inputs)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # raised inside opcheck
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("optional", [(), OPTIONAL], ids=["bare", "full"])
def test_opcheck(device: torch.device, optional: tuple[str, ...], memory_format: torch.memory_format) -> None:
    inputs = make_inputs((2, 5, 3, 4), device=device, memory_format=memory_format, optional=optional)
    seed = torch.tensor(3, device=device) if optional else None
    x, edge_weight, adjacency = inputs["x"], inputs["edge_weight"], inputs["adjacency"]
    weight, bias, residual = (inputs.get(name) for name in OPTIONAL)
    flags = (seed is not None, False, True, True)
    arguments = (x, edge_weight, adjacency, weight, bias, residual, seed, *flags)
    torch.library.opcheck(ops.graph_conv_forward, arguments)
    y = None if residual is not None else ops.graph_conv_forward(*arguments)
    for need_x, need_parameters in [(True, True), (False, True), (True, False)]:
        needs = (need_x, need_parameters)
        of_backward = (x, x, y, edge_weight, adjacency, weight, bias, seed, *flags, *needs)
        torch.library.opcheck(ops.graph_conv_backward, of_backward)
    for name in inputs.keys() - {"adjacency"}:
        inputs[name].requires_grad_()
    torch.library.opcheck(ops.graph_conv_forward, arguments)


@pytest.mark.parametrize("batch", [None, 3])
def test_opcheck_sample_adjacency(device: torch.device, batch: int | None) -> None:
    arguments = (torch.rand(5, 5, device=device), torch.tensor(3, device=device), batch)
    torch.library.opcheck(ops.sample_adjacency, arguments)


@pytest.mark.parametrize("strides", STRIDED)
def test_fake_function_foretells_the_strides(device: torch.device, strides: str) -> None:
    inputs = make_inputs((3, 17, 6, 10), device=device)
    inputs["x"] = STRIDED[strides](inputs["x"])
    meta = {name: torch.empty_strided(t.shape, t.stride(), device="meta") for name, t in inputs.items()}
    assert functional.graph_conv(**meta).stride() == functional.graph_conv(**inputs).stride()


# Inductor compiles C++ for the CPU and once is slow enough; its capture of the graph is what differs between options.
@pytest.mark.parametrize(
    ("backend", "options"),
    [
        ("inductor", {"seed": 3, "per_sample": True}),
        ("aot_eager", {"semantics": "mask", "aggregate": "target", "activation": "none"}),
    ],
)
def test_compile(device: torch.device, backend: str, options: dict[str, Any]) -> None:
    torch.compiler.reset()
    options = options_on(device, **options)

    def function(x: Tensor, **arguments: Any) -> Tensor:
        return functional.graph_conv(x.sin(), **arguments, **options).cos()

    compiled = torch.compile(function, fullgraph=True, backend=backend)
    for shape in [(2, 17, 5, 7), (3, 17, 9, 4)]:  # the second one with dynamic sizes
        inputs = make_inputs(shape, device=device, memory_format=torch.channels_last)
        grad_y = torch.ones_like(inputs["x"])
        y, gradients = differentiate(compiled, inputs, {}, grad_y)
        expected_y, expected = differentiate(function, inputs, {}, grad_y)
        torch.testing.assert_close(y, expected_y)
        torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-4)


def test_compile_with_x_as_residual() -> None:
    torch.compiler.reset()
    inputs = make_inputs((2, 17, 5, 7), optional=())
    x = inputs.pop("x").requires_grad_()
    compiled = torch.compile(lambda x: functional.graph_conv(x, residual=x, **inputs), fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), functional.graph_conv(x, residual=x, **inputs))


def test_autocast(device: torch.device) -> None:
    inputs = make_inputs((2, 17, 5, 7), device=device)
    half = inputs | {name: inputs[name].bfloat16() for name in ("x", "residual")}
    expected = functional.graph_conv(**half)
    with torch.autocast(device.type, torch.bfloat16):
        y, gradients = differentiate(functional.graph_conv, inputs, {}, torch.ones_like(expected))
        mixed = functional.graph_conv(**(inputs | {"x": half["x"]}))
        double = functional.graph_conv(**{name: value.double() for name, value in inputs.items()})
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, expected)
    assert torch.equal(mixed, expected)
    assert double.dtype == torch.float64
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}


def test_autocast_leaves_meta_tensors_alone() -> None:
    meta = {name: value.to("meta") for name, value in make_inputs((2, 17, 5, 7)).items()}
    with torch.autocast("cpu", torch.bfloat16):
        assert functional.graph_conv(**meta).dtype == torch.float32


@pytest.mark.parametrize("parameter_dtype", [torch.float64, torch.bfloat16])
def test_parameters_of_another_dtype(device: torch.device, parameter_dtype: torch.dtype) -> None:
    inputs = make_inputs((2, 17, 5, 7), device=device)
    rounded = {name: value.to(parameter_dtype) for name, value in inputs.items() if name not in ("x", "residual")}
    y, gradients = differentiate(functional.graph_conv, inputs | rounded, {}, torch.ones_like(inputs["x"]))
    assert torch.equal(y, functional.graph_conv(**(inputs | {name: v.float() for name, v in rounded.items()})))
    assert all(gradients[name].dtype == parameter_dtype for name in ("edge_weight", "weight", "bias"))


# ---- Bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": [1.0]}, TypeError, "x must be a tensor, got list"),
        ({"x": torch.ones(2, 17, 5)}, ValueError, r"x must have shape \[B, K, H, W\].*got \[2, 17, 5\]"),
        (
            {"x": torch.ones(2, 0, 5, 7)},
            ValueError,
            r"x must have shape \[B, K, H, W\] with K >= 1, got \[2, 0, 5, 7\]",
        ),
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
        ({"weight": torch.ones(17, 17, 1, 1)}, ValueError, r"weight must have shape \[17, 17\], got \[17, 17, 1, 1\]"),
        ({"bias": torch.ones(1)}, ValueError, r"bias must have shape \[17\], got \[1\]"),
        ({"bias": torch.ones(17, device="meta")}, ValueError, "bias must be on cpu, where x is.*meta"),
        ({"residual": torch.ones(1, 17, 5, 7)}, ValueError, r"residual must have shape \[2, 17, 5, 7\]"),
        ({"residual": torch.ones(2, 17, 5, 7).int()}, TypeError, "residual must have the dtype of x.*int32"),
        ({"residual": torch.ones(2, 17, 5, 7).double()}, TypeError, "residual must have the dtype of x.*float64"),
        ({"residual": 0}, TypeError, "residual must be a tensor, got int"),
        ({"seed": 3}, TypeError, "seed must be a 0-dim int64 tensor.*got int"),
        ({"seed": torch.tensor(3, dtype=torch.int32)}, TypeError, "seed must be int64, got torch.int32"),
        ({"seed": torch.tensor([3])}, ValueError, r"seed must be 0-dim, got shape \[1\]"),
        ({"seed": torch.tensor(3, device="meta")}, ValueError, "seed must be on cpu"),
        ({"seed": True}, TypeError, "seed must be a 0-dim int64 tensor.*got bool"),
        ({"seed": torch.tensor(3.0)}, TypeError, "seed must be int64, got torch.float32"),
        ({"per_sample": "no"}, TypeError, "per_sample must be True or False, got 'no'"),
        ({"per_sample": 1}, TypeError, "per_sample must be True or False, got 1"),
        ({"per_sample": None}, TypeError, "per_sample must be True or False, got NoneType"),
        ({"semantics": ["literal"]}, ValueError, r"semantics must be 'literal' or 'mask', got \['literal'\]"),
        ({"activation": None}, ValueError, "activation must be 'relu' or 'none', got None"),
        ({"x": np.ones((2, 17, 5, 7))}, TypeError, "x must be a tensor, got ndarray"),
        ({"adjacency": [[1.0]]}, TypeError, "adjacency must be a tensor, got list"),
        ({"x": torch.ones(2, 17, 5, 7).to_sparse()}, TypeError, "x must be a dense tensor, got .* torch.sparse_coo"),
        ({"bias": torch.ones(17).to_sparse()}, TypeError, "bias must be a dense tensor, got .* torch.sparse_coo"),
        ({"semantics": "soft"}, ValueError, "semantics must be 'literal' or 'mask', got 'soft'"),
        ({"aggregate": "sum"}, ValueError, "aggregate must be 'source' or 'target', got 'sum'"),
        ({"activation": "gelu"}, ValueError, "activation must be 'relu' or 'none', got 'gelu'"),
    ],
)
def test_bad_input(change: dict[str, Any], error: type[Exception], message: str) -> None:
    for autocast in (False, True):
        with torch.autocast("cpu", enabled=autocast), pytest.raises(error, match=message) as caught:
            functional.graph_conv(**(make_inputs((2, 17, 5, 7)) | change))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.ones((2, 17, 5, 7))}, "x must be a tensor, got ndarray"),
        ({"adjacency": [[1.0]]}, "adjacency must be a tensor, got list"),
        ({"bias": 0.0}, "bias must be a tensor, got float"),
        ({"seed": 3.0}, "seed must be a 0-dim int64 tensor, as torch.tensor(0) is, got float"),
        ({"weight": torch.ones(17, 16)}, "weight must have shape [17, 17], got [17, 16]"),
        ({"per_sample": "no"}, "per_sample must be True or False, got 'no'"),
        ({"semantics": ["literal"]}, "semantics must be 'literal' or 'mask', got ['literal']"),
    ],
)
def test_bad_input_under_compile(change: dict[str, Any], message: str) -> None:
    torch.compiler.reset()
    compiled = torch.compile(functional.graph_conv, fullgraph=True, backend="eager")
    with pytest.raises(torch._dynamo.exc.TorchDynamoException, match=re.escape(message)):
        compiled(**(make_inputs((2, 17, 5, 7)) | change))


@pytest.mark.skipif(ops.HAS_CUDA, reason="built with CUDA kernels")
def test_cuda_tensors_without_cuda_kernels() -> None:
    with torch._subclasses.FakeTensorMode():
        inputs = {name: torch.empty(t.shape, device="cuda") for name, t in make_inputs((2, 17, 5, 7)).items()}
        with pytest.raises(RuntimeError, match="x is a CUDA tensor, but dgcn_ext was built without CUDA kernels"):
            functional.graph_conv(**inputs)
