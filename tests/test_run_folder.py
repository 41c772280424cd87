"""The folder of a run: one run at a time, and nothing in it is written over that was not asked to go on."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from dgcn.training import run_folder
from dgcn.training.run_folder import BEST_FILE, HISTORY_FILE, LAST_FILE, STATE_FILE, find_state, locked

FORK = multiprocessing.get_context("fork")


def hold(folder: Path, held: Event) -> None:
    """Lock the folder, fork a process as a run does to load pictures, and wait to be killed."""
    with locked(folder):
        child = os.fork()
        if child == 0:
            time.sleep(3600)
            os._exit(0)
        (folder / "child").write_text(str(child))
        held.set()
        time.sleep(3600)


def test_one_run_at_a_time(tmp_path):
    folder, held = tmp_path / "runs" / "a", FORK.Event()
    first = FORK.Process(target=hold, args=(folder, held))
    first.start()
    held.wait()
    message = rf"work_dir .*a is being written by another run, process {first.pid} on "
    with pytest.raises(BlockingIOError, match=message), locked(folder):
        pass
    first.kill()
    first.join()
    try:
        with locked(folder):  # at once, although a process of the killed run still lives
            pass
    finally:
        os.kill(int((folder / "child").read_text()), 9)


def test_a_file_system_without_locks(tmp_path, monkeypatch, caplog):
    def unsupported(*arguments: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(run_folder.fcntl, "lockf", unsupported)
    with caplog.at_level(logging.WARNING), locked(tmp_path):
        pass
    assert "cannot be locked (Operation not supported)" in caplog.text


def test_a_full_disk(tmp_path, monkeypatch):
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_folder.os, "write", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*\.lock'"), locked(tmp_path):
        pass


def test_what_a_killed_run_left_half_written_is_removed(tmp_path):
    for name in (".dgcn-0123456789abcdef.tmp", STATE_FILE, "notes.tmp"):
        (tmp_path / name).touch()
    with locked(tmp_path):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {run_folder.LOCK_FILE, STATE_FILE, "notes.tmp"}


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "run").touch()
    with (
        pytest.raises(NotADirectoryError, match=r"work_dir must be a folder, got the file .*run$"),
        locked(tmp_path / "run"),
    ):
        pass


def test_the_state_to_continue(tmp_path):
    run, other = tmp_path / "run", tmp_path / "other.pt"
    run.mkdir()
    other.touch()
    assert find_state(run, None) is None
    assert find_state(run, "auto") is None
    assert find_state(run, other) == other
    (run / STATE_FILE).touch()
    assert find_state(run, "auto") == run / STATE_FILE
    assert find_state(run, str(run / ".." / "run" / STATE_FILE)).samefile(run / STATE_FILE)
    for resume in (None, other):
        with pytest.raises(FileExistsError, match=rf"run holds a run already \({STATE_FILE}\): pass --resume auto or"):
            find_state(run, resume)


@pytest.mark.parametrize("name", [LAST_FILE, BEST_FILE, HISTORY_FILE])
@pytest.mark.parametrize("resume", [None, "auto"])
def test_results_without_a_state_are_kept(tmp_path, name, resume):
    (tmp_path / name).touch()
    with pytest.raises(FileExistsError, match=rf"\({name}\): without {STATE_FILE} to resume: move it away or pass"):
        find_state(tmp_path, resume)


def test_what_is_no_state(tmp_path):
    with pytest.raises(IsADirectoryError, match=rf"resume must be a file such as .*{STATE_FILE}, got the folder"):
        find_state(tmp_path / "run", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"resume: there is no training state .*none"):
        find_state(tmp_path / "run", tmp_path / "none")
