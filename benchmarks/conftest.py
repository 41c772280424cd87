"""The options and fixtures of the benchmarks, and the tables at the end of a run."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import harness, machine, report
from benchmarks.harness import Compare, Record
from dgcn.memory import keep_freed_memory

ORIGIN = pytest.StashKey[dict[str, Any]]()
RESULTS = pytest.StashKey[dict[str, list[dict[str, Any]]]]()  # by the name of the test function


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--results",
        type=Path,
        metavar="DIR",
        help="write results there: those of test_x to x_cpu.json, those of test_x_cuda to x_cuda.json",
    )
    parser.addoption(
        "--smoke", action="store_true", help="a round of the first case of each test, uncompiled: does it still run?"
    )


def pytest_configure(config: pytest.Config) -> None:
    # pytest looks for its options above all words of the command that are paths, so a folder after a space counts.
    if config.inipath != Path(__file__).with_name("pytest.ini"):
        raise pytest.UsageError("the only paths must be those of benchmarks; write --results=DIR, not --results DIR")
    config.stash[ORIGIN] = machine.origin(["pytest", *config.invocation_params.args])
    config.stash[RESULTS] = {}
    keep_freed_memory()
    if config.getoption("smoke"):
        torch.compiler.set_stance("force_eager")  # compiling takes most of the time, and is torch's to test


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In smoke mode, keep the first case of each test and direction: benchmarks list the smallest case first."""
    if not config.getoption("smoke"):
        return
    first: dict[tuple[str, str, object], pytest.Item] = {}
    for item in items:
        assert isinstance(item, pytest.Function)
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        first.setdefault((str(item.path), item.originalname, parameters.get("direction")), item)
    items[:] = first.values()


@pytest.fixture
def smoke(request: pytest.FixtureRequest) -> bool:
    return request.config.getoption("smoke")


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Iterator[Record]:
    """Keeps a result for the tables and the JSON file. That is written after each test: a kill loses no earlier one."""

    def keep(
        group: str, *, case: str, direction: str, claims: Sequence[Mapping[str, Any]] = (), **facts: Any
    ) -> dict[str, Any]:
        """Returns the result. What is added to it later is kept as well.

        Args:
            group: title of the table.
            case: title of the row.
            direction: what is measured, as the list of claims names it.
            claims: as `harness.Claim.judge` returns them.
            facts: anything else.
        """
        result = {"group": group, "case": case, "direction": direction, **facts, "claims": list(claims)}
        request.config.stash[RESULTS].setdefault(request.node.originalname, []).append(result)
        return result

    yield keep
    config, test = request.config, request.node.originalname
    folder, own = config.getoption("results"), config.stash[RESULTS].get(test)
    if folder and own:
        name = test.removeprefix("test_")
        path = folder / f"{name if name.endswith('_cuda') else f'{name}_cpu'}.json"
        report.save(path, config.stash[ORIGIN], benchmarks=own)


@pytest.fixture
def compare(record: Record, smoke: bool) -> Compare:
    """Times variants with `harness.interleave`, and keeps the result."""

    def interleave(
        group: str,
        variants: Mapping[str, harness.Variant],
        *,
        case: str,
        direction: str,
        baselines: Sequence[str] = (),
        claims: Sequence[harness.Claim] = (),
        missing: Mapping[str, str] | None = None,
        min_rounds: int = 10,
        seconds: float = 2.0,
        **facts: Any,
    ) -> dict[str, Any]:
        """Returns the result.

        Args:
            group, case, direction, facts: as `record` takes them.
            missing: why a variant cannot run here, by its name.
            variants, baselines, claims, min_rounds, seconds: as `harness.interleave` takes them.
        """
        if smoke:
            min_rounds, seconds = 1, 0.0
        timed = harness.interleave(variants, baselines=baselines, claims=claims, min_rounds=min_rounds, seconds=seconds)
        return record(group, case=case, direction=direction, **facts, **timed, missing=dict(missing or {}))

    return interleave


@pytest.fixture
def one_core() -> Iterator[None]:
    with machine.cores(1):
        yield


@pytest.fixture
def two_cores() -> Iterator[None]:
    with machine.cores(2):
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    origin, results = config.stash[ORIGIN], config.stash[RESULTS]
    if not results:
        return
    every = [result for own in results.values() for result in own]
    terminalreporter.section("benchmarks")
    terminalreporter.write_line(machine.describe(origin))
    terminalreporter.write_line(report.tables(every))
    terminalreporter.write_line(report.claims(every))
