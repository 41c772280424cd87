"""Training: it learns, it can be killed and resumed to the same bits, and it says what is wrong."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from training_cases import TINY, states_equal, train_epoch

from dgcn import interrupt
from dgcn.data.loader import LoadingError
from dgcn.graph import distance_matrix, measurements, soft_adjacency
from dgcn.interrupt import Interrupted
from dgcn.model.checkpoint import load_model, load_training_state, save_model, save_training_state
from dgcn.model.config import ModelConfig
from dgcn.model.network import build_model
from dgcn.skeleton import COCO
from dgcn.training import loop
from dgcn.training import run as run_module
from dgcn.training.config import TrainConfig
from dgcn.training.loop import fit, train_step
from dgcn.training.run import Run, step_seconds
from dgcn.training.run_folder import BEST_FILE, HISTORY_FILE, LAST_FILE, STATE_FILE


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As many threads as `run_in_process` has: the sums of convolutions depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run_in_process(config: TrainConfig, killed_at: int | None = None) -> subprocess.Popen:
    """`fit(config)` in a process of its own, which kills itself when it has done `killed_at` optimizer steps."""
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in ("model", "loss")}
    model = ", ".join(f"{name}={getattr(TINY, name)!r}" for name in ("backbone", "lift_channels", "non_local"))
    code = f"""
import os, signal, torch
from pathlib import Path, PosixPath
from dgcn.model.config import ModelConfig
from dgcn.training import loop
from dgcn.data.reader import ReadOptions
from dgcn.training.config import TrainConfig

train_step = loop.train_step

