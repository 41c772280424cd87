"""The network of a model that `dgcn export --format onnx` wrote, on ONNX Runtime: needs no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..extras import extra
from ..model.document import read_document
from ..sizes import check_size
from ..skeleton import Skeleton


class OnnxNetwork:
    """`network(canvases)`: uint8 [B, H, W, 3] RGB, H and W of the form 16n+1, to the decoder's fields.

    A `Network`; `size` is that of a model of fixed size.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int = 0) -> None:
        """
        Args:
            path: of the ONNX model.
            threads: of ONNX Runtime; 0: as many as the machine has cores.

        Raises:
            ImportError: the extra `onnx` is not installed.
            OSError: no such file, or not readable.
            ValueError: not an ONNX model, or not one of dgcn's.
        """
        with extra("onnx", f"running {path} needs onnxruntime"):
            import onnxruntime
        content = Path(path).read_bytes()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that wait would keep a core from those that read, decode and draw.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # no other class is common to ONNX Runtime's errors
            raise ValueError(f"{path} is not an ONNX model, or is damaged: {error}") from error
        document = read_document(path, self._session.get_modelmeta().custom_metadata_map)
        try:
            self.skeleton = Skeleton.from_dict(document["config"]["skeleton"])
            self.stride = int(document["stride"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} has metadata that this version of dgcn cannot use: {error!r}") from error
        self.path = path
        self.metadata: dict[str, Any] = document["metadata"]
        self.hardware = f"ONNX Runtime on the CPU, threads: {threads or 'all'}"
        _, _, height, width = self._session.get_inputs()[0].shape
        self.size = (height, width) if isinstance(height, int) and isinstance(width, int) else None

    def __call__(self, canvases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pictures of one size to float32 pif [B, K, 5, h, w] and paf [B, M, 8, h, w], as `PifPafDecoder` takes them.

        Raises ValueError for canvases of another size than the model takes."""
        size = canvases.shape[1:3]
        if self.size not in (None, size):
            raise ValueError(f"canvases must have the {self.size} pixels of the exported model, got {size}")
        for edge in size:
            check_size(edge, "the size of canvases")
        images = np.ascontiguousarray(canvases.transpose(0, 3, 1, 2))
        passes = [images] if self.size is None else np.split(images, len(images))  # of fixed size: one at a time
        pif, paf = zip(*(self._session.run(["pif", "paf"], {"images": each}) for each in passes), strict=True)
        return np.concatenate(pif), np.concatenate(paf)
