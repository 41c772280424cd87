"""Ctrl-C and other signals: the step in progress is finished first, and everything else stops at once."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, what a scheduler sends before it kills, and a terminal that closes."""

REPEAT_SECONDS = 1.0
"""Within this time of the first signal another one is the same request: `timeout`, `make` and others send two."""


class Interrupted(KeyboardInterrupt):
    """The message says what was saved, and how to go on if there is a way."""


class InterruptGuard:
    """Within its block, a signal of `SIGNALS` waits for the step in progress. Under nohup, SIGHUP stays ignored.

    The training loop calls `check` after each step, and runs within `at_once` what may stop anywhere. Both raise
    KeyboardInterrupt. A second signal, after `REPEAT_SECONDS`, does not wait: it raises Interrupted with the message
    that `last_saved` returns. Signals arrive in the main thread only; in another the block installs no handlers.
    """

    def __init__(self, last_saved: Callable[[], str]) -> None:
        self.last_saved = last_saved
        self.requested_at: float | None = None  # of time.monotonic
        self.stops_at_once = False

    def __enter__(self) -> InterruptGuard:
        in_main_thread = threading.current_thread() is threading.main_thread()
        self.previous = {number: signal.getsignal(number) for number in SIGNALS if in_main_thread}
        if self.previous.get(signal.SIGHUP) == signal.SIG_IGN:
            del self.previous[signal.SIGHUP]
        for number in self.previous:
            signal.signal(number, self.request)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def request(self, number: int, frame: FrameType | None) -> None:
        if self.requested_at is not None:
            if time.monotonic() - self.requested_at < REPEAT_SECONDS:
                return
            raise Interrupted(f"interrupted twice; {self.last_saved()}")
        self.requested_at = time.monotonic()
        if self.stops_at_once:
            raise KeyboardInterrupt

    @property
    def is_requested(self) -> bool:
        """Whether a signal has come."""
        return self.requested_at is not None

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has come."""
        if self.requested_at is not None:
            raise KeyboardInterrupt

    def each(self, items: Iterator[T]) -> Iterator[T]:
        """The `items`; a signal raises at once while one is waited for."""
        while True:
            with self.at_once():
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within this block a signal raises wherever it arrives: nothing there changes the state of the training."""
        self.stops_at_once = True
        try:
            self.check()  # a signal that came before the line above
            yield
        finally:
            self.stops_at_once = False
