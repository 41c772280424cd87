"""The batches of a run, loaded by other processes. Any failure of theirs ends the run with one line."""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import multiprocessing.connection
import multiprocessing.queues
import os
import signal
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from .dataset import KeypointDataset, describe_error

log = logging.getLogger(__name__)

SHARED_MEMORY = "/dev/shm"  # through which Linux passes the tensors of one process to another
PREFETCH = 2  # batches that a process loads ahead, where there is room
_EXIT_SECONDS = 5.0  # how long to wait for a failed process to exit


class LoadingError(ValueError):
    """A picture cannot be loaded, or a process that loads pictures has died; the message is one line."""


@dataclass(frozen=True)
class Failure:
    """An error of a loader process on its way to the training process.

    It travels as a value: `DataLoader` turns an exception into one whose message is a traceback, and an exception that
    cannot be pickled would never arrive.
    """

    message: str
    traceback: str

    @classmethod
    def of(cls, error: Exception, what: str) -> Failure:
        """`error`, raised while `what` was loaded."""
        return cls(describe_error(error, what), "".join(traceback.format_exception(error)))

    def error(self) -> LoadingError:
        error = LoadingError(self.message)
        error.__cause__ = RuntimeError(self.traceback)
        return error


class Block(NamedTuple):
    """Samples of one batch that one training process takes."""

    epoch: int  # from 0
    first: int  # position in the batch of the first of them
    indices: list[int]  # of the samples in the data set


