"""The folder that one training run writes: what is in it, whose it is, and what may be written over."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from ..files import TEMPORARY_FILES

log = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
STATE_FILE = "training_state.pt"
LAST_FILE = "last.safetensors"
BEST_FILE = "best.safetensors"
HISTORY_FILE = "history.jsonl"
CSV_FILE = "history.csv"
LOCK_FILE = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[TextIO]:
    """Hold `folder` (created if missing) for one run, until the block ends or the process does, however it does.

    Yields the file that holds it, for `check_held`.

    Raises:
        BlockingIOError: another run holds it.
        OSError: it cannot be created or written to.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"work_dir must be a folder, got the file {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    # A POSIX lock, because a flock is inherited by the processes that load pictures. They may outlive a killed run by
    # seconds, and the next run need not wait for them.
    with open(folder / LOCK_FILE, "a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise BlockingIOError(f"work_dir {folder} is being written by another run, {_owner(file)}") from None
        except OSError as error:  # a network file system without locks
            log.warning(f"{folder} cannot be locked ({error.strerror}): see to it that no other run writes there")
        owner = f"process {os.getpid()} on {os.uname().nodename}\n"
        try:
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), owner.encode())
        except OSError as error:  # that of a full disk names no file
            raise OSError(error.errno, error.strerror, str(folder / LOCK_FILE)) from error
        for leftover in folder.glob(TEMPORARY_FILES):  # of a run that was killed while it wrote
            leftover.unlink(missing_ok=True)
        yield file


def check_held(folder: Path, lock: TextIO) -> None:
    """Raise FileNotFoundError unless `folder` is the one that `locked` holds by `lock`: it may be gone, and another one
    be in its place."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if os.path.samestat(os.fstat(lock.fileno()), os.stat(folder / LOCK_FILE)):
            return
    raise FileNotFoundError(errno.ENOENT, "the folder of the run has vanished", str(folder))


def find_state(folder: Path, resume: str | Path | None) -> Path | None:
    """The training state to continue, or None for a new run.

    Args:
        folder: of the run.
        resume: None, "auto" (the state in `folder` if there is one) or the path of a state.

    Raises:
        FileExistsError: the folder holds something that was not asked to go on, and that would be written over.
        FileNotFoundError, IsADirectoryError: no state at the path.
    """
    state = folder / STATE_FILE
    if resume == "auto" and state.exists():
        return state
    source = None if resume is None or resume == "auto" else _check_source(Path(resume))
    if source is not None and state.exists() and source.samefile(state):
        return source
    for name in (STATE_FILE, LAST_FILE, BEST_FILE, HISTORY_FILE):
        if (folder / name).exists():
            way_out = "pass --resume auto" if name == STATE_FILE else f"without {STATE_FILE} to resume: move it away"
            raise FileExistsError(f"{folder} holds a run already ({name}): {way_out} or pass another --work-dir")
    return source


def _check_source(path: Path) -> Path:
    if path.is_dir():
        raise IsADirectoryError(f"resume must be a file such as {path / STATE_FILE}, got the folder {path}")
    if not path.exists():
        raise FileNotFoundError(f"resume: there is no training state {path}")
    return path


def _owner(file: TextIO) -> str:
    file.seek(0)
    return file.read().strip() or "which has only begun"
