"""Training: it learns, it can be killed and resumed to the same bits, and it says what is wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dgcn.checkpoint import load_model, load_training_state
from dgcn.engine import BEST_FILE, HISTORY_FILE, LAST_FILE, STATE_FILE, Interrupted, TrainConfig, Trainer, fit
from dgcn.model import ModelConfig
from dgcn.skeleton import COCO

TINY = ModelConfig(backbone="mobilenetv1_075", lift_channels=16, non_local=False)


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    """Eight pictures of one stick figure each, with COCO annotations."""
    folder = tmp_path_factory.mktemp("people")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(8):
        pose = COCO.upright_pose * 0.3 + rng.uniform(12, 48, 2) + rng.normal(0, 0.5, (17, 2))
        picture = rng.integers(90, 120, (64, 64, 3), dtype=np.uint8)
        for i, j in COCO.limbs:
            start, end = np.rint(pose[[i, j]]).astype(int).tolist()
            cv2.line(picture, start, end, (255, 40 * (i % 6), 40 * (j % 6)), 2)
        cv2.imwrite(str(folder / f"{number}.png"), picture)
        low, high = pose.min(axis=0), pose.max(axis=0)
        keypoints = np.column_stack([pose, np.full(17, 2)]).ravel().tolist()
        box = [*low.tolist(), *(high - low).tolist()]
        images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
        annotation = {"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "num_keypoints": 17}
        annotations.append(annotation | {"keypoints": keypoints, "bbox": box, "area": box[2] * box[3]})
    categories = [{"id": 1, "name": "person", "keypoints": list(COCO.keypoints), "skeleton": []}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "people.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def config(people, tmp_path) -> TrainConfig:
    return TrainConfig(
        train_images=people,
        train_annotations=people / "people.json",
        val_images=people,
        val_annotations=people / "people.json",
        work_dir=tmp_path / "run",
        model=TINY,
        size=65,
        epochs=2,
        batch_size=2,
        optimizer="adamw",
        warmup_steps=2,
        workers=0,
        eval_every=2,
    )


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many threads as `run_in_process` has: the sums of convolutions depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def states_equal(a: Path, b: Path) -> bool:
    """Whether two training states agree to the last bit."""

    def equal(x: object, y: object) -> bool:
        if isinstance(x, torch.Tensor):
            return torch.equal(x, y)
        if isinstance(x, dict):
            return x.keys() == y.keys() and all(equal(x[key], y[key]) for key in x)
        if isinstance(x, (list, tuple)):
            return len(x) == len(y) and all(map(equal, x, y))
        return x == y

    return equal(load_training_state(a), load_training_state(b))


def run_in_process(config: TrainConfig) -> subprocess.Popen:
    """`fit(config)` in a process of its own, for tests that kill it."""
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in ("model", "loss")}
    model = ", ".join(f"{name}={getattr(TINY, name)!r}" for name in ("backbone", "lift_channels", "non_local"))
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "from pathlib import Path, PosixPath\n"
        "from dgcn.engine import TrainConfig, fit\n"
        "from dgcn.model import ModelConfig\n"
        f"fit(TrainConfig(model=ModelConfig({model}), **{values!r}))\n"
    )
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_steps(config: TrainConfig, process: subprocess.Popen, steps: int) -> None:
    """Return once the state that `process` saves has done at least `steps` optimizer steps."""
    state = config.work_dir / STATE_FILE
    deadline = time.monotonic() + 120
    while not (state.exists() and load_training_state(state)["step"] >= steps):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_run_leaves_checkpoints_and_a_history(config):
    history = fit(config)
    assert [record["epoch"] for record in history] == [1, 2]
    assert "AP" not in history[0]
    assert set(history[1]) >= {"loss", "pif_confidence", "paf_offset", "nodes", "AP", "AR"}
    assert json.loads((config.work_dir / HISTORY_FILE).read_text()) == history
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
def test_killed_and_resumed_is_the_same_run(config, tmp_path, one_thread, workers):
    """SIGKILL in the middle of an epoch; the loader's processes play no part in the result."""
    whole = dataclasses.replace(config, epochs=3, eval_every=3, save_seconds=0.0, workers=workers)
    fit(whole)
    broken = dataclasses.replace(whole, work_dir=tmp_path / "broken")
    process = run_in_process(broken)
    wait_for_steps(broken, process, 2)
    process.kill()
    process.communicate()
    assert load_training_state(broken.work_dir / STATE_FILE)["step"] < 12
    fit(dataclasses.replace(broken, resume="auto"))
    assert states_equal(whole.work_dir / STATE_FILE, broken.work_dir / STATE_FILE)


def test_an_interrupt_saves_and_resumes(config, tmp_path, monkeypatch):
    fit(config)
    broken = dataclasses.replace(config, work_dir=tmp_path / "broken")
    step = Trainer.train_step

    def interrupted_step(trainer, batch, epoch):
        if trainer.step == 4:  # the last step of the first epoch: its evaluation is still to come
            os.kill(os.getpid(), signal.SIGINT)
        return step(trainer, batch, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", interrupted_step)
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
    _, errors = process.communicate(timeout=60)
    assert "Interrupted: interrupted; the training state is in" in errors
    assert load_training_state(config.work_dir / STATE_FILE)["step"] >= 2


def test_resume_auto_starts_where_there_is_nothing(config):
    assert len(fit(dataclasses.replace(config, epochs=1, resume="auto"))) == 1


def test_a_finished_run_is_not_overwritten(config):
    fit(dataclasses.replace(config, epochs=1))
    with pytest.raises(FileExistsError, match="holds a run already"):
        fit(config)
    with pytest.raises(ValueError, match=r"other settings .*epochs: 1 -> 2"):
        fit(dataclasses.replace(config, resume="auto"))


def test_frozen_epochs_leave_the_backbone_alone(config):
    trainer = Trainer(dataclasses.replace(config, freeze_epochs=1))
    before = {name: value.clone() for name, value in trainer.model.backbone.state_dict().items()}
    head = trainer.model.pif_head.conv.weight.detach().clone()
    trainer.train_epoch(0, lambda: None)
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.backbone.state_dict().items())
    assert not torch.equal(trainer.model.pif_head.conv.weight, head)
    trainer.train_epoch(1, lambda: None)
    assert not torch.equal(trainer.model.backbone.stem.weight, before["stem.weight"])


def test_the_graph_is_that_of_the_training_persons(config):
    trainer = Trainer(config)
    adjacency = trainer.model.pif_stream.dgcms["16"].graph_conv.adjacency
    assert torch.equal(adjacency.diagonal(), torch.ones(17))
    nose_to_eye, nose_to_ankle = adjacency[0, 1], adjacency[0, 15]
    assert nose_to_eye > 10 * nose_to_ankle


def test_a_loss_that_is_not_finite_stops_the_run(config, monkeypatch):
    trainer = Trainer(config)
    with torch.no_grad():
        trainer.model.pif_head.conv.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite at step 0"):
        trainer.train_epoch(0, lambda: None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 64}, "multiple of 16 plus 1"),
        ({"optimizer": "lion"}, "optimizer must be one of"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\)"),
        ({"init_trunk": Path("trunk.npz"), "model": ModelConfig()}, "init_trunk needs the backbone"),
        ({"batch_size": 9}, "batch_size must be at most the 8 training images, got 9"),
    ],
)
def test_bad_settings_are_named(config, change, message):
    with pytest.raises(ValueError, match=message):
        Trainer(dataclasses.replace(config, **change))
