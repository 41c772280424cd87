"""The JSON document in the file of a model: in the header of a checkpoint, in the metadata of an export.

    {"format_version": 1, "config": {...}, "versions": {"dgcn": ..., "torch": ...}, "metadata": {...}}

Reading it needs no torch.
"""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from .config import ModelConfig

FORMAT_VERSION = 1
HEADER_KEY = "dgcn"
"""The name of the document's text among the strings that the file holds beside its tensors."""


def make_document(config: ModelConfig, metadata: Mapping[str, Any], torch_version: str) -> dict[str, Any]:
    """The document of a model with this configuration and with JSON-serialisable `metadata`."""
    return {
        "format_version": FORMAT_VERSION,
        "config": config.to_dict(),
        "versions": {"dgcn": version("dgcn"), "torch": torch_version},
        "metadata": dict(metadata),
    }


def to_header(document: Mapping[str, Any]) -> dict[str, str]:
    """What `read_document` reads. NaN and infinities raise ValueError: they are not JSON."""
    return {HEADER_KEY: json.dumps(document, allow_nan=False)}


def read_document(path: str | os.PathLike[str], header: Mapping[str, str]) -> dict[str, Any]:
    """The document in the strings of the file at `path`; "config", "versions" and "metadata" are dictionaries.

    Raises ValueError: no document of dgcn, a damaged one, or a format that this version does not read."""
    if HEADER_KEY not in header:
        raise ValueError(f'{path} was not written by dgcn: its header has no entry "{HEADER_KEY}"')
    try:
        document = json.loads(header[HEADER_KEY])
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} is damaged: the entry "{HEADER_KEY}" of its header is not JSON: {error}') from error
    if not isinstance(document, dict) or "format_version" not in document:
        raise ValueError(f'{path} is damaged: the entry "{HEADER_KEY}" of its header has no format_version')
    if document["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"{path} has checkpoint format {document['format_version']!r}, this version of dgcn reads {FORMAT_VERSION}"
            f" (written with the versions {document.get('versions')})"
        )
    for key in ("config", "versions", "metadata"):
        if not isinstance(document.get(key), dict):
            found = reprlib.repr(document.get(key))
            raise ValueError(f"{path} is damaged: {key} in its header must be an object, got {found}")
    return document
