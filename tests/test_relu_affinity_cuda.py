"""``relu_affinity`` on a GPU: the contract, and determinism, graphs, streams, devices, launches and large sizes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cuda_cases import LONG_CYCLES, captured, kernels_of, launches_of
from relu_affinity_cases import (
    LAYOUTS,
    Inputs,
    ReluAffinityContract,
    Results,
    check_rounded,
    differentiate,
    make_inputs,
)
from torch import Tensor, nn

from dgcn_ext import NonLocal, NonLocalFused, functional, ops

pytestmark = pytest.mark.gpu

REPEATS = 1000


class TestContract(ReluAffinityContract):
    device_type = "cuda"


def relu_affinity(inputs: Inputs) -> Results:
    return differentiate(functional.relu_affinity, inputs)


def on(device: str, inputs: Inputs) -> Inputs:
    return Inputs(*(tensor.to(device) for tensor in inputs))


def same_bits(results: Results, expected: Results) -> bool:
    return all(map(torch.equal, results, expected))


# ---- Against the CPU: small and varied enough for compute-sanitizer --------------------------------------------------


# Channels that are no multiple of four, fill no warp, some, and more than a block walks at a time; one chunk and
# several; images that a block sorts and one that it cannot.
@pytest.mark.parametrize("shape", [(2, 3, 5), (3, 32, 64), (2, 200, 301), (1, 600, 70), (1, 8, 2100)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["contiguous", "neighbouring channels", "sliced"])
def test_agrees_with_the_cpu(layout: str, dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    inputs = make_inputs(shape, dtype)
    if layout in LAYOUTS:
        inputs = inputs._replace(g=LAYOUTS[layout](inputs.g))
    expected = relu_affinity(inputs)
    exact = relu_affinity(inputs.double())
    magnitudes = relu_affinity(inputs.double().magnitudes())
    for name, got, like, want, magnitude in zip(
        Results._fields, relu_affinity(on("cuda", inputs)), expected, exact, magnitudes, strict=True
    ):
        assert (got.dtype, got.stride()) == (like.dtype, like.stride()), name
        check_rounded(name, got.cpu(), want, magnitude)


# ---- Determinism -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "dtype", "layout"),
    [((4, 128, 6561), torch.float32, "unaligned"), ((3, 40, 1301), torch.bfloat16, "neighbouring channels")],
)
def test_repeats_are_bit_equal(shape: tuple[int, int, int], dtype: torch.dtype, layout: str) -> None:
    inputs = make_inputs(shape, dtype, "cuda")
    inputs = inputs._replace(g=LAYOUTS[layout](inputs.g))
    expected = relu_affinity(inputs)
    for repeat in range(REPEATS):
        assert same_bits(relu_affinity(inputs), expected), f"in repeat {repeat}"


# ---- Graphs, streams, devices ----------------------------------------------------------------------------------------


def test_capture_and_replay() -> None:
    """A replay sorts the keys that are there then."""
    inputs = make_inputs((3, 40, 501), device="cuda")
    leaves = [tensor.requires_grad_() for tensor in inputs[:3]]

    def step() -> list[Tensor]:
        y = functional.relu_affinity(*leaves)
        return [y, *torch.autograd.grad(y, leaves, inputs.grad_y)]

    graph, replayed = captured(step)
    results = []
    for seed in range(3):
        with torch.no_grad():
            for leaf in leaves:
                leaf.copy_(torch.randn(leaf.shape, generator=torch.Generator().manual_seed(seed)))
        graph.replay()
        results.append([result.clone() for result in replayed])
        assert all(map(torch.equal, results[-1], step()))
    assert not torch.equal(results[0][0], results[1][0])


def test_runs_on_the_current_stream() -> None:
    """Input that an earlier kernel of the stream has still to write is there when the operator runs."""
    inputs = make_inputs((3, 40, 501), device="cuda")
    expected = relu_affinity(inputs)
    late = inputs._replace(a=torch.zeros_like(inputs.a), g=torch.zeros_like(inputs.g))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(LONG_CYCLES)
        late.a.copy_(inputs.a)
        late.g.copy_(inputs.g)
        results = relu_affinity(late)
    stream.synchronize()
    assert same_bits(results, expected)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_does_not_wait_for_the_gpu(sync_debug_mode: Callable[[str], None]) -> None:
    inputs = make_inputs((3, 40, 501), device="cuda")
    relu_affinity(inputs)  # the memory it needs is now in torch's cache
    torch.cuda.synchronize()
    done = torch.cuda.Event()
    sync_debug_mode("error")
    torch.cuda._sleep(LONG_CYCLES)
    relu_affinity(inputs)
    done.record()
    assert not done.query()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second CUDA device")
def test_runs_on_the_device_of_g() -> None:
    inputs = make_inputs((3, 40, 501), device="cuda:0")
    results = relu_affinity(on("cuda:1", inputs))
    assert torch.cuda.current_device() == 0
    assert results.y.device == torch.device("cuda:1")
    assert same_bits(Results(*(result.to("cuda:0") for result in results)), relu_affinity(inputs))


# ---- Launches and limits ---------------------------------------------------------------------------------------------


def test_launches_do_not_grow_with_the_size() -> None:
    def launches(shape: tuple[int, int, int]) -> tuple[int, int]:
        a, b, g, grad_y = make_inputs(shape, device="cuda")
        return (
            kernels_of(lambda: ops.relu_affinity_forward(a, b, g)),
            kernels_of(lambda: ops.relu_affinity_backward(grad_y, a, b, g, True, True)),
        )

    assert launches((2, 100, 5000)) == launches((4, 300, 20_000))


def test_neighbouring_channels_are_not_copied() -> None:
    """Such features need no transposition: two launches less forward, three less backward."""
    a, b, g, grad_y = make_inputs((2, 40, 500), device="cuda")
    h = grad_y.mT.contiguous().mT
    rows = g.mT.contiguous().mT
    forward = [kernels_of(lambda g=g: ops.relu_affinity_forward(a, b, g)) for g in (g, rows)]
    backward = [
        kernels_of(lambda g=g, h=h: ops.relu_affinity_backward(h, a, b, g, True, True))
        for g, h in ((g, grad_y), (rows, h))
    ]
    assert forward[0] - forward[1] == 2
    assert backward[0] - backward[1] == 3


@pytest.mark.parametrize("positions", [2048, 2049])
def test_what_forward_saves_is_what_backward_computes(positions: int) -> None:
    """At 2048 positions a block sorts an image: a step takes seven launches."""
    a, b, g, grad_y = make_inputs((2, 40, positions), device="cuda")
    g, grad_y = g.mT.contiguous().mT, grad_y.mT.contiguous().mT
    y, *saved = ops.relu_affinity_forward_saving(a, b, g)
    assert torch.equal(y, ops.relu_affinity_forward(a, b, g))
    for needs in [(True, True), (False, True), (True, False)]:
        gradients = [ops.relu_affinity_backward(grad_y, a, b, g, *needs, *known) for known in (saved, [])]
        assert all(map(torch.equal, *gradients))
    if positions == 2048:
        assert kernels_of(lambda: ops.relu_affinity_forward_saving(a, b, g)) == 4
        assert kernels_of(lambda: ops.relu_affinity_backward(grad_y, a, b, g, True, True, *saved)) == 3
    arguments = (grad_y, a, b, g, True, True, *saved)
    torch.library.opcheck(ops.relu_affinity_forward_saving, (a, b, g))
    torch.library.opcheck(ops.relu_affinity_backward, arguments)
    with pytest.raises(RuntimeError, match=r"states must have shape \[2, \d+, 40, 2\], got \[2\]"):
        ops.relu_affinity_backward(*arguments[:-1], saved[1].new_zeros(2))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_layer_transposes_nothing(memory_format: torch.memory_format) -> None:
    """In float32 without TF32: float64 convolutions of PyTorch return contiguous images."""
    torch.manual_seed(0)
    plain, layer = NonLocal(80, device="cuda"), NonLocalFused(80, device="cuda")
    nn.init.ones_(plain.out[1].weight)
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(2, 80, 20, 21, device="cuda").contiguous(memory_format=memory_format).requires_grad_()
    grad_z = torch.randn_like(x)

    def step(layer: NonLocal) -> list[Tensor]:
        z = layer(x)
        # Batch norm after it makes one gradient 0, but for rounding.
        parameters = [parameter for parameter in layer.parameters() if parameter is not layer.out[0].bias]
        return [z, *torch.autograd.grad(z, [x, *parameters], grad_z)]

    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for ours, theirs in zip(step(layer), step(plain), strict=True):
            assert (ours - theirs).norm() <= 1e-3 * theirs.norm() + 1e-3  # some pairs pass the kink of ReLU
        launched = launches_of(lambda: step(layer))
    assert any("item_scan_kernel" in name for name in launched)
    assert not any("nonlocal::cuda::copy_kernel" in name for name in launched)


def test_more_elements_than_an_int_counts() -> None:
    shape = (3, 1500, 500_000)  # 2.25e9 elements; the last image comes to what it does alone
    skip_unless_free(9 * 2 * 2_250_000_000)
    torch.manual_seed(0)
    a, b = torch.randn(2, 1, shape[2], device="cuda")
    inputs = Inputs(a, b, *torch.randn(2, 1, *shape[1:], dtype=torch.bfloat16, device="cuda"))
    expected = relu_affinity(inputs)
    many = Inputs(*(tensor.new_zeros(shape[0], *tensor.shape[1:]) for tensor in inputs))
    for tensor, image in zip(many, inputs, strict=True):
        tensor[-1:] = image
    results = relu_affinity(many)
    assert same_bits(Results(*(result[-1:] for result in results)), expected)
    assert not results.y[:-1].any()


def test_more_items_than_an_int_counts() -> None:
    images, positions = 1100, 1_000_000  # 2.2e9 keys to sort
    skip_unless_free(90 * 2**30)
    a, b, g, _ = make_inputs((1, 1, positions), torch.bfloat16, "cuda")
    expected = functional.relu_affinity(a, b, g)
    y = functional.relu_affinity(a.repeat(images, 1), b.repeat(images, 1), g.repeat(images, 1, 1))
    assert torch.equal(y, expected.expand_as(y))


def skip_unless_free(needed: int) -> None:
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0]
    if free < needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of GPU memory, {free / 2**30:.0f} are free")
