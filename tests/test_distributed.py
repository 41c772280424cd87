"""Several processes under torchrun train as one: the same gradients, graphs, scores; and they stop and go on as one."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from stick_figures import write_set
from training_cases import TINY, tiny_run

from dgcn.files import write_json
from dgcn.model.checkpoint import load_training_state
from dgcn.training.config import TrainConfig
from dgcn.training.loop import fit
from dgcn.training.run_folder import CONFIG_FILE, STATE_FILE

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")


@pytest.fixture
def config(tmp_path) -> TrainConfig:
    """Nine pictures in batches of four, the last of which is left out; the processes have unlike shares of the nine."""
    write_set(tmp_path, 9)
    options = {"epochs": 3, "batch_size": 4, "optimizer": "sgd", "batch_norm": "frozen", "eval_every": 3}
    return dataclasses.replace(tiny_run(tmp_path, tmp_path / "one"), **options)


# The program of each process is PROLOGUE, then the definition of `changed_step` by a test, then EPILOGUE, which runs
# `dgcn train` with this function in the place of `train_step`. Its argument is the file of the run's configuration.
PROLOGUE = """
import os, signal, sys, time, torch
from pathlib import Path
from dgcn.training import loop

torch.set_num_threads(1)
rank, restarts = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
train_step = loop.train_step
"""
EPILOGUE = """
from dgcn.cli import main
loop.train_step = changed_step
sys.exit(main(["train", "--config", sys.argv[1]]))
"""
NOTHING = """
changed_step = train_step
"""


def torchrun(config: TrainConfig, body: str = NOTHING, *flags: str, size: int = 2) -> subprocess.Popen:
    """Start the run in processes that execute `body`, which defines `changed_step`."""
    script = config.work_dir.with_suffix(".py")
    script.write_text(PROLOGUE + body + EPILOGUE)
    settings = config.work_dir.with_suffix(".json")
    write_json(settings, config.to_dict())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    return subprocess.Popen(
        [*command, "--monitor-interval=0.1", *flags, str(script), str(settings)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def largest_difference(a: Path, b: Path) -> float:
    """Of the weights of two training states."""
    states = [load_training_state(path)["model"] for path in (a, b)]
    return max(float((x.double() - y.double()).abs().max()) for x, y in zip(*(s.values() for s in states), strict=True))


@pytest.mark.parametrize("per_sample", [False, True])
def test_two_processes_train_as_one(config, tmp_path, per_sample):
    """Frozen batch norm leaves no difference but rounding: gradients, weights, losses, and AP."""
    model = dataclasses.replace(TINY, per_sample=per_sample)
    config = dataclasses.replace(config, model=model, batch_size=5, freeze_epochs=0, epochs=2, eval_every=2)
    keep_gradients = """
def changed_step(run, *arguments):
    numbers = train_step(run, *arguments)
    gradients = {name: value.grad for name, value in run.state.model.named_parameters()}
    torch.save(gradients, f"{run.config.work_dir}-{run.state.step}-{rank}.pt")
    return numbers
"""
    two = dataclasses.replace(config, work_dir=tmp_path / "two")
    for size, changed in ((1, config), (2, two)):
        process = torchrun(changed, keep_gradients, size=size)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    for rank in (0, 1):
        gradients = [torch.load(f"{name}-1-{owner}.pt") for name, owner in ((config.work_dir, 0), (two.work_dir, rank))]
        largest = max(float(value.abs().max()) for value in gradients[0].values())
        for name, value in gradients[0].items():
            assert float((value - gradients[1][name]).abs().max()) < 1e-6 * largest, name
    assert largest_difference(config.work_dir / STATE_FILE, two.work_dir / STATE_FILE) < 1e-5
    history = load_training_state(config.work_dir / STATE_FILE)["history"]
    state = load_training_state(two.work_dir / STATE_FILE)
    assert [record["epoch"] for record in state["history"]] == [1, 2]
    for own, others in zip(history, state["history"], strict=True):
        assert own["loss"] == pytest.approx(others["loss"], rel=1e-5)
    assert state["history"][-1]["AP"] == pytest.approx(history[-1]["AP"], abs=1e-9)


def test_parts_of_a_batch_train_as_the_whole(config, tmp_path):
    config = dataclasses.replace(config, model=dataclasses.replace(TINY, per_sample=True), epochs=2)
    fit(config)
    parts = dataclasses.replace(config, work_dir=tmp_path / "parts", accumulation_steps=3)
    fit(parts)
    assert largest_difference(config.work_dir / STATE_FILE, parts.work_dir / STATE_FILE) < 1e-6


def test_a_killed_process_is_started_again_and_changes_nothing(config, tmp_path):
    """The second process comes late when it is started again: the first must not look for it at its old address."""
    whole = dataclasses.replace(config, work_dir=tmp_path / "whole", save_seconds=0.0, batch_norm="local")
    process = torchrun(whole)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    broken = dataclasses.replace(whole, work_dir=tmp_path / "broken")
    kill = """
