"""Checkpoints: a model as safetensors with a JSON side-car, a training state through `torch.save`.

A model checkpoint is one safetensors file whose header carries the JSON document of `document.py`. The file therefore
describes itself and a save is one atomic rename. The side-car (same name, ``.json``) repeats that document for people
and scripts; it is never read back, so a crash between the two renames cannot mix two models.

Nothing here unpickles untrusted data.
"""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from ..files import atomic_write, write_json
from .config import ModelConfig
from .document import make_document, read_document, to_header
from .network import DGCN, build_from_config

DEFAULT_CHECKPOINT = Path(__file__).parent.parent / "assets" / "dgcn_movenet_coco512.safetensors"
"""The model that ships with the package."""


def save_model(
    path: str | os.PathLike[str], model: DGCN, metadata: Mapping[str, Any], *, dtype: torch.dtype | None = None
) -> None:
    """Save the weights and configuration of `model` with free-form, JSON-serialisable `metadata`.

    Args:
        path: file to write, ending in ``.safetensors``; the side-car gets the same name with ``.json``.
        model: trained or not, on any device.
        metadata: what a reader should know: data, epoch, AP. `Predictor` takes its defaults from two entries:
            "long_edge" (px) and "decoder" (the fields of `DecoderConfig` that differ from its defaults).
        dtype: to store floating-point weights in, such as torch.float16 for half the size; default: as they are.

    Raises:
        ValueError: another ending, or weights that `dtype` cannot hold.
        OSError: it cannot be written.
    """
    path, side_car = checkpoint_files(path)
    document = make_document(model.config, metadata, torch.__version__)
    tensors = stored_weights(model, dtype)
    content = safetensors.torch.save(tensors, metadata=to_header(document))
    with atomic_write(path) as file:
        file.write(content)
    write_json(side_car, document)


def checkpoint_files(path: str | os.PathLike[str], name: str = "path of a model checkpoint") -> tuple[Path, Path]:
    """The files that `save_model` writes: the model and its side-car.

    Raises ValueError, calling the path `name`, unless it ends in ``.safetensors``."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{name} must end in .safetensors, got {path}")
    return path, path.with_suffix(".json")


def stored_weights(model: DGCN, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """The weights as `save_model` stores them, on the CPU. Raises ValueError where `dtype` cannot hold them."""
    # Copies, because safetensors refuses tensors that share memory, as the adjacency of several modules may.
    tensors = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    if dtype is not None:
        tensors = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
        if lost := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
            raise ValueError(f"dtype must hold all weights, got {dtype}, too small for {lost[0]}")
    return tensors


def load_model(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> tuple[DGCN, dict[str, Any]]:
    """Rebuild the model of a checkpoint, in evaluation mode on `device`, and return it with its metadata.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated or not safetensors, not written by `save_model`, a format this version does not read, or
            tensors that do not fit the model of its configuration.
    """
    path = Path(path)
    document, tensors = _read_safetensors(path)
    try:
        model = build_from_config(ModelConfig.from_dict(document["config"]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} has a configuration that this version of dgcn cannot use: {error}") from error
    check_tensors(path, model.state_dict(), tensors)
    model.load_state_dict(tensors)
    return model.eval().to(device), document["metadata"]


def save_training_state(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Save tensors and plain containers (optimizer, epoch, random generators), atomically."""
    content = io.BytesIO()
    torch.save(dict(state), content)  # not into the file: of a full disk torch says no more than "unexpected pos"
    with atomic_write(path) as file:
        file.write(content.getbuffer())


def load_training_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Load what `save_training_state` wrote, on the CPU. Only tensors and plain containers are unpickled.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, or holding anything but tensors and plain containers.
    """
    with open(path, "rb") as file:  # torch.load reads other formats too, with other errors
        if not zipfile.is_zipfile(file):
            other = (
                ": it is a model, from which --init-checkpoint starts" if Path(path).suffix == ".safetensors" else ""
            )
            raise ValueError(f"{path} is not a training state or is damaged{other}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} is not a training state or is damaged: it holds more than plain data") from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a training state or is damaged: {_first_line(error)}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} is not a training state: expected a dict, got {type(state).__name__}")
    return state


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The JSON document of the header and the tensors, both checked as far as this file can."""
    if not path.is_file():
        hint = " (the model that ships with the package)" if path == DEFAULT_CHECKPOINT else ""
        raise FileNotFoundError(f"no checkpoint at {path}{hint}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file or is damaged: {_first_line(error)}") from error
    return read_document(path, header), tensors


def check_tensors(path: Path, expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError unless names and shapes agree and all values are finite."""
    problems = [f"{name} is missing" for name in expected.keys() - found.keys()]
    problems += [f"{name} is unknown" for name in found.keys() - expected.keys()]
    problems += [
        f"{name} has shape {tuple(found[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in expected.keys() & found.keys()
        if found[name].shape != expected[name].shape
    ]
    problems += [f"{name} holds NaN or infinity" for name, tensor in found.items() if not tensor.isfinite().all()]
    if problems:
        shown = "; ".join(sorted(problems)[:3])
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(f"{path} does not fit the model of its configuration: {shown}{more}")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
