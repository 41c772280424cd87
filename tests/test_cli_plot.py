"""`dgcn plot`: every curve of every run, and mistakes in one line."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_cases import run
from PIL import Image

from dgcn.cli.plot import run_names
from dgcn.evaluation.oks import METRICS
from dgcn.training.history import TIMES
from dgcn.training.loop import fit
from dgcn.training.run_folder import HISTORY_FILE


def write_run(folder: Path, epochs: int, **entries: float) -> Path:
    folder.mkdir(parents=True)
    records = [{"epoch": epoch, "loss": 3 / epoch, **entries} for epoch in range(1, epochs + 1)]
    (folder / HISTORY_FILE).write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def test_every_number_of_a_run_has_its_panel(config, tmp_path, capsys) -> None:
    pytest.importorskip("matplotlib")
    from dgcn.training.plots import PANELS, runs_figure

    history = fit(dataclasses.replace(config, log=("csv",)))
    assert PANELS.keys() == {*history[-1]} - {"epoch", "step", *TIMES, *METRICS} | {"AP"}
    figure = runs_figure({"one": history, "other": history[:1]})
    for axes, (name, title) in zip(figure.axes, PANELS.items(), strict=True):
        assert axes.get_title() == title
        for line, records in zip(axes.lines, (history, history[:1]), strict=True):
            shown = [(record["epoch"], record[name]) for record in records if name in record]
            np.testing.assert_array_equal(np.reshape(shown, (-1, 2)), line.get_xydata())
    output = tmp_path / "figures" / "runs.png"
    assert run("plot", config.work_dir, "-o", output) == 0
    assert capsys.readouterr().out == f"figure {output}\n"
    assert np.ptp(np.asarray(Image.open(output))) > 100


def test_runs_side_by_side_in_each_format(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    runs = [write_run(tmp_path / name, 3) for name in ("resnet50", "mobilenet")]
    runs[1] /= HISTORY_FILE
    for suffix, start in ((".pdf", b"%PDF"), (".svg", b"<?xml"), (".png", b"\x89PNG")):
        written = set()
        for _ in range(2):
            assert run("plot", *runs, "-o", tmp_path / f"runs{suffix}") == 0
            written.add((tmp_path / f"runs{suffix}").read_bytes())
        assert len(written) == 1  # the same bytes every time
        assert written.pop().startswith(start)
    svg = (tmp_path / "runs.svg").read_text()
    assert all(f">{text}</text>" in svg for text in ("resnet50", "mobilenet", "loss (Eq. 1)", "epoch"))


def test_only_panels_with_numbers(tmp_path) -> None:
    """An AP of -1 stands for no person in the validation pictures; losses of --regression laplace may be negative."""
    pytest.importorskip("matplotlib")
    from dgcn.training.history import read_history
    from dgcn.training.plots import runs_figure

    history = read_history(write_run(tmp_path / "run", 2, AP=-1.0, paf_offset=-0.5))
    shown = [axes for axes in runs_figure({"run": history}).axes if axes.lines]
    assert [axes.get_title() for axes in shown] == ["loss (Eq. 1)", "PAF offset"]
    np.testing.assert_array_equal(shown[1].lines[0].get_ydata(), [-0.5, -0.5])


def test_names_of_runs(tmp_path, monkeypatch) -> None:
    for folder in ("a/run", "b/run", "c"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "c")
    assert run_names([Path("."), Path("../a/run"), Path("../history.jsonl")]) == ["c", "run", tmp_path.name]
    assert run_names([Path("../a/run"), Path("../b/run")]) == ["../a/run", "../b/run"]


def test_mistakes_are_one_line(tmp_path, capsys) -> None:
    pytest.importorskip("matplotlib")
    good, torn = write_run(tmp_path / "good", 2), write_run(tmp_path / "torn", 2)
    (torn / HISTORY_FILE).write_bytes((torn / HISTORY_FILE).read_bytes()[:-5])
    for arguments, message in (
        ([tmp_path], f"{tmp_path / HISTORY_FILE}: No such file or directory"),
        ([good, tmp_path / "absent"], f"{tmp_path / 'absent'}: No such file or directory"),
        ([good, torn], f"{torn / HISTORY_FILE}: line 2 must be the record of epoch 2"),
        ([good, "-o", tmp_path / "runs.gif"], "--output must end in .png, .svg or .pdf, got"),
    ):
        assert run("plot", *arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("dgcn plot: error: ")
        assert message in error
        assert error.count("\n") == 1


def test_without_matplotlib(tmp_path, monkeypatch, capsys) -> None:
    for module in ("dgcn.figures", "dgcn.training.plots"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run("plot", write_run(tmp_path / "run", 1), "-o", tmp_path / "out" / "runs.png") == 2
    error = capsys.readouterr().err
    assert error.startswith("dgcn plot: error: figures need matplotlib")
    assert error.endswith('`pip install "dgcn[plots]"`\n')
    assert not (tmp_path / "out").exists()
