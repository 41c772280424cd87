"""What the network asks of a backbone, and how a trained trunk is read from a file."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

STRIDES = (4, 8, 16)


class Backbone(nn.Module):
    """What the network asks of a backbone: `channels` by stride, and the normalisation of its input."""

    channels: dict[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def stem_modules(self) -> Iterable[nn.Module]:
        """The layers up to stride 4, which `freeze_stem` keeps as they are. None by default."""
        return ()

    def fold(self) -> None:
        """Merge batch norms with running statistics into the convolutions before them; for inference, in place.

        Does nothing by default.
        """

    def load_trunk(self, path: str | Path, calibration: Tensor) -> None:
        """Start from the trained trunk in a file.

        Args:
            path: an .npz file of the backbone's own layers.
            calibration: normalised images [B, 3, H, W], from which batch norms get their first statistics.

        Raises:
            OSError, ValueError: no such file, or one that does not fit; there is none for timm's backbones.
        """
        raise ValueError(f"init_trunk needs a backbone of dgcn's own, got {type(self).__name__}")


def read_trunk(path: str | Path) -> dict[str, Tensor]:
    """The arrays of an .npz file as float32 tensors. Raises ValueError where it is none."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]).float() for name in arrays.files}
    except (AttributeError, EOFError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is not an .npz file of arrays or is damaged") from error


def trunk_entry(path: str | Path, arrays: dict[str, Tensor], name: str, shape: torch.Size) -> Tensor:
    """The array `name` of a trunk. Raises ValueError unless it has this shape."""
    if name not in arrays or arrays[name].shape != shape:
        got = tuple(arrays[name].shape) if name in arrays else "nothing"
        raise ValueError(f"{path}: {name} must have the shape {tuple(shape)}, got {got}")
    return arrays[name]
