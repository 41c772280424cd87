"""What can be chosen about a training: schedule, precision, batch norm, start, end, and what happens on a full disk."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import math
import shutil
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import convert_sync_batchnorm
from training_cases import TINY, train_epoch

from dgcn import files
from dgcn.evaluation.oks import METRICS
from dgcn.model.checkpoint import load_model, load_training_state, save_model, save_training_state
from dgcn.model.config import ModelConfig
from dgcn.model.network import DGCN, build_from_config
from dgcn.skeleton import CROWDPOSE
from dgcn.training import log, loop
from dgcn.training.config import TrainConfig, read_config
from dgcn.training.distributed import Group
from dgcn.training.history import read_history
from dgcn.training.loop import fit, start_or_resume
from dgcn.training.optim import learning_rate
from dgcn.training.run import Run
from dgcn.training.run_folder import BEST_FILE, CONFIG_FILE, LAST_FILE, STATE_FILE
from dgcn.training.state import TrainingState


def one_epoch(config: TrainConfig) -> DGCN:
    """The network after an epoch."""
    run = Run(config)
    train_epoch(run)
    return run.state.model


def test_schedules(config):
    def rates(**settings: object) -> list[float]:
        changed = dataclasses.replace(config, epochs=4, warmup_steps=4, learning_rate=1.0, **settings)
        return [learning_rate(step, 10, changed) for step in (0, 3, 10, 20, 39)]

    assert rates(schedule="constant") == [0.25, 1, 1, 1, 1]
    assert rates(schedule="step", step_epochs=(1, 2)) == pytest.approx([0.25, 1, 0.1, 0.01, 0.01])
    cosine = rates()
    assert cosine[:1] == [0.25]
    assert cosine[3] == pytest.approx(0.505)
    assert 0.01 <= cosine[4] < 0.02


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_learns_and_goes_on(config, amp, tmp_path, monkeypatch):
    monkeypatch.setattr("dgcn.training.run.step_seconds", lambda model, size, amp: 0.0)
    config = dataclasses.replace(config, amp=amp, epochs=6, eval_every=6, learning_rate=5e-3, freeze_epochs=0)
    history = fit(config)
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]
    half = tmp_path / "half"
    shutil.copytree(config.work_dir, half)
    assert (load_training_state(half / STATE_FILE)["scaler"] != {}) == (amp == "fp16")
    assert len(fit(dataclasses.replace(config, work_dir=half, resume="auto"))) == 6


def test_a_gradient_beyond_float16_leaves_the_step_out(config):
    """The scaled loss overflows; the scale is halved and the weights stay."""
    config = dataclasses.replace(config, amp="fp16", loss=dataclasses.replace(config.loss, alpha=3e4))
    run = Run(config)
    before = run.state.model.pif_head.conv.weight.detach().clone()
    run.state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    train_epoch(run)
    assert torch.equal(run.state.model.pif_head.conv.weight, before)
    assert run.state.scaler.get_scale() == 2.0**56


def test_a_compiled_network_trains_alike(config, monkeypatch):
    """Captured whole, but not turned into C++, which takes a minute and draws other random numbers."""
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda module: compile_module(module, backend="aot_eager", fullgraph=True)
    )
    config = dataclasses.replace(config, freeze_epochs=0, ema=0.0, optimizer="sgd", batch_norm="frozen")
    plain = one_epoch(config).state_dict()
    compiled = one_epoch(dataclasses.replace(config, compile=True)).state_dict()
    assert plain.keys() == compiled.keys()
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_frozen_batch_norm_keeps_its_statistics(config):
    config = dataclasses.replace(config, batch_norm="frozen", freeze_epochs=0)
    start = {name: value.clone() for name, value in Run(config).state.model.state_dict().items()}
    after = one_epoch(config).state_dict()
    statistics = [name for name in after if "running_" in name]
    assert statistics
    assert all(torch.equal(after[name], start[name]) for name in statistics)
    assert not torch.equal(after["backbone.stem.weight"], start["backbone.stem.weight"])


def test_patience_ends_the_run(config, monkeypatch):
    scores = iter([0.1, 0.3, 0.2, 0.3, 0.9])
    monkeypatch.setattr(loop, "evaluate_keypoints", lambda *arguments, **options: {"AP": next(scores)})
    patient = dataclasses.replace(config, epochs=9, eval_every=1, patience=2)
    assert [record["AP"] for record in fit(patient)] == [0.1, 0.3, 0.2, 0.3]
    assert len(fit(dataclasses.replace(patient, resume="auto"))) == 4


def test_config_json_reproduces_the_run(config, tmp_path):
    config = dataclasses.replace(config, epochs=1, eval_every=1)
    fit(config)
    again = read_config(config.work_dir / CONFIG_FILE)
    assert again == config.absolute()
    fit(dataclasses.replace(again, work_dir=tmp_path / "again"))
    states = [load_training_state(folder / STATE_FILE)["model"] for folder in (config.work_dir, tmp_path / "again")]
    assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in states), strict=True))


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is not the config.json of a run"), ('{"a": 1}', "unknown entries a"), ("{}", "has no train_images")],
)
def test_a_file_that_is_no_configuration(tmp_path, content, message):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_config(tmp_path / "config.json")
    assert str(tmp_path) in str(caught.value)


def test_weights_of_another_skeleton(config, tmp_path, caplog):
    """The trunk and the lifts are taken; what belongs to keypoints and limbs starts afresh. Both are printed."""
    checkpoint = tmp_path / "crowdpose.safetensors"
    other = build_from_config(dataclasses.replace(TINY, skeleton=CROWDPOSE))
    save_model(checkpoint, other, {})
    config = dataclasses.replace(config, init_checkpoint=checkpoint, reset_heads=True)
    with caplog.at_level(logging.INFO):
        model = Run(config).state.model
    fresh = build_from_config(TINY).state_dict()
    for name, value in model.state_dict().items():
        if name.startswith("backbone.") or ".lift." in name:
            assert torch.equal(value, other.state_dict()[name]), name
        assert value.shape == fresh[name].shape
    assert "tensors start afresh: paf_head.conv.bias, paf_head.conv.weight, paf_stream.dgcms.16.expand" in caplog.text
    assert "pass --init-trunk" not in caplog.text
    save_model(checkpoint, build_from_config(ModelConfig(backbone="movenet_multipose")), {})
    with pytest.raises(ValueError, match=r"init_checkpoint .* must have the backbone mobilenetv1_075, got movenet_mul"):
        Run(config)


def test_changes_on_resume_are_named_and_allowed(config, caplog):
    fit(config)
    more = dataclasses.replace(config, epochs=3, learning_rate=5e-4, resume="auto")
    with pytest.raises(
        ValueError, match=r"epochs: 2 -> 3; learning_rate: 0.001 -> 0.0005; as saved -> now\): pass --al"
    ):
        fit(more)
    with caplog.at_level(logging.WARNING):
        history = fit(dataclasses.replace(more, allow_changes=True))
    assert [record["epoch"] for record in history] == [1, 2, 3]
    assert "resume with other settings: learning_rate: 0.001 -> 0.0005" in caplog.text
    other = dataclasses.replace(more, model=dataclasses.replace(TINY, gamma=1.0), allow_changes=True)
    with pytest.raises(ValueError, match=r"holds another model \(model.gamma: 0.5 -> 1.0\)"):
        fit(other)


def test_a_change_of_the_optimizer_takes_effect(config):
    fit(config)
    other = dataclasses.replace(
        config, epochs=3, weight_decay=0.3, backbone_lr_factor=0.1, resume="auto", allow_changes=True
    )
    run = start_or_resume(other, Group(torch.device("cpu")))
    groups = run.state.optimizer.param_groups
    assert {group["weight_decay"] for group in groups} == {0.0, 0.3}
    assert {group["factor"] for group in groups} == {0.1, 1.0}
    assert run.state.optimizer.state


def test_another_batch_size_begins_the_epoch_again(config, monkeypatch, caplog):
    train_step = loop.train_step

    def stop_after_one(run, *arguments):
        if run.state.step == 5:
            raise KeyboardInterrupt
        return train_step(run, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stop_after_one)
        with pytest.raises(KeyboardInterrupt):
            fit(config)
    larger = dataclasses.replace(config, batch_size=4, optimizer="sgd", resume="auto", allow_changes=True)
    with caplog.at_level(logging.WARNING):
        history = fit(larger)
    assert history[-1]["learning_rate"] == learning_rate(3, 2, larger)
    assert "epoch 2 begins again" in caplog.text
    assert load_training_state(config.work_dir / STATE_FILE)["step"] == 4 + 2


def test_a_picture_that_is_gone_is_a_change(config, people, tmp_path):
    """With --skip-unreadable it is left out, and the order of the samples becomes another."""
    pictures = tmp_path / "pictures"
    shutil.copytree(people, pictures)
    reading = dataclasses.replace(config.reading, skip_unreadable=True)
    config = dataclasses.replace(config, train_images=pictures, reading=reading)
    fit(config)
    (pictures / "3.png").unlink()
    with pytest.raises(
        ValueError, match=r"\(samples: 8 images, checksum \w+ -> 7 images, checksum \w+; as saved -> now"
    ):
        fit(dataclasses.replace(config, resume="auto"))


def fail_at(patch: pytest.MonkeyPatch, number: int) -> None:
    """Let the disk be full in the write with this number, from 0, and in the one after it."""
    count = iter(range(1_000_000))

    def fsync(descriptor: int) -> None:
        if next(count) in (2 * number, 2 * number + 1):  # of a file and then of its folder
            raise OSError(errno.ENOSPC, "No space left on device")

    patch.setattr(files.os, "fsync", fsync)


@pytest.mark.parametrize("number", [0, 1, 2, 4, 7, 9])
def test_a_disk_that_is_full_at_any_write_loses_nothing(config, tmp_path, monkeypatch, number):
    config = dataclasses.replace(config, eval_every=1)
    fit(config)
    broken = dataclasses.replace(config, work_dir=tmp_path / "broken")
    with monkeypatch.context() as patch:
        fail_at(patch, number)
        with pytest.raises(OSError, match="No space left on device") as caught:
            fit(broken)
    assert str(caught.value.filename).startswith(str(broken.work_dir))
    for path in broken.work_dir.glob("*.safetensors"):
        load_model(path)
    fit(dataclasses.replace(broken, resume="auto"))
    states = [load_training_state(folder / STATE_FILE) for folder in (config.work_dir, broken.work_dir)]
    for a, b in zip(*(state["model"].values() for state in states), strict=True):
        assert torch.equal(a, b)


def test_a_full_disk_need_not_stop_the_training(config, monkeypatch, caplog):
    going_on = dataclasses.replace(config, on_save_error="continue")
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        fail_at(patch, 2)
        assert len(fit(going_on)) == 2
    assert f"{LAST_FILE}: No space left on device; not saved at step 4, and tried again at the next save" in caplog.text
    assert read_history(config.work_dir)[1]["AP"] >= 0


def test_a_run_does_not_end_well_while_its_result_is_not_saved(config, monkeypatch):
    save = TrainingState.save

    def full_after_an_epoch(state: TrainingState) -> None:
        if state.step > 4:
            raise OSError(errno.ENOSPC, "No space left on device", str(config.work_dir))
        save(state)

    monkeypatch.setattr(TrainingState, "save", full_after_an_epoch)
    with pytest.raises(OSError, match=r"No space left on device; the training state is in .*after step 4; "):
        fit(dataclasses.replace(config, on_save_error="continue"))


def test_weights_that_are_not_finite_are_not_saved(config, monkeypatch):
    """Statistics of a batch norm may overflow while the loss is finite."""
    train_step = loop.train_step

    def overflow(run, *arguments):
        numbers = train_step(run, *arguments)
        if run.state.step == 6:
            next(value for name, value in run.state.model.named_buffers() if "running_var" in name).fill_(math.inf)
        return numbers

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", overflow)
        with pytest.raises(
            FloatingPointError, match=r"running_var of the network is not finite after step 8; .*step 4"
        ):
            fit(config)
    fit(dataclasses.replace(config, resume="auto"))


def test_a_run_that_goes_on_in_another_folder_has_its_own_best(config, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "evaluate_keypoints", lambda *arguments, **options: dict.fromkeys(METRICS, 0.5))
    fit(config)
    source = config.work_dir / STATE_FILE
    for epochs, name in ((2, "finished"), (4, "longer")):
        there = dataclasses.replace(config, epochs=epochs, work_dir=tmp_path / name, resume=source, allow_changes=True)
        fit(there)
        assert (there.work_dir / LAST_FILE).exists()
    assert load_model(there.work_dir / BEST_FILE)[1]["epoch"] == 4


def test_other_validation_annotations_are_noticed(config, tmp_path):
    fit(config)
    fewer = json.loads(config.val_annotations.read_text())
    fewer["annotations"].pop()
    (tmp_path / "fewer.json").write_text(json.dumps(fewer))
    changed = dataclasses.replace(config, val_annotations=tmp_path / "fewer.json", resume="auto")
    with pytest.raises(ValueError, match=r"validation: 8 images, checksum .* -> 8 images, checksum"):
        fit(changed)


def test_the_best_checkpoint_is_the_best_that_could_be_written(config, monkeypatch):
    scores = iter([0.5, 0.7, 0.6])
    monkeypatch.setattr(
        loop, "evaluate_keypoints", lambda *arguments, **options: dict.fromkeys(METRICS, 0.0) | {"AP": next(scores)}
    )
    save_model, attempts = log.save_model, iter(range(9))

    def full_at_the_second(path: Path, *arguments: object) -> None:
        if path.name == BEST_FILE and next(attempts) == 1:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save_model(path, *arguments)

    monkeypatch.setattr(log, "save_model", full_at_the_second)
    fit(dataclasses.replace(config, epochs=3, eval_every=1, on_save_error="continue"))
    _, metadata = load_model(config.work_dir / BEST_FILE)
    assert (metadata["epoch"], metadata["metrics"]["AP"]) == (3, 0.6)


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": {}},
        {"history": [1]},
        {"generator": torch.zeros(3)},
        {"ema": {}},
        {"settings": {"loss": [1]}},
        {"step": -5},
        {"step_of_epoch": 99},
        {"sums": {"loss": "abc"}},
    ],
)
def test_a_state_of_other_content_is_one_line(config, change):
    fit(config)
    path = config.work_dir / STATE_FILE
    save_training_state(path, load_training_state(path) | change)
    with pytest.raises(
        ValueError, match=r"training_state\.pt (is damaged|does not fit the model of its configuration): "
    ):
        fit(dataclasses.replace(config, resume="auto"))


def test_synchronised_batch_norm_keeps_activations():
    """DenseNet's norms have one."""
    model = timm.create_model("densenet121", features_only=True, out_indices=(1,)).eval()
    images = torch.randn(1, 3, 65, 65)
    (before,), (after,) = model(images), convert_sync_batchnorm(model).eval()(images)
    torch.testing.assert_close(after, before)


