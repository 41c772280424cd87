"""What the configurations check of their fields alike. Errors name the field, what is required and what arrived.

They take a dataclass instance and the names of the fields to check.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import fields
from numbers import Integral, Real
from typing import Any

_KINDS: tuple[tuple[type, type, str], ...] = (  # type of the default, required type, its name
    (bool, bool, "True or False"),  # before int, of which bool is a subclass
    (int, Integral, "an integer"),
    (float, Real, "a number"),
    (str, str, "a string"),
)


def check_types(config: Any) -> None:
    """Raise TypeError unless every field whose default is a bool, a number or a string holds one."""
    for field in fields(config):
        value = getattr(config, field.name)
        for default_kind, kind, required in _KINDS:
            if isinstance(field.default, default_kind):
                if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
                    raise TypeError(f"{field.name} must be {required}, got {value!r}")
                break


def check_at_least(config: Any, low: float, *names: str) -> None:
    """Raise ValueError unless the numbers are finite and at least `low`."""
    for name in names:
        value = getattr(config, name)
        check_finite(name, value)
        if value < low:
            raise ValueError(f"{name} must be at least {low:g}, got {value}")


def check_positive(config: Any, *names: str) -> None:
    """Raise ValueError unless the numbers are finite and above 0."""
    for name in names:
        value = getattr(config, name)
        check_finite(name, value)
        if value <= 0:
            raise ValueError(f"{name} must be positive, got {value}")


def check_finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")


def check_below_one(config: Any, *names: str) -> None:
    """Raise ValueError unless the numbers are in [0, 1)."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be in [0, 1), got {value}")


def check_choice(config: Any, name: str, choices: Collection[str]) -> None:
    """Raise ValueError unless the string is one of `choices`."""
    value = getattr(config, name)
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")
