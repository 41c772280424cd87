"""Thresholds and input size chosen on pictures, and stored with the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cli_cases import PICTURES, run
from oracle import Oracle, coco_set

from dgcn.codec import Output
from dgcn.data.reader import read_records
from dgcn.evaluation import tune as tune_module
from dgcn.evaluation.tune import tune
from dgcn.model.checkpoint import load_model, save_model
from dgcn.model.network import build_model
from dgcn.predict.predictor import Predictor
from dgcn.skeleton import COCO
from dgcn_ext.decoder import DecoderConfig


@pytest.fixture
def annotations(tmp_path) -> Path:
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(coco_set([f"{tone}.png" for tone in PICTURES], list(PICTURES.values()))))
    return path


@pytest.fixture(autouse=True)
def few_choices(monkeypatch) -> None:
    monkeypatch.setattr(tune_module, "LONG_EDGES", (97, 385))
    monkeypatch.setattr(tune_module, "OPTIONS", {"map_threshold": (0.3, 0.4), "seed_threshold": (0.2, 1.0)})


class ShortSighted(Oracle):
    """Sees everything a tenth of a cell beside its place in small pictures."""

    def forward(self, images: torch.Tensor) -> Output:
        output = super().forward(images)
        if max(images.shape[2:]) < 200:
            output.pif_offset.add_(0.1)
            output.paf_offset.add_(0.1)
        return output


def test_what_finds_nobody_is_changed(folder, annotations) -> None:
    """A threshold that no seed reaches, and a size at which keypoints are misplaced: both cost AP."""
    records = read_records(folder, annotations, COCO)
    tuned = tune(ShortSighted(PICTURES), records, config=DecoderConfig(seed_threshold=1.0), long_edge=97)
    assert (tuned.long_edge, tuned.config, tuned.ap) == (385, DecoderConfig(), pytest.approx(1.0))
    assert tuned.metadata() == {"long_edge": 385, "decoder": {}}


def test_a_tuned_checkpoint(folder, annotations, tmp_path, capsys) -> None:
    start, tuned = tmp_path / "a.safetensors", tmp_path / "out" / "b.safetensors"
    model = build_model("mobilenetv1_075", lift_channels=8)
    save_model(start, model, {"epoch": 3, "long_edge": 97, "metrics": {"AP": 0.5}, "decoder": {"max_seeds": 7}})
    arguments = ["--images", folder, "--annotations", annotations, "--tune", tuned, "--tune-images", 2, "--half"]
    assert run("eval", "--checkpoint", start, *arguments) == 0
    assert "on the 2 pictures it was chosen on" in capsys.readouterr().out
    loaded, metadata = load_model(tuned)
    assert metadata["epoch"] == 3
    assert "metrics" not in metadata
    assert (metadata["tuned"]["pictures"], metadata["tuned"]["flip_test"]) == (2, False)
    assert metadata["decoder"]["max_seeds"] == 7
    assert Predictor(tuned).long_edge == metadata["long_edge"]
    assert tuned.stat().st_size < 0.55 * start.stat().st_size
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_tune_checks_its_request_first(folder, annotations, tmp_path, monkeypatch, capsys) -> None:
    """The side-car of the model counts as an output: it must not replace the annotations."""
    monkeypatch.setattr(tune_module, "tune", lambda *args, **options: pytest.fail("the tuning began"))
    start, large = tmp_path / "a.safetensors", tmp_path / "large.safetensors"
    model = build_model("mobilenetv1_075", lift_channels=8)
    save_model(start, model, {})
    model.backbone.stem_bn.running_var.fill_(1e6)
    save_model(large, model, {})
    (tmp_path / "file").touch()
    before = annotations.read_bytes()
    for flags, message in (
        (["--tune", tmp_path / "b.pt"], "--tune must end in .safetensors, got "),
        (["--tune", tmp_path / "file" / "b.safetensors"], "b.safetensors: "),
        (["--tune", start], "a.safetensors cannot be written: it is an input or another output"),
        (["--tune", annotations.with_suffix(".safetensors")], "annotations.json cannot be written: it is an input"),
        (["--tune", tmp_path / "b.safetensors", "--results", "r.json"], "--results must be given without --tune, got"),
        (["--tune", tmp_path / "b.safetensors", "--metric", "pckh"], "--metric must be given without --tune, got"),
        (["--tune", tmp_path / "b.safetensors", "--no-force-complete"], "--no-force-complete must be given without"),
        (["--tune", tmp_path / "b.safetensors", "--half", "--checkpoint", large], "dtype must hold all weights"),
        (["--half"], "--half needs --tune, got --half"),
        (["--tune-images", 3], "--tune-images needs --tune, got --tune-images 3"),
    ):
        arguments = ["--checkpoint", start, "--images", folder, "--annotations", annotations, *flags]
        assert run("eval", *arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("dgcn eval: error: ")
        assert message in error
        assert error.count("\n") == 1
    assert annotations.read_bytes() == before
    assert not (tmp_path / "b.safetensors").exists()


def test_weights_that_float16_cannot_hold(tmp_path) -> None:
    model = build_model("mobilenetv1_075", lift_channels=8)
    model.backbone.stem_bn.running_var.fill_(1e6)
    with pytest.raises(ValueError, match=r"torch\.float16, too small for backbone\.stem_bn\.running_var"):
        save_model(tmp_path / "a.safetensors", model, {}, dtype=torch.float16)
