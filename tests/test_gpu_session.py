"""``make gpu`` without a GPU: small steps in place of its own, and an answer to the question whether there is one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROBE = """
import math, os, sys
from benchmarks import gpu_probe

def dies():
    yield {"case": "before", "us": 1.5}
    os.abort()

gpu_probe.NODES, gpu_probe.AFFINITY_SHAPES = (17,), ((2, 3, 5),)
wrong = [{"case": "NaN", "of allowed": {"y": math.nan}}]
parts = {"crash": dies, **gpu_probe.parts("cpu"), "wrong": lambda: iter(wrong)}
gpu_probe.parts = lambda device: parts
sys.exit(gpu_probe.main(["--device", "cpu"]))
"""
INTERRUPTS = (
    "import os, signal, time; print('working', flush=True); os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"
)


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    """.ci/gpu.py, as on a machine with a GPU where the kernels load."""
    spec = spec_from_file_location("gpu_session", ROOT / ".ci" / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_session", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "output_of", lambda *command: "something")
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    (tmp_path / "out").mkdir()
    handler = signal.getsignal(signal.SIGTERM)
    yield module
    signal.signal(signal.SIGTERM, handler)


def python(session: ModuleType, name: str, code: str, seconds: float = 1000.0) -> Any:
    return session.Step(name, [sys.executable, "-c", code], seconds, ())


def run(session: ModuleType, tmp_path: Path, steps: list[Any], *arguments: str) -> tuple[int, dict[str, str], set[str]]:
    """The exit status, what became of each step, and the files in the archive."""
    session.steps = lambda results: steps
    status = session.main(["--results", str(tmp_path / "gpu"), "--minutes", "1000", *arguments])
    summary = json.loads((tmp_path / "gpu" / "summary.json").read_text())
    with tarfile.open(tmp_path / "out" / "gpu.tar.gz") as archive:
        files = {Path(name).name for name in archive.getnames()}
    return status, {step["name"]: step["status"] for step in summary["steps"]}, files


def test_nothing_keeps_the_other_steps_from_running(session: ModuleType, tmp_path: Path) -> None:
    steps = [
        python(session, "fails", "print('tried'); exit(3)"),
        python(session, "endless", "import time\nwhile True: time.sleep(1)", seconds=2.0),
        session.Step("needs", [sys.executable], 1.0, ("a_package_nobody_has",)),
        session.Step("program", ["a-program-nobody-has"], 1.0, ()),
        python(session, "too-long", "", seconds=1e9),
        python(session, "works", "print('done')"),
    ]
    status, became, files = run(session, tmp_path, steps)
    assert status == 1
    assert became == {
        "fails": "failed (3)",
        "endless": "over 2 s",
        "needs": "missing a_package_nobody_has",
        "program": "missing a-program-nobody-has",
        "too-long": "no time left",
        "works": "passed",
    }
    assert {"fails.log", "endless.log", "works.log", "summary.txt", "summary.json"} <= files
    assert "tried" in (tmp_path / "gpu" / "summary.txt").read_text()


def test_an_interrupted_run_keeps_its_results_and_another_adds_to_them(session: ModuleType, tmp_path: Path) -> None:
    first = [
        python(session, "first", "print('one')"),
        python(session, "second", INTERRUPTS),
        python(session, "third", ""),
    ]
    status, became, files = run(session, tmp_path, first)
    assert (status, became) == (1, {"first": "passed", "second": "interrupted", "third": "not run"})
    assert {"first.log", "second.log"} <= files
    status, became, files = run(session, tmp_path, [python(session, "third", "")], "--steps", "third")
    assert (status, became) == (0, {"first": "passed", "second": "interrupted", "third": "passed"})
    assert {"first.log", "second.log", "third.log"} <= files


def test_kernels_are_built_where_they_do_not_load(
    session: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.build = lambda: python(session, "build", "")
    step = python(session, "step", "")
    assert run(session, tmp_path, [step])[1] == {"step": "passed"}
    monkeypatch.setattr(session, "output_of", lambda *command: None if session.KERNELS_LOAD in command else "something")
    assert run(session, tmp_path, [python(session, "step", "")])[1] == {"build": "passed", "step": "not run"}


def test_without_a_gpu_nothing_is_run(session: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "output_of", lambda *command: None)
    assert session.main([]) == 2


def test_files_with_gpu_tests(session: ModuleType) -> None:
    files = session.files_with_gpu_tests()
    assert {"tests/test_graph_conv_cuda.py", "tests/test_philox.py", "tests/test_modules.py"} <= set(files)
    assert not {"tests/test_ablation.py", "tests/test_predictor.py"} & set(files)  # which know devices by name only


def test_a_file_whose_package_is_missing_is_skipped_by_name(tmp_path: Path) -> None:
    (tmp_path / "test_lacking.py").write_text("import a_package_nobody_has\n")
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError\n")  # takes long to import, and is not needed
    (tmp_path / "test_whole.py").write_text("def test_something():\n    pass\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "-rs", "-c", os.devnull, "."]
    for switch, code, message in (
        ("1", 0, "needs a_package_nobody_has"),
        ("0", 2, "No module named 'a_package_nobody_has'"),
    ):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment | {"DGCN_SKIP_MISSING": switch}, capture_output=True, text=True
        )
        assert (done.returncode, message in done.stdout) == (code, True), done.stdout


def test_the_probe_on_the_cpu() -> None:
    """Right results are counted; neither a wrong one nor a part that crashes keeps the next parts from running."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", PROBE], cwd=ROOT, env=environment, capture_output=True, text=True)
    lines = [line.partition("] ")[2] for line in done.stdout.splitlines()]
    assert done.returncode == 1, done.stderr
    assert lines[:2] == ["crash: before, us 1.5", "WRONG crash: error ended with exit code -6"]
    assert [line.partition(", with")[0] for line in lines[2:5]] == [
        "graph_conv, K = 17: right",
        "relu_affinity: right",
        "sample_adjacency: right",
    ]
    assert lines[5:] == ["WRONG wrong: NaN, of allowed {'y': nan}", "24 results right, 2 wrong; crash: 1; wrong: 1"]