if rank == 1 and restarts:
    time.sleep(5)

def changed_step(run, *arguments):
    if run.state.step == 3 and rank == 1 and restarts == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return train_step(run, *arguments)
"""
    process = torchrun(broken, kill, "--max-restarts=1")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert largest_difference(whole.work_dir / STATE_FILE, broken.work_dir / STATE_FILE) == 0.0


def test_what_is_refused_is_not_taken_up_at_the_second_attempt(config):
    fit(config)
    process = torchrun(config, NOTHING, "--max-restarts=1", size=1)
    _, errors = process.communicate()
    assert process.returncode != 0
    assert errors.count("holds a run already") == 2


def test_one_process_is_started_again_as_well(config):
    kill = """
def changed_step(run, *arguments):
    if run.state.step == 3 and restarts == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return train_step(run, *arguments)
"""
    process = torchrun(config, kill, "--max-restarts=1", size=1)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert load_training_state(config.work_dir / STATE_FILE)["step"] == 6


def test_a_loss_that_is_not_finite_is_told_once(config):
    poison = """
def changed_step(run, *arguments):
    with torch.no_grad():
        run.state.model.pif_head.conv.bias.fill_(float("nan"))
    return train_step(run, *arguments)
"""
    process = torchrun(config, poison)
    _, errors = process.communicate()
    assert process.returncode != 0
    assert errors.count("the loss is not finite at step 0 (epoch 1; images ") == 1
    assert "pif_confidence nan" in errors
    assert errors.count("the training state is in") == 1


@pytest.mark.parametrize("target", ["one process", "torchrun"])
def test_a_signal_stops_all_and_saves(config, tmp_path, target):
    endless = dataclasses.replace(config, epochs=10_000, eval_every=10_000, save_seconds=0.0)
    announce = """
def changed_step(run, *arguments):
    Path(f"{run.config.work_dir}.{rank}").write_text(str(os.getpid()))
    return train_step(run, *arguments)
"""
    process = torchrun(endless, announce)
    state, second = endless.work_dir / STATE_FILE, Path(f"{endless.work_dir}.1")
    while not (state.exists() and second.exists()):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    os.kill(process.pid if target == "torchrun" else int(second.read_text()), signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode != 0
    assert errors.count("interrupted; the training state is in") == 1
    assert load_training_state(state)["step"] > 0


def test_a_failure_of_one_process_ends_all_with_its_reason(config, tmp_path):
    (tmp_path / "8.png").write_bytes((tmp_path / "8.png").read_bytes()[:200])
    process = torchrun(dataclasses.replace(config, batch_size=9, epochs=1, workers=1))
    _, errors = process.communicate()
    assert process.returncode != 0
    assert errors.count("8.png cannot be read as a picture") == 1
    assert "the training state is in" in errors


def test_a_batch_of_fewer_pictures_than_processes(config):
    process = torchrun(dataclasses.replace(config, batch_size=1))
    _, errors = process.communicate()
    assert process.returncode != 0
    assert errors.count("batch_size must be at least the 2 training processes, got 1") == 1
    assert not (config.work_dir / CONFIG_FILE).exists()


def test_a_mistake_in_the_request_is_told_once(config):
    process = torchrun(dataclasses.replace(config, init_checkpoint=config.work_dir / "none.safetensors"))
    _, errors = process.communicate()
    assert process.returncode != 0
    assert errors.count("none.safetensors") == 1
