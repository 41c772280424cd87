"""The batches of an epoch, loaded by other processes. Any failure of theirs ends the run with one line."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import multiprocessing.queues
import os
import signal
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from .dataset import KeypointDataset

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
        reason = " ".join(str(error).split()) or type(error).__name__
        message = reason if what in reason else f"{what} could not be loaded: {reason}"
        return cls(message, "".join(traceback.format_exception(error)))

    def error(self) -> LoadingError:
        error = LoadingError(self.message)
        error.__cause__ = RuntimeError(self.traceback)
        return error


class EpochBatches(Dataset[dict[str, Any] | Failure]):
    """Batches of a data set by their number, each loaded whole.

    Args:
        dataset: what is loaded.
        order: index of every sample, in the order in which they are taken.
        batch_size: samples in a batch; an incomplete last batch is left out.
        rank, size: number of this training process and how many share each batch. Their parts are consecutive, and
            their sizes differ by one at most.
    """

    def __init__(
        self, dataset: KeypointDataset, order: Sequence[int], batch_size: int, rank: int = 0, size: int = 1
    ) -> None:
        self.dataset = dataset
        self.order = order
        self.batch_size = batch_size
        self.first, self.last = (batch_size * number // size for number in (rank, rank + 1))

    def __len__(self) -> int:
        return len(self.order) // self.batch_size

    def __getitem__(self, number: int) -> dict[str, Any] | Failure:
        """Batch `number` as of `KeypointDataset.collate`, or why there is none."""
        indices = self.order[number * self.batch_size + self.first : number * self.batch_size + self.last]
        what = "a batch"
        try:
            items = []
            for index in indices:
                what = str(self.dataset.records[index].path)
                items.append(self.dataset[index])
            what = "a batch"
            return {"first": self.first, **self.dataset.collate(items)}
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


def plan_workers(dataset: KeypointDataset, batch_size: int, workers: int) -> tuple[int, int]:
    """(processes, batches that each loads ahead): `workers` of them, or what shared memory has room for.

    A small one (a Docker container has 64 MB) would fill up within the first steps. Fewer processes change nothing but
    the speed.
    """
    if workers == 0 or not os.path.isdir(SHARED_MEMORY):
        return workers, PREFETCH if workers else 0
    batch_bytes = batch_size * num_bytes(dataset.collate([dataset[0]]))
    free_bytes = free_shared_memory()
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


def num_bytes(batch: dict[str, Any]) -> int:
    """Bytes of the tensors of a batch."""
    return sum(tensor.nbytes for tensor in _tensors(batch))


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
    batches: EpochBatches,
    numbers: Sequence[int],
    *,
    workers: int,
    prefetch: int,
    pin_memory: bool,
    generator: torch.Generator,
) -> Iterator[Iterator[dict[str, Any]]]:
    """An iterator over the batches of these numbers, in their order; its processes end with the block.

    Args:
        batches: to choose from.
        numbers: of the batches.
        workers: processes that load; 0 loads in this one.
        prefetch: batches that each process loads ahead.
        pin_memory: put images into page-locked memory, from which a GPU copies without waiting.
        generator: from which the loader draws its processes' seeds.

    Raises:
        LoadingError: from the iterator, in the place of a batch.
    """
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        collate_fn=_as_it_is,
        worker_init_fn=init_worker,
        pin_memory=pin_memory,
        generator=generator,
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
        yield _checked(iterator, processes)
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


def _tensors(batch: dict[str, Any]) -> list[torch.Tensor]:
    return [batch["image"], *batch["targets"].tensors()]


def _as_it_is(batch: Any) -> Any:
    """A batch comes whole: there is nothing to collate."""
    return batch
