"""What every benchmark shares: interleaved timing, a table for the terminal, and the origin of the numbers.

The variants of one computation are timed in one process and interleaved: a round gives each of them one turn, in an
order shuffled anew, so that whatever else the machine does falls on all alike. A turn is one call that is not timed,
since it finds caches and heap as another variant left them, and then as many as fill about TURN_SECONDS, which count
as one time per call.

pytest-benchmark runs the rounds (--benchmark-max-time, --benchmark-min-rounds) and writes the JSON; conftest.py holds
the hooks.
"""

import os
import platform
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import cpuinfo
import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

ROOT = Path(__file__).resolve().parent.parent
TURN_SECONDS = 0.5e-3  # thousands of times the resolution of the clock, yet short against the moods of a machine
WARM_UP_SECONDS = 0.1

_SIMD_FLAGS = ("avx", "fma", "f16c", "amx", "asimd", "sve")  # beginnings of their names


def main(script: str) -> int:
    """Run the benchmark file ``script`` in pytest, with the command line's arguments added; returns the exit status.

    A complete run writes results/<name>_cpu.json, <name> without its "bench_". With arguments (such as ``-k forward``)
    the run may be another, so nothing is written unless they include a ``--benchmark-json=FILE``.
    """
    path = Path(os.path.relpath(script))  # not where the user keeps it: the JSON tells the command
    own_arguments = sys.argv[1:]
    if not own_arguments:
        path.with_name("results").mkdir(exist_ok=True)
        results = path.with_name("results") / f"{path.stem.removeprefix('bench_')}_cpu.json"
        own_arguments = [f"--benchmark-json={results}"]
    options = ["--benchmark-enable", "--benchmark-quiet", "--benchmark-disable-gc", "--benchmark-max-time=3"]
    return pytest.main([str(path), "-v", *options, "--benchmark-min-rounds=10", *own_arguments])


def interleave(
    benchmark: BenchmarkFixture,
    variants: Mapping[str, Callable[[], object]],
    *,
    baselines: Sequence[str],
    missing: Mapping[str, str],
) -> None:
    """Time the variants against each other; what comes out is in ``benchmark.extra_info``, for the table and the JSON.

    Args:
        variants: by name; each does the work once.
        baselines: names of those whose median the others are divided by.
        missing: why, by name, for variants that cannot run here.
    """
    calls = {name: max(1, round(TURN_SECONDS / _warm_up(call))) for name, call in variants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    order = random.Random(0)

    def play_round() -> None:
        order.shuffle(names)
        for name in names:
            call, repeats = variants[name], range(calls[name])
            call()
            start = perf_counter()
            for _ in repeats:
                call()
            seconds[name].append((perf_counter() - start) / len(repeats))

    benchmark(play_round)

    quartiles = {name: np.percentile(times, (25, 50, 75)) * 1e3 for name, times in seconds.items()}
    benchmark.extra_info["variants"] = {
        name: {
            "p25_ms": round(p25, 6),
            "median_ms": round(median, 6),
            "p75_ms": round(p75, 6),
            "relative_to": {baseline: round(median / quartiles[baseline][1], 4) for baseline in baselines},
            "turns": len(seconds[name]),
            "calls_per_turn": calls[name],
        }
        for name, (p25, median, p75) in ((name, values.tolist()) for name, values in quartiles.items())
    }
    benchmark.extra_info["missing"] = dict(missing)


def _warm_up(call: Callable[[], object]) -> float:
    """Seconds that ``call`` takes once it is warm."""
    shortest, end = float("inf"), perf_counter() + WARM_UP_SECONDS
    while (start := perf_counter()) < end:
        call()
        shortest = min(shortest, perf_counter() - start)
    return shortest


@contextmanager
def num_threads(count: int) -> Iterator[None]:
    """torch computes with ``count`` threads; the test is skipped where there are fewer cores."""
    if count > usable_cores():
        pytest.skip(f"needs {count} cores, this process may use {usable_cores()}")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def why_not_compiled() -> str | None:
    """Why ``torch.compile`` cannot work on this machine's CPU; None if it can."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # as Inductor chooses
    return None if shutil.which(compiler) else f"torch.compile needs a C++ compiler, and there is no {compiler}"


def table(results: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """The (group, extra_info) of each benchmark for a terminal: a block a group, in the order of appearance."""
    blocks: dict[str, list[str]] = {}
    for group, info in results:
        if group not in blocks:
            baselines = "".join(f"{f'÷ {name}':>11}" for name in next(iter(info["variants"].values()))["relative_to"])
            blocks[group] = [f"\n{group}", f"{'milliseconds a call':36}  median  [  p25 –  p75 ]{baselines}"]
        lines = [f"{name:17}{_row(variant)}" for name, variant in info["variants"].items()]
        lines += [f"{name:17}  {why}" for name, why in info["missing"].items()]
        blocks[group] += [f"{info['case'] if line is lines[0] else '':19}{line}" for line in lines]
    return "\n".join(line for lines in blocks.values() for line in lines)


def _row(variant: Mapping[str, Any]) -> str:
    p25, median, p75 = (_four_digits(variant[key]) for key in ("p25_ms", "median_ms", "p75_ms"))
    ratios = "".join(f"{ratio:11.2f}" for ratio in variant["relative_to"].values())
    return f"{median:>8}  [{p25:>6}–{p75:>6}]{ratios}"


def _four_digits(number: float) -> str:
    return f"{number:.4f}"[:6].rstrip(".")


def origin() -> dict[str, Any]:
    """Where numbers measured from now on come from."""
    cpu = cpuinfo.get_cpu_info()
    return {
        "commit": _commit(),
        "machine": {
            "cpu": cpu.get("brand_raw", platform.processor()),
            "instruction_sets": sorted(
                {flag.replace("_", "") for flag in cpu.get("flags", ()) if flag.startswith(_SIMD_FLAGS)}
            ),
            "cores": os.cpu_count(),
            "usable_cores": usable_cores(),
            "system": f"{platform.system()} {platform.machine()}",
            "load_average_before": round(os.getloadavg()[0], 2),  # processes at work in the last minute
        },
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "dgcn": version("dgcn")},
    }


def describe(origin: Mapping[str, Any]) -> str:
    """An ``origin()`` in a line."""
    machine, commit = origin["machine"], origin["commit"]
    facts = [f"{machine['cpu']}, {machine['usable_cores']} core(s)", f"load {machine['load_average_before']} before"]
    facts += [f"{name} {number}" for name, number in origin["versions"].items()]
    if commit:
        facts.append(f"commit {commit['id'][:10]}{' and changes' if commit['dirty'] else ''}")
    return ", ".join(facts)


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _commit() -> dict[str, Any]:
    """The commit of the checkout, and whether files have changed since; {} where there is no git checkout."""
    try:
        changes = _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
        return {"id": _git("rev-parse", "HEAD"), "dirty": changes != ""}
    except (OSError, subprocess.CalledProcessError):
        return {}


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
