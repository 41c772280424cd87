"""Sizes of the network's input: 16 n + 1 pixels, so that a cell is centred on the first and on the last of them."""

from __future__ import annotations

import math
from numbers import Integral

_MULTIPLE = 16  # the coarsest stride


def check_size(pixels: int, name: str = "the input size") -> int:
    """`pixels` as it is. Raises ValueError, naming the sizes next to it, unless it is 16 n + 1 with n >= 1."""
    if not isinstance(pixels, Integral):
        raise TypeError(f"{name} must be an integer, got {pixels!r}")
    if pixels <= 1 or (pixels - 1) % _MULTIPLE:
        below = max(1, (pixels - 1) // _MULTIPLE)
        sizes = f"{below * _MULTIPLE + 1} or {(below + 1) * _MULTIPLE + 1}"
        raise ValueError(f"{name} must be a multiple of {_MULTIPLE} plus 1 (say {sizes}), got {pixels}")
    return pixels


def padded_size(pixels: int) -> int:
    """The smallest size of the form 16 n + 1 that holds `pixels` pixels."""
    return max(1, math.ceil((pixels - 1) / _MULTIPLE)) * _MULTIPLE + 1
