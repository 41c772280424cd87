"""How much memory does the non-local layer take, and does a full-resolution F4 head train in what there is?

    python benchmarks/bench_nonlocal_memory.py [--limit-gib 12]     writes results/nonlocal_memory_cpu.json
    python benchmarks/bench_nonlocal_memory.py --side 17            on features of 17×17 cells; writes nothing

First the operator alone, forward and backward on g [1, 128, 25921]: what the process holds at its peak beyond the
arguments, results and gradients included, in multiples of g.

Then one training step (forward, backward, update) of a head, dense and exact. The head is the two DGCMs (Fig. 2) that
the paper puts on a level, one for the PIF and one for the PAF fields, each with the 1×1 convolution to its fields, on
the F4 features of 641 px pictures: [B, 512, 161, 161], N = 25,921 positions.

Each runs in a process of its own. One that asks for more than the limit gets an allocation error from the system, so
nothing swaps and nothing else is killed; the resident memory at the peak is what counts.
"""

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter

import machine
import torch
from torch import nn

from dgcn_ext import DGCM, DGCMFused
from dgcn_ext.functional import relu_affinity

GIB = 2**30
CHANNELS, NODES, LIMBS = 512, 17, 19
SIDE = (641 - 1) // 4 + 1
MODULES = {"dense": DGCM, "exact": DGCMFused}
CASES = [("dense", 1), ("exact", 1), ("dense", 8), ("exact", 8)]  # 8 is the paper's batch


def peak_memory() -> int:
    """The most bytes that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def run_operator(channels: int, positions: int) -> dict[str, object]:
    """Forward and backward of relu_affinity; what the process grew by, in multiples of g."""

    def forward_backward(channels: int, positions: int) -> int:
        a, b = (torch.randn(1, positions, requires_grad=True) for _ in range(2))
        g, grad_y = (torch.randn(1, channels, positions, requires_grad=True) for _ in range(2))
        before = peak_memory()
        relu_affinity(a, b, g).backward(grad_y)
        return peak_memory() - before

    forward_backward(16, 16)  # loads what is loaded once
    extra = forward_backward(channels, positions)
    ratio = round(extra / (4 * channels * positions), 2)
    claim = {"claim": "peak extra memory ÷ g", "target": "≤ 4.00", "measured": ratio, "met": ratio <= 4}
    case = {"case": str([1, channels, positions]), "direction": "forward+backward", "threads": torch.get_num_threads()}
    return {**case, "peak_extra_over_g": ratio, "claims": [claim]}


def train_a_step(form: str, batch: int, side: int) -> dict[str, object]:
    """Seconds of the step, and the most memory that the process ever held."""
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
    """Of what a DGCM returns, the features; node_logits would have a loss of their own."""

    def forward(self, outputs: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return outputs[0]


def run(form: str, size: int, side: int) -> dict[str, object]:
    return run_operator(size, side * side) if form == "operator" else train_a_step(form, size, side)


def measure(form: str, size: int, side: int, limit: int) -> dict[str, object]:
    """``run`` in a process that may allocate ``limit`` bytes."""
    command = [sys.executable, __file__, "--run", form, str(size), "--side", str(side)]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
    )
    if result.returncode == 0:
        return json.loads(result.stdout)
    error = result.stderr.strip().splitlines()[-1]
    if "can't allocate memory" not in error:
        raise RuntimeError(f"{shlex.join(command)} failed:\n{result.stderr}")
    return {"error": error}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit-gib", type=float, default=12, help="memory that a step may allocate (default: 12)")
    parser.add_argument("--side", type=int, default=SIDE, help="of the features, in cells (default: %(default)s)")
    parser.add_argument("--run", nargs=2, metavar=("FORM", "SIZE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    side = arguments.side
    if arguments.run:
        print(json.dumps(run(arguments.run[0], int(arguments.run[1]), side)))
        return

    origin = machine.origin()
    print(machine.describe(origin))
    limit = int(arguments.limit_gib * GIB)
    operator = measure("operator", 128, side, limit)
    print(f"relu_affinity, forward and backward: {operator['peak_extra_over_g']} g beyond its arguments")
    print(f"one training step of an F4 head, features [B, {CHANNELS}, {side}, {side}], limit {arguments.limit_gib} GiB")
    benchmarks = [{"group": "memory of relu_affinity", **operator}]
    for form, batch in CASES:
        result = measure(form, batch, side, limit)
        benchmarks.append({"group": "memory of an F4 head", "form": form, "batch": batch, "claims": [], **result})
        outcome = result.get("error") or f"{result['peak_gib']:6} GiB at the peak, {result['seconds']} s"
        print(f"{form:7} B = {batch}  {outcome}", flush=True)
    if side != SIDE:
        return
    path = Path(__file__).with_name("results") / "nonlocal_memory_cpu.json"
    path.parent.mkdir(exist_ok=True)
    about = {
        "command": shlex.join(["python", os.path.relpath(__file__), *sys.argv[1:]]),
        "datetime": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    measured = {"limit_gib": arguments.limit_gib, "benchmarks": benchmarks}
    path.write_text(json.dumps({**about, **origin, **measured}, indent=4) + "\n")


if __name__ == "__main__":
    main()
