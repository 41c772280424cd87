"""``relu_affinity``: the contract of the operators, and what is special to this one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from relu_affinity_cases import (
    Inputs,
    ReluAffinityContract,
    Results,
    check_against_dense,
    check_rounded,
    differentiate,
    make_inputs,
)
from torch import Tensor

from dgcn_ext import functional, ops, reference


class TestContract(ReluAffinityContract):
    pass


def relu_affinity(inputs: Inputs) -> Results:
    return differentiate(functional.relu_affinity, inputs)


# ---- Values and gradients -------------------------------------------------------------------------------------------


def test_layout_is_kept(device: torch.device) -> None:
    inputs = make_inputs((3, 20, 150), device=device)
    for g in (inputs.g, inputs.g.mT.contiguous().mT):
        results = relu_affinity(inputs._replace(g=g))
        assert results.y.stride() == results.grad_g.stride() == g.stride()


def test_by_hand(device: torch.device) -> None:
    """a_i + b_j is [[-1, 2], [0, 3]]: y_0 = 2·g_1 / 2 and y_1 = 3·g_1 / 2."""
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


def test_no_pair_passes_relu(device: torch.device) -> None:
    inputs = make_inputs((2, 20, 50), device=device)
    inputs = inputs._replace(a=-inputs.a.abs() - 1e-3, b=-inputs.b.abs())
    assert not any(result.any() for result in check_against_dense(inputs))


def test_every_pair_passes_relu(device: torch.device) -> None:
    """Without ReLU y_i is a_i times the mean of g, plus the mean of b_j g_j."""
    inputs = make_inputs((2, 20, 50), torch.float64, device)
    inputs = inputs._replace(a=inputs.a.abs() + 1e-3, b=inputs.b.abs())
    y = check_against_dense(inputs).y
    mean, weighted = inputs.g.mean(2, keepdim=True), (inputs.b[:, None] * inputs.g).mean(2, keepdim=True)
    torch.testing.assert_close(y, inputs.a[:, None] * mean + weighted)


KEYS = st.lists(st.integers(-12, 12), min_size=1, max_size=30)


@given(KEYS, KEYS, st.integers(1, 20))
def test_any_keys(a: list[int], b: list[int], channels: int) -> None:
    """Small whole numbers, so that many keys are equal and many pairs are on the kink of ReLU."""
    positions = min(len(a), len(b))
    inputs = make_inputs((1, channels, positions))
    check_against_dense(inputs._replace(a=torch.tensor([a[:positions]]).float(), b=torch.tensor([b[:positions]]) / 2))


def test_a_million_positions(device: torch.device) -> None:
    """The dense matrix would take 4 TB: compared with another form of the sums, with float64 prefix sums."""
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

N, C = 25_921, 24  # positions at stride 4 of a 641 px input; blocks of channels, one of them in part


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
    """Relative error at most 1e-5 in every element, and not above that of rounding the exact result."""
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
def test_nan_of_a_position_that_passes_no_relu(device: torch.device, channel: int) -> None:
    """Its weight is 0 everywhere, and 0 · NaN is NaN."""
    inputs = make_inputs((2, 20, 150), device=device)
    inputs.b[:, 3] = -100
    inputs.g[0, channel, 3] = torch.nan
    results = check_against_dense(inputs)
    assert results.y[0, channel].isnan().all()
    assert results.y.isnan().sum() == 150


def test_a_key_of_minus_infinity_masks_a_position(device: torch.device) -> None:
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


# ---- Autograd, torch.compile, bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [{"a", "b"}, {"b", "g"}])
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
