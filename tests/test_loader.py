"""The processes that load batches: every failure of theirs ends the run with one line, and none outlives it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import signal
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from stick_figures import write_set

from dgcn.codec import PifPafCodec
from dgcn.data import loader
from dgcn.data.dataset import KeypointDataset
from dgcn.data.loader import EpochBatches, LoadingError, describe_exit, fit_to_shared_memory, open_batches, plan_workers
from dgcn.data.transforms import TrainTransform
from dgcn.skeleton import COCO


@pytest.fixture
def dataset(tmp_path) -> KeypointDataset:
    write_set(tmp_path, 4)
    transform = TrainTransform(size=65, skeleton=COCO)
    return KeypointDataset(tmp_path, tmp_path / "people.json", COCO, transform, PifPafCodec(COCO, 8))


def load(dataset: KeypointDataset, workers: int) -> list[dict]:
    """Two batches of two."""
    batches = EpochBatches(dataset, range(4), 2)
    generator = torch.Generator()
    with open_batches(batches, range(2), workers=workers, prefetch=2, pin_memory=False, generator=generator) as loaded:
        return list(loaded)


def no_process_is_left() -> bool:
    return not multiprocessing.active_children()


def test_processes_load_the_same(dataset):
    for alone, apart in zip(load(dataset, 0), load(dataset, 2), strict=True):
        assert torch.equal(alone["image"], apart["image"])
        assert alone["image_id"] == apart["image_id"]
    assert no_process_is_left()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_is_named_in_one_line(dataset, workers):
    path = dataset.records[3].path
    path.write_bytes(b"not a picture")
    with pytest.raises(LoadingError) as failure:
        load(dataset, workers)
    assert str(path) in str(failure.value)
    assert "\n" not in str(failure.value)
    assert no_process_is_left()  # although the exception still holds the iterator


class Unpicklable(Exception):
    """Has a message of two lines and does not survive the way through a pipe."""

    def __init__(self) -> None:
        super().__init__("first\nsecond", lambda: None)

    def __str__(self) -> str:
        return "first\nsecond"


def test_any_error_names_the_picture(dataset, monkeypatch):
    def fail(*arguments: object) -> None:
        raise Unpicklable

    monkeypatch.setattr(TrainTransform, "__call__", fail)
    with pytest.raises(LoadingError, match=r"0\.png could not be loaded: first second$") as failure:
        load(dataset, 1)
    assert "in fail" in str(failure.value.__cause__)  # its traceback


@pytest.mark.parametrize("message", ["unable to allocate shared memory(shm)", "[Errno 24] Too many open files"])
def test_a_batch_that_cannot_be_sent(dataset, monkeypatch, message):
    """The queue's thread would drop it, and the training process would wait forever."""

    def fail(storage: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setitem(ForkingPickler._extra_reducers, torch.UntypedStorage, fail)
    with pytest.raises(LoadingError, match=rf"^a batch could not be loaded: {re.escape(message)}$"):
        load(dataset, 1)
    assert no_process_is_left()


def test_a_killed_process_is_told(dataset, monkeypatch):
    """And it raises where batches are awaited, not wherever the training process happens to be."""
    monkeypatch.setattr(KeypointDataset, "__getitem__", lambda self, index: os.kill(os.getpid(), signal.SIGKILL))
    previous = signal.getsignal(signal.SIGCHLD)
    with pytest.raises(LoadingError, match="was killed by SIGKILL; the system may be out of memory"):
        load(dataset, 1)
    assert signal.getsignal(signal.SIGCHLD) == previous
    assert no_process_is_left()


def test_what_a_process_did():
    assert "/dev/shm may be full: use --workers 0" in describe_exit(-signal.SIGBUS)
    assert describe_exit(-signal.SIGSEGV) == "was killed by SIGSEGV"
    assert describe_exit(3) == "exited with status 3"


@pytest.mark.parametrize(
    ("workers", "batches", "expected"),
    [
        (2, 6, (2, 2)),
        (2, 5, (2, 1)),
        (2, 4, (2, 1)),
        (2, 3, (1, 1)),
        (2, 2, (0, 0)),
        (1, 0, (0, 0)),
        (16, 64, (16, 2)),
    ],
)
def test_processes_that_shared_memory_has_room_for(workers, batches, expected):
    """Those ahead of use, the one in use and the one that takes its place must fit."""
    assert fit_to_shared_memory(workers, 1000, 1000 * batches + 999) == expected


def test_a_small_shared_memory_is_told(dataset, monkeypatch, caplog):
    batch_bytes = loader.num_bytes(dataset.collate([dataset[0]] * 3))
    monkeypatch.setattr(loader, "free_shared_memory", lambda: 6 * batch_bytes)
    with caplog.at_level(logging.WARNING):
        assert plan_workers(dataset, 3, 2) == (2, 2)
        assert not caplog.text
        monkeypatch.setattr(loader, "free_shared_memory", lambda: 3 * batch_bytes)
        assert plan_workers(dataset, 3, 2) == (1, 1)
    assert "loading with 1 of 2 workers" in caplog.text
    assert "--shm-size" in caplog.text
