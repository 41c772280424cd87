"""Checks of arguments that are no tensors: flags, integers, arrays, skeletons. Needs numpy, not torch."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

INT_MAX = 2**31 - 1


def describe(value: object) -> str:
    """A number or a text as it is, of anything else the type."""
    return repr(value) if isinstance(value, (str, int, float, np.generic)) else type(value).__name__


def check_flag(name: str, value: bool) -> None:
    if value is not True and value is not False:
        raise TypeError(f"{name} must be True or False, got {describe(value)}")


def check_integer(name: str, value: int, low: int, high: int) -> int:
    """``value``, an integer of Python or NumPy, as an int; a bool is refused."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value}")
    try:
        # torch.compile makes the result of operator.index() a constant, and compiles again for every other value.
        integer = value if isinstance(value, int) else operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if not low <= integer <= high:
        raise ValueError(f"{name} must be in [{low}, {high}], got {integer}")
    return integer


def check_at_least(name: str, value: int, minimum: int) -> int:
    """``value`` as an int, an integer as for :func:`check_integer`."""
    integer = check_integer(name, value, -INT_MAX, INT_MAX)
    if integer < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {integer}")
    return integer


def to_array(name: str, value: ArrayLike, required: str) -> NDArray[Any]:
    """``np.asarray(value)``, with an error that names the argument."""
    try:
        return np.asarray(value)
    except (RuntimeError, TypeError, ValueError) as error:
        raise TypeError(f"{name} must be {required}, got {type(value).__name__}: {error}") from error


def check_pairs(name: str, pairs: Iterable[Any], required: str) -> list[tuple[Any, Any]]:
    try:
        iterator = iter(pairs)
    except TypeError:
        raise TypeError(f"{name} must be a sequence of pairs {required}, got {type(pairs).__name__}") from None
    checked = []
    for i, pair in enumerate(iterator):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"{name}[{i}] must be a pair {required}, got {type(pair).__name__}")
        checked.append((pair[0], pair[1]))
    return checked


def check_limbs(skeleton: Iterable[tuple[int, int]] | NDArray[np.integer[Any]]) -> tuple[tuple[int, int], ...]:
    """The limbs as Python integers. The compiled code checks that they are keypoints, and none twice."""
    if not isinstance(skeleton, Iterable):
        raise TypeError(f"skeleton must be a sequence of pairs, got {skeleton!r}")
    limbs = []
    for i, limb in enumerate(skeleton):
        if not isinstance(limb, Iterable):
            raise TypeError(f"skeleton[{i}] must be a pair of keypoints, got {limb!r}")
        ends = [check_integer(f"skeleton[{i}]", end, -INT_MAX, INT_MAX) for end in limb]
        if len(ends) != 2:
            raise ValueError(f"skeleton[{i}] must be a pair of keypoints, got {len(ends)} values")
        limbs.append((ends[0], ends[1]))
    return tuple(limbs)
