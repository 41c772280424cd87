"""Ctrl-C and its like during training: a step is never torn, and everything else stops at once."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, what a scheduler sends before it kills, and a terminal that closes."""


class Interrupted(KeyboardInterrupt):
    """Training was interrupted; the message says what was saved and how to go on."""


class InterruptGuard:
    """Within its block, a signal of `SIGNALS` waits for the step in progress; SIGHUP not where nohup has it ignored.

    The step's end calls `check`; what may be broken off anywhere runs within `at_once`. Both raise KeyboardInterrupt.
    A second signal does not wait: it raises Interrupted with the message that `last_saved` returns.
    """

    def __init__(self, last_saved: Callable[[], str]) -> None:
        self.last_saved = last_saved
        self.requested = False
        self.stops_at_once = False

    def __enter__(self) -> InterruptGuard:
        self.previous = {number: signal.getsignal(number) for number in SIGNALS}
        if self.previous[signal.SIGHUP] == signal.SIG_IGN:
            del self.previous[signal.SIGHUP]
        for number in self.previous:
            signal.signal(number, self.request)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise Interrupted(f"interrupted twice; {self.last_saved()}")
        self.requested = True
        if self.stops_at_once:
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has come."""
        if self.requested:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within this block a signal raises wherever it arrives: nothing there changes the state of the training."""
        self.stops_at_once = True
        try:
            self.check()  # a signal that came before the line above
            yield
        finally:
            self.stops_at_once = False
