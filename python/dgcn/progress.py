"""How far a long piece of work is: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from tqdm import tqdm

log = logging.getLogger(__name__)

LOG_SECONDS = 30.0


class Progress:
    """A bar on stderr; where that is no terminal, a log line after the first step and then every `LOG_SECONDS`.

    The last step has no line: what follows it says that the work is done.

    Args:
        title: of the work.
        total: how many steps it has; None where that is not known.
        done: how many of them an earlier run has done.
        unit: what a step is called.
        shown: whether there is a bar, or lines, at all.
        clock: seconds since some moment.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        done: int = 0,
        *,
        unit: str = "step",
        shown: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title, self.total, self.done, self.first = title, total, done, done
        self.unit = unit
        self.clock = clock
        self.start = clock()
        self.next_line = self.start if shown else float("inf")
        self.bar = tqdm(desc=title, total=total, initial=done, unit=unit, leave=False, disable=None if shown else True)

    def step(self, **numbers: float) -> None:
        """Count a step; `numbers`, such as the loss, are shown with their names."""
        self.done += 1
        texts = {name: f"{number:.3f}" for name, number in numbers.items()}
        self.bar.set_postfix(texts, refresh=False)
        self.bar.update()
        now = self.clock()
        if self.bar.disable and now >= self.next_line and (self.total is None or self.done < self.total):
            self.next_line = now + LOG_SECONDS
            rate = (self.done - self.first) / max(now - self.start, 1e-9)  # steps per second
            line = [f"{self.title}: {self.unit} {self.done}", f"{rate:.2f} {self.unit}s/s"]
            if self.total is not None:
                line[0] += f"/{self.total}"
                line.append(f"ETA {tqdm.format_interval((self.total - self.done) / rate)}")
            log.info(", ".join([*line, *(f"{name} {text}" for name, text in texts.items())]))

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.close()
