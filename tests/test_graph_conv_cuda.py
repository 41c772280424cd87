"""``graph_conv`` on a GPU: the contract, and determinism, graphs, streams, devices, launches and large sizes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from cuda_cases import LONG_CYCLES, captured, kernels_of
from graph_conv_cases import (
    FEATURE_TOLERANCE,
    OPTIONAL,
    GraphConvContract,
    check_against_reference,
    make_grad_y,
    make_inputs,
    options_on,
)
from op_contract import differentiate
from torch import Tensor

from dgcn_ext import functional, ops

pytestmark = pytest.mark.gpu

REPEATS = 1000
SEEDS = [3, 2**32 + 1, 2**63 - 1, -1, -(2**63)]


class TestContract(GraphConvContract):
    device_type = "cuda"


def on_cuda(inputs: dict[str, Tensor], device: str = "cuda") -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in inputs.items()}


def assert_same_bits(
    result: tuple[Tensor, dict[str, Tensor]], expected: tuple[Tensor, dict[str, Tensor]], context: object = ""
) -> None:
    assert torch.equal(result[0], expected[0]), f"y {context}"
    for name, gradient in expected[1].items():
        assert torch.equal(result[1][name], gradient), f"gradient of {name} {context}"


# ---- Against the CPU: small and varied enough for compute-sanitizer --------------------------------------------------


# Every kernel, and every way of moving a tile: a row per node, a row per tile, a row per pixel, single elements.
@pytest.mark.parametrize(
    ("shape", "dtype", "memory_format", "optional", "options"),
    [
        ((3, 17, 41, 41), torch.float32, torch.contiguous_format, OPTIONAL, {"seed": -5, "per_sample": True}),
        ((2, 17, 13, 11), torch.bfloat16, torch.channels_last, ("weight", "bias"), {"seed": 2**40}),
        ((2, 14, 9, 7), torch.float16, torch.contiguous_format, (), {"activation": "none"}),
        ((2, 16, 8, 9), torch.float32, torch.channels_last, ("weight",), {"semantics": "mask"}),
        ((2, 19, 6, 5), torch.float64, torch.contiguous_format, OPTIONAL, {"aggregate": "target"}),
        ((1, 64, 7, 9), torch.float32, torch.contiguous_format, OPTIONAL, {}),
        (
            (2, 133, 5, 7),
            torch.float32,
            torch.contiguous_format,
            ("weight", "bias"),
            {"seed": 1, "per_sample": True, "first_sample": 2**32 - 2},
        ),
        ((2, 133, 5, 7), torch.bfloat16, torch.channels_last, OPTIONAL, {}),
        # So many pixels that every thread has several of them.
        ((44, 17, 83, 85), torch.float32, torch.contiguous_format, OPTIONAL, {"seed": 3, "per_sample": True}),
        ((44, 17, 83, 85), torch.bfloat16, torch.channels_last, OPTIONAL, {"seed": 3, "per_sample": True}),
        ((44, 21, 83, 85), torch.bfloat16, torch.contiguous_format, ("weight",), {}),
        ((44, 5, 83, 85), torch.float32, torch.channels_last, (), {"aggregate": "target"}),
    ],
)
@pytest.mark.parametrize("aligned", [True, False])
def test_agrees_with_the_cpu(
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    memory_format: torch.memory_format,
    optional: tuple[str, ...],
    options: dict[str, Any],
    aligned: bool,
) -> None:
    inputs = make_inputs(shape, dtype, memory_format=memory_format, optional=optional)
    grad_y = make_grad_y(inputs, options_on("cpu", **options))
    expected_y, expected = differentiate(functional.graph_conv, inputs, options_on("cpu", **options), grad_y)
    moved = on_cuda(inputs)
    if not aligned:
        moved["x"] = unaligned(moved["x"])
    y, gradients = differentiate(functional.graph_conv, moved, options_on("cuda", **options), grad_y.cuda())
    torch.testing.assert_close(y.cpu(), expected_y, **FEATURE_TOLERANCE[dtype])
    for name, gradient in gradients.items():
        tolerance = FEATURE_TOLERANCE[expected[name].dtype]
        scale = max(1.0, expected[name].abs().max().item())
        # In float64: a quotient of 16 bits would be rounded again.
        torch.testing.assert_close(gradient.cpu().double() / scale, expected[name].double() / scale, **tolerance)


def unaligned(features: Tensor) -> Tensor:
    """A copy of the same strides that starts one element after a multiple of 16 bytes."""
    memory = features.new_empty(features.numel() + 1)
    return memory.as_strided(features.shape, features.stride(), 1).copy_(features)


# More nodes than have all their K×K matrices in shared memory.
@pytest.mark.parametrize(
    ("num_nodes", "dtype", "memory_format"),
    [
        (65, torch.float32, torch.contiguous_format),
        (130, torch.float16, torch.channels_last),
        (300, torch.float32, torch.contiguous_format),
        (640, torch.float32, torch.channels_last),
        (960, torch.bfloat16, torch.contiguous_format),
    ],
)
def test_many_nodes(num_nodes: int, dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    inputs = make_inputs((3, num_nodes, 9, 11), dtype, "cuda", memory_format)
    check_against_reference(inputs, options_on("cuda", seed=9, per_sample=True))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_million_draws_are_those_of_the_cpu(seed: int) -> None:
    batch, num_nodes = 4096, 17  # 1.2 million edges
    adjacency = torch.rand(num_nodes, num_nodes, generator=torch.Generator().manual_seed(0))
    expected = functional.sample_adjacency(adjacency, torch.tensor(seed), batch)
    on_device = torch.tensor(seed, device="cuda")
    assert torch.equal(functional.sample_adjacency(adjacency.cuda(), on_device, batch).cpu(), expected)
    assert torch.equal(functional.sample_adjacency(adjacency.cuda(), on_device).cpu(), expected[0])

    # The draws inside the operator: pixel i shows node i alone, so that with "mask" and W_d = 0 y shows S.
    one_hot = torch.eye(num_nodes, device="cuda")[:, :, None].expand(batch, -1, -1, 1)
    zeros = torch.zeros(num_nodes, num_nodes, device="cuda")
    options = {"seed": on_device, "per_sample": True, "semantics": "mask"}
    s = functional.graph_conv(one_hot, zeros, adjacency.cuda(), **options)[..., 0].mT
    assert torch.equal((s > 0).cpu(), expected.bool())


# ---- Determinism -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "dtype", "memory_format"),
    [
        ((8, 17, 81, 81), torch.float32, torch.contiguous_format),
        ((8, 17, 41, 41), torch.bfloat16, torch.channels_last),
        ((2, 133, 23, 29), torch.float32, torch.contiguous_format),
    ],
)
def test_repeats_are_bit_equal(
    shape: tuple[int, int, int, int], dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    inputs = make_inputs(shape, dtype, "cuda", memory_format, optional=("weight", "bias"))
    options = options_on("cuda", seed=1, per_sample=True)
    grad_y = make_grad_y(inputs, options)
    expected = differentiate(functional.graph_conv, inputs, options, grad_y)
    for repeat in range(REPEATS):
        assert_same_bits(differentiate(functional.graph_conv, inputs, options, grad_y), expected, f"in repeat {repeat}")


def test_concurrent_calls_do_not_interfere() -> None:
    """Shapes that need different amounts of the same kernels' shared memory, launched from several threads."""
    sizes = [(1, 1), (9, 11), (41, 41), (81, 81)]
    cases = 8 * [make_inputs((2, nodes, *size), device="cuda") for nodes in (17, 64, 133) for size in sizes]
    expected = [functional.graph_conv(**inputs) for inputs in cases]
    torch.cuda.synchronize()
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda inputs: functional.graph_conv(**inputs), cases))
    torch.cuda.synchronize()
    assert all(torch.equal(result, y) for result, y in zip(results, expected, strict=True))


