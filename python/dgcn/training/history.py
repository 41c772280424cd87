"""The history of a run, one record per epoch, as files: JSON lines, which are read again, and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import atomic_write
from .run_folder import CSV_FILE, HISTORY_FILE

TIMES = ("seconds", "images_per_second")
"""The entries of a record that differ each time a run is repeated."""

LARGEST = 1e15
"""Bound on the size of every number in a history: no figure can show larger ones."""

Record = dict[str, Any]


def write_history(folder: Path, history: Sequence[Record]) -> None:
    """Write history.jsonl, a line per epoch, atomically."""
    with atomic_write(folder / HISTORY_FILE) as file:
        file.writelines(f"{json.dumps(record, allow_nan=False)}\n".encode() for record in history)


def write_csv(folder: Path, history: Sequence[Record]) -> None:
    """Write history.csv, a row per epoch, atomically; what a record lacks, such as the AP, is an empty cell."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, dict.fromkeys(name for record in history for name in record))
    writer.writeheader()
    writer.writerows(history)
    with atomic_write(folder / CSV_FILE) as file:
        file.write(text.getvalue().encode())


def is_record(record: Any, epoch: int) -> bool:
    """Whether `record` is that of an epoch, of numbers that a figure can show."""
    return (
        isinstance(record, dict)
        and all(type(value) in (int, float) and abs(value) < LARGEST for value in record.values())
        and record.get("epoch") == epoch
        and "loss" in record
    )


def read_history(path: Path) -> list[Record]:
    """The records of a history.jsonl.

    Args:
        path: the file, or the folder of a run that holds it.

    Raises:
        OSError: it cannot be read.
        ValueError: it has other content; the message names the line.
    """
    path = path / HISTORY_FILE if path.is_dir() else path
    lines = path.read_bytes().splitlines()
    if not lines:
        raise ValueError(f"{path} must have a line for each epoch, got an empty file")
    history = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not is_record(record, number):
            start = line[:40].decode(errors="backslashreplace")
            raise ValueError(f"{path}: line {number} must be the record of epoch {number} as JSON, got {start!r}")
        history.append(record)
    return history
