"""Values and gradients of ``graph_conv`` against the float64 reference: the contract of the operator."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from graph_conv_cases import (
    DRAWS,
    DTYPES,
    FORMATS,
    OPTIONAL,
    STRIDED,
    check_against_reference,
    differentiate,
    make_grad_y,
    make_inputs,
    options_on,
)

from dgcn_ext import functional, reference


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


# ---- Values and gradients -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optional", [(), OPTIONAL], ids=["bare", "full"])
@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("activation", ["relu", "none"])
@pytest.mark.parametrize("aggregate", ["source", "target"])
@pytest.mark.parametrize("semantics", ["literal", "mask"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_option(
    device: torch.device,
    dtype: torch.dtype,
    semantics: str,
    aggregate: str,
    activation: str,
    draw: str,
    optional: tuple[str, ...],
) -> None:
    options = options_on(device, semantics=semantics, aggregate=aggregate, activation=activation, **DRAWS[draw])
    for memory_format in FORMATS:
        inputs = make_inputs((3, 17, 5, 7), dtype, device, memory_format, optional)
        check_against_reference(inputs, options)


@pytest.mark.parametrize("activation", ["relu", "none"])
@pytest.mark.parametrize("optional", [(a, b) for a in OPTIONAL for b in OPTIONAL if a <= b])
def test_every_optional_tensor(device: torch.device, optional: tuple[str, ...], activation: str) -> None:
    inputs = make_inputs((2, 14, 3, 5), device=device, optional=optional)
    check_against_reference(inputs, options_on(device, activation=activation))


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_nodes", [1, 2, 14, 17, 19, 133])
def test_sizes(device: torch.device, num_nodes: int, dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    """Every remainder of a vector, a register block and a tile."""
    large = (41, 41) if num_nodes < 100 else (23, 29)
    for batch, height, width in [(1, 1, 1), (3, 13, 11), (1, *large), (70, 3, 2)]:
        inputs = make_inputs((batch, num_nodes, height, width), dtype, device, memory_format)
        check_against_reference(inputs, options_on(device, seed=9, per_sample=batch == 3))


def test_every_width_to_seventy(device: torch.device) -> None:
    for width in range(1, 71):
        check_against_reference(make_inputs((2, 17, 1, width), device=device), {})


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_format_is_kept(device: torch.device, dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    inputs = make_inputs((2, 17, 5, 3), dtype, device, memory_format)
    y, gradients = differentiate(functional.graph_conv, inputs, {}, make_grad_y(inputs, {}))
    assert y.is_contiguous(memory_format=memory_format)
    assert gradients["x"].is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("shape", [(0, 17, 5, 7), (2, 17, 0, 7), (2, 17, 5, 0), (0, 1, 0, 0)])
@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_empty(device: torch.device, dtype: torch.dtype, draw: str, shape: tuple[int, int, int, int]) -> None:
    options = options_on(device, **DRAWS[draw])
    inputs = make_inputs(shape, dtype, device)
    y, gradients = differentiate(functional.graph_conv, inputs, options, torch.zeros_like(inputs["x"]))
    assert y.shape == shape
    for name, gradient in gradients.items():
        assert gradient.shape == inputs[name].shape
        assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("strides", STRIDED)
def test_strided_input(device: torch.device, strides: str, dtype: torch.dtype) -> None:
    """Each feature tensor on its own in a layout that the others do not have."""
    plain = make_inputs((3, 17, 6, 10), dtype, device)
    for name in ("x", "residual"):
        check_against_reference(plain | {name: STRIDED[strides](plain[name])}, {})
    check_against_reference(plain, {}, STRIDED[strides](make_grad_y(plain, {})))


def test_strided_parameters(device: torch.device) -> None:
    inputs = make_inputs((2, 17, 5, 7), device=device)
    strided = {
        "edge_weight": inputs["edge_weight"].T.contiguous().T,
        "adjacency": inputs["adjacency"].repeat(1, 2)[:, :17],
        "weight": inputs["weight"].T.contiguous().T,
        "bias": inputs["bias"].repeat_interleave(3)[::3],
    }
    assert torch.equal(functional.graph_conv(**(inputs | strided)), functional.graph_conv(**inputs))


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
    """A diverging network must not look healthy behind a ReLU, nor may one pixel spoil another."""
    inputs = make_inputs((2, 17, 5, 7), dtype, device, optional=("weight", "bias"))
    inputs["x"][1, 4, 2, 3] = torch.nan
    y = functional.graph_conv(**inputs, semantics="literal")
    expected = torch.zeros_like(y, dtype=torch.bool)
    expected[1, :, 2, 3] = True
    assert torch.equal(y.isnan(), expected)


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
def test_mask_is_that_of_sample_adjacency(device: torch.device, num_nodes: int, seed: int, per_sample: bool) -> None:
    """One-hot pixels read S out of the operator; with "mask" and W_d = 0 it shows the drawn edges."""
    batch = 3
    adjacency = torch.rand(num_nodes, num_nodes, generator=torch.Generator().manual_seed(0)).to(device)
    one_hot = torch.eye(num_nodes, device=device)[:, :, None].expand(batch, -1, -1, 1)  # pixel i shows node i
    options = options_on(device, seed=seed, per_sample=per_sample, semantics="mask")
    s = functional.graph_conv(one_hot, torch.zeros_like(adjacency), adjacency, **options)[..., 0].mT
    drawn = functional.sample_adjacency(adjacency, options["seed"], batch if per_sample else None)
    assert torch.equal(s > 0, drawn.bool().expand_as(s))


def test_an_empty_row_gives_zeros_and_no_nan_gradient(device: torch.device) -> None:
    inputs = make_inputs((2, 17, 5, 7), device=device, optional=())
    inputs["adjacency"].zero_()
    ones = torch.ones_like(inputs["x"])
    y, gradients = differentiate(functional.graph_conv, inputs, {"semantics": "mask", "activation": "none"}, ones)
    assert not y.any()
    assert not any(gradient.any() for gradient in gradients.values())


def test_eq8_by_hand() -> None:
    """Two nodes, S = [[¾, ¼], [½, ½]]: X·S gathers columns of S, the other orientation its rows."""
    x = torch.tensor([4.0, 8.0]).reshape(1, 2, 1, 1)
    edge_weight = torch.tensor([[3.0, 5.0], [5.0, 5.0]]).log()
    adjacency = torch.tensor([[1.0, 0.0], [1.0, 1.0]])  # ln 3 against the 0 of an absent edge: weights ¾ and ¼
    for function in (functional.graph_conv, reference.graph_conv):
        source = function(x, edge_weight, adjacency).flatten().tolist()
        target = function(x, edge_weight, adjacency, aggregate="target").flatten().tolist()
        assert source == pytest.approx([4 * 0.75 + 8 * 0.5, 4 * 0.25 + 8 * 0.5])
        assert target == pytest.approx([4 * 0.75 + 8 * 0.25, 4 * 0.5 + 8 * 0.5])


# ---- Determinism and threads ----------------------------------------------------------------------------------------


def test_result_does_not_depend_on_the_number_of_threads() -> None:
    inputs = make_inputs((5, 17, 41, 43))
    grad_y = make_grad_y(inputs, {})
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(differentiate(functional.graph_conv, inputs, {}, grad_y))
    finally:
        torch.set_num_threads(before)
    (y, gradients), *others = results
    for other_y, other_gradients in others:
        assert torch.equal(other_y, y)
        assert all(torch.equal(other_gradients[name], gradient) for name, gradient in gradients.items())


def test_calls_repeat_bit_for_bit(device: torch.device) -> None:
    inputs = make_inputs((5, 17, 41, 43), device=device)
    options = options_on(device, seed=1, per_sample=True)
    grad_y = make_grad_y(inputs, options)
    y, gradients = differentiate(functional.graph_conv, inputs, options, grad_y)
    for _ in range(3):
        again_y, again = differentiate(functional.graph_conv, inputs, options, grad_y)
        assert torch.equal(again_y, y)
        assert all(torch.equal(again[name], gradient) for name, gradient in gradients.items())


def test_threads_do_not_meet() -> None:
    cases = [make_inputs((2, num_nodes, 9, 11)) for num_nodes in (2, 14, 17, 19) for _ in range(8)]
    expected = [functional.graph_conv(**inputs) for inputs in cases]
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda inputs: functional.graph_conv(**inputs), cases)
    assert all(torch.equal(result, y) for result, y in zip(results, expected, strict=True))


@pytest.mark.parametrize("capability", ["portable", "avx2", "avx512"])
def test_each_instruction_set(capability: str) -> None:
    supported = torch.backends.cpu.get_cpu_capability()
    if (capability, supported) in {("avx2", "DEFAULT"), ("avx512", "DEFAULT"), ("avx512", "AVX2")}:
        pytest.skip(f"this CPU has no {capability}")
    # Run from the tests' folder: in the root, `python -m` would put the uninstalled sources first on the path.
    selected = "cpu and (every_width or strided_input or (sizes and 17-))"
    command = [sys.executable, "-m", "pytest", "-q", "-x", __file__, "-k", selected]
    environment = os.environ | {"DGCN_CPU_CAPABILITY": capability}
    result = subprocess.run(command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
