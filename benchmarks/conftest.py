"""Hooks of the benchmarks: what the JSON of a run tells, and the table at its end."""

import shlex
from datetime import datetime, timezone
from typing import Any

import harness
import pytest

ORIGIN = pytest.StashKey[dict[str, Any]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ORIGIN] = harness.origin()


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    return config.stash[ORIGIN]["machine"]


def pytest_benchmark_generate_commit_info(config: pytest.Config) -> dict[str, Any]:
    return config.stash[ORIGIN]["commit"]


def pytest_benchmark_generate_json(config: pytest.Config, benchmarks: list[Any]) -> dict[str, Any]:
    origin = config.stash[ORIGIN]
    # pytest-benchmark's own statistics are of whole rounds: all variants together, which says nothing.
    return {
        "command": shlex.join(["pytest", *map(str, config.invocation_params.args)]),
        "datetime": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **origin,
        "benchmarks": [{"group": one.group, **one.extra_info} for one in benchmarks],
    }


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    # pytest-benchmark has no public way to these unless there is a JSON to write.
    results = [one for one in config._benchmarksession.benchmarks if not one.has_error]
    if results:
        terminalreporter.section("benchmarks")
        origin = config.stash[ORIGIN]
        terminalreporter.write_line(harness.describe(origin))
        terminalreporter.write_line(harness.table([(one.group, one.extra_info) for one in results]))
