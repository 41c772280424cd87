"""Hooks of the benchmarks: what the JSON of a run tells, and the table at its end."""

import os
import shlex
from datetime import datetime, timezone
from typing import Any

import harness
import pytest

LOAD_AVERAGE = pytest.StashKey[float]()  # over the minute before the run: processes that were at work already


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LOAD_AVERAGE] = os.getloadavg()[0]


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    return harness.machine() | {"load_average_before": config.stash[LOAD_AVERAGE]}


def pytest_benchmark_generate_commit_info() -> dict[str, Any]:
    return harness.commit()


def pytest_benchmark_generate_json(
    config: pytest.Config, benchmarks: list[Any], machine_info: dict[str, Any], commit_info: dict[str, Any]
) -> dict[str, Any]:
    # pytest-benchmark's own statistics are of whole rounds: all variants together, which says nothing.
    return {
        "command": shlex.join(["pytest", *map(str, config.invocation_params.args)]),
        "datetime": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit_info,
        "machine": machine_info,
        "versions": harness.versions(),
        "benchmarks": [{"group": one.group, **one.extra_info} for one in benchmarks],
    }


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    # pytest-benchmark offers hooks no public way to these where there is no JSON to write.
    results = [one for one in config._benchmarksession.benchmarks if not one.has_error]
    if results:
        terminalreporter.section("benchmarks")
        terminalreporter.write_line(harness.origin(config.stash[LOAD_AVERAGE]))
        terminalreporter.write_line(harness.table([(one.group, one.extra_info) for one in results]))
