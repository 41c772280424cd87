"""Ablations: the rows are the paper's, no run is lost or done twice, and the numbers of the table are right."""

from __future__ import annotations

import csv
import json
import logging
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from cli_cases import run
from conftest import ROOT
from stick_figures import write_set

from dgcn.ablation import rows as rows_module
from dgcn.ablation import runs as runs_module
from dgcn.ablation.results import PREDICTIONS_FILE, RESULTS_FILE, Score, summarise
from dgcn.ablation.rows import Row, paper_rows, under_semantics
from dgcn.ablation.runs import LOG_FILE, Run, execute
from dgcn.cli import ablate
from dgcn.training.history import read_history

TINY = "--backbone mobilenetv1_075 --lift-channels 8 --no-non-local --size 65 --batch-size 4 --workers 0"
TINY += " --no-pretrained --freeze-epochs 0"


@pytest.fixture
def data(tmp_path) -> Path:
    """The description of a set whose eight pictures are those of training and of validation."""
    (tmp_path / "people").mkdir()
    write_set(tmp_path / "people", 8)
    path = tmp_path / "people.yaml"
    path.write_text("".join(f"{s}: {{images: people, annotations: people/people.json}}\n" for s in ("train", "val")))
    return path


def stand_in(monkeypatch, script: str) -> None:
    """Runs start this Python script, with the arguments of `dgcn`, in its place."""
    monkeypatch.setattr(runs_module, "DGCN", (sys.executable, "-c", textwrap.dedent(script)))


def make_runs(folder: Path, names: str) -> list[Run]:
    return [Run(Row(name, (), 0.6), 0, folder / name, (["train", name], ["eval", name])) for name in names]


def test_rows_that_the_readings_of_eq_8_distinguish_are_doubled() -> None:
    names = [row.name for row in under_semantics(paper_rows(1), ("literal", "mask"))]
    graphs = ["GCN-A_h-literal", "GCN-A_h-mask", "GCN-A_s", "DGCN-A_d-literal", "DGCN-A_d-mask"]
    assert names == ["baseline", "GCN-A_I", *graphs]
    assert under_semantics(paper_rows(2), ("literal", "mask")) == paper_rows(2)


def test_the_page_on_reproduction_has_the_rows() -> None:
    page = (ROOT / "docs" / "reproduction.md").read_text()
    for table in rows_module.TABLES:
        rows = paper_rows(table) + (paper_rows(5, on_crowdpose=True) if table == 5 else [])
        lines = [f"| {table} | {row.name} | `{' '.join(row.flags)}` | {row.paper_ap:.3f} |" for row in rows]
        assert "\n".join(lines) in page


def test_a_run_starts_on_the_first_free_device(monkeypatch, tmp_path) -> None:
    stand_in(monkeypatch, "import sys; print(*sys.argv[1:])")
    ended = list(execute(make_runs(tmp_path, "abcde"), ["cpu", "cuda:1"]))
    assert sorted((run.row.name, status) for run, status in ended) == [(name, 0) for name in "abcde"]
    logs = {name: (tmp_path / name / LOG_FILE).read_text().splitlines() for name in "abcde"}
    assert logs["a"] == ["train a --device cpu", "eval a --device cpu"]
    assert logs["b"] == ["train b --device cuda:1", "eval b --device cuda:1"]
    for name, (train, evaluation) in logs.items():
        assert train.replace("train", "eval") == evaluation, name


def test_no_run_is_left_behind(monkeypatch, tmp_path) -> None:
    script = """
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("saved"))
        print("ready", flush=True)
        if sys.argv[2] != "a":
            time.sleep(1000)
        """
    stand_in(monkeypatch, script)
    ended = execute(make_runs(tmp_path, "abcd"), ["cpu", "cpu", "cpu"])
    assert next(ended)[0].row.name == "a"
    for name in "bc":
        while "ready" not in (tmp_path / name / LOG_FILE).read_text():
            time.sleep(0.01)
    ended.close()
    for name in "bc":
        assert (tmp_path / name / LOG_FILE).read_text() == "ready\nsaved\n"
    assert not (tmp_path / "d").exists()


def test_numbers_of_a_row() -> None:
    rng = np.random.default_rng(0)
    draws = rng.uniform(0.1, 0.3, 1000)
    baseline = {0: Score(0.2, draws)}
    entry = summarise(Row("row", ("--levels", "F16"), 0.6), {0: Score(0.3, draws + 0.1)}, baseline)
    assert (entry["mean"], entry["std"], entry["range"]) == (0.3, None, [0.3, 0.3])
    assert entry["interval"] == pytest.approx(np.percentile(draws + 0.1, [2.5, 97.5]))
    assert entry["gain"] == pytest.approx(0.1)
    assert entry["gain_interval"] == pytest.approx([0.1, 0.1])  # of the same pictures, not of any

    scores = {2: Score(0.3, np.full(1000, 0.3)), 0: Score(0.1, np.full(1000, 0.1))}
    entry = summarise(Row("baseline", (), 0.6), scores, scores)
    assert entry["AP"] == {"0": 0.1, "2": 0.3}
    assert (entry["mean"], entry["std"]) == pytest.approx((0.2, 0.2 / np.sqrt(2)))
    assert entry["interval"] == pytest.approx([0.1, 0.3])  # of draws of the seeds
    assert entry["gain"] is None


