"""What the tests on a GPU share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.autograd import DeviceType

LONG_CYCLES = 1 << 29  # about a third of a second, in which the host gets far ahead


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
