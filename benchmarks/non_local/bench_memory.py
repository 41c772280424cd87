"""How much memory does the non-local layer take, and does a full-resolution F4 head train within 12 GiB?

First the operator alone, forward and backward on g [1, 128, 25921]: the most that the process holds beyond the
arguments, results and gradients included, in multiples of g.

Then one training step (forward, backward, update) of a head, dense and exact. The head is the two DGCMs (Fig. 2) that
the paper puts on a level, one for the PIF and one for the PAF fields, each with the 1×1 convolution to its fields, on
the F4 features of 641 px pictures: [B, 512, 161, 161], N = 25,921 positions.

Each runs in a process of its own, whose largest resident memory counts. The system refuses what it allocates beyond the
limit, so nothing is swapped and no other process is killed.
"""

import re
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.harness import Record
from dgcn_ext import DGCM, DGCMFused
from dgcn_ext.functional import relu_affinity

GIB = 2**30
LIMIT_GIB = 12
CHANNELS, NODES, LIMBS = 512, 17, 19
SIDE, SMOKE_SIDE = (641 - 1) // 4 + 1, 17  # cells
MODULES = {"dense": DGCM, "exact": DGCMFused}
CASES = [("dense", 1), ("exact", 1), ("dense", 8), ("exact", 8)]  # 8 is the paper's batch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, which Linux has")


def limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_GIB * GIB, LIMIT_GIB * GIB))


def in_own_process(function: Callable[..., Any], *arguments: object) -> Any:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=limit_memory) as pool:
        return pool.submit(function, *arguments).result()


def peak_memory() -> int:
    """The most bytes that this process ever held. `getrusage` would count those of the process that started it."""
    return 1024 * int(re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)[1])


def operator_growth(channels: int, positions: int) -> float:
    """What the process grows by in forward and backward of relu_affinity, in multiples of g."""

    def forward_backward(channels: int, positions: int) -> int:
        a, b = (torch.randn(1, positions, requires_grad=True) for _ in range(2))
        g, grad_y = (torch.randn(1, channels, positions, requires_grad=True) for _ in range(2))
        before = peak_memory()
        relu_affinity(a, b, g).backward(grad_y)
        return peak_memory() - before

    forward_backward(16, 16)  # loads what is loaded once
    return round(forward_backward(channels, positions) / (4 * channels * positions), 2)


def train_one_step(form: str, batch: int, side: int) -> dict[str, float]:
    """Seconds of the step, the most memory that the process ever held, and the loss."""
    torch.manual_seed(0)
    module = MODULES[form]
    heads = [
        nn.Sequential(module(CHANNELS, torch.ones(NODES, NODES)), _Features(), nn.Conv2d(CHANNELS, fields, 1))
        for fields in (NODES * 5, LIMBS * 7)
    ]
    optimizer = torch.optim.SGD([p for head in heads for p in head.parameters()], lr=1e-3)
    features = torch.randn(batch, CHANNELS, side, side)
    start = perf_counter()
    loss = sum(head(features).square().mean() for head in heads)
    loss.backward()
    optimizer.step()
    seconds = perf_counter() - start
    return {"seconds": round(seconds, 2), "peak_gib": round(peak_memory() / GIB, 2), "loss": round(loss.item(), 6)}


class _Features(nn.Module):
    """Of the outputs of a DGCM, the features: node_logits would have a loss of their own."""

    def forward(self, outputs: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return outputs[0]


def test_nonlocal_memory(record: Record, smoke: bool) -> None:
    side = SMOKE_SIDE if smoke else SIDE
    growth = in_own_process(operator_growth, 128, side**2)
    claim = {"claim": "peak extra memory ÷ g", "target": "≤ 4.00", "measured": growth, "met": growth <= 4}
    record(
        "memory of relu_affinity",
        case=str([1, 128, side**2]),
        direction="forward+backward",
        peak_extra_over_g=growth,
        outcome=f"{growth} g beyond its arguments",
        claims=[claim],
    )


@pytest.mark.parametrize(("form", "batch"), CASES)
def test_nonlocal_head_memory(record: Record, smoke: bool, form: str, batch: int) -> None:
    side = SMOKE_SIDE if smoke else SIDE
    try:
        step = in_own_process(train_one_step, form, batch, side)
        outcome = f"{step['peak_gib']:6} GiB at the peak, {step['seconds']} s"
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        step, outcome = {}, f"more than {LIMIT_GIB} GiB: {str(error).splitlines()[0]}"
    record(
        f"memory of an F4 head, one training step on [B, {CHANNELS}, {side}, {side}], limit {LIMIT_GIB} GiB",
        case=f"{form}, B = {batch}",
        direction="training step",
        form=form,
        batch=batch,
        **step,
        outcome=outcome,
    )
