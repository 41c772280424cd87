"""The README's commands and examples do what it says."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from oracle import coco_set, picture, standing
from torch import conv2d, einsum, relu, softmax

from dgcn.cli import main
from dgcn.cli.demo import PICTURE
from dgcn.skeleton import COCO
from dgcn_ext.functional import sample_adjacency
from dgcn_ext.reference import graph_conv

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

# The README's training takes days: the same command, made small.
SMALL = "--backbone mobilenetv1_075 --lift-channels 8 --no-non-local --size 65 --epochs 1 --batch-size 2 --workers 0"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working folder that the README's commands assume: small data sets, a photograph, a folder of photographs."""
    monkeypatch.chdir(tmp_path)
    for split in ("train2017", "val2017"):
        (tmp_path / split).mkdir()
        for name in ("a.png", "b.png"):
            cv2.imwrite(str(tmp_path / split / name), picture(60, 90, 120))
        content = coco_set(["a.png", "b.png"], [((90, 120), [standing(45, 20, 90)])] * 2)
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    shutil.copy(PICTURE, tmp_path / "photo.jpg")
    (tmp_path / "folder").mkdir()
    shutil.copy(PICTURE, tmp_path / "folder")
    return tmp_path


def test_commands(folder, capsys):
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("dgcn ")]
    assert [command.split()[1] for command in commands] == ["train", "eval", "predict"]
    for command in commands:
        _, verb, *arguments = shlex.split(command)
        if verb == "train":
            arguments.remove("--pretrained")  # timm would fetch the weights
            arguments += [*SMALL.split(), "--freeze-epochs", "0"]
        assert main([verb, *arguments]) == 0, capsys.readouterr().err
    assert "AP" in json.loads((folder / "metrics.json").read_text())
    assert (folder / "out" / "photo.dgcn.jpg").is_file()


def test_examples(folder, capsys):
    k = COCO.num_keypoints
    torch.manual_seed(0)
    names = {
        "x": torch.randn(2, k, 5, 7),
        "edge_weight": torch.randn(k, k),
        "adjacency": torch.rand(k, k),
        "weight": torch.randn(k, k),
        "bias": torch.randn(k),
        "seed": torch.tensor(3),
        "backbone_features": torch.randn(2, 2048, 5, 7),
        "skeleton": COCO.limbs,
        "pif": np.zeros((k, 5, 9, 9), np.float32),
        "paf": np.zeros((COCO.num_limbs, 8, 9, 9), np.float32),
    }
    for block in blocks("python"):
        exec(block.replace(", ...]", "]"), names)
    arguments = [names[name] for name in ("x", "edge_weight", "adjacency", "weight", "bias")]
    torch.testing.assert_close(names["y"], graph_conv(*arguments, seed=names["seed"]))
    assert names["features"].shape == (2, 2048, 5, 7)
    assert names["node_logits"].shape == (2, k, 5, 7)
    expected = names["dgcm"](names["backbone_features"])  # in eval() by now
    for actual, wanted in zip(names["deployed"](names["backbone_features"]), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-4)
    assert names["persons"].shape == (0, k, 4)
    assert len(names["many"]) == 1
    assert capsys.readouterr().out  # the astronaut


def test_what_graph_conv_is_equivalent_to():
    k = 5
    torch.manual_seed(0)
    names: dict[str, Any] = {
        "x": torch.randn(2, k, 3, 4),
        "edge_weight": torch.randn(k, k),
        "weight": torch.randn(k, k),
        "bias": torch.randn(k),
        "a": sample_adjacency(torch.full((k, k), 0.5), torch.tensor(1)),
    }
    names |= {"conv2d": conv2d, "einsum": einsum, "relu": relu, "softmax": softmax}
    (expression,) = re.findall(r"^Equivalent to `(.*)`", README, flags=re.MULTILINE)
    arguments = [names[name] for name in ("x", "edge_weight", "a", "weight", "bias")]
    torch.testing.assert_close(eval(expression, names), graph_conv(*arguments))


def test_targets_of_make_exist():
    makefile = (ROOT / "Makefile").read_text()
    code = " ".join([*blocks("bash"), *re.findall(r"`([^`\n]+)`", README)])
    targets = set(re.findall(r"\bmake ([a-z][a-z0-9.-]*)", code))
    assert {"demo", "test"} <= targets
    for target in targets | set(re.findall(r"`((?:bench|check)-[a-z0-9.-]+)`", README)):
        assert re.search(rf"^{re.escape(target)}:", makefile, flags=re.MULTILINE), f"no make {target}"
