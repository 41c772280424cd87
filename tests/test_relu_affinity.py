"""Values and gradients of ``relu_affinity`` against the dense form in float64: the contract of the operator."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from relu_affinity_cases import (
    DTYPES,
    LAYOUTS,
    Inputs,
    Results,
    check_against_dense,
    check_rounded,
    differentiate,
    make_inputs,
)
from torch import Tensor

from dgcn_ext import functional, reference


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


def relu_affinity(inputs: Inputs) -> Results:
    return differentiate(functional.relu_affinity, inputs)


# ---- Values and gradients -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 7, 8, 9, 15, 16, 17, 40, 128])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sizes(device: torch.device, dtype: torch.dtype, channels: int) -> None:
    """Every remainder of a block of channels, and of a tile of positions."""
    for batch, positions in [(1, 1), (2, 2), (3, 9), (1, 127), (2, 128), (2, 301)]:
        check_against_dense(make_inputs((batch, channels, positions), dtype, device))


@pytest.mark.parametrize("shape", [(0, 5, 7), (2, 0, 7), (2, 5, 0), (0, 0, 0)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_empty(device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    inputs = make_inputs(shape, dtype, device)
    results = relu_affinity(inputs)
    for result, like in zip(results, (inputs.g, *inputs[:3]), strict=True):
        assert result.shape == like.shape
        assert not result.any()


@pytest.mark.parametrize("channels", [3, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(device: torch.device, layout: str, dtype: torch.dtype, channels: int) -> None:
    """g and grad_y each on its own in a layout that the other does not have."""
    inputs = make_inputs((3, channels, 150), dtype, device)
    check_against_dense(inputs._replace(g=LAYOUTS[layout](inputs.g)))
    check_against_dense(inputs._replace(grad_y=LAYOUTS[layout](inputs.grad_y)))


def test_layout_is_kept(device: torch.device) -> None:
    inputs = make_inputs((3, 20, 150), device=device)
    for g in (inputs.g, inputs.g.mT.contiguous().mT):
        results = relu_affinity(inputs._replace(g=g))
        assert results.y.stride() == results.grad_g.stride() == g.stride()


def test_strided_keys(device: torch.device) -> None:
    inputs = make_inputs((3, 20, 150), device=device)
    strided = inputs._replace(a=inputs.a.T.contiguous().T, b=inputs.b.repeat_interleave(2, 1)[:, ::2])
    assert all(map(torch.equal, relu_affinity(strided), relu_affinity(inputs)))


def test_by_hand(device: torch.device) -> None:
    """a + b is [[-1, 2], [0, 3]] for i (rows) and j: position 0 hears 2 of g_1, position 1 hears 3 of it."""
    inputs = Inputs(
        torch.tensor([[0.0, 1.0]], device=device),
        torch.tensor([[-1.0, 2.0]], device=device),
        torch.tensor([[[10.0, 100.0]]], device=device),
        torch.tensor([[[1.0, 5.0]]], device=device),
    )
    results = relu_affinity(inputs)
    assert results.y.tolist() == [[[100, 150]]]
    assert results.grad_a.tolist() == [[50, 250]]
    assert results.grad_b.tolist() == [[0, 300]]  # a_1 + b_0 = 0: no gradient at the kink
    assert results.grad_g.tolist() == [[[0, 8.5]]]


def test_no_pair_meets(device: torch.device) -> None:
    inputs = make_inputs((2, 20, 50), device=device)
    inputs = inputs._replace(a=-inputs.a.abs() - 1e-3, b=-inputs.b.abs())
    assert not any(result.any() for result in check_against_dense(inputs))


def test_every_pair_meets(device: torch.device) -> None:
    """Then the matrix has rank two, and y_i is a_i times the mean of g, plus the mean of b_j g_j."""
    inputs = make_inputs((2, 20, 50), torch.float64, device)
    inputs = inputs._replace(a=inputs.a.abs() + 1e-3, b=inputs.b.abs())
    y = check_against_dense(inputs).y
    mean, weighted = inputs.g.mean(2, keepdim=True), (inputs.b[:, None] * inputs.g).mean(2, keepdim=True)
    torch.testing.assert_close(y, inputs.a[:, None] * mean + weighted)


KEYS = st.lists(st.integers(-12, 12), min_size=1, max_size=30)


@given(KEYS, KEYS, st.integers(1, 20))
def test_any_keys(a: list[int], b: list[int], channels: int) -> None:
    """Small whole numbers: ties and kinks abound."""
    positions = min(len(a), len(b))
    inputs = make_inputs((1, channels, positions))
    check_against_dense(inputs._replace(a=torch.tensor([a[:positions]]).float(), b=torch.tensor([b[:positions]]) / 2))


def test_a_million_positions(device: torch.device) -> None:
    """Where a matrix would take 4 TB: against the same sums in another form, with float64 prefix sums."""
    positions = 1_000_003
    inputs = make_inputs((2, 2, positions), device=device)
    a, b, g, _ = (tensor[1:].double() for tensor in inputs)
    y = functional.relu_affinity(*inputs[:3])[1:]
    b, order = b.sort(descending=True)
    g = g.gather(2, order[:, None].expand(g.shape))
    last = torch.searchsorted(-b, a)[:, None].expand(g.shape)  # how many b are above −a
    sums, weighted = (torch.nn.functional.pad(term.cumsum(2), (1, 0)).gather(2, last) for term in (g, b[:, None] * g))
    torch.testing.assert_close(y.double(), (a[:, None] * sums + weighted) / positions, rtol=1e-6, atol=1e-9)


# ---- Hard numbers ---------------------------------------------------------------------------------------------------

N, C = 25_921, 128  # stride 4 of a 641 px input


def some_rows(inputs: Inputs, rows: Tensor) -> Results:
    """The dense form in float64, for some of the positions."""
    a, b, g, h = inputs.double()

    def at_rows(a: Tensor, b: Tensor, g: Tensor, grad_y: Tensor) -> tuple[Tensor, Tensor]:
        some = a[:, rows].requires_grad_()
        y = reference.relu_affinity(some, b, g)
        return y.detach(), *torch.autograd.grad(y, some, grad_y[:, :, rows])

    y, grad_a = at_rows(a, b, g, h)
    grad_g, grad_b = at_rows(b, a, h, g)  # the same with the parts of (a, h) and (b, g) exchanged
    return Results(y, grad_a, grad_b, grad_g)


def hard_keys(case: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    a, b = torch.randn(2, 1, N, generator=generator)
    match case:
        case "offset +":
            return a + 1e3, b - 1e3
        case "offset -":
            return a - 1e3, b + 1e3
        case "equal":  # 10⁴ of them, on the kink with 10⁴ others
            a[:, :10_000], b[:, 5_000:15_000] = 0.25, -0.25
        case "nearly equal":
            return 1 + 1e-6 * a, -1 + 1e-6 * b
        case "wide":
            return a * (12 * b).exp2(), b * (12 * a).exp2()
    return a, b


@pytest.mark.parametrize("cancelling", [False, True])
@pytest.mark.parametrize("case", ["plain", "offset +", "offset -", "equal", "nearly equal", "wide"])
def test_hard_numbers(device: torch.device, case: str, cancelling: bool) -> None:
    """Relative error at most 1e-5 in every element, and no more than rounding once costs."""
    generator = torch.Generator().manual_seed(1)
    a, b = hard_keys(case, generator)
    g, h = torch.randn(2, 1, C, N, generator=generator)
    if cancelling:  # every two neighbours in the order of the keys nearly cancel
        for keys, features in ((a, h), (b, g)):
            order = keys[0].argsort()
            features[:, :, order[: N - 1 : 2]] = -features[:, :, order[1::2]] * (1 + 1e-4)
    inputs = Inputs(*(tensor.to(device) for tensor in (a, b, g, h)))
    rows = torch.randperm(N, generator=generator)[:50].to(device)
    results = relu_affinity(inputs)
    expected, magnitudes = some_rows(inputs, rows), some_rows(inputs.magnitudes(), rows)
    for name, result, want, magnitude in zip(Results._fields, results, expected, magnitudes, strict=True):
        check_rounded(name, result[..., rows], want, magnitude)
        assert ((result[..., rows] - want).abs() <= 1e-5 * want.abs() + 1e-38).all(), name


# ---- Properties -----------------------------------------------------------------------------------------------------


def test_permuting_positions_permutes_the_result(device: torch.device) -> None:
    """Without ties bit for bit: the order of every sum is that of the keys."""
    inputs = make_inputs((3, 20, 400), device=device)
    inputs = Inputs(*(tensor[1:] for tensor in inputs))  # the first image has ties
    p, q = torch.randperm(400, device=device), torch.randperm(400, device=device)
    results = relu_affinity(inputs)
    permuted = relu_affinity(Inputs(inputs.a[:, p], inputs.b[:, q], inputs.g[:, :, q], inputs.grad_y[:, :, p]))
    for got, want, order in zip(permuted, results, (p, p, q, q), strict=True):
        assert torch.equal(got, want[..., order])


@pytest.mark.parametrize("shift", [1.0, 1024.0, -4096.0])
def test_opposite_shifts_of_the_keys_change_nothing(device: torch.device, shift: float) -> None:
    """Bit for bit where the shift itself does not round, as with these keys."""
    inputs = make_inputs((2, 20, 400), device=device)
    inputs = inputs._replace(a=inputs.a.mul(64).round() / 64, b=inputs.b.mul(64).round() / 64)
    shifted = inputs._replace(a=inputs.a + shift, b=inputs.b - shift)
    assert all(map(torch.equal, relu_affinity(shifted), relu_affinity(inputs)))


def test_images_are_independent(device: torch.device) -> None:
    inputs = make_inputs((5, 20, 150), device=device)
    together = relu_affinity(inputs)
    for image in range(5):
        alone = relu_affinity(Inputs(*(tensor[image : image + 1] for tensor in inputs)))
        assert all(torch.equal(got, want[image : image + 1]) for got, want in zip(alone, together, strict=True))


# ---- NaN and infinity -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("which", Inputs._fields)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_nan_goes_where_the_dense_form_takes_it(
    device: torch.device, dtype: torch.dtype, which: str, sign: int
) -> None:
    inputs = make_inputs((3, 20, 150), dtype, device)
    getattr(inputs, which)[1, ..., 70].fill_(sign * torch.nan)
    results = check_against_dense(inputs)
    assert any(result.isnan().any() for result in results)
    assert not any(result[[0, 2]].isnan().any() for result in results)


@pytest.mark.parametrize("channel", [0, 17])
def test_nan_of_a_position_that_nobody_hears(device: torch.device, channel: int) -> None:
    """ReLU lets nothing of it through, and 0 · NaN is NaN all the same."""
    inputs = make_inputs((2, 20, 150), device=device)
    inputs.b[:, 3] = -100
    inputs.g[0, channel, 3] = torch.nan
    results = check_against_dense(inputs)
    assert results.y[0, channel].isnan().all()
    assert results.y.isnan().sum() == 150


def test_a_key_of_minus_infinity_shuts_a_position_out(device: torch.device) -> None:
    """Masking, as with softmax."""
    inputs = make_inputs((2, 20, 150), device=device)
    inputs.a[0, 7] = inputs.b[1, 9] = -torch.inf
    low = inputs._replace(a=inputs.a.clamp(min=-1e6), b=inputs.b.clamp(min=-1e6))  # so low that it meets none either
    results = relu_affinity(inputs)
    assert all(map(torch.equal, results, check_against_dense(low)))
    assert not results.y[0, :, 7].any()
    assert not results.grad_g[1, :, 9].any()


@pytest.mark.parametrize("which", ["a", "b", "g", "grad_y"])
def test_infinity_does_not_become_finite(device: torch.device, which: str) -> None:
    inputs = make_inputs((2, 20, 150), device=device)
    getattr(inputs, which)[1, ..., 70].fill_(torch.inf)
    results = relu_affinity(inputs)
    expected = differentiate(reference.relu_affinity, inputs.double())
    for result, want in zip(results, expected, strict=True):
        assert not (result.isfinite() & ~want.isfinite()).any()
        assert result[0].isfinite().all()


# ---- Determinism and threads ----------------------------------------------------------------------------------------


def test_result_does_not_depend_on_the_number_of_threads() -> None:
    inputs = make_inputs((2, 130, 4001))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(relu_affinity(inputs))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, results[0], other) for other in results[1:])


def test_calls_repeat_bit_for_bit(device: torch.device) -> None:
    inputs = make_inputs((2, 130, 4001), device=device)
    results = relu_affinity(inputs)
    for _ in range(3):
        assert all(map(torch.equal, relu_affinity(inputs), results))


@pytest.mark.parametrize("capability", ["portable", "avx2", "avx512"])
def test_each_instruction_set(capability: str) -> None:
    supported = torch.backends.cpu.get_cpu_capability()
    if (capability, supported) in {("avx2", "DEFAULT"), ("avx512", "DEFAULT"), ("avx512", "AVX2")}:
        pytest.skip(f"this CPU has no {capability}")
    # Run from the tests' folder: in the root, `python -m` would put the uninstalled sources first on the path.
    command = [sys.executable, "-m", "pytest", "-q", "-x", __file__, "-k", "cpu and (sizes or layouts or nan)"]
    environment = os.environ | {"DGCN_CPU_CAPABILITY": capability}
    result = subprocess.run(command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
