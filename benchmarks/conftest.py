"""Hooks of the benchmarks: what the JSON of a run tells, and the tables at its end."""

import os
import shlex
import sys
from datetime import datetime, timezone
from typing import Any

import machine
import pytest
import report
import torch

ORIGIN = pytest.StashKey[dict[str, Any]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--smoke", action="store_true", help="a round of the first case of each test, uncompiled: does it still run?"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ORIGIN] = machine.origin()
    machine.keep_freed_memory()
    if config.getoption("smoke"):
        torch.compiler.set_stance("force_eager")  # compiling takes most of the time, and is torch's to test


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In smoke mode, keep the first case of each test and direction: benchmarks list the smallest case first."""
    if not config.getoption("smoke"):
        return
    first: dict[tuple[str, object], pytest.Item] = {}
    for item in items:
        assert isinstance(item, pytest.Function)
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        first.setdefault((item.originalname, parameters.get("direction")), item)
        item.add_marker(pytest.mark.benchmark(max_time=0, min_rounds=1), append=False)
    items[:] = first.values()


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    return config.stash[ORIGIN]["machine"]


def pytest_benchmark_generate_commit_info(config: pytest.Config) -> dict[str, Any]:
    return config.stash[ORIGIN]["commit"]


def pytest_benchmark_generate_json(config: pytest.Config, benchmarks: list[Any]) -> dict[str, Any]:
    origin = config.stash[ORIGIN]
    # pytest-benchmark's own statistics are of whole rounds: all variants together, which says nothing.
    return {
        "command": shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
        "datetime": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **origin,
        "benchmarks": [{"group": one.group, **one.extra_info} for one in benchmarks],
    }


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    # pytest-benchmark has no public way to these unless there is a JSON to write.
    session = config._benchmarksession  # type: ignore[attr-defined]
    results = [(one.group, one.extra_info) for one in session.benchmarks if not one.has_error]
    if results:
        origin = config.stash[ORIGIN]
        terminalreporter.section("benchmarks")
        terminalreporter.write_line(machine.describe(origin))
        terminalreporter.write_line(report.times(results))
        terminalreporter.write_line(report.claims(results))
