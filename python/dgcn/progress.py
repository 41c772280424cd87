"""How far an epoch is: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from tqdm import tqdm

log = logging.getLogger(__name__)

LOG_SECONDS = 30.0


class Progress:
    """A bar on stderr; where that is no terminal, a log line after the first step and then every `LOG_SECONDS`.

    Args:
        title: what is under way.
        total: steps of it.
        done: steps that an earlier run has done.
        clock: seconds since some moment.
    """

    def __init__(self, title: str, total: int, done: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.title, self.total, self.done, self.first = title, total, done, done
        self.clock = clock
        self.start = clock()
        self.next_line = self.start
        self.bar = tqdm(desc=title, total=total, initial=done, unit="step", leave=False, disable=None)

    def step(self, loss: float) -> None:
        """Count a step; `loss` is shown."""
        self.done += 1
        self.bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        self.bar.update()
        now = self.clock()
        if self.bar.disable and now >= self.next_line:
            self.next_line = now + LOG_SECONDS
            rate = (self.done - self.first) / max(now - self.start, 1e-9)  # steps per second
            left = tqdm.format_interval((self.total - self.done) / rate)
            log.info(f"{self.title}: step {self.done}/{self.total}, {rate:.2f} steps/s, ETA {left}, loss {loss:.3f}")

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.close()