def blocks(
    num_samples: int, batch_size: int, *, epochs: int, seed: int, first_step: int = 0, rank: int = 0, world: int = 1
) -> Iterator[Block]:
    """The blocks of a training process, one for each step of a run.

    An epoch takes the samples in an order that `seed` and its number alone decide; an incomplete last batch is left
    out. Each batch is split into one block for each process, whose sizes differ by at most one.

    Args:
        num_samples: of the data set.
        batch_size: samples in a batch, of all processes together: at least `world`.
        epochs: of the run.
        seed: of the run.
        first_step: step of the run to begin with.
        rank: number of the process, from 0.
        world: number of processes.
    """
    steps = num_samples // batch_size
    first, end = (batch_size * number // world for number in (rank, rank + 1))
    for step in range(first_step, epochs * steps):
        epoch, number = divmod(step, steps)
        batch = _order(num_samples, seed, epoch)[number * batch_size : (number + 1) * batch_size]
        yield Block(epoch, first, batch[first:end])


@functools.lru_cache(maxsize=1)
def _order(num_samples: int, seed: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(num_samples, generator=generator).tolist()


class _Blocks(Dataset[dict[str, Any] | Failure]):
    """What a process of a `DataLoader` does: it loads a `Block` whole, or says why it cannot."""

    def __init__(self, dataset: KeypointDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, block: Block) -> dict[str, Any] | Failure:
        what = "a batch"
        try:
            items = []
            for index in block.indices:
                what = str(self.dataset.records[index].path)
                items.append(self.dataset.sample(index, block.epoch))
            what = "a batch"
            return self.dataset.pack(items) | {"first": block.first}
        except Exception as error:  # raised again, as a LoadingError, in the training process
            return Failure.of(error, what)


def fit_to_shared_memory(workers: int, batch_bytes: int, free_bytes: int) -> tuple[int, int]:
    """(processes, batches that each loads ahead) whose batches fit into `free_bytes`; (0, 0) where none do.

    Two more batches than are loaded ahead exist at a time: the one in use and the one that takes its place.
    """
    room = free_bytes // batch_bytes - 2
    prefetch = PREFETCH if PREFETCH * workers <= room else 1
    workers = max(0, min(workers, room))
    return (workers, prefetch) if workers else (0, 0)


def plan_workers(dataset: KeypointDataset, batch_size: int, workers: int, *, sharers: int = 1) -> tuple[int, int]:
    """(processes, batches that each loads ahead): `workers` of them, or what shared memory has room for.

    A small one (a Docker container has 64 MB) would fill up within the first steps. Fewer processes change nothing but
    the speed.

    Args:
        dataset: to load from.
        batch_size: samples that this training process takes of a batch.
        workers: how many processes are wanted.
        sharers: training processes that share this machine's memory.
    """
    if workers == 0 or not os.path.isdir(SHARED_MEMORY):
        return workers, PREFETCH if workers else 0
    batch_bytes = dataset.num_bytes(batch_size)
    free_bytes = free_shared_memory() // sharers
    fitting, prefetch = fit_to_shared_memory(workers, batch_bytes, free_bytes)
    if (fitting, prefetch) != (workers, PREFETCH):
        log.warning(
            f"{SHARED_MEMORY} has {free_bytes / 2**20:.0f} MiB free and a batch takes {batch_bytes / 2**20:.0f} MiB:"
            f" loading with {fitting} of {workers} workers, {fitting * prefetch} of {workers * PREFETCH} batches ahead;"
            " enlarge it (docker run --shm-size=2g) or pass fewer --workers"
        )
    return fitting, prefetch


def free_shared_memory() -> int:
    """Bytes that may still be written to shared memory."""
    status = os.statvfs(SHARED_MEMORY)
    return status.f_bavail * status.f_frsize


def init_worker(worker_id: int) -> None:
    """Set up a process of a `DataLoader`: one core, and signals that reach the training process alone.

    Ctrl-C goes to every process of a terminal's session, and only the training process may decide what it means. The
    handlers that it installed are inherited and must go.
    """
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    multiprocessing.queues.Queue._on_queue_feeder_error = _send_failure  # type: ignore[attr-defined]


def _send_failure(queue: Any, error: Exception, item: tuple[int, Any]) -> None:
    """Send an error in the place of a batch that cannot be sent: shared memory is full, or too many files are open.

    The queue sends in a thread of its own. By default it drops such a batch, and the training process waits forever.
    """
    number, _ = item
    queue.put((number, Failure.of(error, "a batch")))


@contextlib.contextmanager
def open_batches(
    dataset: KeypointDataset, blocks: Iterable[Block], *, workers: int, prefetch: int, pin_memory: bool
) -> Iterator[Iterator[dict[str, Any]]]:
    """An iterator over the batches of `blocks`, in their order; its processes end with the `with` block.

    A batch is as of `KeypointDataset.collate`, with the block's `first`. Each bad picture that was skipped is named in
    a warning, once.

    Args:
        dataset: to load from.
        blocks: what to load.
        workers: processes that load; 0 loads in this one.
        prefetch: batches that each process loads ahead.
        pin_memory: put batches into page-locked memory, from which a GPU copies without waiting.

    Raises:
        LoadingError: from the iterator, in the place of a batch.
    """
    loader = DataLoader(
        _Blocks(dataset),
        batch_size=None,
        sampler=blocks,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        collate_fn=_as_it_is,
        worker_init_fn=init_worker,
        pin_memory=pin_memory,
        # It draws a seed for its processes, by default from the generator that the graphs are drawn from.
        generator=torch.Generator(),
    )
    earlier = multiprocessing.active_children()
    handler = signal.getsignal(signal.SIGCHLD)
    iterator = iter(loader)
    processes = [process for process in multiprocessing.active_children() if process not in earlier]
    # torch's handler raises wherever the training process is when one of them dies, which may be in the middle of a
    # step. The iterator notices without it, when it waits for a batch. In another thread than the main one torch leaves
    # the handler alone, and Python would refuse to change it.
    if signal.getsignal(signal.SIGCHLD) != handler:
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)
    try:
        yield _unpacked(dataset, _checked(iterator, processes))
    finally:
        # An iterator ends its processes when it is exhausted or garbage, but an exception in flight keeps it alive. Not
        # by SIGTERM, which a process that has only been forked would take for the training process's.
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


def _checked(iterator: Iterator[Any], processes: Sequence[BaseProcess]) -> Iterator[dict[str, Any]]:
    """The batches of `iterator`; raises LoadingError in the place of a failure or where one of `processes` died."""
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:  # what torch and the pipes raise about a lost process
            multiprocessing.connection.wait([process.sentinel for process in processes], _EXIT_SECONDS)
            exit_codes = [process.exitcode for process in processes if process.exitcode is not None]
            if exit_codes:
                raise LoadingError(f"a process that loads pictures {describe_exit(exit_codes[0])}") from error
            raise Failure.of(error, "a batch").error() from error
        if isinstance(batch, Failure):
            raise batch.error()
        yield batch


def _unpacked(dataset: KeypointDataset, packed: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The batches that `packed` holds; warns of skipped pictures."""
    named = set()
    for batch in map(dataset.unpack, packed):
        for path, reason in batch["skipped"]:
            if path not in named:
                named.add(path)
                log.warning(f"a bad picture is skipped: {reason}")
        yield batch


def describe_exit(code: int) -> str:
    """What a process did that `multiprocessing` reports with this exit code, and what may help."""
    if code >= 0:
        return f"exited with status {code}"
    hints = {
        signal.SIGKILL: "; the system may be out of memory: use fewer --workers or a smaller --batch-size",
        signal.SIGBUS: f"; {SHARED_MEMORY} may be full: use --workers 0 or enlarge it (docker run --shm-size=2g)",
    }
    number = signal.Signals(-code)
    return f"was killed by {number.name}{hints.get(number, '')}"


def _as_it_is(batch: Any) -> Any:
    """A batch comes whole: there is nothing to collate."""
    return batch
