"""Command-line flags made from configuration dataclasses: a flag's name, type, choices, default and help are a field's.

A flag that was not given leaves no attribute in the parsed arguments, so that what a recipe says stays.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import types
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Config = TypeVar("Config")
_METAVARS = {int: "N", float: "X", Path: "PATH", str: "NAME"}


def add_flags(
    parser: argparse._ActionsContainer,
    config: type,
    *,
    skip: Collection[str] = (),
    optional: Collection[str] = (),
    parse: Mapping[str, Callable[[str], Any]] | None = None,
) -> None:
    """Add a flag for every field of the dataclass `config` that is no configuration itself.

    Args:
        parser: a parser or a group of one.
        config: a dataclass whose fields have docstrings.
        skip: fields without a flag.
        optional: fields without a default whose flags may be left out all the same.
        parse: by field, the function that reads a value of its flag, where that is not the field's type.
    """
    helps, hints = field_docs(config), get_type_hints(config)
    for field in dataclasses.fields(config):
        if field.name in skip or dataclasses.is_dataclass(hints[field.name]):
            continue
        has_no_default = field.default is dataclasses.MISSING
        options = _options(hints[field.name])
        if parse and field.name in parse:
            options |= {"type": parse[field.name], "metavar": parse[field.name].__name__.upper()}
        text = helps[field.name].rstrip(".").replace("%", "%%")
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            default=argparse.SUPPRESS,
            required=has_no_default and field.name not in optional,
            help=text if has_no_default else text + _default(field.default),
            **options,
        )


def field_docs(config: type) -> dict[str, str]:
    """The docstrings below the fields of a dataclass, each as one line."""
    (definition,) = ast.parse(inspect.getsource(config)).body
    assert isinstance(definition, ast.ClassDef)
    docs = {}
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                docs[name] = " ".join(text.split())
    return docs


def replace_given(config: Config, values: Mapping[str, Any]) -> Config:
    """`config` with those of its fields replaced that are among `values`, also within the configurations it holds."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        if field.name in values:
            value = values[field.name]
            changes[field.name] = tuple(value) if isinstance(value, list) else value  # argparse makes lists
        elif dataclasses.is_dataclass(inner := getattr(config, field.name)):
            changes[field.name] = replace_given(inner, values)
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def _options(hint: Any) -> dict[str, Any]:
    """What `add_argument` needs for a field of this type."""
    if get_origin(hint) in (Union, types.UnionType):  # an optional one
        hint = next(kind for kind in get_args(hint) if kind is not type(None))
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(hint) is Literal:
        return {"choices": get_args(hint)}
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        return _options(kinds[0]) | {"nargs": "*" if kinds[-1] is Ellipsis else len(kinds)}
    return {"type": hint, "metavar": _METAVARS[hint]}


def _default(value: Any) -> str:
    if value is None or value is False or value == ():
        return ""
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else "on" if value is True else value
    return f" (default: {shown})"
