"""Signals during training: a step is finished first, all else stops at once, and a second one waits for nothing."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from dgcn import interrupt
from dgcn.interrupt import Interrupted, InterruptGuard


def saved() -> str:
    return "the state is in state.pt"


@pytest.fixture(autouse=True)
def not_under_nohup() -> Iterator[None]:
    """SIGHUP as it is where nobody has it ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_step_is_finished_first(number):
    with InterruptGuard(saved) as guard:
        os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):
            guard.check()
        with pytest.raises(KeyboardInterrupt), guard.at_once():
            pytest.fail("must not begin")


def test_what_changes_nothing_stops_at_once(monkeypatch):
    monkeypatch.setattr(interrupt, "REPEAT_SECONDS", 0.0)
    with InterruptGuard(saved) as guard:
        with pytest.raises(KeyboardInterrupt), guard.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match=r"^interrupted twice; the state is in state\.pt$"):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_request_that_comes_twice_is_one(monkeypatch):
    """`timeout` signals its child and then the process group, in which the child is as well."""
    monkeypatch.setattr(interrupt, "REPEAT_SECONDS", math.inf)
    with InterruptGuard(saved) as guard:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            guard.check()


def test_another_thread_than_the_main_one():
    """Which Python lets no handler be installed from."""

    def enter() -> signal.Handlers:
        with InterruptGuard(saved) as guard, guard.at_once():
            return signal.getsignal(signal.SIGTERM)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(enter).result() == signal.getsignal(signal.SIGTERM)


def test_nohup_is_respected_and_handlers_come_back():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with InterruptGuard(saved) as guard:
            os.kill(os.getpid(), signal.SIGHUP)
            guard.check()
        assert signal.getsignal(signal.SIGTERM) == handler
    finally:
        signal.signal(signal.SIGHUP, previous)
