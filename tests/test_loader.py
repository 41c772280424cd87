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
from dgcn.data.loader import LoadingError, blocks, describe_exit, fit_to_shared_memory, open_batches, plan_workers
from dgcn.data.transforms import TrainTransform
from dgcn.skeleton import COCO


@pytest.fixture
def dataset(tmp_path) -> KeypointDataset:
    write_set(tmp_path, 4)
    transform = TrainTransform(size=65, skeleton=COCO)
    return KeypointDataset(tmp_path, tmp_path / "people.json", COCO, transform, PifPafCodec(COCO, 8))


def load(dataset: KeypointDataset, workers: int, *, epochs: int = 1, **options: int) -> list[dict]:
    """Two batches of two for each epoch."""
    ahead = blocks(4, 2, epochs=epochs, seed=0, **options)
    with open_batches(dataset, ahead, workers=workers, prefetch=2, pin_memory=False) as loaded:
        return list(loaded)


def no_process_is_left() -> bool:
    return not multiprocessing.active_children()


def test_processes_load_the_same(dataset):
    for alone, apart in zip(load(dataset, 0), load(dataset, 2), strict=True):
        assert torch.equal(alone["image"], apart["image"])
        assert alone["image_id"] == apart["image_id"]
        for expected, tensor in zip(alone["targets"].tensors(), apart["targets"].tensors(), strict=True):
            assert torch.equal(expected.nan_to_num(-1), tensor.nan_to_num(-1))
            assert tensor.untyped_storage().data_ptr() == apart["image"].untyped_storage().data_ptr()  # sent at once
    assert no_process_is_left()


def test_processes_stay_for_all_epochs(dataset, monkeypatch):
    sample = KeypointDataset.sample
    monkeypatch.setattr(
        KeypointDataset, "sample", lambda self, *of: sample(self, *of) | {"image_id": (os.getpid(), *of)}
    )
    loaded = [one for batch in load(dataset, 2, epochs=3) for one in batch["image_id"]]
    assert len({process for process, _, _ in loaded}) == 2
    assert sorted((epoch, index) for _, index, epoch in loaded) == [(e, i) for e in range(3) for i in range(4)]
    assert no_process_is_left()


def test_a_run_goes_on_in_mid_epoch_as_it_began(dataset):
    whole = load(dataset, 0, epochs=3)
    for rest in (load(dataset, 0, epochs=3, first_step=3), load(dataset, 2, epochs=3, first_step=3)):
        for expected, batch in zip(whole[3:], rest, strict=True):
            assert torch.equal(expected["image"], batch["image"])
    assert not torch.equal(whole[0]["image"], whole[2]["image"])


def test_training_processes_share_the_batches():
    """Seven samples do not divide by three, and fill one batch of five."""
    (whole,) = blocks(7, 5, epochs=1, seed=3)
    parts = [next(blocks(7, 5, epochs=1, seed=3, rank=rank, world=3)) for rank in range(3)]
    assert [index for part in parts for index in part.indices] == whole.indices
    assert [part.first for part in parts] == [0, len(parts[0].indices), 5 - len(parts[2].indices)]
    assert sorted(len(part.indices) for part in parts) == [1, 2, 2]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_is_named_in_one_line(dataset, workers):
    path = dataset.records[3].path
    path.write_bytes(b"not a picture")
    with pytest.raises(LoadingError) as failure:
        load(dataset, workers)
    assert str(path) in str(failure.value)
    assert "\n" not in str(failure.value)
    assert no_process_is_left()  # although the exception still holds the iterator


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_picture_is_skipped_and_named_once(dataset, workers, caplog):
    """The next one is in its place, here the first; that of the other samples does not change."""
    whole = load(dataset, 0, epochs=2)
    dataset.on_bad_image = "skip"
    path = dataset.records[3].path
    path.unlink()
    with caplog.at_level(logging.WARNING):
        batches = load(dataset, workers, epochs=2)
    (message,) = caplog.messages
    assert message.startswith("a bad picture is skipped: ")
    assert str(path) in message
    for epoch, before, batch in zip((0, 0, 1, 1), whole, batches, strict=True):
        assert batch["image_id"] == [0 if number == 3 else number for number in before["image_id"]]
        for number, image in zip(batch["image_id"], batch["image"], strict=True):
            assert torch.equal(image, dataset.sample(number, epoch)["image"])


def test_a_run_is_resumed_without_the_picture_that_it_skips(dataset):
    path = dataset.records[3].path
    path.unlink()
    arguments = path.parent, path.parent / "people.json", COCO, dataset.transform, dataset.codec
    with pytest.raises(FileNotFoundError, match=r"3\.png"):
        KeypointDataset(*arguments)
    resumed = KeypointDataset(*arguments, on_bad_image="skip")
    assert [record.image_id for record in resumed.records] == [0, 1, 2, 3]
    assert resumed[3]["image_id"] == 0


def test_many_bad_pictures_in_a_row_end_the_run(dataset):
    dataset.on_bad_image = "skip"
    for record in dataset.records:
        record.path.write_bytes(b"")
    message = r"^8 pictures in a row cannot be read: .*/\d\.png and those after it; .*/\d\.png is empty$"
    with pytest.raises(LoadingError, match=message):
        load(dataset, 1)


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
    monkeypatch.setattr(KeypointDataset, "sample", lambda *arguments: os.kill(os.getpid(), signal.SIGKILL))
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
    batch_bytes = dataset.num_bytes(3)
    monkeypatch.setattr(loader, "free_shared_memory", lambda: 6 * batch_bytes)
    with caplog.at_level(logging.WARNING):
        assert plan_workers(dataset, 3, 2) == (2, 2)
        assert not caplog.text
        assert plan_workers(dataset, 3, 2, sharers=2) == (1, 1)
    assert "loading with 1 of 2 workers" in caplog.text
    assert "--shm-size" in caplog.text
