"""The device on which a network runs."""

from __future__ import annotations

import torch


def check_device(device: str | torch.device) -> torch.device:
    """`device` as torch's, checked to exist here and to work. Raises ValueError."""
    try:
        checked: torch.device | None = torch.device(device)
    except (RuntimeError, TypeError):
        checked = None
    if checked is None or checked.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:N', got '{device}'")
    if checked.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device '{device}' is not available: this torch finds no CUDA GPU; 'cpu' works")
    if checked.type == "cuda" and (checked.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device '{device}' is not available: there are {torch.cuda.device_count()} GPUs, from cuda:0")
    try:
        torch.zeros(1, device=checked).add_(1)
    except RuntimeError as error:  # no kernels for this GPU, no memory left on it, or a fork of a process that used it
        raise ValueError(f"device '{device}' cannot be used: {str(error).splitlines()[0]}") from error
    return checked
