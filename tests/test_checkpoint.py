"""Checkpoints: what is saved comes back, damage is named, and no kill leaves a broken file."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import limited_files

from dgcn.files import atomic_write, write_json
from dgcn.model import checkpoint
from dgcn.model.checkpoint import (
    DEFAULT_CHECKPOINT,
    load_model,
    load_training_state,
    save_model,
    save_training_state,
)
from dgcn.model.config import ModelConfig
from dgcn.model.document import HEADER_KEY
from dgcn.model.network import DGCN, build_model
from dgcn.skeleton import COCO


@pytest.fixture(scope="module")
def trained() -> DGCN:
    torch.manual_seed(0)
    return build_model("mobilenetv1_075", lift_channels=8)


@pytest.fixture
def model(trained) -> DGCN:
    return copy.deepcopy(trained)


@pytest.fixture
def saved(model, tmp_path) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(path, model, {"AP": 0.25, "long_edge": 385})
    return path


def rewrite(path: Path, *, drop: str | None = None, add: dict | None = None, document: dict | str = "") -> None:
    """Write the checkpoint at `path` again with other tensors, or with its header replaced or entries of it changed."""
    with safetensors.safe_open(path, framework="pt") as file:
        header = file.metadata()
    tensors = safetensors.torch.load_file(path)
    tensors = {name: tensor for name, tensor in tensors.items() if name != drop} | (add or {})
    changed = document if isinstance(document, str) else json.dumps(json.loads(header[HEADER_KEY]) | document)
    header[HEADER_KEY] = changed or header[HEADER_KEY]
    safetensors.torch.save_file(tensors, path, metadata=header)


def test_round_trip(model, saved) -> None:
    loaded, metadata = load_model(saved)
    assert metadata == {"AP": 0.25, "long_edge": 385}
    assert loaded.config == model.config
    assert not loaded.training
    expected, found = model.state_dict(), loaded.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_round_trip_of_any_memory_format(model, tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, model.to(memory_format=torch.channels_last), {})
    loaded, _ = load_model(path)
    name = "backbone.blocks.0.dw.weight"
    assert torch.equal(model.state_dict()[name], loaded.state_dict()[name])


def test_side_car_repeats_the_header(saved, model) -> None:
    document = json.loads(saved.with_suffix(".json").read_text())
    assert document["config"] == model.config.to_dict()
    assert document["versions"]["torch"] == torch.__version__
    assert document["metadata"]["AP"] == 0.25
    with safetensors.safe_open(saved, framework="pt") as file:
        assert json.loads(file.metadata()[HEADER_KEY]) == document


def test_side_car_is_not_needed(saved) -> None:
    saved.with_suffix(".json").unlink()
    assert load_model(saved)[1]["AP"] == 0.25


def test_kill_between_the_two_renames_keeps_the_model_whole(saved, model, monkeypatch) -> None:
    """The new weights must not meet the old metadata."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write_json", killed)
    with torch.no_grad():
        model.pif_head.conv.weight.fill_(7.0)
    with pytest.raises(KeyboardInterrupt):
        save_model(saved, model, {"AP": 0.5})
    loaded, metadata = load_model(saved)
    assert (metadata["AP"], loaded.pif_head.conv.weight.unique().tolist()) == (0.5, [7.0])


def test_missing_files(tmp_path, monkeypatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*absent\.safetensors$"):
        load_model(tmp_path / "absent.safetensors")
    with pytest.raises(FileNotFoundError):
        load_training_state(tmp_path / "absent.pt")
    monkeypatch.setattr(checkpoint, "DEFAULT_CHECKPOINT", tmp_path / DEFAULT_CHECKPOINT.name)
    with pytest.raises(FileNotFoundError, match=r"the model that ships with the package"):
        load_model(checkpoint.DEFAULT_CHECKPOINT)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_model(saved, share) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"model\.safetensors is not a safetensors file or is damaged"):
        load_model(saved)


