"""The command line as a user meets it: help, results, files, mistakes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from cli_cases import PICTURES, run
from oracle import coco_set
from stick_figures import write_set

from dgcn.cli import COMMANDS, main
from dgcn.cli.train import build_config, build_parser
from dgcn.model.checkpoint import DEFAULT_CHECKPOINT, save_model
from dgcn.model.network import build_model


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


def test_closed_streams(oracle, folder, tmp_path, monkeypatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)  # what `>&-` makes of it
    assert run("predict", "--source", folder / "20.png", "-o", tmp_path) == 0
    assert json.loads((tmp_path / "predictions.json").read_text())["images"]
    sys.stdout.close()
    sys.stderr.close()


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
    from dgcn.training.config import TrainConfig

    config = build_config(build_parser().parse_args([*required(tmp_path), "--device", "cpu"]))
    names = ("train_images", "train_annotations", "val_images", "val_annotations", "work_dir")
    assert config == TrainConfig(**{name: tmp_path / name.replace("_", "-") for name in names})


def test_every_train_flag_reaches_the_configuration(tmp_path) -> None:
    flags = """--propagation eq4 --graph-file graph.json
        --workers 0 --backbone mobilenetv1_075 --levels F8 F16 --graph soft --gamma 1 --semantics mask
        --aggregate target --eval-graph soft --no-non-local --lift-channels 32 --init-trunk a.npz --resume auto
        --init-checkpoint b.safetensors --pretrained --size 129 --scale-range 0.5 1.5 --epochs 2 --batch-size 3
        --optimizer adamw --learning-rate 0.1 --backbone-lr-factor 0.2 --momentum 0.3 --weight-decay 0.4
        --warmup-steps 5 --freeze-epochs 6 --clip-norm 7 --ema 0.8 --amp fp16 --alpha 1 --theta 3 --beta 4 --delta 5
        --scale 6 --regression laplace --smooth-l1-beta 1 --eval-every 9 --long-edge 257 --save-seconds 10
        --device cpu --seed 11 --deterministic --per-sample --freeze-stem --skip-unreadable
        --reset-heads --accumulation-steps 2 --schedule step --step-epochs 1 --batch-norm frozen --compile --patience 3
        --on-save-error continue --allow-changes --on-bad-image skip
        --log csv tensorboard"""
    default = build_config(build_parser().parse_args([*required(tmp_path), "--device", "cuda"]))
    config = build_config(build_parser().parse_args([*required(tmp_path), *flags.split()]))
    for old, new in ((default, config), (default.model, config.model), (default.loss, config.loss)):
        paths = ("train_images", "train_annotations", "val_images", "val_annotations", "work_dir", "skeleton")
        same = {name for name in vars(old) if vars(old)[name] == vars(new)[name]} - {*paths, "data_notes"}
        assert same == set()
    assert config.model.levels == (8, 16)
    assert config.scale_range == (0.5, 1.5)
    assert config.log == ("csv", "tensorboard")


def test_a_recipe_gives_the_defaults(tmp_path) -> None:
    """What the paper states, with what the user changes of it."""
    flags = [*required(tmp_path), "--recipe", "paper", "--epochs", "7", "--delta", "4", "--no-non-local"]
    config = build_config(build_parser().parse_args(flags))
    assert (config.pretrained, config.freeze_epochs, config.size, config.batch_size) == (True, 1, 641, 8)
    assert (config.optimizer, config.learning_rate, config.epochs) == ("sgd", 1e-3, 7)
    assert (config.loss.alpha, config.loss.theta, config.loss.beta, config.loss.delta) == (30, 2, 50, 4)
    assert (config.model.backbone, config.model.gamma, config.model.non_local) == ("resnet50", 0.5, False)
    assert not build_config(build_parser().parse_args([*flags, "--no-pretrained"])).pretrained


def test_the_shipped_model_is_that_of_its_recipe(tmp_path) -> None:
    """The checkpoint carries the settings of its last stage."""
    trained = json.loads(DEFAULT_CHECKPOINT.with_suffix(".json").read_text())["metadata"]["training"]
    start = ["--recipe", "movenet-large", "--init-checkpoint", "a.safetensors"]
    settings = build_config(build_parser().parse_args([*required(tmp_path), *start])).tracked()
    paths = {"train_images", "train_annotations", "val_images", "val_annotations", "init_checkpoint", "init_trunk"}
    trained["model"] = {"per_sample": False, "propagation": "eq8", **trained["model"]}
    trained["amp"] = {False: "off"}[trained["amp"]]
    assert {name: settings[name] for name in trained.keys() - paths} == {
        name: trained[name] for name in trained.keys() - paths
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--momentum", "2"], "--momentum must be in [0, 1), got 2.0"),
        (["--warmup-steps", "-1"], "--warmup-steps must be at least 0, got -1"),
        (["--alpha", "nan"], "--alpha must be finite, got nan"),
        (["--lift-channels", "1"], "--lift-channels must be at least 2, got 1"),
        (["--scale-range", "2", "1"], "--scale-range must be 0 < low <= high, got (2.0, 1.0)"),
        (["--freeze-stem"], "--freeze-stem needs the backbone mobilenetv1_075 or movenet_multipose, got resnet50"),
        (["--device", "nonsense"], "--device must be 'cpu', 'cuda' or 'cuda:N', got 'nonsense'"),
        (["--backbone", "resnet5000"], "--backbone must be 'mobilenetv1_075', 'movenet_multipose' or the name of"),
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
    ("best", "ap", "message"),
    [
        ({"epoch": 2, "metrics": {"AP": 0.25}}, 0.25, "AP 0.2500 after epoch 2: {}/best.safetensors"),
        (None, -1, "no AP: nobody to find in the validation pictures; the last epoch: {}/last.safetensors"),
        (None, 0.25, "AP 0.2500, whose checkpoint is in another folder; the last epoch: {}/last.safetensors"),
    ],
)
def test_train_announces_what_it_wrote(best, ap, message, tmp_path, monkeypatch, capsys) -> None:
    from dgcn.training import loop

    def fit(config):
        if best is not None:
            save_model(config.work_dir / "best.safetensors", build_model("mobilenetv1_075", ()), best)
        return [{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": 1.0, "AP": ap}]

    monkeypatch.setattr(loop, "fit", fit)
    write_set(tmp_path, 1)
    files = ["--train-images", tmp_path, "--train-annotations", tmp_path / "people.json"]
    assert run("train", *required(tmp_path), *files) == 0
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


@pytest.mark.parametrize("flags", [["--long-edge", "640"], ["--batch-size", "0"], ["--bootstrap", "many"]])
def test_bad_numbers_name_their_flag(flags, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        run("eval", "--images", ".", "--annotations", "a.json", *flags)
    assert stop.value.code == 2
    assert f"argument {flags[0]}" in capsys.readouterr().err
