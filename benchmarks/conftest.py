"""Hooks of the benchmarks: what the JSON of a run tells, and the tables at its end."""

import os
import shlex
import sys
from datetime import datetime, timezone
from typing import Any

import machine
import pytest
import report

ORIGIN = pytest.StashKey[dict[str, Any]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ORIGIN] = machine.origin()
    machine.keep_freed_memory()


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
