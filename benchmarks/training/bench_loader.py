"""How many training images does the loader bring in a second, and where does its time go?

Batches of 8 samples with the default augmentation, at the recipes' sizes, in the training process ("0 workers") and
from other processes. Settings take turns, in an order that is shuffled for every round.

Then the milliseconds of one processor that an image takes, by stage, on one thread:

    read, decode    file to RGB, by Pillow
    draw            the random affine map
    warp            shrinks and warps the picture
    colours         contrast, brightness, saturation
    annotations     moves joints and boxes
    encode          the targets of the batch
    rest            generators, stacking, Python
    send, receive   beyond that with one worker, by itself and by the training process
"""

import random
import resource
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from time import process_time, thread_time
from typing import Any

import cv2
import numpy as np
import pytest

from benchmarks.harness import Record
from benchmarks.machine import usable_cores
from benchmarks.training.loading import BATCH, images_per_second, training_data, training_set
from dgcn.codec import PifPafCodec
from dgcn.data import dataset as dataset_module
from dgcn.data import transforms
from dgcn.data.dataset import KeypointDataset
from dgcn.data.loader import PREFETCH, blocks, open_batches
from dgcn.data.transforms import TrainTransform

SIZES = (321, 641)  # px
WORKERS = (0, 1, 2, 4, 8, 16)
STAGES: dict[str, tuple[object, str]] = {
    "read, decode": (dataset_module, "read_record"),
    "draw": (TrainTransform, "_draw_matrix"),
    "warp": (transforms, "_warp"),
    "colours": (TrainTransform, "_jitter"),
    "annotations": (transforms, "transform_annotation"),
    "encode": (PifPafCodec, "encode_batch"),
}


@pytest.mark.parametrize("size", SIZES)
def test_loader(record: Record, smoke: bool, tmp_path: Path, size: int) -> None:
    dataset = training_data(*training_set(tmp_path), size)
    counts = [count for count in WORKERS if count <= (1 if smoke else len(usable_cores()))]
    rates: dict[int, list[float]] = {count: [] for count in counts}
    order = random.Random(0)
    for _ in range(1 if smoke else 7):
        for count in order.sample(counts, len(counts)):
            rates[count].append(images_per_second(dataset, count, 2 if smoke else 24 * max(1, count)))
    for count, measured in rates.items():
        p25, median, p75 = np.percentile(measured, (25, 50, 75)).round(1).tolist()
        record(
            f"loader, batches of {BATCH}, {size} px",
            case=f"{count} workers",
            direction="load",
            size=size,
            workers=count,
            images_per_second=median,
            p25=p25,
            p75=p75,
            outcome=f"{median:8.1f} images/s  [{p25} – {p75}]",
        )


@pytest.mark.parametrize("size", SIZES)
def test_loader_stages(
    record: Record, smoke: bool, one_core: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: int
) -> None:
    batches = 2 if smoke else 40
    dataset = training_data(*training_set(tmp_path), size)
    sent, received = transfer_seconds(dataset, batches)
    seconds = dict.fromkeys(STAGES, 0.0)
    for stage, (owner, name) in STAGES.items():
        monkeypatch.setattr(owner, name, stopwatch(getattr(owner, name), seconds, stage))
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)  # as in a loader's process
    alone = in_process_seconds(dataset, 1)  # warms up
    seconds.update(dict.fromkeys(STAGES, 0.0))
    alone = in_process_seconds(dataset, batches)
    cv2.setNumThreads(threads)
    seconds |= {"rest": alone - sum(seconds.values()), "send": sent - alone, "receive": received}
    record(
        "loader, milliseconds of a processor for an image",
        case=f"{size} px",
        direction="load an image",
        size=size,
        stages_ms={stage: round(value / (batches * BATCH) * 1e3, 4) for stage, value in seconds.items()},
    )


def stopwatch(function: Callable[..., Any], seconds: dict[str, float], stage: str) -> Callable[..., Any]:
    """`function`, which adds the time of each call to that of its stage."""

    def timed(*arguments: Any, **options: Any) -> Any:
        start = thread_time()
        result = function(*arguments, **options)
        seconds[stage] += thread_time() - start
        return result

    return timed


def in_process_seconds(dataset: KeypointDataset, batches: int) -> float:
    """Of the processor, to load so many batches in this process."""
    ahead = blocks(len(dataset), BATCH, epochs=batches, seed=0)
    with open_batches(dataset, islice(ahead, batches), workers=0, prefetch=0, pin_memory=False) as loaded:
        start = thread_time()
        for _ in loaded:
            pass
        return thread_time() - start


def transfer_seconds(dataset: KeypointDataset, batches: int) -> tuple[float, float]:
    """Of the processor, to load so many batches with one worker: its own, start included, and this process's."""
    ahead = blocks(len(dataset), BATCH, epochs=batches, seed=0)
    before = children_seconds()
    with open_batches(dataset, islice(ahead, batches), workers=1, prefetch=PREFETCH, pin_memory=False) as loaded:
        start = process_time()
        for _ in loaded:
            pass
        received = process_time() - start
    return children_seconds() - before, received


def children_seconds() -> float:
    """Of the processor, used by the processes that this one has started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
