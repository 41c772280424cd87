"""The command line as a user meets it: help, results, files, mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import pytest
from oracle import Oracle, coco_set, picture, standing

from dgcn import predictor as predictor_module
from dgcn.checkpoint import save_model
from dgcn.cli import COMMANDS, main
from dgcn.cli.predict import list_pictures, overlay_names
from dgcn.cli.train import build_config, build_parser
from dgcn.metrics import METRICS
from dgcn.model import build_model
from dgcn.skeleton import COCO

PICTURES = {
    20: ((640, 480), [standing(200, 80, 300)]),
    60: ((640, 480), [standing(150, 60, 350), standing(450, 100, 280)]),
    140: ((320, 240), []),
}


@pytest.fixture
def oracle(monkeypatch) -> None:
    """Every checkpoint holds a network that sees the persons of PICTURES."""
    monkeypatch.setattr(predictor_module, "load_model", lambda path: (Oracle(PICTURES), {"long_edge": 513}))


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder of PICTURES as PNG files, named by their tones."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for tone, (size, _) in PICTURES.items():
        assert cv2.imwrite(str(folder / f"{tone}.png"), picture(tone, *size))
    return folder


@pytest.fixture
def annotations(tmp_path) -> Path:
    """The COCO annotations of `folder`."""
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(coco_set([f"{tone}.png" for tone in PICTURES], list(PICTURES.values()))))
    return path


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_help_of_everything(capsys) -> None:
    for arguments in ([], *([command] for command in COMMANDS)):
        with pytest.raises(SystemExit) as stop:
            main([*arguments, "--help"])
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert text.startswith("usage: dgcn")
        assert "examples:" in text if arguments else all(command in text for command in COMMANDS)


def test_version_and_help_do_not_wait_for_torch() -> None:
    code = "import sys; from dgcn.cli import main\ntry: main(sys.argv[1:])\nfinally: assert 'torch' not in sys.modules"
    for arguments, expected in (
        (["--version"], f"dgcn {version('dgcn')}\n"),
        (["predict", "--help"], "usage: dgcn predict"),
    ):
        result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert result.stdout.startswith(expected)


def test_module_and_unknown_command() -> None:
    result = subprocess.run([sys.executable, "-m", "dgcn", "fly"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "invalid choice: 'fly'" in result.stderr


def test_eval(oracle, folder, annotations, tmp_path, capsys) -> None:
    metrics_path, results_path = tmp_path / "out" / "metrics.json", tmp_path / "results.json"
    arguments = ["--images", folder, "--annotations", annotations, "--json-output", metrics_path, "--batch-size", 2]
    assert run("eval", *arguments, "--results", results_path, "--bootstrap", 20) == 0
    metrics = json.loads(metrics_path.read_text())
    assert tuple(metrics) == METRICS
    assert metrics["AP"] == pytest.approx(1.0)
    assert len(json.loads(results_path.read_text())) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "AP   1.0000"
    assert "APM  n/a" in lines
    assert any(line.startswith("95 % interval of AP: 1.0000 to 1.0000 (20 resamples") for line in lines)


def test_eval_where_nobody_is_found(folder, annotations, tmp_path) -> None:
    checkpoint = tmp_path / "model.safetensors"
    save_model(checkpoint, build_model("mobilenetv1_075", lift_channels=8), {"long_edge": 97})
    assert run("eval", "--checkpoint", checkpoint, "--images", folder, "--annotations", annotations) == 0


def test_predict(oracle, folder, tmp_path, capsys) -> None:
    (folder / "notes.txt").write_text("not a picture")
    output = tmp_path / "out"
    assert run("predict", "--source", folder, "-o", output) == 0
    assert {path.name for path in output.iterdir()} == {
        "20.dgcn.jpg",
        "60.dgcn.jpg",
        "140.dgcn.jpg",
        "predictions.json",
    }
    assert "skipped 1 files" in capsys.readouterr().err
    found = json.loads((output / "predictions.json").read_text())
    assert [Path(image["file_name"]).name for image in found["images"]] == ["140.png", "20.png", "60.png"]
    assert [annotation["image_id"] for annotation in found["annotations"]] == [2, 3, 3]
    assert [annotation["id"] for annotation in found["annotations"]] == [1, 2, 3]
    assert found["categories"][0]["keypoints"] == list(COCO.keypoints)
    overlay = cv2.imread(str(output / "20.dgcn.jpg"))
    assert overlay.shape == (480, 640, 3)
    assert np.ptp(overlay) > 100
    assert np.ptp(cv2.imread(str(output / "140.dgcn.jpg"))) < 10


def test_predictions_are_a_coco_set(oracle, folder, tmp_path) -> None:
    """What predict writes is ground truth on which the same predictions score 1."""
    assert run("predict", "--source", folder, "-o", tmp_path, "--json-output", tmp_path / "set.json") == 0
    document = json.loads((tmp_path / "set.json").read_text())
    for image in document["images"]:
        image["file_name"] = Path(image["file_name"]).name
    (tmp_path / "set.json").write_text(json.dumps(document))
    metrics = tmp_path / "metrics.json"
    assert run("eval", "--images", folder, "--annotations", tmp_path / "set.json", "--json-output", metrics) == 0
    assert json.loads(metrics.read_text())["AP"] == pytest.approx(1.0)


def test_one_bad_picture_does_not_stop_the_rest(oracle, folder, tmp_path, capsys) -> None:
    (folder / "30.jpg").write_bytes(b"\xff\xd8 broken")
    (folder / "40.png").touch()
    assert run("predict", "--source", folder, "-o", tmp_path / "out", "--batch-size", 2) == 1
    output = capsys.readouterr()
    assert "30.jpg is damaged or not a picture" in output.err
    assert "40.png is empty" in output.err
    assert "3 persons in 3 of 5 pictures" in output.out
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [annotation["image_id"] for annotation in found["annotations"]] == [2, 3, 3]


def test_predict_interrupted_keeps_what_is_done(oracle, folder, tmp_path, monkeypatch, capsys) -> None:
    forward = Oracle.forward

    def interrupted(self: Oracle, images):
        if images[0, 0, 99, 99] == 60:
            raise KeyboardInterrupt
        return forward(self, images)

    monkeypatch.setattr(Oracle, "forward", interrupted)
    assert run("predict", "--source", folder, "-o", tmp_path / "out") == 130
    assert "interrupted; 2 of 3 pictures were finished and written" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]) == 2


def test_pictures_of_sources(tmp_path) -> None:
    for name in ("b.JPG", "a.png", "a.dgcn.jpg", ".hidden", "deep/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    odd = tmp_path / "odd.name"
    odd.touch()
    assert [path.name for path in list_pictures([odd, tmp_path])] == ["odd.name", "a.png", "b.JPG"]


def test_overlay_names_never_collide() -> None:
    paths = [Path(p) for p in ("x/a.png", "y/a.jpg", "A.png", "a-2.png", "b.c.png")]
    names = overlay_names(paths)
    assert names == ["a.dgcn.jpg", "a-2.dgcn.jpg", "A-3.dgcn.jpg", "a-2-2.dgcn.jpg", "b.c.dgcn.jpg"]


def test_demo(monkeypatch, tmp_path, capsys) -> None:
    tone = PICTURES[20]
    monkeypatch.setattr(predictor_module, "load_model", lambda path: (Oracle({20: tone}), {}))
    source = tmp_path / "me.png"
    cv2.imwrite(str(source), picture(20, *tone[0]))
    assert run("demo", "--source", source, "-o", tmp_path / "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "me.png, 640×480 px: 1 person found"
    assert "17 of 17 keypoints" in lines[1]
    assert lines[2].startswith("network ")
    assert lines[3].startswith("decoder ")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"me.dgcn.jpg", "me.dgcn.json"}


def test_check(oracle, monkeypatch, capsys) -> None:
    from dgcn.cli import check

    monkeypatch.setattr(check, "shipped_model", lambda: "not here")
    assert run("check") == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok ") for line in lines)

    def broken() -> str:
        raise RuntimeError("no luck")

    monkeypatch.setattr(check, "decoder", broken)
    assert run("check") == 1
    assert "failed  decoder" in capsys.readouterr().out


def required(tmp_path: Path) -> Iterator[str]:
    for name in ("train-images", "train-annotations", "val-images", "val-annotations", "work-dir"):
        yield f"--{name}"
        yield str(tmp_path / name)


def test_train_flags_have_the_defaults_of_the_configuration(tmp_path) -> None:
    from dgcn.engine import TrainConfig

    config = build_config(build_parser().parse_args([*required(tmp_path), "--device", "cpu"]))
    names = ("train_images", "train_annotations", "val_images", "val_annotations", "work_dir")
    assert config == TrainConfig(**{name: tmp_path / name.replace("_", "-") for name in names})


def test_every_train_flag_reaches_the_configuration(tmp_path) -> None:
    flags = """--workers 0 --backbone mobilenetv1_075 --levels F8 F16 --graph soft --gamma 1 --semantics mask
        --aggregate target --eval-graph soft --no-non-local --lift-channels 32 --init-trunk a.npz --resume auto
        --init-checkpoint b.safetensors --pretrained --size 129 --scale-range 0.5 1.5 --epochs 2 --batch-size 3
        --optimizer adamw --learning-rate 0.1 --backbone-lr-factor 0.2 --momentum 0.3 --weight-decay 0.4
        --warmup-steps 5 --freeze-epochs 6 --clip-norm 7 --ema 0.8 --amp --alpha 1 --theta 3 --beta 4 --delta 5
        --scale 6 --regression laplace --smooth-l1-beta 1 --eval-every 9 --long-edge 257 --save-seconds 10
        --device cpu --seed 11 --deterministic"""
    default = build_config(build_parser().parse_args([*required(tmp_path), "--device", "cuda"]))
    config = build_config(build_parser().parse_args([*required(tmp_path), *flags.split()]))
    for old, new in ((default, config), (default.model, config.model), (default.loss, config.loss)):
        paths = ("train_images", "train_annotations", "val_images", "val_annotations", "work_dir", "skeleton")
        same = {name for name in vars(old) if vars(old)[name] == vars(new)[name]} - set(paths)
        assert same == set()
    assert config.model.levels == (8, 16)
    assert config.scale_range == (0.5, 1.5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--momentum", "2"], "--momentum must be in [0, 1), got 2.0"),
        (["--warmup-steps", "-1"], "--warmup-steps must be at least 0, got -1"),
        (["--alpha", "nan"], "--alpha must be finite, got nan"),
        (["--lift-channels", "1"], "--lift-channels must be at least 2, got 1"),
        (["--scale-range", "2", "1"], "--scale-range must be 0 < low <= high, got (2.0, 1.0)"),
        (["--device", "nonsense"], "nonsense"),
        (["--train-images", "absent"], "absent"),
    ],
)
def test_mistakes_in_train_flags_are_one_line(flags, message, tmp_path, capsys) -> None:
    assert run("train", *required(tmp_path), *flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("dgcn train: error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ([{}, {"AP": 0.25}, {"AP": 0.125}], "AP 0.2500 after epoch 2: {}/best.safetensors"),
        ([{}, {"AP": -1.0}], "no AP: nobody to find in the validation pictures; the last epoch: {}/last.safetensors"),
    ],
)
def test_train_announces_what_it_wrote(metrics, message, tmp_path, monkeypatch, capsys) -> None:
    from dgcn import engine

    history = [{"epoch": number, **record} for number, record in enumerate(metrics, start=1)]
    monkeypatch.setattr(engine, "fit", lambda config: history)
    assert run("train", *required(tmp_path)) == 0
    assert capsys.readouterr().out == message.format(tmp_path / "work-dir") + "\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["eval", "--checkpoint", "absent.safetensors", "--images", ".", "--annotations", "a.json"],
            "no checkpoint at",
        ),
        (["predict", "--source", "absent.jpg", "-o", "out"], "no such picture or folder: absent.jpg"),
        (["predict", "--source", "empty", "-o", "out"], "no pictures in the folder empty"),
        (["demo", "--source", "absent.jpg"], "absent.jpg: No such file or directory"),
        (["demo", "--source", "text.jpg"], "text.jpg is damaged or not a picture"),
        (["demo", "--checkpoint", "text.jpg"], "text.jpg is not a safetensors file or is damaged"),
        (["demo", "--device", "cuda:77"], "device 'cuda:77' is not available"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("text.jpg").write_text("not a picture at all")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"dgcn {arguments[0]}: error: ")
    assert message in error
    assert error.count("\n") == 1


def test_bad_annotations_are_one_line(oracle, folder, tmp_path, capsys) -> None:
    path = tmp_path / "broken.json"
    path.write_text("{")
    assert run("eval", "--images", folder, "--annotations", path) == 2
    assert "broken.json is not a JSON file" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--long-edge", "640"], ["--batch-size", "0"], ["--bootstrap", "many"]])
def test_bad_numbers_name_their_flag(flags, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        run("eval", "--images", ".", "--annotations", "a.json", *flags)
    assert stop.value.code == 2
    assert f"argument {flags[0]}" in capsys.readouterr().err
