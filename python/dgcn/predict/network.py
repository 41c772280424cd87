"""What a predictor asks of a network."""

from __future__ import annotations

import os
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..skeleton import Skeleton


@runtime_checkable
class Network(Protocol):
    """Pictures to what the decoder takes.

    skeleton: of the keypoints that it finds.
    stride: edge of a field cell in pixels.
    metadata: of its checkpoint.
    hardware: what it runs on, in words.
    size: (height, width) of the only pictures that it takes; None: it takes any of 16n+1 pixels.
    """

    skeleton: Skeleton
    stride: int
    metadata: dict[str, Any]
    hardware: str
    size: tuple[int, int] | None

    def __call__(self, canvases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [B, H, W, 3] RGB to pif [B, K, 5, h, w] and paf [B, M, 7 or 8, h, w]: heads or fields, as
        `PifPafDecoder` tells them apart. Threads that share a predictor call it at the same time."""


def load_network(
    path: str | os.PathLike[str] | None, device: Any, *, flip_test: bool = False, threads: int | None = None
) -> Network:
    """The network in a file: what `dgcn export --format onnx` wrote if that ends in .onnx, else a checkpoint.

    Args:
        path: of the file; None: the model that ships with dgcn.
        device: where a checkpoint's network runs; an ONNX model runs on the CPU.
        flip_test: see `Predictor`.
        threads: on a CPU; None: torch's number, or ONNX Runtime's, which is that of the cores.

    Raises:
        OSError, ValueError: no such file, a damaged one, or an argument that it does not go with.
        ImportError: an ONNX model without onnxruntime, or a checkpoint without torch.
    """
    if path is None or not os.fspath(path).endswith(".onnx"):
        try:
            from .torch_network import TorchNetwork
        except ModuleNotFoundError as error:
            what = path or "the model that ships with dgcn"
            raise ImportError(f"{what} needs torch ({error}): install it, or export the model as .onnx") from error
        return TorchNetwork.from_checkpoint(path, device, flip_test=flip_test, threads=threads)
    if flip_test:
        raise ValueError(f"flip_test must be False for an ONNX model, got True for {path}")
    if str(device) != "cpu":
        raise ValueError(f"device must be 'cpu' for an ONNX model, got '{device}' for {path}")
    from .onnx_network import OnnxNetwork

    return OnnxNetwork(path, threads=threads or 0)
