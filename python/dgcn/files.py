"""Files that appear complete or not at all, and files that grow by whole pieces."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

TEMPORARY_FILES = ".dgcn-*.tmp"
"""Pattern of the names that files have until they are complete; a process that is killed leaves them behind."""


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a binary file that appears under `path` complete or not at all.

    The content goes to a hidden temporary file in the same folder (created if missing), is fsynced and renamed over
    `path` when the block ends, and the folder is fsynced. If the block raises, the temporary file is removed; if the
    process is killed, `path` still holds what it held before. Where `path` is a link, its target is written.

    Args:
        path: of the file.
        durable: do the fsyncs, without which a power cut may lose the file. They take about 20 ms.

    Raises:
        OSError: no room, no permission, a name too long, ...; it names `path`.
    """
    asked, path = path, Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(TEMPORARY_FILES.replace("*", secrets.token_hex(8)))  # `path` may be as long as can be
    try:
        with open(temporary, "wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary), temporary):
            error.filename, error.filename2 = str(asked), None
        raise
    if durable and os.name == "posix":  # elsewhere a folder cannot be opened, and the rename is durable without it
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_json(path: str | os.PathLike[str], document: Any) -> None:
    """Write `document` as indented JSON, each list of numbers on a line, atomically.

    NaN and infinities raise ValueError: they are not JSON."""
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    # The line break keeps this from matching within a string, where it would be written as \\n.
    text = re.sub(r'\[\n\s*([^][{}"]+?)\n\s*\]', lambda found: f"[{' '.join(found[1].split())}]", text)
    with atomic_write(path) as file:
        file.write(text.encode())


class AppendedFile:
    """A text file that has a piece as soon as `append` returns: a kill or a full disk costs the piece in work alone.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: str | os.PathLike[str], mode: Literal["w", "x"] = "w") -> None:
        """
        Args:
            path: of the file; a folder that is missing is not created.
            mode: "w" empties a file that exists, "x" raises FileExistsError.
        """
        self.path = Path(path)
        self._file = open(path, f"{mode}b", buffering=0)  # noqa: SIM115 - close() closes it

    def append(self, text: str) -> None:
        """Write `text` as UTF-8: all of it, or nothing.

        Raises:
            OSError: no room, ...; it names the file.
        """
        # A name of a file that is not UTF-8 has surrogates, which become its bytes again.
        rest, end = memoryview(text.encode("utf-8", "surrogateescape")), self._file.tell()
        try:
            while rest:
                rest = rest[self._file.write(rest) :]  # the first bytes may fit, and the others not
        except BaseException as error:
            self._file.truncate(end)
            self._file.seek(end)
            if isinstance(error, OSError):
                error.filename = str(self.path)
            raise

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> AppendedFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
