"""The processes that train one model together, as torchrun starts them: what they add up, and how they stop as one."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from ..device import check_device

T = TypeVar("T")


class StoppedElsewhere(Exception):
    """Another process of the run has failed, and tells the reason itself."""


class LostProcess(Exception):
    """Another process of the run has vanished."""


@dataclass(frozen=True)
class Group:
    """The processes of a run. One that trains alone is a group of one, for which every method is trivial.

    Attributes:
        device: of this process.
        rank: its number; process 0 writes the files of the run.
        size: how many there are.
        local_size: how many of them run on this machine.
        restarts: how often torchrun has started them again.
        job: what tells this call of torchrun from others; empty without torchrun.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    local_size: int = 1
    restarts: int = 0
    job: str = ""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def settle(self, error: BaseException | None) -> None:
        """Raise in all processes where one of them comes with an error; called by all at the same point of the run.

        Raises:
            KeyboardInterrupt: one of them was interrupted.
            StoppedElsewhere: another one, of a lower rank than those that fail here, has failed.
            BaseException: `error`, in the first process that has failed.
        """
        if self.size == 1:
            if error is not None:
                raise error
            return
        failed = torch.tensor(error is not None, dtype=torch.uint8)
        dist.all_reduce(failed, dist.ReduceOp.MAX)
        if not failed:
            return
        stops = self.gather(None if error is None else isinstance(error, KeyboardInterrupt))
        if any(stops):
            raise KeyboardInterrupt from error
        if error is not None and stops.index(False) == self.rank:
            raise error
        raise StoppedElsewhere from error

    @contextlib.contextmanager
    def first_speaks(self) -> Iterator[None]:
        """A block in which no other process than the first logs: all would say the same."""
        before = logging.root.manager.disable
        if not self.is_first:
            logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A block that all processes enter; an error of one ends it in all, as `settle` does."""
        error: BaseException | None = None
        try:
            yield
        except (StoppedElsewhere, LostProcess):  # which the others know of
            raise
        except (Exception, KeyboardInterrupt) as caught:
            error = caught
        self.settle(error)

    def each(self, items: Iterator[T], before: Callable[[], None]) -> Iterator[T]:
        """The `items`, of which all processes have as many; `before` is called before each is waited for.

        An error of one process in between is raised in all, as by `settle`."""
        while True:
            error: BaseException | None = None
            item = None
            try:
                before()
                item = next(items)
            except StopIteration:
                return
            except (Exception, KeyboardInterrupt) as caught:
                error = caught
            self.settle(error)
            assert item is not None
            yield item

    def sum(self, values: Tensor) -> Tensor:
        """`values` summed over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: T) -> list[T]:
        """The `value` of every process, in the order of their ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def share(self, module: nn.Module) -> None:
        """Give the parameters and buffers of process 0 to all."""
        if self.size > 1:
            with torch.no_grad():
                for tensor in module.state_dict().values():
                    dist.broadcast(tensor, 0)

    def parallel(self, module: nn.Module) -> nn.Module:
        """`module` for the training: its gradients become means over the processes."""
        if self.size == 1:
            return module
        return DistributedDataParallel(module, [self.device] if self.device.type == "cuda" else None)


@contextlib.contextmanager
def joined(device: str) -> Iterator[Group]:
    """The group of processes that torchrun has started this one for, left with the block; a group of one otherwise.

    Args:
        device: "cpu", "cuda" or, for one process, "cuda:N".

    Raises ValueError for a device that does not exist, or that several processes cannot share.
    """
    environment = os.environ
    size, restarts = (int(environment.get(name, 0)) for name in ("WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"))
    job = ":".join(environment.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"))
    if size <= 1 or not dist.is_available():
        yield Group(check_device(device), restarts=restarts, job=job if size else "")
        return
    if missing := [name for name in ("RANK", "LOCAL_RANK") if name not in environment]:
        raise ValueError(f"{missing[0]} must be in the environment beside WORLD_SIZE={size}, as torchrun puts it there")
    rank, local_rank = int(environment["RANK"]), int(environment["LOCAL_RANK"])
    kind, _, number = device.partition(":")
    if number:
        raise ValueError(f"device must be 'cpu' or 'cuda' for {size} processes, got '{device}'")
    own = check_device(f"cuda:{local_rank}" if kind == "cuda" else device)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    joins = not dist.is_initialized()
    with lost_processes():
        if joins:
            # torchrun keeps its store when it starts the processes again: without a prefix they would find the
            # addresses of those before. Small messages and errors go by gloo, for which no GPU is waited for.
            store, *_ = next(rendezvous("env://"))
            store = dist.PrefixStore(f"attempt {restarts}", store)
            backend = "cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=store, rank=rank, world_size=size)
        try:
            yield Group(own, rank, size, int(environment.get("LOCAL_WORLD_SIZE", size)), restarts, job)
        except (FloatingPointError, KeyboardInterrupt):  # which come to all processes
            if rank > 0:
                raise StoppedElsewhere from None
            raise
        if joins:  # after an error the others may be gone, and NCCL would wait for them
            dist.destroy_process_group()


@contextlib.contextmanager
def lost_processes() -> Iterator[None]:
    """Within the block, the error of a connection that has broken off becomes a `LostProcess`."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or not _is_of_a_connection(error):
            raise
        raise LostProcess("another process of the run was killed, or has stopped and tells why itself") from error


def _is_of_a_connection(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)
