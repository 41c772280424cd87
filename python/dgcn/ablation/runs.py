"""Runs of `dgcn` commands in processes of their own, one at a time on each device."""

from __future__ import annotations

import ctypes
import logging
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .rows import Row

log = logging.getLogger(__name__)

DGCN = (sys.executable, "-m", "dgcn")
LOG_FILE = "log.txt"
POLL_SECONDS = 0.2
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Run:
    """One row with one seed.

    row, seed: what is trained.
    folder: of the run; what the commands print is appended to `LOG_FILE` there.
    commands: arguments of `dgcn` without --device; each command needs what the one before wrote.
    """

    row: Row
    seed: int
    folder: Path
    commands: tuple[Sequence[str], ...]

    def __str__(self) -> str:
        return f"{self.row.name}, seed {self.seed}"

    def last_line(self) -> str:
        """The last line of the log."""
        return next(reversed((self.folder / LOG_FILE).read_text(errors="replace").splitlines()), "")


class _Job:
    """A run in progress."""

    def __init__(self, run: Run, device: str) -> None:
        self.run, self.device = run, device
        self.waiting = deque(run.commands)
        self.start()

    def start(self) -> None:
        command = self.waiting.popleft()
        log.info(f"{self.run}: dgcn {command[0]} on {self.device}")
        arguments = [*DGCN, *command, "--device", self.device]
        self.run.folder.mkdir(parents=True, exist_ok=True)
        with open(self.run.folder / LOG_FILE, "a") as output:
            self.process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output, preexec_fn=_end_with_parent
            )

    def poll(self) -> int | None:
        """The exit status of the run; None while it goes on."""
        status = self.process.poll()
        if status == 0 and self.waiting:
            self.start()
            return None
        return status


def execute(runs: Sequence[Run], devices: Sequence[str]) -> Generator[tuple[Run, int], None, None]:
    """Start the runs in their order; yield each with its exit status when it has ended.

    When the iterator is closed, the processes get SIGTERM, on which a training saves, and are waited for.
    """
    waiting = deque(runs)
    jobs: dict[int, _Job] = {}  # by index of the device
    try:
        while waiting or jobs:
            for index, device in enumerate(devices):
                if index not in jobs and waiting:
                    jobs[index] = _Job(waiting.popleft(), device)
            for index, job in list(jobs.items()):
                if (status := job.poll()) is not None:
                    del jobs[index]
                    yield job.run, status
            time.sleep(POLL_SECONDS)
    finally:
        processes = [job.process for job in jobs.values()]
        try:
            _stop(processes)
        except KeyboardInterrupt:  # asked for twice: a training that gets a second signal does not finish its step
            _stop(processes)
            raise


def _end_with_parent() -> None:
    """Let this process get SIGTERM when its parent dies, even by a kill; then a training saves. Linux only."""
    if _LIBC is not None:
        _LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()
