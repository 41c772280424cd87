"""``relu_affinity`` as a citizen of torch: autograd, opcheck, torch.compile, autocast, fake tensors, and bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo
from relu_affinity_cases import LAYOUTS, Inputs, differentiate, make_inputs
from torch import Tensor
from torch.autograd import forward_ad

from dgcn_ext import functional, ops


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


# ---- Autograd, compilation, dispatch --------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["neighbouring channels", "sliced"])
def test_gradcheck(device: torch.device, layout: str) -> None:
    """The keys a_i + b_j of all pairs are at least 0.02 from the kink."""
    a = torch.tensor([[0.1, -1.4, 1.3, 0.5, -0.3], [2.1, 1.2, -0.6, -0.8, 0.0]], dtype=torch.float64)
    b = torch.tensor([[0.05, 1.12, -0.73, 0.42, -2.2], [-1.15, 0.33, 0.33, 0.95, -0.04]], dtype=torch.float64)
    assert (a[:, :, None] + b[:, None, :]).abs().min() > 0.02
    g = LAYOUTS[layout](make_inputs((2, 3, 5), torch.float64).g)
    leaves = [tensor.to(device).detach().requires_grad_() for tensor in (a, b, g)]
    assert torch.autograd.gradcheck(functional.relu_affinity, leaves)


@pytest.mark.parametrize("wanted", [{"a"}, {"b"}, {"g"}, {"a", "b"}, {"b", "g"}])
def test_some_of_the_gradients(device: torch.device, wanted: set[str]) -> None:
    inputs = make_inputs((2, 20, 50), device=device)
    expected = differentiate(functional.relu_affinity, inputs)
    leaves = {name: getattr(inputs, name).requires_grad_(name in wanted) for name in ("a", "b", "g")}
    functional.relu_affinity(**leaves).backward(inputs.grad_y)
    for name, leaf in leaves.items():
        if name in wanted:
            assert torch.equal(leaf.grad, getattr(expected, f"grad_{name}"))
        else:
            assert leaf.grad is None


def test_no_graph_is_recorded_without_need(device: torch.device) -> None:
    a, b, g, _ = make_inputs((2, 20, 50), device=device)
    assert functional.relu_affinity(a, b, g).grad_fn is None
    b.requires_grad_()
    assert functional.relu_affinity(a, b, g).grad_fn is not None
    with torch.no_grad():
        assert functional.relu_affinity(a, b, g).grad_fn is None


def test_one_tensor_as_both_keys(device: torch.device) -> None:
    torch.compiler.reset()
    a, _, g, grad_y = make_inputs((2, 20, 50), device=device)
    expected = differentiate(functional.relu_affinity, Inputs(a, a.clone(), g, grad_y))
    for function in (
        functional.relu_affinity,
        torch.compile(functional.relu_affinity, fullgraph=True, backend="eager"),
    ):
        leaf = a.clone().requires_grad_()
        function(leaf, leaf, g).backward(grad_y)
        torch.testing.assert_close(leaf.grad, expected.grad_a + expected.grad_b)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # raised inside forward_ad
def test_unsupported_derivatives_raise(device: torch.device) -> None:
    a, b, g, _ = make_inputs((2, 3, 5), torch.float64, device)
    leaf = g.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(functional.relu_affinity(a, b, leaf).square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward mode AD"):
        functional.relu_affinity(a, b, forward_ad.make_dual(g, g))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # raised inside opcheck
@pytest.mark.parametrize("layout", ["unaligned", "neighbouring channels", "sliced"])
def test_opcheck(device: torch.device, layout: str) -> None:
    a, b, g, grad_y = make_inputs((2, 5, 12), device=device)
    g = LAYOUTS[layout](g)
    torch.library.opcheck(ops.relu_affinity_forward, (a, b, g))
    torch.library.opcheck(ops.relu_affinity_forward, [value.clone().requires_grad_() for value in (a, b, g)])
    for need_keys, need_g in [(True, True), (False, True), (True, False)]:
        torch.library.opcheck(ops.relu_affinity_backward, (grad_y, a, b, g, need_keys, need_g))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fake_function_foretells_the_strides(device: torch.device, layout: str) -> None:
    a, b, g, _ = make_inputs((3, 20, 12), device=device)
    g = LAYOUTS[layout](g)
    meta = (torch.empty_strided(t.shape, t.stride(), device="meta") for t in (a, b, g))
    assert functional.relu_affinity(*meta).stride() == functional.relu_affinity(a, b, g).stride()


@pytest.mark.parametrize("backend", ["inductor", "aot_eager"])
def test_compile(device: torch.device, backend: str) -> None:
    torch.compiler.reset()

    def function(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
        return functional.relu_affinity(a.sin(), b, g * 2).cos()

    compiled = torch.compile(function, fullgraph=True, backend=backend)
    for shape in [(2, 20, 50), (3, 20, 77)]:  # the second one with dynamic sizes
        inputs = make_inputs(shape, device=device)
        inputs = inputs._replace(g=LAYOUTS["neighbouring channels"](inputs.g))
        for ours, theirs in zip(differentiate(compiled, inputs), differentiate(function, inputs), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_autocast_spares_the_keys(device: torch.device) -> None:
    a, b, g, grad_y = make_inputs((2, 20, 50), device=device)
    expected = functional.relu_affinity(a, b, g.bfloat16())
    with torch.autocast(device.type, torch.bfloat16):
        y, *gradients = differentiate(functional.relu_affinity, Inputs(a, b, g, grad_y.bfloat16()))
        mixed = functional.relu_affinity(a, b, g.bfloat16())
        double = functional.relu_affinity(a, b, g.double())
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, expected)
    assert torch.equal(mixed, expected)
    assert double.dtype == torch.float64
    assert {gradient.dtype for gradient in gradients} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("key_dtype", [torch.float64, torch.bfloat16])
def test_keys_of_another_dtype(device: torch.device, key_dtype: torch.dtype, dtype: torch.dtype) -> None:
    inputs = make_inputs((2, 20, 50), dtype, device)
    a, b = inputs.a.to(key_dtype), inputs.b.to(key_dtype)
    results = differentiate(functional.relu_affinity, inputs._replace(a=a, b=b))
    cast = functional.relu_affinity(a.to(inputs.a.dtype), b.to(inputs.b.dtype), inputs.g)
    assert torch.equal(results.y, cast)
    assert results.grad_a.dtype == results.grad_b.dtype == key_dtype


# ---- Bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"g": [1.0]}, TypeError, "g must be a tensor, got list"),
        ({"g": torch.ones(2, 3, 4, 5)}, ValueError, r"g must have shape \[B, C, N\], got \[2, 3, 4, 5\]"),
        ({"g": torch.ones(2, 3, 4).int()}, TypeError, "g must be float64, float32, bfloat16 or float16.*int32"),
        ({"g": torch.ones(2, 3, 4, dtype=torch.complex64)}, TypeError, "g must be float64.*complex64"),
        ({"g": torch.ones(2, 3, 4).to_sparse()}, TypeError, "g must be a dense tensor, got .* torch.sparse_coo"),
        ({"a": torch.ones(2, 4).to_sparse()}, TypeError, "a must be a dense tensor, got .* torch.sparse_coo"),
        ({"a": np.ones((2, 4))}, TypeError, "a must be a tensor, got ndarray"),
        ({"a": None}, TypeError, "a must be a tensor, got NoneType"),
        ({"a": torch.ones(2, 4).long()}, TypeError, "a must have a floating dtype.*int64"),
        ({"a": torch.ones(2, 3)}, ValueError, r"a must have shape \[2, 4\], got \[2, 3\]"),
        ({"a": torch.ones(1, 4)}, ValueError, r"a must have shape \[2, 4\], got \[1, 4\]"),
        ({"b": 0.0}, TypeError, "b must be a tensor, got float"),
        ({"b": torch.ones(2, 1, 4)}, ValueError, r"b must have shape \[2, 4\], got \[2, 1, 4\]"),
        ({"b": torch.ones(2, 4, device="meta")}, ValueError, "b must be on cpu, where g is.*meta"),
    ],
)
def test_bad_input(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"a": torch.ones(2, 4), "b": torch.ones(2, 4), "g": torch.ones(2, 3, 4)}
    for autocast in (False, True):
        with torch.autocast("cpu", enabled=autocast), pytest.raises(error, match=message) as caught:
            functional.relu_affinity(**(arguments | change))
        assert "\n" not in str(caught.value)


def test_bad_input_under_compile() -> None:
    torch.compiler.reset()
    compiled = torch.compile(functional.relu_affinity, fullgraph=True, backend="eager")
    with pytest.raises(torch._dynamo.exc.Unsupported, match="a must be a tensor, got ndarray"):
        compiled(np.ones((2, 4)), torch.ones(2, 4), torch.ones(2, 3, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"g": torch.ones(3, 4)}, r"g must have shape \[B, C, N\], got \[3, 4\]"),
        ({"g": torch.ones(2, 3, 4).int()}, "g must be float64, float32, bfloat16 or float16, got Int"),
        ({"a": torch.ones(2, 5)}, r"a must have shape \[2, 4\], got \[2, 5\]"),
        ({"b": torch.ones(2, 4).double()}, "b must be Float, got Double"),
        ({"b": torch.ones(4, 2).T}, r"b must be contiguous, got strides \[1, 2\]"),
        ({"grad_y": torch.ones(2, 3, 5)}, r"grad_y must have shape \[2, 3, 4\], got \[2, 3, 5\]"),
    ],
)
def test_raw_operators_check_too(change: dict[str, Tensor], message: str) -> None:
    arguments = {"grad_y": torch.ones(2, 3, 4), "a": torch.ones(2, 4), "b": torch.ones(2, 4), "g": torch.ones(2, 3, 4)}
    arguments |= change
    with pytest.raises(RuntimeError, match=message):
        ops.relu_affinity_backward(*arguments.values(), True, True)


@pytest.mark.skipif(ops.HAS_CUDA, reason="built with CUDA kernels")
def test_cuda_tensors_without_cuda_kernels() -> None:
    with torch._subclasses.FakeTensorMode():
        a, b, g, _ = (torch.empty(tensor.shape, device="cuda") for tensor in make_inputs((2, 3, 4)))
        with pytest.raises(RuntimeError, match="g is a CUDA tensor, but dgcn_ext was built without CUDA kernels"):
            functional.relu_affinity(a, b, g)
