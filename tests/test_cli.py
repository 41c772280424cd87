"""The command line as a user meets it: help, results, files, mistakes."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import pytest
from cli_cases import PICTURES, run
from oracle import Oracle, coco_set, picture, standing, with_orientation

from dgcn import checkpoint
from dgcn import predictor as predictor_module
from dgcn.checkpoint import save_model
from dgcn.cli import COMMANDS, main
from dgcn.cli.train import build_config, build_parser
from dgcn.coco import read_coco
from dgcn.metrics import METRICS
from dgcn.model import build_model
from dgcn.skeleton import COCO


@pytest.fixture
def annotations(tmp_path) -> Path:
    """The COCO annotations of `folder`."""
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(coco_set([f"{tone}.png" for tone in PICTURES], list(PICTURES.values()))))
    return path


def test_help_of_everything(capsys) -> None:
    for arguments in ([], *([command] for command in COMMANDS)):
        with pytest.raises(SystemExit) as stop:
            main([*arguments, "--help"])
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert text.startswith("usage: dgcn")
        assert "examples:" in text if arguments else all(command in text for command in COMMANDS)


def test_bare_command_shows_the_help(capsys) -> None:
    assert main([]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert all(command in output.err for command in COMMANDS)


def test_a_terminal_of_few_characters(oracle, folder, tmp_path, monkeypatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    source = (folder / "140.png").rename(folder / "naïve γ \udcff.png")
    assert run("demo", "--source", source, "-o", tmp_path) == 0
    terminal.seek(0)
    assert "320\\xd7240 px" in terminal.read()


def test_nobody_reads_stdout(oracle, folder, tmp_path, monkeypatch, capsys) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert run("demo", "--source", folder / "140.png", "-o", tmp_path) == 141
    assert capsys.readouterr().err == ""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "dgcn", "--help"]
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (result.returncode, result.stderr) == (0, b"")


def test_a_full_disk_under_stdout_is_one_line(oracle, folder, tmp_path, monkeypatch, capsys) -> None:
    with open("/dev/full", "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert run("demo", "--source", folder / "140.png", "-o", tmp_path) == 2
    assert capsys.readouterr().err == "dgcn demo: error: [Errno 28] No space left on device\n"


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


def test_eval_checks_its_outputs_first(oracle, folder, annotations, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(Oracle, "forward", lambda self, images: pytest.fail("the network ran"))
    before = annotations.read_bytes()
    (tmp_path / "file").touch()
    for flag, path, message in (
        ("--json-output", tmp_path, "Is a directory"),
        ("--results", tmp_path / "file" / "results.json", "Not a directory|File exists"),
        ("--results", annotations, "--annotations, --json-output and --results must be different files"),
        ("--json-output", tmp_path / "pictures" / ".." / annotations.name, "must be different files"),
        ("--json-output", tmp_path / f"{'n' * 300}.json", "File name too long"),
    ):
        assert run("eval", "--images", folder, "--annotations", annotations, flag, path) == 2
        error = capsys.readouterr().err
        assert error.startswith("dgcn eval: error: ")
        assert str(path) in error or "different files" in error
        assert re.search(message, error)
        assert error.count("\n") == 1
    assert annotations.read_bytes() == before


def test_eval_keeps_the_numbers_of_a_full_disk(oracle, folder, annotations, tmp_path, monkeypatch, capsys) -> None:
    def full(path: Path, document: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "write_json", full)
    path = tmp_path / "metrics.json"
    assert run("eval", "--images", folder, "--annotations", annotations, "--json-output", path) == 2
    output = capsys.readouterr()
    assert output.out.startswith("AP   1.0000\n")
    assert output.err == f"dgcn eval: error: {path}: No space left on device\n"


def test_eval_interrupted(oracle, folder, annotations, monkeypatch, capsys) -> None:
    def interrupted(self: Oracle, images) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Oracle, "forward", interrupted)
    assert run("eval", "--images", folder, "--annotations", annotations) == 130
    assert re.fullmatch(r"dgcn eval: interrupted.*\n", capsys.readouterr().err)


def test_eval_with_nobody_to_find(oracle, folder, annotations, capsys) -> None:
    annotations.write_text(json.dumps(json.loads(annotations.read_text()) | {"annotations": []}))
    assert run("eval", "--images", folder, "--annotations", annotations, "--bootstrap", 5) == 0
    output = capsys.readouterr()
    assert output.err == f"dgcn eval: warning: {annotations} has no person with keypoints: every number is n/a\n"
    assert output.out.startswith("AP   n/a\n")
    assert "95 % interval of AP: n/a (5 resamples" in output.out


def test_eval_looks_at_all_pictures_first(oracle, folder, annotations, monkeypatch, capsys) -> None:
    monkeypatch.setattr(Oracle, "forward", lambda self, images: pytest.fail("the network ran"))
    for content in (b"", b"not a picture", (folder / "20.png").read_bytes()[:20]):
        (folder / "140.png").write_bytes(content)
        assert run("eval", "--images", folder, "--annotations", annotations) == 2
        assert re.fullmatch(r"dgcn eval: error: .*140\.png cannot be read as a picture: .*\n", capsys.readouterr().err)
    assert cv2.imwrite(str(folder / "140.png"), picture(140, 160, 120))
    assert run("eval", "--images", folder, "--annotations", annotations) == 2
    assert re.fullmatch(r".*140\.png must have the 320×240 pixels .*, got 160×120\n", capsys.readouterr().err)


def test_eval_names_a_picture_that_is_cut_off(oracle, folder, annotations, capsys) -> None:
    (folder / "60.png").write_bytes((folder / "60.png").read_bytes()[:60])
    assert run("eval", "--images", folder, "--annotations", annotations) == 2
    assert re.fullmatch(r"dgcn eval: error: .*60\.png .*\n", capsys.readouterr().err)


def test_results_have_the_ids_of_the_file(oracle, folder, annotations, tmp_path) -> None:
    document = json.loads(annotations.read_text())
    for entry in (*document["images"], *document["annotations"]):
        key = "image_id" if "image_id" in entry else "id"
        entry[key] = f"picture {entry[key]}"
    for entry in document["annotations"]:
        entry["category_id"] = 12
    document["categories"][0]["id"] = 12
    annotations.write_text(json.dumps(document))
    results = tmp_path / "results.json"
    assert run("eval", "--images", folder, "--annotations", annotations, "--results", results) == 0
    found = [(result["image_id"], result["category_id"]) for result in json.loads(results.read_text())]
    assert found == [("picture 1", 12), ("picture 2", 12), ("picture 2", 12)]


def test_predictions_on_turned_photographs_are_a_coco_set(tmp_path, monkeypatch) -> None:
    """They score what those on upright copies score, whatever the EXIF orientation; sizes do not tell half a turn."""
    people = [standing(110, 90, 250), standing(250, 120, 330)]
    monkeypatch.setattr(predictor_module, "load_model", lambda path: (Oracle({90: ((360, 480), people)}), {}))
    upright = picture(90, 360, 480)
    upright[:60, :60] = 0  # the corner that tells how the picture was turned
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for orientation, stored in (
        (1, upright),
        (3, np.rot90(upright, 2)),
        (6, np.rot90(upright)),
        (8, np.rot90(upright, -1)),
    ):
        path = photographs / f"{orientation}.jpg"
        assert cv2.imwrite(str(path), stored)
        with_orientation(path, orientation)
    found, metrics = tmp_path / "found.json", tmp_path / "metrics.json"
    assert run("predict", "--source", photographs, "-o", tmp_path / "out", "--json-output", found) == 0
    document = json.loads(found.read_text())
    for image in document["images"]:
        image["file_name"] = Path(image["file_name"]).name
    found.write_text(json.dumps(document))
    for record in read_coco(photographs, found, COCO):
        assert record.read()[:50, :50].max() < 40
        assert len(record.persons) == 2
    assert run("eval", "--images", photographs, "--annotations", found, "--json-output", metrics) == 0
    assert json.loads(metrics.read_text())["AP"] == pytest.approx(1.0)


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
        (["demo", "--device", "mps"], "device must be 'cpu', 'cuda' or 'cuda:N', got 'mps'"),
        (["demo", "--long-edge", "16001"], "long_edge must be at most 8192"),
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