def train_or_die(run, *arguments):
    if run.state.step == {killed_at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return train_step(run, *arguments)

torch.set_num_threads(1)
loop.train_step = train_or_die
loop.fit(TrainConfig(model=ModelConfig({model}), **{values!r}))
"""
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_steps(config: TrainConfig, process: subprocess.Popen, steps: int) -> None:
    """Return once the state that `process` saves has done at least `steps` optimizer steps."""
    state = config.work_dir / STATE_FILE
    while not (state.exists() and load_training_state(state)["step"] >= steps):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.001)


def test_a_run_leaves_checkpoints_and_a_history(config):
    history = fit(config)
    assert [record["epoch"] for record in history] == [1, 2]
    assert "AP" not in history[0]
    assert set(history[1]) >= {"loss", "pif_confidence", "paf_offset", "nodes", "AP", "AR"}
    lines = (config.work_dir / HISTORY_FILE).read_text().splitlines()
    assert [json.loads(line) for line in lines] == history
    for name in (LAST_FILE, BEST_FILE):
        model, metadata = load_model(config.work_dir / name)
        assert model.config == TINY
        assert metadata["epoch"] == 2
        assert metadata["long_edge"] == 65


def test_it_learns(config):
    longer = dataclasses.replace(config, epochs=15, eval_every=15, learning_rate=5e-3, freeze_epochs=0)
    history = fit(longer)
    assert history[-1]["loss"] < 0.6 * history[0]["loss"]


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_resumed_is_the_same_run(config, tmp_path, workers):
    """SIGKILL in the middle of an epoch; the loader's processes play no part in the result."""
    whole = dataclasses.replace(config, epochs=3, eval_every=3, save_seconds=0.0, workers=workers)
    fit(whole)
    broken = dataclasses.replace(whole, work_dir=tmp_path / "broken")
    process = run_in_process(broken, killed_at=6)  # of 12, 4 an epoch
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert 0 < load_training_state(broken.work_dir / STATE_FILE)["step"] <= 6
    fit(dataclasses.replace(broken, resume="auto"))
    assert states_equal(whole.work_dir / STATE_FILE, broken.work_dir / STATE_FILE)


def test_an_interrupt_saves_and_resumes(config, tmp_path, monkeypatch):
    fit(config)
    broken = dataclasses.replace(config, work_dir=tmp_path / "broken")

    def interrupted_step(run, *arguments):
        if run.state.step == 4:  # the last step of the first epoch: its evaluation is still to come
            os.kill(os.getpid(), signal.SIGINT)
        return train_step(run, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", interrupted_step)
        with pytest.raises(Interrupted, match="--resume auto"):
            fit(broken)
    fit(dataclasses.replace(broken, resume="auto"))
    assert states_equal(config.work_dir / STATE_FILE, broken.work_dir / STATE_FILE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_process_group_saves(config, number):
    """Ctrl-C in a terminal reaches the loader's processes as well."""
    process = run_in_process(dataclasses.replace(config, epochs=10_000, eval_every=10_000, save_seconds=0.0, workers=1))
    wait_for_steps(config, process, 2)
    os.killpg(process.pid, number)
    _, errors = process.communicate()
    assert "Interrupted: interrupted; the training state is in" in errors
    assert load_training_state(config.work_dir / STATE_FILE)["step"] >= 2


def test_a_run_in_another_thread(config):
    """As a notebook or a server starts it."""
    with ThreadPoolExecutor(1) as pool:
        assert len(pool.submit(fit, dataclasses.replace(config, epochs=1, workers=1)).result()) == 1


def test_resume_needs_nothing_but_the_state(config, tmp_path):
    """The checkpoint that the run began with may be gone, and the network need not be there for ImageNet weights."""
    checkpoint = tmp_path / "start.safetensors"
    save_model(checkpoint, Run(config).state.model, {})
    begun = dataclasses.replace(config, init_checkpoint=checkpoint)
    fit(begun)
    checkpoint.unlink()
    assert len(fit(dataclasses.replace(begun, resume="auto"))) == 2


def test_a_state_from_before_a_setting_existed_goes_on(config):
    fit(dataclasses.replace(config, epochs=2, eval_every=1))
    path = config.work_dir / STATE_FILE
    state = load_training_state(path)
    settings = state["settings"]
    del settings["model"]["per_sample"], settings["model"]["propagation"], settings["freeze_stem"]
    save_training_state(path, state)
    assert len(fit(dataclasses.replace(config, eval_every=1, resume="auto"))) == 2


def test_resume_auto_starts_where_there_is_nothing(config):
    assert len(fit(dataclasses.replace(config, epochs=1, resume="auto"))) == 1


def test_a_finished_run_is_not_overwritten(config):
    fit(dataclasses.replace(config, epochs=1))
    with pytest.raises(FileExistsError, match="holds a run already"):
        fit(config)
    with pytest.raises(ValueError, match=r"other settings .*epochs: 1 -> 2"):
        fit(dataclasses.replace(config, resume="auto"))


def test_a_frozen_backbone_of_random_weights_is_warned_of(config, caplog):
    with caplog.at_level(logging.WARNING):
        Run(config)
    assert "pass --init-trunk or --freeze-epochs 0" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        Run(dataclasses.replace(config, freeze_epochs=0))
    assert "pass --init-trunk" not in caplog.text


def test_amp_that_is_slower_is_warned_of(config, caplog, monkeypatch):
    seconds = {True: 2.0, False: 0.5}
    monkeypatch.setattr(run_module, "step_seconds", lambda model, size, amp: seconds[amp])
    Run(dataclasses.replace(config, amp="bf16"))
    assert "amp makes training slower on this CPU: 2.00 s a picture in bfloat16, 0.50 s in float32" in caplog.text
    caplog.clear()
    seconds[True] = 0.4
    Run(dataclasses.replace(config, amp="bf16"))
    Run(config)
    assert "amp" not in caplog.text


def test_the_measure_of_amp_leaves_the_training_alone(config):
    run = Run(dataclasses.replace(config, amp="bf16"))
    unmeasured = Run(config)
    generator = torch.get_rng_state()
    before = {name: value.clone() for name, value in run.state.model.state_dict().items()}
    assert step_seconds(run.state.model, 65, amp=True) > 0
    assert all(torch.equal(value, before[name]) for name, value in run.state.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.equal(unmeasured.state.model.pif_head.conv.weight, run.state.model.pif_head.conv.weight)


def test_frozen_epochs_leave_the_backbone_alone(config):
    run = Run(dataclasses.replace(config, freeze_epochs=1))
    before = {name: value.clone() for name, value in run.state.model.backbone.state_dict().items()}
    head = run.state.model.pif_head.conv.weight.detach().clone()
    train_epoch(run)
    assert all(torch.equal(value, before[name]) for name, value in run.state.model.backbone.state_dict().items())
    assert not torch.equal(run.state.model.pif_head.conv.weight, head)
    train_epoch(run)
    assert not torch.equal(run.state.model.backbone.stem.weight, before["stem.weight"])


def test_a_frozen_stem_stays_frozen(config):
    run = Run(dataclasses.replace(config, freeze_epochs=0, freeze_stem=True))
    before = {name: value.clone() for name, value in run.state.model.backbone.state_dict().items()}
    train_epoch(run)
    after = run.state.model.backbone.state_dict()
    changed = {
        name.split(".")[1] for name in before if "blocks." in name and not torch.equal(before[name], after[name])
    }
    assert torch.equal(before["stem.weight"], after["stem.weight"])
    assert changed == {str(number) for number in range(3, 13)}


def test_the_graph_is_that_of_the_training_persons(config):
    run = Run(config)
    persons = [person for record in run.dataset.records for person in record.persons]
    distances = distance_matrix(*measurements(persons, "people.json"))
    adjacency = run.state.model.pif_stream.dgcms["16"].graph_conv.adjacency
    torch.testing.assert_close(adjacency, soft_adjacency(distances))
    nose_to_eye, nose_to_ankle = adjacency[0, 1], adjacency[0, 15]
    assert nose_to_eye > 10 * nose_to_ankle


def test_the_graph_of_a_file(config, tmp_path):
    distances = np.arange(17.0) + np.arange(17.0)[:, None]
    path = tmp_path / "graph.json"
    path.write_text(json.dumps({"keypoints": COCO.keypoints, "distances": distances.tolist()}))
    run = Run(dataclasses.replace(config, graph_file=path))
    adjacency = run.state.model.paf_stream.dgcms["16"].graph_conv.adjacency
    torch.testing.assert_close(adjacency, soft_adjacency(distances))


def test_a_loss_that_is_not_finite_stops_the_run(config, monkeypatch):
    run = Run(config)
    with torch.no_grad():
        run.state.model.pif_head.conv.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite at step 0"):
        train_epoch(run)


@pytest.mark.parametrize("evaluation", ["fails", "is interrupted"])
def test_an_evaluation_costs_no_epoch(config, tmp_path, monkeypatch, evaluation):
    """The epoch is saved before; a resumed run begins with its evaluation and ends with the same bits."""
    config = dataclasses.replace(config, eval_every=1)
    fit(config)
    broken = dataclasses.replace(config, work_dir=tmp_path / "broken")

    def break_off(*arguments: object, **options: object) -> None:
        if evaluation == "is interrupted":
            os.kill(os.getpid(), signal.SIGTERM)
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "predict_records", break_off)
        kind = Interrupted if evaluation == "is interrupted" else LoadingError
        with pytest.raises(kind, match=r"after step 4; continue with --resume auto"):
            fit(broken)
    state = load_training_state(broken.work_dir / STATE_FILE)
    assert state["step"] == 4
    assert [record["epoch"] for record in state["history"]] == [1]
    load_model(broken.work_dir / LAST_FILE)
    assert fit(dataclasses.replace(broken, resume="auto"))[0]["AP"] >= 0
    assert states_equal(config.work_dir / STATE_FILE, broken.work_dir / STATE_FILE)


def test_a_second_signal_does_not_wait_for_the_step(config, monkeypatch):
    def interrupted_step(run, *arguments):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(interrupt, "REPEAT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "train_step", interrupted_step)
    with pytest.raises(Interrupted, match=r"interrupted twice; the training state is in .* \(after step 0;"):
        fit(config)
    assert load_training_state(config.work_dir / STATE_FILE)["step"] == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_training_picture_ends_the_run_with_its_state_saved(config, people, tmp_path, workers):
    damaged = tmp_path / "damaged"
    shutil.copytree(people, damaged)
    whole = (damaged / "5.png").read_bytes()
    (damaged / "5.png").write_bytes(whole[: len(whole) // 2])  # whose header is looked at first, and is sound
    message = r"damaged/5\.png cannot be read as a picture.*; the training state is in .* --resume auto"
    with pytest.raises(LoadingError, match=message):
        fit(dataclasses.replace(config, train_images=damaged, workers=workers))
    shutil.copy(people / "5.png", damaged)
    assert len(fit(dataclasses.replace(config, train_images=damaged, workers=0, resume="auto"))) == 2


def test_a_damaged_training_picture_is_skipped_as_asked(config, people, tmp_path, caplog):
    """Also by a run that is resumed, from the first look at its data on."""
    damaged = tmp_path / "damaged"
    shutil.copytree(people, damaged)
    (damaged / "5.png").unlink()
    whole = dataclasses.replace(config, train_images=damaged, on_bad_image="skip", workers=1)
    fit(whole)
    broken = dataclasses.replace(whole, work_dir=tmp_path / "broken", save_seconds=0.0)
    run_in_process(broken, killed_at=2).communicate()
    caplog.clear()
    fit(dataclasses.replace(broken, resume="auto"))
    assert sum("5.png" in message for message in caplog.messages) == 1
    assert states_equal(whole.work_dir / STATE_FILE, broken.work_dir / STATE_FILE)


def damage_a_picture(folder: Path) -> None:
    (folder / "5.png").write_bytes(b"not a picture")


def remove_a_picture(folder: Path) -> None:
    (folder / "5.png").unlink()


def break_an_annotation(folder: Path) -> None:
    content = json.loads((folder / "people.json").read_text())
    content["annotations"][5]["keypoints"].pop()
    (folder / "people.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [(damage_a_picture, r"5\.png"), (remove_a_picture, r"5\.png"), (break_an_annotation, "annotation 5")],
)
def test_what_an_evaluation_needs_is_looked_at_first(config, people, tmp_path, change, message):
    validation = tmp_path / "validation"
    shutil.copytree(people, validation)
    change(validation)
    changed = dataclasses.replace(config, val_images=validation, val_annotations=validation / "people.json")
    with pytest.raises((OSError, ValueError), match=message):
        Run(changed)


def test_validation_pictures_of_nobody(config, people, tmp_path, caplog):
    """Nothing to measure, so no best.safetensors; it is said before the training."""
    content = json.loads((people / "people.json").read_text()) | {"annotations": []}
    (tmp_path / "nobody.json").write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        fit(dataclasses.replace(config, val_annotations=tmp_path / "nobody.json"))
    assert f"there will be no {BEST_FILE}" in caplog.text
    assert not (config.work_dir / BEST_FILE).exists()
    assert (config.work_dir / LAST_FILE).exists()


def test_what_resume_cannot_continue(config, tmp_path):
    fit(dataclasses.replace(config, epochs=1))
    model, state = config.work_dir / LAST_FILE, tmp_path / "other.pt"
    save_training_state(state, {"epoch": 3})
    for path, message in (
        (
            model,
            r"last\.safetensors is not a training state or is damaged: it is a model, from which --init",
        ),
        (state, r"other\.pt is not a training state of dgcn: it has no best, conditions, generator, history"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(dataclasses.replace(config, work_dir=tmp_path / "new", resume=path))


def test_init_checkpoint_of_another_model_shows_the_difference(config, tmp_path):
    checkpoint = tmp_path / "wide.safetensors"
    wide = dataclasses.replace(TINY, lift_channels=32)
    save_model(checkpoint, build_model(**{f.name: getattr(wide, f.name) for f in dataclasses.fields(wide)}), {})
    message = r"wide\.safetensors must hold the configured model, but has lift_channels: 16 -> 32 \(configured -> in"
    with pytest.raises(ValueError, match=message):
        Run(dataclasses.replace(config, init_checkpoint=checkpoint))
    assert Run(dataclasses.replace(config, model=wide, init_checkpoint=checkpoint)).state.model.config == wide


def test_a_state_that_is_not_finite_is_never_saved(config, monkeypatch):
    """Neither a loss nor a gradient; what was saved before stays."""
    config = dataclasses.replace(config, save_seconds=0.0)
    saved = []

    def poisoned_step(run, *arguments):
        if run.state.step == 2:
            saved.append((config.work_dir / STATE_FILE).read_bytes())
            run.state.model.pif_head.conv.weight.register_hook(lambda gradient: gradient * float("inf"))
        return train_step(run, *arguments)

    monkeypatch.setattr(loop, "train_step", poisoned_step)
    message = (
        r"the gradient is not finite at step 2 \(epoch 1; images \d, \d\); the training state is in .* \(after step 2;"
    )
    with pytest.raises(FloatingPointError, match=message):
        fit(config)
    assert (config.work_dir / STATE_FILE).read_bytes() == saved[0]


def test_no_limit_on_the_gradient_is_not_a_limit_of_zero(config):
    weights = []
    for norm in (1e6, 0.0):
        run = Run(dataclasses.replace(config, clip_norm=norm))
        train_epoch(run)
        weights.append(run.state.model.pif_head.conv.weight)
    assert torch.equal(*weights)


def test_paths_may_be_strings(config):
    assert dataclasses.replace(config, work_dir=str(config.work_dir)) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 64}, "size must be a multiple of 16 plus 1"),
        ({"optimizer": "lion"}, "optimizer must be one of"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\)"),
        ({"momentum": 2.0}, r"momentum must be in \[0, 1\), got 2.0"),
        ({"weight_decay": -1e-5}, "weight_decay must be at least 0, got -1e-05"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0, got -1"),
        ({"learning_rate": 0.0}, r"learning_rate must be positive, got 0\.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be finite, got nan"),
        ({"clip_norm": -1.0}, r"clip_norm must be at least 0, got -1\.0"),
        ({"save_seconds": float("inf")}, "save_seconds must be finite, got inf"),
        ({"seed": 2**32}, "seed must be at most 4294967295"),
        ({"scale_range": (2.0, 1.0)}, r"scale_range must be 0 < low <= high, got \(2\.0, 1\.0\)"),
        ({"scale_range": (1.0,)}, r"scale_range must be two numbers, low and high, got \(1\.0,\)"),
        ({"amp": True}, "amp must be a string, got True"),
        ({"batch_size": 2.0}, r"batch_size must be an integer, got 2\.0"),
        ({"workers": True}, "workers must be an integer, got True"),
        ({"long_edge": 65.0}, r"long_edge must be an integer, got 65\.0"),
        ({"work_dir": ""}, "work_dir must not be empty"),
        ({"resume": ""}, "resume must not be empty"),
        ({"long_edge": 16385}, "long_edge must be at most 8192"),
        ({"val_images": None}, "val_images must be a path, got None"),
        ({"resume": True}, "resume must be 'auto', a path or None, got True"),
        ({"device": "nonsense"}, "device"),
        ({"init_trunk": Path("trunk.npz"), "model": ModelConfig()}, "init_trunk needs the backbone"),
        ({"freeze_stem": True, "model": ModelConfig()}, "freeze_stem needs the backbone .*, got resnet50"),
        ({"model": ModelConfig(backbone="resnet5000"), "batch_size": 9}, "backbone must be .*, got 'resnet5000'"),
        ({"pretrained": True, "batch_size": 9}, "pretrained must be False for 'mobilenetv1_075'"),
        ({"model": "resnet50"}, "model must be a ModelConfig, got 'resnet50'"),
        ({"loss": None}, "loss must be a LossConfig, got None"),
        ({"init_checkpoint": "a.safetensors", "pretrained": True}, "init_checkpoint must be given without init_trunk"),
        (
            {"init_checkpoint": "a.safetensors", "graph_file": "graph.json"},
            "init_checkpoint must be given without .* A",
        ),
        ({"graph_file": "graph.json", "model": ModelConfig(graph="hand")}, "graph_file needs the graph 'dynamic' or"),
        ({"batch_size": 9}, "batch_size must be at most the 8 training images, got 9"),
    ],
)
def test_bad_settings_are_named(config, change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Run(dataclasses.replace(config, **change))


def test_the_trunk_of_another_backbone_is_named(config, tmp_path):
    path = tmp_path / "trunk.npz"
    np.savez(path, **{"stem.weight": np.zeros((48, 3, 3, 3), np.float32), "stem.bias": np.zeros(48, np.float32)})
    with pytest.raises(ValueError, match=r"init_trunk must hold a trunk of mobilenetv1_075: .*trunk\.npz: stem\.bias"):
        Run(dataclasses.replace(config, init_trunk=path))
