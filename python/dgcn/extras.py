"""Packages that only some features need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def extra(name: str, requirement: str) -> Iterator[None]:
    """Within the block, an ImportError states the `requirement`, and how to install the extra `name` of dgcn."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f'{requirement} ({error}): `pip install "dgcn[{name}]"`') from error