def test_a_folder_that_vanishes(config, monkeypatch):
    train_step = loop.train_step

    def remove(run, *arguments):
        if run.state.step == 3:
            shutil.rmtree(config.work_dir)
        return train_step(run, *arguments)

    monkeypatch.setattr(loop, "train_step", remove)
    with pytest.raises(FileNotFoundError, match="the folder of the run has vanished; there is no training state to go"):
        fit(config)


def test_a_folder_that_cannot_be_written(config, monkeypatch):
    def refuse(*arguments: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(config.work_dir / ".lock"))

    monkeypatch.setattr("dgcn.training.run_folder.open", refuse, raising=False)
    with pytest.raises(PermissionError, match=r"Permission denied: '.*run/\.lock'"):
        fit(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": "step"}, "step_epochs must be given with the schedule 'step'"),
        ({"step_epochs": (3,)}, r"step_epochs must be empty with the schedule 'cosine', got \(3,\)"),
        ({"schedule": "step", "step_epochs": (0,)}, r"step_epochs must be epochs from 1, got \(0,\)"),
        ({"accumulation_steps": 0}, "accumulation_steps must be at least 1, got 0"),
        ({"reset_heads": True}, "reset_heads needs an init_checkpoint"),
        ({"batch_norm": "sync"}, "batch_norm 'sync' needs GPUs, got the device 'cpu'"),
        ({"batch_norm": "none"}, "batch_norm must be one of"),
        ({"on_save_error": "ignore"}, "on_save_error must be one of"),
        ({"patience": -1}, "patience must be at least 0, got -1"),
    ],
)
def test_bad_settings_are_named(config, change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Run(dataclasses.replace(config, **change))
