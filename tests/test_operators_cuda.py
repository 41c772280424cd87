"""``graph_conv`` and ``relu_affinity`` on a GPU: side by side on two streams, what they keep, and their memory."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import graph_conv_cases
import pytest
import relu_affinity_cases
import torch
from cuda_cases import peak_memory
from op_contract import differentiate
from torch import Tensor
from torch._subclasses import FakeTensorMode

from dgcn_ext import functional

REPEATS = 50
ROUNDING = 8 * 2**20  # bytes: torch's allocator may give up to 1 MiB more for each tensor; and small results


def graph_conv_call(*shape: int) -> Callable[[], list[Tensor]]:
    """A function that returns y and every gradient."""
    inputs = graph_conv_cases.make_inputs(shape, device="cuda", optional=("weight", "bias"))
    options = graph_conv_cases.options_on("cuda", seed=1, per_sample=True)

    def call() -> list[Tensor]:
        y, gradients = differentiate(functional.graph_conv, inputs, options)
        return [y, *gradients.values()]

    return call


def relu_affinity_call(*shape: int) -> Callable[[], list[Tensor]]:
    inputs = relu_affinity_cases.make_inputs(shape, device="cuda")
    return lambda: list(relu_affinity_cases.differentiate(functional.relu_affinity, inputs))


@pytest.mark.gpu
# So small that the GPU has room for both: the same kernels with other sizes, and other kernels.
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((graph_conv_call, 2, 17, 41, 41), (graph_conv_call, 2, 133, 23, 29)),
        ((relu_affinity_call, 2, 40, 1301), (relu_affinity_call, 3, 128, 501)),
        ((graph_conv_call, 2, 17, 41, 41), (relu_affinity_call, 2, 40, 1301)),
    ],
)
def test_streams_run_side_by_side(first: tuple[Callable, int], second: tuple[Callable, int]) -> None:
    """Two threads call at the same time, each on a stream of its own; each gets what it gets alone."""
    calls = [make(*shape) for make, *shape in (first, second)]
    expected = [call() for call in calls]
    torch.cuda.synchronize()
    start = Barrier(2)

    def repeat(call: Callable[[], list[Tensor]]) -> list[list[Tensor]]:
        with torch.cuda.stream(torch.cuda.Stream()):
            start.wait()
            return [call() for _ in range(REPEATS)]

    with ThreadPoolExecutor(2) as pool:
        repeats = list(pool.map(repeat, calls))
    torch.cuda.synchronize()
    for results, alone in zip(repeats, expected, strict=True):
        assert all(all(map(torch.equal, result, alone)) for result in results)


# ---- What autograd keeps, by shapes alone: needs no GPU --------------------------------------------------------------


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="this torch knows no CUDA tensors")
def test_what_is_kept_for_backward() -> None:
    with FakeTensorMode():
        inputs = graph_conv_cases.make_inputs((2, 33, 5, 7), device="cuda")
        y = functional.graph_conv(**inputs | {"x": inputs["x"].requires_grad_()})
        x, gate, *_ = y.grad_fn.saved_tensors
        assert x.shape == y.shape
        assert x.is_cuda
        assert (gate.shape, gate.dtype) == ((2, 2, 5, 7), torch.int32)
        linear = functional.graph_conv(**inputs, activation="none")
        assert linear.grad_fn.saved_tensors[1] is None

        a, g = torch.ones(2, 70, device="cuda", requires_grad=True), torch.ones(2, 8, 70, device="cuda")
        *_, order, states = functional.relu_affinity(a, a, g).grad_fn.saved_tensors
        assert (order.shape, order.dtype) == ((2, 140), torch.int32)  # the sorted keys
        assert (states.shape, states.dtype) == ((2, 3, 8, 2), torch.float64)  # of two chunks, and of the image


# ---- Memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dtype", "memory_format"), [(torch.float32, torch.contiguous_format), (torch.bfloat16, torch.channels_last)]
)
def test_memory_of_graph_conv(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    """That of y; with the gradients also that of grad_x, and at most an eighth of it for the sides of ReLU's kink."""
    inputs = graph_conv_cases.make_inputs((16, 17, 161, 161), dtype, "cuda", memory_format, ("weight", "bias"))
    options = graph_conv_cases.options_on("cuda", seed=1)
    y = inputs["x"].nbytes
    assert y <= peak_memory(lambda: functional.graph_conv(**inputs, **options)) <= y + ROUNDING
    grad_y = torch.ones_like(inputs["x"])
    both = peak_memory(lambda: differentiate(functional.graph_conv, inputs, options, grad_y))
    assert 2 * y <= both <= (2 + 1 / 8) * y + ROUNDING


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("layout", "forward", "backward"), [("contiguous", 2.0, 3.0), ("neighbouring channels", 0.4, 0.6)]
)
def test_memory_of_relu_affinity(layout: str, forward: float, backward: float) -> None:
    """Beside the results, so many times that of g: rows of features whose channels are not neighbours, and sums."""
    inputs = relu_affinity_cases.make_inputs((8, 128, 6561), device="cuda")
    if layout in relu_affinity_cases.LAYOUTS:
        change = relu_affinity_cases.LAYOUTS[layout]
        inputs = inputs._replace(g=change(inputs.g), grad_y=change(inputs.grad_y))
    g = inputs.g.nbytes
    assert peak_memory(lambda: functional.relu_affinity(*inputs[:3])) <= (1 + forward) * g + ROUNDING
    both = peak_memory(lambda: relu_affinity_cases.differentiate(functional.relu_affinity, inputs))
    assert both <= (2 + backward) * g + ROUNDING
