"""What every benchmark shares: interleaved timing, and the claims that its numbers are to bear out.

The variants of one computation are timed in one process and interleaved: a round gives each of them one turn, in an
order shuffled anew, so that whatever else the machine does falls on all alike. A turn is one call that is not timed,
since it finds caches and heap as another variant left them, and then as many as fill about a given time (TIMERS), which
count as one time per call. On a GPU the host waits before and after, and events on the stream take the time: it holds
what the host takes to launch, if that is longer than the work. Tensors stay where they are from call to call, in cache
if they fit, and freed memory stays with the process (machine.keep_freed_memory).

pytest-benchmark runs the rounds (--benchmark-max-time, --benchmark-min-rounds) and writes the JSON; conftest.py holds
the hooks.
"""

import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

WARM_UP_SECONDS = 0.1


def cpu_seconds(call: Callable[[], object], calls: int) -> float:
    """Seconds a call, of so many."""
    start = perf_counter()
    for _ in range(calls):
        call()
    return (perf_counter() - start) / calls


def cuda_seconds(call: Callable[[], object], calls: int) -> float:
    """The same on the current stream of the current GPU."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3 / calls


def process_seconds(call: Callable[..., Any], calls: int) -> float:
    """The same where the work is done by another process: ``call(calls)`` returns what it measured there."""
    return call(calls)


Timer = Callable[[Callable[[], object], int], float]

# The seconds of a turn are thousands of times the resolution of the clock, yet short against the moods of a machine; on
# a GPU, hundreds of times what the first launch of a turn takes to arrive.
TIMERS: dict[str, tuple[Timer, float]] = {
    "cpu": (cpu_seconds, 0.5e-3),
    "cuda": (cuda_seconds, 2e-3),
    "process": (process_seconds, 2e-3),
}


def warm_up(call: Callable[..., object], timer: Timer = cpu_seconds) -> float:
    """Seconds that a call takes once it is warm."""
    shortest, end = float("inf"), perf_counter() + WARM_UP_SECONDS
    while perf_counter() < end:
        shortest = min(shortest, timer(call, 1))
    return shortest


@dataclass(frozen=True)
class Variant:
    """One way to do what is timed."""

    call: Callable[..., object]
    times: float = 1.0  # how often a call does it
    work: float | None = None  # how much that is, each time, in `unit`s
    unit: str = ""
    prepare: Callable[[], object] | None = None  # called before each turn


@dataclass(frozen=True)
class Claim:
    """The median time of ``over``, divided by that of ``under``, is at most ``limit`` (or ``at_least`` that)."""

    over: str
    under: str
    limit: float
    at_least: bool = False

    def judge(self, seconds: Mapping[str, list[float]]) -> dict[str, Any]:
        ratio = float(np.median(seconds[self.over]) / np.median(seconds[self.under]))
        p25, p75 = np.percentile(np.divide(seconds[self.over], seconds[self.under]), (25, 75)).tolist()
        return {
            "claim": f"{self.over} ÷ {self.under}",
            "target": f"{'≥' if self.at_least else '≤'} {self.limit:.2f}",
            "measured": round(ratio, 4),
            "p25": round(p25, 4),  # of the rounds' own ratios
            "p75": round(p75, 4),
            "met": ratio >= self.limit if self.at_least else ratio <= self.limit,
        }


def interleave(
    benchmark: BenchmarkFixture,
    variants: Mapping[str, Variant],
    *,
    baselines: Sequence[str],
    claims: Sequence[Claim] = (),
    missing: Mapping[str, str] | None = None,
    device: str = "cpu",
) -> None:
    """Time the variants against each other; what comes out is in ``benchmark.extra_info``, for the table and the JSON.

    Args:
        variants: by name.
        baselines: names of those whose median the others are divided by, as far as they are here.
        claims: about these variants; those about variants that are missing are left out.
        missing: why, by name, for variants that cannot run here.
        device: "cpu", "cuda" or "process", which does the work.
    """
    timer, turn_seconds = TIMERS[device]
    calls = {}
    for name, variant in variants.items():
        if variant.prepare:
            variant.prepare()
        calls[name] = max(1, round(turn_seconds / warm_up(variant.call, timer)))
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    order = random.Random(0)

    def play_round() -> None:
        order.shuffle(names)
        for name in names:
            variant = variants[name]
            if variant.prepare:
                variant.prepare()
            variant.call()
            seconds[name].append(timer(variant.call, calls[name]) / variant.times)

    benchmark(play_round)

    present = [baseline for baseline in baselines if baseline in variants]
    quartiles = {name: np.percentile(times, (25, 50, 75)) * 1e3 for name, times in seconds.items()}
    benchmark.extra_info["variants"] = {
        name: {
            "p25_ms": round(p25, 6),
            "median_ms": round(median, 6),
            "p75_ms": round(p75, 6),
            "relative_to": {baseline: round(median / quartiles[baseline][1], 4) for baseline in present},
            "turns": len(seconds[name]),
            "calls_per_turn": calls[name],
            **_rate(variants[name], median * 1e-3),
        }
        for name, (p25, median, p75) in ((name, values.tolist()) for name, values in quartiles.items())
    }
    benchmark.extra_info["claims"] = [
        claim.judge(seconds) for claim in claims if {claim.over, claim.under} <= seconds.keys()
    ]
    benchmark.extra_info["missing"] = dict(missing or {})


def _rate(variant: Variant, seconds: float) -> dict[str, Any]:
    if variant.work is None:
        return {}
    return {"rate": round(variant.work / seconds * 1e-9, 2), "unit": f"G{variant.unit}/s"}


def main(script: str) -> int:
    """Run the benchmark file ``script`` in pytest, with the command line's arguments added; returns the exit status.

    A complete run writes results/<name>_cpu.json (or _cuda.json), <name> without its "bench_". With arguments (such as
    ``-k forward``) the run may be another, so nothing is written unless they include a ``--benchmark-json=FILE``.
    """
    own_arguments = sys.argv[1:]
    if not own_arguments:
        name = Path(script).stem.removeprefix("bench_")
        results = Path(script).with_name("results") / f"{name if name.endswith('_cuda') else f'{name}_cpu'}.json"
        results.parent.mkdir(exist_ok=True)
        own_arguments = [f"--benchmark-json={results}"]
    options = ["-q", "--benchmark-enable", "--benchmark-quiet", "--benchmark-disable-gc", "--benchmark-min-rounds=10"]
    options += ["--benchmark-max-time=2", "-W", "default"]  # a library's warning is no failure here
    return pytest.main([script, *options, *own_arguments])
