"""What do a process's memory and threads cost the shipped model's network in torch, on a CPU?

Pictures of the shapes that photographs have at 577 px, one after another, in a thread of its own, as in
`Predictor.batch`. By glibc's and torch's defaults; with `keep_freed_memory`; with OpenMP's threads started by that
thread alone, as where `Predictor` loads a model; and, as in `dgcn predict`, with both. Each time in a new process; the
four take turns.
"""

import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Record
from dgcn.memory import keep_freed_memory
from dgcn.predict.predictor import Predictor

SIZES = ((385, 577), (433, 577), (577, 385), (577, 433), (577, 577))  # px
VARIANTS = {  # keeps its memory; OpenMP's threads are started by one thread alone
    "defaults": (False, False),
    "memory kept": (True, False),
    "OpenMP in one thread": (False, True),
    "both": (True, True),
}


def time_passes(keeps: bool, one_thread: bool, repeats: int) -> tuple[float, float]:
    """Milliseconds and page faults of a pass of the network, in the mean. For a new process."""
    if keeps:
        keep_freed_memory()
    network = Predictor().network
    if not one_thread:
        torch.ones(1 << 20).add_(1)  # in the first thread, on all cores
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (1, *size, 3), dtype=np.uint8) for size in SIZES]

    def timed() -> tuple[float, float]:
        for picture in pictures:
            network(picture)
        faults, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, perf_counter()
        for _ in range(repeats):
            for picture in pictures:
                network(picture)
        seconds = perf_counter() - start
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        return 1e3 * seconds / (repeats * len(pictures)), faults / (repeats * len(pictures))

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(timed).result()


def in_new_process(function: Callable[..., Any], *arguments: object) -> Any:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def test_process(record: Record, smoke: bool) -> None:
    rounds, repeats = (1, 1) if smoke else (7, 5)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
    for _ in range(rounds):
        for name, variant in VARIANTS.items():
            found[name].append(in_new_process(time_passes, *variant, repeats))
    for name, passes in found.items():
        times, faults = zip(*passes, strict=True)
        record(
            "the network of the shipped model, in torch, in a thread of a new process",
            case=name,
            direction="network",
            threads=torch.get_num_threads(),
            processes_ms=[round(value, 2) for value in times],
            median_ms=round(median(times), 2),
            page_faults=round(median(faults)),
            outcome=f"{median(times):.1f} ms ({min(times):.1f} to {max(times):.1f}), {median(faults):.0f} page faults",
        )
