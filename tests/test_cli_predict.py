"""`dgcn predict` and `dgcn demo`: what is found, what is written, and what survives a failure."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from cli_cases import PICTURES, run
from oracle import Oracle, picture
from PIL import Image

from dgcn.cli.common import load_predictor
from dgcn.data.images import read_image, read_size
from dgcn.predict import torch_network
from dgcn.predict.predictor import Predictor
from dgcn.skeleton import COCO


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
    assert [image["file_name"] for image in found["images"]] == ["140.png", "20.png", "60.png"]
    assert [annotation["image_id"] for annotation in found["annotations"]] == [2, 3, 3]
    assert [annotation["id"] for annotation in found["annotations"]] == [1, 2, 3]
    assert found["categories"][0]["keypoints"] == list(COCO.keypoints)
    overlay = cv2.imread(str(output / "20.dgcn.jpg"))
    assert overlay.shape == (480, 640, 3)
    assert np.ptp(overlay) > 100
    assert np.ptp(cv2.imread(str(output / "140.dgcn.jpg"))) < 10


def test_file_names_are_relative_to_what_all_pictures_share(oracle, folder, tmp_path, monkeypatch) -> None:
    """So that labelling tools, which know pictures by the end of their paths, find those of the JSON."""
    monkeypatch.chdir(folder.parent)
    (folder.parent / "more").mkdir()
    (folder / "20.png").rename(folder.parent / "more" / "20.png")
    assert run("predict", "--source", folder.name, folder.parent / "more", "-o", tmp_path / "out") == 0
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [image["file_name"] for image in found["images"]] == [
        f"{folder.name}/140.png",
        f"{folder.name}/60.png",
        "more/20.png",
    ]


def test_predictions_are_a_coco_set(oracle, folder, tmp_path) -> None:
    """What predict writes is ground truth on which the same predictions score 1."""
    assert run("predict", "--source", folder, "-o", tmp_path, "--json-output", tmp_path / "set.json") == 0
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


def test_no_picture_that_can_be_read(oracle, folder, tmp_path, capsys) -> None:
    """The results of the run before are replaced all the same."""
    outputs = ("-o", tmp_path / "out", "--csv-output", tmp_path / "poses.csv")
    assert run("predict", "--source", folder / "60.png", *outputs) == 0
    (folder / "empty.png").touch()
    assert run("predict", "--source", folder / "empty.png", *outputs) == 1
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())["annotations"] == []
    assert (tmp_path / "poses.csv").read_text() == "source,frame,track_id,person,score,keypoint,x,y,confidence\n"


def test_an_overlay_is_not_written_over_a_source(oracle, folder, capsys) -> None:
    before = (folder / "20.png").rename(folder / "60.dgcn.jpg").read_bytes()
    sources = (folder / "60.png", folder / "60.dgcn.jpg")
    assert run("predict", "--source", *sources, "-o", folder) == 2
    assert f"{sources[1]} must not be a source: the overlay of {sources[0]} would be" in capsys.readouterr().err
    assert sources[1].read_bytes() == before


def test_folders_of_folders(oracle, folder, tmp_path) -> None:
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "60.png").rename(folder / "deep" / "er" / "20.png")
    output = tmp_path / "out"
    assert run("predict", "--source", folder, "--recursive", "-o", output) == 0
    assert {str(path.relative_to(output)) for path in output.rglob("*.*")} == {
        *("140.dgcn.jpg", "20.dgcn.jpg", "deep/er/20.dgcn.jpg", "predictions.json")
    }
    found = json.loads((output / "predictions.json").read_text())
    assert [image["file_name"] for image in found["images"]] == ["140.png", "20.png", "deep/er/20.png"]


def test_csv_and_no_overlay(oracle, folder, tmp_path, capsys) -> None:
    output = tmp_path / "out"
    table = output / "poses.csv"
    assert run("predict", "--source", f"{folder}/[26]*", "--no-overlay", "--csv-output", table, "-o", output) == 0
    assert {path.name for path in output.iterdir()} == {"poses.csv", "predictions.json"}
    printed = capsys.readouterr().out
    assert "overlays" not in printed
    assert f"CSV      {table}" in printed
    annotations = json.loads((output / "predictions.json").read_text())["annotations"]
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 17
    for row, x, y in zip(rows[17:34], annotations[1]["keypoints"][::3], annotations[1]["keypoints"][1::3], strict=True):
        assert (row["source"], row["person"], float(row["x"]), float(row["y"])) == ("60.png", "0", x, y)


def test_stdin(oracle, folder, tmp_path, monkeypatch, capsys) -> None:
    def piped(content: bytes) -> int:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))
        return run("predict", "--source", "-", folder / "60.png", "-o", tmp_path / "out")

    assert piped((folder / "20.png").read_bytes()) == 0
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [(image["file_name"], image["width"]) for image in found["images"]] == [("stdin", 640), ("60.png", 640)]
    assert (tmp_path / "out" / "stdin.dgcn.jpg").exists()
    capsys.readouterr()
    assert piped(b"") == 1
    assert "warning: stdin: the picture is empty" in capsys.readouterr().err
    assert piped(b"a.jpg\nb.jpg\n") == 1
    assert "warning: stdin: the picture is damaged or not a picture" in capsys.readouterr().err


def test_videos_among_the_pictures(oracle, folder, tmp_path, monkeypatch, capsys) -> None:
    """Every frame is a picture; a video that cannot be opened, or not be read to its end, costs nothing else."""

    class Reader:
        def __init__(self, path: Path) -> None:
            if path.name == "broken.mp4":
                raise ValueError(f"{path} is no video")
            self.name, self.num_damaged = path.name, 0
            self.problem = f"{path} is cut short" if path.name == "cut.mp4" else None

    def find_poses(predictor, reader):
        for index, name in enumerate(() if reader.problem else ("20.png", "60.png")):
            image = read_image(folder / name)
            yield SimpleNamespace(index=index, image=image, poses=predictor(image))

    monkeypatch.setattr("dgcn.predict.video.VideoReader", Reader)
    monkeypatch.setattr("dgcn.predict.video.find_poses", find_poses)
    clips, output = [folder / f"{name}.mp4" for name in ("clip", "broken", "cut")], tmp_path / "out"
    for clip in clips:
        clip.touch()
    arguments = ("--source", folder / "20.png", *clips, folder / "60.png", "--csv-output", output / "poses.csv")
    assert run("predict", *arguments, "-o", output) == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1] == f"dgcn predict: warning: {clips[1]} is no video"
    assert "6 persons in 4 pictures and frames" in printed.out
    names = ["20.png", "clip.mp4/000000.jpg", "clip.mp4/000001.jpg", "60.png"]
    found = json.loads((output / "predictions.json").read_text())
    assert [image["file_name"] for image in found["images"]] == names
    assert {path.name for path in (output / "clip.mp4").iterdir()} == {"000000.dgcn.jpg", "000001.dgcn.jpg"}
    with open(output / "poses.csv", newline="") as file:
        rows = [(row["source"], row["frame"]) for row in csv.DictReader(file)][::17]
    assert rows == [("20.png", ""), *[("clip.mp4", "0")], *[("clip.mp4", "1")] * 2, *[("60.png", "")] * 2]
    assert run("predict", "--source", clips[2], "-o", tmp_path / "cut") == 1  # of which the reader tells


def test_threshold(oracle, folder, tmp_path, monkeypatch) -> None:
    """Leaves persons out of the JSON, the CSV and the overlays."""
    batch = Predictor.batch

    def scored(self, sources):
        for poses in batch(self, sources):
            yield [dataclasses.replace(pose, score=score) for pose, score in zip(poses, (0.8, 0.3), strict=True)]

    monkeypatch.setattr(Predictor, "batch", scored)
    output = tmp_path / "out"
    arguments = ("predict", "--source", folder / "60.png", "-o", output, "--csv-output", output / "poses.csv")
    assert run(*arguments) == 0
    first, _ = json.loads((output / "predictions.json").read_text())["annotations"]
    both = read_image(output / "60.dgcn.jpg")
    assert run(*arguments, "--threshold", 0.31) == 0
    assert json.loads((output / "predictions.json").read_text())["annotations"] == [first]
    assert len((output / "poses.csv").read_text().splitlines()) == 1 + 17
    assert (read_image(output / "60.dgcn.jpg") != both).any()


def test_decoder_options(oracle, folder, tmp_path, monkeypatch) -> None:
    """They replace those of the checkpoint, which keeps the others and is loaded once."""
    metadata = {"long_edge": 513, "decoder": {"seed_threshold": 0.25, "max_persons": 7}}
    loaded, configs = [], []
    monkeypatch.setattr(torch_network, "load_model", lambda path: loaded.append(path) or (Oracle(PICTURES), metadata))
    batch = Predictor.batch
    monkeypatch.setattr(Predictor, "batch", lambda self, sources: configs.append(self.config) or batch(self, sources))
    options = ("seed_threshold=.5", "reverse_match=False", "--decoder", "refine_rounds=2")
    assert run("predict", "--source", folder / "60.png", "-o", tmp_path / "out", "--decoder", *options) == 0
    (config,) = configs
    assert (config.seed_threshold, config.reverse_match, config.refine_rounds) == (0.5, False, 2)
    assert config.max_persons == 7
    assert len(loaded) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--decoder", "seed_treshold=0.3"], "the decoder has no option 'seed_treshold': did you mean seed_threshold"),
        (["--decoder", "colour=red"], "the decoder has no option 'colour': there are map_threshold, "),
        (["--decoder", "seed_threshold"], "must be KEY=VALUE, got 'seed_threshold'"),
        (["--decoder", "seed_threshold=2"], r"seed_threshold must be in \[0, 1\], got 2"),
        (["--decoder", "refine_rounds=1.5"], "refine_rounds must be an integer, got '1.5'"),
        (["--decoder", "force_complete=yes"], "force_complete must be a bool, got 'yes'"),
        (["--threshold", "1.5"], r"must be in \[0, 1\], got 1.5"),
        (["--threshold", "nan"], r"must be in \[0, 1\], got nan"),
    ],
)
def test_bad_options(arguments, message, folder, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as exit:
        run("predict", "--source", folder, "-o", tmp_path, *arguments)
    assert exit.value.code == 2
    assert re.search(f"error: argument {arguments[0]}: {message}", capsys.readouterr().err)


def test_demo(monkeypatch, tmp_path, capsys) -> None:
    tone = PICTURES[20]
    monkeypatch.setattr(torch_network, "load_model", lambda path: (Oracle({20: tone}), {}))
    source = tmp_path / "me.png"
    cv2.imwrite(str(source), picture(20, *tone[0]))
    assert run("demo", "--source", source, "-o", tmp_path / "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "me.png, 640×480 px: 1 person found"
    assert "17 of 17 keypoints" in lines[1]
    assert lines[2].startswith("network ")
    assert lines[3].startswith("decoder ")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"me.dgcn.jpg", "me.dgcn.json"}


def test_odd_files_of_a_folder(oracle, folder, tmp_path, capsys) -> None:
    """What cannot be read is named; hidden files and folders are passed over; nothing waits for a pipe."""
    content = (folder / "140.png").read_bytes()
    for name in ("a.jfif", "b.gif", "c.avif", "d.ppm", "-e.png"):
        (folder / name).write_bytes(content)
    (folder / "._20.png").write_bytes(b"Mac OS X")
    (folder / "folder.jpg").mkdir()
    (folder / "link.png").symlink_to(folder / "20.png")
    (folder / "broken.png").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.png")
    assert run("predict", "--source", folder, "-o", tmp_path / "out", "--long-edge", 97) == 1
    output = capsys.readouterr()
    assert "in 9 of 11 pictures" in output.out
    warnings = output.err.splitlines()
    assert len(warnings) == 2
    assert "broken.png: No such file or directory" in warnings[0]
    assert "pipe.png is a pipe or a device" in warnings[1]

    assert run("predict", "--source", folder / "broken.png", "-o", tmp_path / "out") == 2
    assert f"a link that leads nowhere: {folder / 'broken.png'}" in capsys.readouterr().err


def test_commands_take_pictures_of_two_hundred_million_pixels(oracle, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 89_478_485)  # Pillow's default
    path = tmp_path / "phone.ppm"
    path.write_bytes(b"P6 16000 12500 255 ")
    with pytest.raises(ValueError, match=r"phone\.ppm .*200000000 pixels"):
        read_size(path)
    load_predictor(argparse.Namespace(checkpoint=None, device="cpu", long_edge=None, flip_test=False))
    assert read_size(path) == (16_000, 12_500)
    path.write_bytes(b"P6 25000 24000 255 ")
    with pytest.raises(ValueError, match=r"phone\.ppm .*600000000 pixels"):
        read_size(path)


def test_a_damaged_exif_block_is_no_news(oracle, folder, tmp_path, capsys) -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0"  # five entries, of which none follows
    Image.open(folder / "20.png").save(folder / "20.jpg", exif=exif)
    with pytest.warns(UserWarning, match="Corrupt EXIF data"):
        read_image(folder / "20.jpg", upright=True)
    assert run("predict", "--source", folder / "20.jpg", "-o", tmp_path / "out") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_is_one_line(error, oracle, folder, tmp_path, monkeypatch, capsys) -> None:
    def full(self: Oracle, images) -> None:
        raise error

    monkeypatch.setattr(Oracle, "forward", full)
    assert run("predict", "--source", folder, "-o", tmp_path / "out") == 2
    expected = "dgcn predict: error: cpu has too little memory for a batch of 1 at 513 x 385 px:"
    assert capsys.readouterr().err == f"{expected} make batch_size or long_edge smaller\n"


def test_demo_interrupted(oracle, folder, tmp_path, monkeypatch, capsys) -> None:
    def interrupted(self: Oracle, images) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Oracle, "forward", interrupted)
    assert run("demo", "--source", folder / "20.png", "-o", tmp_path) == 130
    assert capsys.readouterr().err == "dgcn demo: interrupted\n"
