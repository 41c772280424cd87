"""What the tests on a GPU share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import DeviceType

LONG_CYCLES = 1 << 29  # about a third of a second, in which the host gets far ahead


def captured(step: Callable[[], list[Tensor]]) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
    """A step as a CUDA graph, and the results that each replay writes."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    return graph, results


def peak_memory(function: Callable[[], object]) -> int:
    """Bytes of GPU memory that a call takes at its height, with its results, beyond what was there before it."""
    function()  # what stays allocated from the first call on
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def launches_of(function: Callable[[], object]) -> list[str]:
    """The names of the kernels, copies and fills that the function launches."""
    function()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        function()
        torch.cuda.synchronize()
    names = [event.name for event in profile.events() if event.device_type == DeviceType.CUDA]
    return [name for name in names if "kernel" in name.lower() or name.startswith("Mem")]


def kernels_of(function: Callable[[], object]) -> int:
    return len(launches_of(function))
