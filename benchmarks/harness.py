"""Interleaved timing of several ways to do one thing, and the claims that the times are to support.

All variants of a computation run in one process and take turns. A round gives each variant one turn, in an order that
is shuffled for every round, so a disturbance of the machine hits all of them alike. A turn makes one untimed call,
because caches and heap are as another variant left them, and then as many calls as fill about `Timer.turn` seconds.
Tensors stay where they are from call to call, in cache if they fit, and freed memory stays with the process,
as in the commands of dgcn (dgcn.memory).
"""

import gc
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter, thread_time
from typing import Any

import numpy as np
import torch
from torch import Tensor

# The fixtures of these names, defined in conftest.py.
Compare = Callable[..., dict[str, Any]]
Record = Callable[..., dict[str, Any]]

WARM_UP_SECONDS = 0.1


@dataclass(frozen=True)
class Timer:
    """How a turn is timed.

    Attributes:
        seconds: given a call and a number of calls, makes them and returns the seconds that one took.
        turn: seconds that a turn should take.
    """

    seconds: Callable[[Callable[..., Any], int], float]
    turn: float


def _clocked(clock: Callable[[], float]) -> Callable[[Callable[..., Any], int], float]:
    def seconds(call: Callable[..., Any], calls: int) -> float:
        start = clock()
        for _ in range(calls):
            call()
        return (clock() - start) / calls

    return seconds


def _cuda_seconds(call: Callable[..., Any], calls: int) -> float:
    """Between two events on the current stream. Launches count where they take longer than the work."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3 / calls


# A turn is thousands of times the resolution of its clock, yet short, so that a round sees one state of the machine; on
# a GPU it is hundreds of times what the first launch takes to arrive.
WALL = Timer(_clocked(perf_counter), 0.5e-3)
THREAD = Timer(_clocked(thread_time), 2e-3)  # processor time of the calling thread: other processes do not count
CUDA = Timer(_cuda_seconds, 2e-3)
ELSEWHERE = Timer(lambda call, calls: call(calls), 2e-3)  # another process does and times the work (peer.py)


def warm_up(call: Callable[..., Any], timer: Timer = WALL) -> float:
    """Seconds that a call takes once it is warm."""
    shortest, end = float("inf"), perf_counter() + WARM_UP_SECONDS
    while perf_counter() < end:
        shortest = min(shortest, timer.seconds(call, 1))
    return shortest


@dataclass(frozen=True)
class Variant:
    """One way to do what is timed.

    Attributes:
        call: does it `times` times.
        work: how much is done each time, in `unit`s; None where no rate is reported.
        prepare: called before each turn, untimed.
    """

    call: Callable[..., Any]
    times: float = 1.0
    work: float | None = None
    unit: str = ""
    prepare: Callable[[], object] = lambda: None
    timer: Timer = WALL


@dataclass(frozen=True)
class Claim:
    """The median time of `over`, divided by that of `under`, is at most `limit` (or `at_least` that)."""

    over: str
    under: str
    limit: float
    at_least: bool = False

    def judge(self, seconds: Mapping[str, list[float]]) -> dict[str, Any]:
        ratio = float(np.median(seconds[self.over]) / np.median(seconds[self.under]))
        # The quartiles are those of the rounds' own ratios.
        p25, p75 = np.percentile(np.divide(seconds[self.over], seconds[self.under]), (25, 75)).tolist()
        return {
            "claim": f"{self.over} ÷ {self.under}",
            "target": f"{'≥' if self.at_least else '≤'} {self.limit:.2f}",
            "measured": round(ratio, 4),
            "p25": round(p25, 4),
            "p75": round(p75, 4),
            "met": ratio >= self.limit if self.at_least else ratio <= self.limit,
        }


def interleave(
    variants: Mapping[str, Variant],
    *,
    baselines: Sequence[str] = (),
    claims: Sequence[Claim] = (),
    min_rounds: int = 10,
    seconds: float = 2.0,
) -> dict[str, Any]:
    """Times the variants against each other.

    Args:
        variants: by name.
        baselines: names of variants by whose median the others are divided. Those that are not in `variants` are left
            out.
        claims: about these variants. Those about others are left out.
        min_rounds: number of rounds at least.
        seconds: rounds are added until so much time has passed.

    Returns:
        "variants": medians, quartiles [ms] and ratios by name; "claims": what became of them.
    """
    calls = {}
    for name, variant in variants.items():
        variant.prepare()
        calls[name] = max(1, round(variant.timer.turn / warm_up(variant.call, variant.timer)))
    times: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    order = random.Random(0)
    gc.collect()
    gc.disable()
    try:
        rounds, end = 0, perf_counter() + seconds
        while rounds < min_rounds or perf_counter() < end:
            order.shuffle(names)
            for name in names:
                variant = variants[name]
                variant.prepare()
                variant.call()
                times[name].append(variant.timer.seconds(variant.call, calls[name]) / variant.times)
            rounds += 1
    finally:
        gc.enable()

    quartiles = {name: np.percentile(own, (25, 50, 75)) * 1e3 for name, own in times.items()}
    summary: dict[str, dict[str, Any]] = {}
    for name, (p25, median, p75) in ((name, values.tolist()) for name, values in quartiles.items()):
        summary[name] = {
            "p25_ms": round(p25, 6),
            "median_ms": round(median, 6),
            "p75_ms": round(p75, 6),
            "relative_to": {one: round(median / quartiles[one][1], 4) for one in baselines if one in variants},
            "turns": rounds,
            "calls_per_turn": calls[name],
        }
        if (work := variants[name].work) is not None:
            summary[name] |= {"rate": round(work / median * 1e-6, 2), "unit": f"G{variants[name].unit}/s"}
    judged = [claim.judge(times) for claim in claims if {claim.over, claim.under} <= times.keys()]
    return {"variants": summary, "claims": judged}


def captured(call: Callable[[], tuple[Tensor, ...]]) -> Callable[[], tuple[Tensor, ...]]:
    """``call`` as a CUDA graph. The next replay overwrites what the last one returned."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):  # whatever is compiled, loaded or allocated once comes before the capture
            call()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call()

    def replay() -> tuple[Tensor, ...]:
        graph.replay()
        return results

    return replay
