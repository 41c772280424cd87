"""The network of a checkpoint, in torch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from dgcn_ext.arguments import describe

from ..device import check_device
from ..model.checkpoint import DEFAULT_CHECKPOINT, load_model
from ..model.fields import FieldsModel
from ..model.network import DGCN
from ..skeleton import Skeleton

_IMPORTED_BY = os.getpid()


class TorchNetwork:
    """A `Network` that gives a model's heads as they are, or with `flip_test` the fields of the average."""

    size: tuple[int, int] | None = None

    def __init__(
        self,
        model: DGCN,
        device: str | torch.device,
        *,
        flip_test: bool = False,
        threads: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        path: str | os.PathLike[str] | None = None,
    ) -> None:
        """
        Args:
            model: of which a folded copy is taken.
            device: where it runs.
            flip_test: see `Predictor`.
            threads: of torch, in all that this process does with it from the first picture on; None: as they are.
            metadata: of its checkpoint.
            path: of its checkpoint, for messages.

        Raises:
            TypeError: not a model.
            ValueError: no such device, or a flip test of a skeleton that is not its own mirror image.
        """
        self.skeleton = _skeleton_of(model)
        use_one_thread_if_forked()
        self.device = check_device(device)
        self.stride: int = model.stride
        self.metadata = dict(metadata or {})
        self.path = path
        self.threads = threads
        self.hardware = (
            torch.cuda.get_device_name(self.device)
            if self.device.type == "cuda"
            else f"CPU, threads: {threads or torch.get_num_threads()}"
        )
        with _one_thread():
            folded = model.fold()
            try:
                network = FieldsModel(folded, flip_test=True) if flip_test else folded
            except ValueError as error:
                raise ValueError(f"flip_test needs a skeleton that is its own mirror image: {error}") from error
            self._network = network.eval().to(self.device).to(memory_format=torch.channels_last)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike[str] | None,
        device: str | torch.device,
        *,
        flip_test: bool = False,
        threads: int | None = None,
    ) -> TorchNetwork:
        """That of a file; None: of the model that ships with dgcn. Other arguments as above."""
        use_one_thread_if_forked()
        path = DEFAULT_CHECKPOINT if path is None else path
        with _one_thread():
            model, metadata = load_model(path)
        return cls(model, device, flip_test=flip_test, threads=threads, metadata=metadata, path=path)

    def __call__(self, canvases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Network`. Raises MemoryError."""
        if self.threads:
            torch.set_num_threads(self.threads)
        use_one_thread_if_forked()
        count, height, width = canvases.shape[:3]
        try:
            with torch.inference_mode():
                pif, paf = self._network(torch.from_numpy(canvases).permute(0, 3, 1, 2).to(self.device))[:2]
                return pif.float().cpu().numpy(), paf.float().cpu().numpy()  # waits for the device
        except RuntimeError as error:  # of a CPU's memory torch knows no OutOfMemoryError
            if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
                raise
            raise MemoryError(
                f"{self.device} has too little memory for a batch of {count} at {width} x {height} px:"
                " make batch_size or long_edge smaller"
            ) from error


def use_one_thread_if_forked() -> None:
    """In a process that was forked since this module was imported, keep torch from using more than one thread.

    The threads that torch has started before a fork are missing after it, and torch would wait for them forever."""
    if os.getpid() != _IMPORTED_BY:
        torch.set_num_threads(1)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Torch computes in the calling thread alone.

    GNU OpenMP counts the threads that it has started in the process. Once they are more than the cores, each sleeps
    between two loops and has to be woken, and a network takes a quarter longer. So the thread that loads a network
    starts none beside those of the thread that runs it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _skeleton_of(model: object) -> Skeleton:
    skeleton = getattr(getattr(model, "config", None), "skeleton", None)
    if not isinstance(model, nn.Module) or not isinstance(skeleton, Skeleton):
        raise TypeError(f"model must be a DGCN or the path of a checkpoint, got {describe(model)}")
    return skeleton
