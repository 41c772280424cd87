"""What a run tells while it goes on: console lines, history.jsonl, CSV, TensorBoard."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_cases import run as dgcn
from training_cases import equal, states_equal, train_epoch

from dgcn.evaluation.oks import METRICS
from dgcn.interrupt import InterruptGuard
from dgcn.model.checkpoint import load_training_state
from dgcn.training import log, loop
from dgcn.training.config import TrainConfig
from dgcn.training.history import TIMES, read_history
from dgcn.training.log import RunLog
from dgcn.training.loop import evaluate_epoch, fit, train_step
from dgcn.training.optim import learning_rate
from dgcn.training.run import Run
from dgcn.training.run_folder import CSV_FILE, HISTORY_FILE, STATE_FILE

LOSSES = ("loss", "pif_confidence", "pif_offset", "pif_scale", "paf_confidence", "paf_offset", "nodes")
COLUMNS = ["epoch", "step", *LOSSES, "learning_rate", *TIMES, *METRICS]


def read_csv(folder: Path) -> list[dict[str, Any]]:
    with open(folder / CSV_FILE, newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == COLUMNS
    return [{name: float(text) for name, text in row.items() if text} for row in rows]


def read_events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """By tag, the steps and values that TensorBoard shows."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = event_accumulator.EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_the_files_agree_with_the_history(config, caplog):
    with caplog.at_level(logging.INFO):
        first, last = history = fit(dataclasses.replace(config, log=("csv",)))
    assert read_history(config.work_dir) == read_csv(config.work_dir) == history
    assert list(first) == COLUMNS[: -len(METRICS)]
    assert list(last) == COLUMNS
    assert [record["step"] for record in history] == [4, 8]
    assert last["learning_rate"] == learning_rate(7, 4, config)
    assert last["images_per_second"] * last["seconds"] == pytest.approx(8)
    for record in history:
        assert f"epoch {record['epoch']}/2: loss {record['loss']:.4g}, pif_confidence" in caplog.text
    assert f"epoch 2/2: AP {last['AP']:.4g}, AP50" in caplog.text


def test_a_run_that_dies_leaves_the_log_of_an_uninterrupted_one(config, tmp_path, monkeypatch):
    """Once in the middle of an epoch, and once between the last save and the log's last lines."""
    pytest.importorskip("tensorboard")
    monkeypatch.setattr(log, "STEPS_PER_POINT", 1)
    whole = dataclasses.replace(config, log=("csv", "tensorboard"))
    fit(whole)
    broken = dataclasses.replace(whole, work_dir=tmp_path / "broken")

    def die(*arguments: object) -> None:
        raise RuntimeError("killed")

    def train_or_die(run, *arguments):
        return die() if run.state.step == 6 else train_step(run, *arguments)  # steps 4 and 5 will be done again

    for owner, name, deadly in ((loop, "train_step", train_or_die), (RunLog, "after_evaluation", die)):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, deadly)
            with pytest.raises(RuntimeError, match="killed"):
                fit(dataclasses.replace(broken, resume="auto"))
        for events in broken.work_dir.glob("events.*"):
            with open(events, "ab") as file:
                file.write(b"\x18\0\0")  # the beginning of an event
    fit(dataclasses.replace(broken, resume="auto"))

    assert states_equal(whole.work_dir / STATE_FILE, broken.work_dir / STATE_FILE)
    for read in (read_history, read_csv):
        assert equal(read(whole.work_dir), read(broken.work_dir))
    expected, found = read_events(whole.work_dir), read_events(broken.work_dir)
    assert expected.keys() == found.keys()
    for tag in expected.keys() - {f"training/{name}" for name in TIMES}:
        assert found[tag] == expected[tag], tag
    assert [step for step, _ in found["step/loss"]] == list(range(8))
    assert [step for step, _ in found["training/loss"]] == [4, 8]
    assert [step for step, _ in found["validation/AP"]] == [8]


def test_the_log_changes_nothing_else_and_may_change(config, tmp_path):
    pytest.importorskip("tensorboard")
    fit(config)
    logged = dataclasses.replace(config, log=("csv", "tensorboard"), work_dir=tmp_path / "logged")
    fit(logged)
    assert states_equal(config.work_dir / STATE_FILE, logged.work_dir / STATE_FILE)
    fit(dataclasses.replace(config, log=("csv",), resume="auto"))
    assert len(read_csv(config.work_dir)) == 2