# ---- Graphs, streams, devices ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_nodes", [17, 133])
def test_capture_and_replay(num_nodes: int) -> None:
    """A replay reads the values that x and the seed have then."""
    inputs = make_inputs((3, num_nodes, 13, 11), device="cuda")
    options = options_on("cuda", seed=1, per_sample=True)
    leaves = {name: value.requires_grad_(name != "adjacency") for name, value in inputs.items()}
    differentiable = [leaf for leaf in leaves.values() if leaf.requires_grad]
    grad_y = make_grad_y({name: leaf.detach() for name, leaf in leaves.items()}, options)

    def step() -> list[Tensor]:
        y = functional.graph_conv(**leaves, **options)
        return [y, *torch.autograd.grad(y, differentiable, grad_y)]

    graph, replayed = captured(step)
    results = []
    for seed in SEEDS:
        with torch.no_grad():
            inputs["x"].copy_(torch.randn(inputs["x"].shape, generator=torch.Generator().manual_seed(abs(seed) % 97)))
        options["seed"].fill_(seed)
        graph.replay()
        results.append([result.clone() for result in replayed])
        assert all(torch.equal(a, b) for a, b in zip(results[-1], step(), strict=True))
    assert not torch.equal(results[0][0], results[1][0])


def test_runs_on_the_current_stream() -> None:
    """Input that an earlier kernel of the stream has still to write is there when the operator runs."""
    inputs = make_inputs((4, 17, 41, 41), device="cuda")
    grad_y = make_grad_y(inputs, {})
    expected = differentiate(functional.graph_conv, inputs, {}, grad_y)
    late = inputs | {"x": torch.zeros_like(inputs["x"])}
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(LONG_CYCLES)
        late["x"].copy_(inputs["x"])
        result = differentiate(functional.graph_conv, late, {}, grad_y)
    stream.synchronize()
    assert_same_bits(result, expected)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_does_not_wait_for_the_gpu(sync_debug_mode: Callable[[str], None]) -> None:
    inputs = make_inputs((4, 17, 41, 41), device="cuda")
    options = options_on("cuda", seed=7)
    grad_y = make_grad_y(inputs, options)
    differentiate(functional.graph_conv, inputs, options, grad_y)  # the memory it needs is now in torch's cache
    torch.cuda.synchronize()
    done = torch.cuda.Event()
    sync_debug_mode("error")
    torch.cuda._sleep(LONG_CYCLES)
    differentiate(functional.graph_conv, inputs, options, grad_y)
    done.record()
    assert not done.query()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second CUDA device")