def test_a_table(data, tmp_path, monkeypatch, caplog, capsys) -> None:
    """Two rows: what is done is not done again, and other settings are refused by name."""
    monkeypatch.setattr(rows_module, "paper_rows", lambda table, **_: paper_rows(table)[:2])
    folder = tmp_path / "table"
    command = ["ablate", "--table", 1, "--data", data, "--work-dir", folder, "--devices", "cpu", "--seeds"]
    flags = ["--", *TINY.split(), "--epochs"]
    caplog.set_level(logging.INFO)
    assert run(*command, 3, *flags, 1) == 0
    assert "| GCN-A_I |" in capsys.readouterr().out

    document = json.loads((folder / RESULTS_FILE).read_text())
    assert [row["name"] for row in document["rows"]] == ["baseline", "GCN-A_I"]
    for row in document["rows"]:
        history = read_history(folder / row["name"] / "seed3")
        assert row["AP"] == {"3": history[-1]["AP"]}
    header, *lines = csv.reader((folder / "results.csv").read_text().splitlines())
    assert [line[0] for line in lines] == ["baseline", "GCN-A_I"]
    assert lines[1][header.index("paper_AP")] == "0.636"

    caplog.clear()
    assert run(*command, 3, *flags, 1) == 0
    assert "2 runs, of which 2 are done" in caplog.text
    assert "dgcn train on" not in caplog.text
    assert run(*command, 3, *flags, 2) == 2
    assert "(training.epochs: 1 -> 2; as saved -> now)" in capsys.readouterr().err


def test_failures_and_interruptions(data, tmp_path, monkeypatch, caplog, capsys) -> None:
    script = """
        import os, signal, sys
        from pathlib import Path
        flags = sys.argv[1:]
        row = Path(flags[flags.index("--work-dir") + 1]).parent.name if flags[0] == "train" else "of eval"
        if row == "GCN-A_I":
            sys.exit("the loss is not finite")
        if row == os.environ.get("INTERRUPTED"):
            os.kill(os.getppid(), signal.SIGTERM)
        if row == os.environ.get("REFUSED"):
            print("dgcn train: error: no such picture")
            sys.exit(2)
        if flags[0] == "eval":
            Path(flags[flags.index("--results") + 1]).write_text("[]")
        """
    stand_in(monkeypatch, script)
    monkeypatch.setattr(ablate, "find_figures", lambda: lambda results: None)
    folder = tmp_path / "table"
    command = ["ablate", "--table", 1, "--data", data, "--work-dir", folder, "--devices", "cpu", "--seeds", 0]
    command += ["--semantics", "literal", "--", *TINY.split()]

    monkeypatch.setenv("INTERRUPTED", "GCN-A_s")
    assert run(*command) == 130
    assert capsys.readouterr().err == f"dgcn ablate: interrupted; the same command goes on from {folder}\n"
    names = [row["name"] for row in json.loads((folder / RESULTS_FILE).read_text())["rows"]]
    assert names == ["baseline", "GCN-A_h-literal"]

    monkeypatch.setenv("INTERRUPTED", "")
    monkeypatch.setenv("REFUSED", "DGCN-A_d-literal")
    with caplog.at_level(logging.INFO):
        assert run(*command) == 1  # other runs have been accepted before
    assert "DGCN-A_d-literal, seed 0: exit status 2: dgcn train: error: no such picture" in caplog.text

    monkeypatch.setenv("REFUSED", "")
    (folder / "GCN-A_s" / "seed0" / PREDICTIONS_FILE).unlink()  # the user may: the run is done again
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert run(*command) == 1
    assert "GCN-A_I, seed 0: exit status 1: the loss is not finite" in caplog.text
    assert "5 runs, of which 2 are done" in caplog.text
    assert len(json.loads((folder / RESULTS_FILE).read_text())["rows"]) == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--devices cpu -- --graph soft", "--graph must not be given after --: the runs of table 1 set it themselves"),
        ("--devices cpu -- --seed 7", "--seed must not be given after --"),
        ("--devices cpu -- --epochs 0", "--epochs must be at least 1, got 0"),
        ("--devices gpu", "device must be 'cpu', 'cuda' or 'cuda:N', got 'gpu'"),
        ("--seeds -1 --devices cpu", "seed must be at least 0, got -1"),
    ],
)
def test_mistakes_are_named_before_the_first_run(flags, message, data, tmp_path, capsys) -> None:
    own, _, train = flags.partition(" -- ")
    command = ["ablate", "--table", 1, "--data", data, "--work-dir", tmp_path / "table", *own.split(), "--"]
    assert run(*command, *TINY.split(), *train.split()) == 2
    assert message in capsys.readouterr().err
    assert not [path for path in (tmp_path / "table").iterdir() if path.is_dir()]


def test_results_of_something_else_are_not_written_over(data, tmp_path, capsys) -> None:
    (tmp_path / RESULTS_FILE).write_text('[{"image_id": 1}]')
    command = ["ablate", "--table", 1, "--data", data, "--work-dir", tmp_path, "--devices", "cpu", "--", *TINY.split()]
    assert run(*command) == 2
    assert f"{tmp_path / RESULTS_FILE} must be the results of an ablation" in capsys.readouterr().err