def test_a_link_stays_a_link(tmp_path) -> None:
    (tmp_path / "disk").mkdir()
    link, target = tmp_path / "link.json", tmp_path / "disk" / "target.json"
    link.symlink_to(target)
    write_json(link, [1])
    assert link.is_symlink()
    assert json.loads(target.read_text()) == [1]
    assert os.listdir(tmp_path / "disk") == ["target.json"]


def test_safetensors_of_somebody_else(tmp_path) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r'other\.safetensors was not written by dgcn: its header has no entry "dgcn"'):
        load_model(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "has no format_version"),
        ({"config": None}, "config in its header must be an object, got None"),
        ({"metadata": []}, r"metadata in its header must be an object, got \[\]"),
        ({"format_version": 2, "versions": None}, "has checkpoint format 2"),
        ({"config": {"backbone": "x"}}, "no entries .*'skeleton'"),
        ({"config": ModelConfig().to_dict() | {"levels": None}}, "cannot use: .*NoneType"),
        ({"config": ModelConfig().to_dict() | {"skeleton": {**COCO.to_dict(), "limbs": [1]}}}, "cannot use: .*int"),
    ],
)
def test_damaged_header(saved, header, message) -> None:
    rewrite(saved, document=header)
    with pytest.raises(ValueError, match=message) as error:
        load_model(saved)
    assert str(error.value).startswith(str(saved))


def test_weights_that_are_not_numbers(model, saved) -> None:
    rewrite(saved, add={"mean_of_a_layer": torch.tensor([1.0, torch.nan])})
    with pytest.raises(ValueError, match=r"model\.safetensors does not fit .*mean_of_a_layer holds NaN or infinity"):
        load_model(saved)


def test_newer_format(saved) -> None:
    rewrite(saved, document={"format_version": 99})
    with pytest.raises(ValueError, match=r"has checkpoint format 99, this version of dgcn reads 1"):
        load_model(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": "pif_head.conv.bias"}, r"pif_head\.conv\.bias is missing$"),
        ({"add": {"surplus": torch.zeros(1)}}, r"surplus is unknown$"),
        ({"add": {"pif_head.conv.bias": torch.zeros(3)}}, r"pif_head\.conv\.bias has shape \(3,\), expected \(340,\)$"),
        ({"add": {f"surplus{i}": torch.zeros(1) for i in range(5)}}, r"surplus2 is unknown and 2 more$"),
    ],
)
def test_tensors_that_do_not_fit(saved, change, message) -> None:
    rewrite(saved, **change)
    with pytest.raises(ValueError, match=message):
        load_model(saved)


def test_bad_arguments_leave_the_old_file(saved, model) -> None:
    with pytest.raises(ValueError, match=r"must end in \.safetensors, got .*model\.pt"):
        save_model(saved.with_suffix(".pt"), model, {})
    with pytest.raises(ValueError, match=r"JSON"):
        save_model(saved, model, {"AP": float("nan")})
    assert load_model(saved)[1]["AP"] == 0.25


