"""Checks that all configurations use. Errors name the field, what is required and what arrived.

They take a dataclass instance and the names of the fields to check.
"""

from __future__ import annotations

import math
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_origin, get_type_hints

_KINDS: tuple[tuple[type, type, str], ...] = (  # type of the default, required type, its name
    (bool, bool, "True or False"),  # before int, of which bool is a subclass
    (int, Integral, "an integer"),
    (float, Real, "a number"),
    (str, str, "a string"),
)


def check_types(config: Any) -> None:
    """Check every field whose default is a bool, a number or a string, or that is annotated with choices.

    Raises TypeError unless it holds one, ValueError unless it is among the choices of a field annotated `Literal`, or
    all its values are among those of a field annotated `tuple[Literal[...], ...]`."""
    hints = get_type_hints(type(config))
    for field in fields(config):
        value = getattr(config, field.name)
        for default_kind, kind, required in _KINDS:
            if isinstance(field.default, default_kind):
                if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
                    raise TypeError(f"{field.name} must be {required}, got {value!r}")
                break
        hint = hints[field.name]
        if get_origin(hint) is Literal and value not in (choices := get_args(hint)):
            raise ValueError(f"{field.name} must be one of {choices}, got {value!r}")
        if get_origin(hint) is tuple and get_origin(get_args(hint)[0]) is Literal:
            choices = get_args(get_args(hint)[0])
            if not isinstance(value, tuple) or not all(one in choices for one in value):
                raise ValueError(f"{field.name} must be a tuple of any of {choices}, got {value!r}")


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