def test_runs_on_the_device_of_x() -> None:
    inputs = make_inputs((4, 17, 41, 41), device="cuda:0")
    grad_y = make_grad_y(inputs, {})
    expected = differentiate(functional.graph_conv, inputs, options_on("cuda:0", seed=2), grad_y)
    there = on_cuda(inputs, "cuda:1")
    y, gradients = differentiate(functional.graph_conv, there, options_on("cuda:1", seed=2), grad_y.to("cuda:1"))
    assert torch.cuda.current_device() == 0
    assert y.device == torch.device("cuda:1")
    assert_same_bits((y.to("cuda:0"), {name: value.to("cuda:0") for name, value in gradients.items()}), expected)


# ---- Launches and limits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_nodes", [17, 64, 133])
def test_launches(num_nodes: int) -> None:
    inputs = make_inputs((2, num_nodes, 9, 11), device="cuda", optional=("weight", "bias"))
    x, edge_weight, adjacency, weight, bias = (
        inputs[name] for name in ("x", "edge_weight", "adjacency", "weight", "bias")
    )
    seed, flags = torch.tensor(1, device="cuda"), (True, False, False, True)

    tensors = (x, edge_weight, adjacency, weight, bias, None, seed)
    assert kernels_of(lambda: ops.graph_conv_forward(*tensors, *flags)) == 1
    assert kernels_of(lambda: ops.graph_conv_forward_gate(*tensors, *flags[:-1])) == 1
    _, gate = ops.graph_conv_forward_gate(*tensors, *flags[:-1])
    backward = (x, x, gate, edge_weight, adjacency, weight, bias, seed, *flags, True, True)
    assert kernels_of(lambda: ops.graph_conv_backward(*backward)) == 2


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_more_elements_than_an_int_counts(memory_format: torch.memory_format) -> None:
    shape = (130, 17, 1000, 1000)  # 2.2e9 elements; everything happens in the last image
    needed, free = 5 * 2 * 130 * 17 * 10**6, torch.cuda.mem_get_info()[0]
    if free < needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of GPU memory, {free / 2**30:.0f} are free")
    inputs = make_inputs((1, 17, 1000, 1000), torch.bfloat16, "cuda", memory_format, optional=("weight",))
    ones = torch.ones_like(inputs["x"])
    # With "source" and equal gradients of y, that of edge_weight would be 0.
    options = {"activation": "none", "aggregate": "target"}
    expected_y, expected = differentiate(functional.graph_conv, inputs, options, ones)

    x = torch.empty(shape, dtype=torch.bfloat16, device="cuda", memory_format=memory_format).zero_()
    x[-1:] = inputs["x"]
    grad_y = torch.ones_like(x)
    y, gradients = differentiate(functional.graph_conv, inputs | {"x": x}, options, grad_y)
    assert torch.equal(y[-1:], expected_y)
    assert not y[:-1].any()
    assert torch.equal(gradients["x"], expected["x"].expand(shape))
    for name in ("edge_weight", "weight"):
        scale = expected[name].abs().max()
        torch.testing.assert_close(gradients[name] / scale, expected[name] / scale, rtol=0, atol=2e-5)


def test_too_many_nodes() -> None:
    matrix = torch.ones(5000, 5000, device="cuda")
    with pytest.raises(RuntimeError, match=r"x must have so few nodes K that 16 pixels fit .* got K = 5000"):
        functional.graph_conv(torch.ones(1, 5000, 2, 2, device="cuda"), matrix, matrix)