def test_training_state_round_trip(tmp_path) -> None:
    state = {"step": 3, "history": [{"AP": 0.5}], "optimizer": {"state": {0: {"m": torch.arange(3.0)}}}}
    save_training_state(tmp_path / "new" / "state.pt", state)
    loaded = load_training_state(tmp_path / "new" / "state.pt")
    assert torch.equal(loaded["optimizer"]["state"][0].pop("m"), state["optimizer"]["state"][0].pop("m"))
    assert loaded == state


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_training_state(tmp_path, share) -> None:
    path = tmp_path / "state.pt"
    save_training_state(path, {"weights": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"state\.pt is not a training state or is damaged"):
        load_training_state(path)


class Payload:
    """Would make a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_a_model_is_no_training_state(saved) -> None:
    with pytest.raises(ValueError, match=r"is damaged: it is a model, from which --init-checkpoint starts$"):
        load_training_state(saved)


def test_nothing_else_is_unpickled(tmp_path) -> None:
    path, trace = tmp_path / "state.pt", tmp_path / "trace"
    torch.save({"step": Payload(trace)}, path)
    with pytest.raises(ValueError, match=r"is not a training state or is damaged"):
        load_training_state(path)
    assert not trace.exists()
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match=r"expected a dict, got list"):
        load_training_state(path)


def test_atomic_write(tmp_path) -> None:
    path = tmp_path / "folder" / "file"
    with atomic_write(path) as file:
        file.write(b"old")
        assert not path.exists()

    def fail() -> None:
        with atomic_write(path) as file:
            file.write(b"new")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a limit on the size of files")
def test_a_write_that_fails_names_the_file_and_keeps_the_old_one(saved, model) -> None:
    """A limit on the size of files stands for a full disk: the system's error names no file either."""
    state, old = saved.with_name("state.pt"), saved.read_bytes()
    save_training_state(state, {"step": 1})
    with limited_files(100_000):
        with pytest.raises(OSError, match="File too large") as failure:
            save_training_state(state, {"step": 2, "weights": torch.zeros(100_000)})
        assert failure.value.filename == str(state)
        with pytest.raises(OSError, match="File too large") as failure:
            save_model(saved, model, {"AP": 0.5})
        assert failure.value.filename == str(saved)
    assert load_training_state(state) == {"step": 1}
    assert saved.read_bytes() == old
    assert {path.name for path in saved.parent.iterdir()} == {"model.safetensors", "model.json", "state.pt"}


def test_a_name_as_long_as_names_can_be(tmp_path) -> None:
    path = tmp_path / ("x" * 250 + ".json")
    write_json(path, {})
    assert path.exists()
    with pytest.raises(OSError, match="File name too long") as failure:
        write_json(tmp_path / ("x" * 256), {})
    assert failure.value.filename == str(tmp_path / ("x" * 256))


def test_files_have_the_permissions_of_ordinary_ones(tmp_path) -> None:
    (tmp_path / "ordinary").touch()
    write_json(tmp_path / "written.json", {})
    assert (tmp_path / "written.json").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_write_json_refuses_what_is_not_json(tmp_path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file.json", {"AP": float("inf")})
    assert list(tmp_path.iterdir()) == []


# Imports torch once; then, for one folder after the other, forks a process that saves there until it is killed.
SAVE_FOREVER = """
import os, sys, torch
from dgcn.model.checkpoint import save_model, save_training_state
from dgcn.model.network import build_model

torch.set_num_threads(1)

def save_forever(folder):
    model = build_model("mobilenetv1_075", levels=())
    number = 0
    while True:
        number += 1
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(number)
        save_model(f"{folder}/model.safetensors", model, {"number": number})
        save_training_state(f"{folder}/state.pt", {"number": number, "weights": model.state_dict()})
        if number == 1:
            print(f"{os.getpid()} {folder}", flush=True)

for folder in sys.argv[1:]:
    if os.fork() == 0:
        save_forever(folder)
    os.wait()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_kill_at_any_time_leaves_whole_files(tmp_path) -> None:
    folders = [tmp_path / str(index) for index in range(5)]
    for folder in folders:
        folder.mkdir()
    rng = np.random.default_rng()
    command = [sys.executable, "-c", SAVE_FOREVER, *map(str, folders)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        for _ in folders:
            number, _ = launcher.stdout.readline().split()
            time.sleep(rng.uniform(0.0, 0.1))
            os.kill(int(number), signal.SIGKILL)
    for folder in folders:
        model, metadata = load_model(folder / "model.safetensors")
        values = torch.cat([parameter.flatten() for parameter in model.parameters()]).unique().tolist()
        assert values == [metadata["number"]]
        side_car = json.loads((folder / "model.json").read_text())
        assert side_car["metadata"]["number"] in (metadata["number"], metadata["number"] - 1)
        state = load_training_state(folder / "state.pt")
        assert state["weights"]["pif_head.conv.bias"].unique().tolist() == [state["number"]]