def timed_run(config: TrainConfig, monkeypatch: pytest.MonkeyPatch, dies_at: int | None = None) -> Run:
    """A run whose steps take 5 s each and its evaluations 30 s; it is killed when it has done `dies_at` steps."""
    run, now = Run(config), [0.0]

    def step(run, *arguments):
        if run.state.step == dies_at:
            raise RuntimeError("killed")
        now[0] += 5
        run.state.step += 1
        run.state.step_of_epoch += 1
        return {"loss": 2.0}

    def evaluate(*arguments, **options):
        now[0] += 30
        return dict.fromkeys(METRICS, 0.5)

    run.log = RunLog(run.state, clock=lambda: now[0])
    monkeypatch.setattr(loop, "train_step", step)
    monkeypatch.setattr(loop, "evaluate_keypoints", evaluate)
    return run


def test_times_and_what_is_left(config, monkeypatch, caplog):
    config = dataclasses.replace(config, epochs=4, save_seconds=0.0)
    run = timed_run(config, monkeypatch, dies_at=6)
    with caplog.at_level(logging.INFO):
        train_epoch(run)
        with pytest.raises(RuntimeError, match="killed"):
            train_epoch(run)
        run = timed_run(config, monkeypatch)
        path = config.work_dir / STATE_FILE
        run.state.restore(path, load_training_state(path))
        train_epoch(run)
        evaluate_epoch(run, InterruptGuard(run.state.last_saved))
        train_epoch(run)
    assert [message for message in caplog.messages if "images/s" in message] == [
        "epoch 1/4: loss 2, 0.4 images/s, ETA 01:00",
        "epoch 2/4: loss 2, 0.4 images/s, ETA 00:40",
        "epoch 3/4: loss 2, 0.4 images/s, ETA 00:50",
    ]
    assert [record["seconds"] for record in run.state.history] == [20, 20, 20]


def test_without_room_for_tensorboard(config, monkeypatch):
    """The error names the folder, and the log goes on where there is room again."""
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    run = Run(dataclasses.replace(config, log=("tensorboard",)))

    def fill_the_disk(writer: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with run.log:
        run.state.step = 10
        with monkeypatch.context() as patch:
            patch.setattr(tensorboard.SummaryWriter, "flush", fill_the_disk)
            with pytest.raises(OSError, match="No space left") as caught:
                run.log.after_step(3.0)
        assert caught.value.filename == str(config.work_dir)
        run.state.step = 20
        run.log.after_step(2.0)
    assert read_events(config.work_dir)["step/loss"][-1] == (19, 2.0)


def test_without_tensorboard_it_is_one_line(people, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    files = [f"--{split}-{kind}" for split in ("train", "val") for kind in ("images", "annotations")]
    paths = [people, people / "people.json"] * 2
    flags = [word for pair in zip(files, paths, strict=True) for word in pair]
    assert dgcn("train", *flags, "--work-dir", tmp_path / "run", "--log", "csv", "tensorboard") == 2
    error = capsys.readouterr().err
    assert error.startswith("dgcn train: error: log 'tensorboard' needs the package tensorboard")
    assert error.endswith('`pip install "dgcn[tensorboard]"`\n')
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [["csv"], "csv", ("csv", "wandb")])
def test_bad_kinds_of_logs_are_named(config, value):
    with pytest.raises(ValueError, match=r"log must be a tuple of any of \('csv', 'tensorboard'\), got"):
        dataclasses.replace(config, log=value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must have a line for each epoch, got an empty file"),
        (b'{"epoch": 1, "loss": 2}\n{"epoch": 2, "lo', r"line 2 must be the record of epoch 2 as JSON, got '\{\"epoch"),
        (b'{"epoch": 1, "loss": 2}\n{"epoch": 1, "loss": 2}\n', "line 2 must be the record of epoch 2"),
        (b'[{"epoch": 1, "loss": 2}]', "line 1 must be"),
        (b'{"epoch": 1, "loss": "2"}', "line 1 must be"),
        (b"\x89PNG\n", r"line 1 must be .*, got '\\\\x89PNG'"),
        (b"[" * 100_000, "line 1 must be"),
    ],
)
def test_a_history_of_other_content_is_named(tmp_path, content, message):
    (tmp_path / HISTORY_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=rf"history\.jsonl.*{message}"):
        read_history(tmp_path)


def test_a_history_is_json_lines(config):
    history = fit(dataclasses.replace(config, epochs=1))
    assert (config.work_dir / HISTORY_FILE).read_text() == json.dumps(history[0]) + "\n"
