"""`dgcn predict` and `dgcn demo`: what is found, what is written, and what survives a failure."""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from cli_cases import PICTURES, run
from oracle import Oracle, picture
from PIL import Image

from dgcn.cli.common import load_predictor, write_overlay
from dgcn.cli.predict import list_pictures, overlay_names
from dgcn.data.images import read_image, read_size
from dgcn.predict import torch_network
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


def test_results_reach_the_disk_as_they_come(oracle, folder, tmp_path, monkeypatch) -> None:
    """What a kill would leave: a line for each picture that is done, and no JSON yet."""
    forward, seen = Oracle.forward, []

    def look(self: Oracle, images):
        (journal,) = tmp_path.glob("out/set.json.*.partial")
        seen.append([json.loads(line) for line in journal.read_text().splitlines()])
        return forward(self, images)

    monkeypatch.setattr(Oracle, "forward", look)
    path = tmp_path / "out" / "set.json"
    assert run("predict", "--source", folder, "-o", tmp_path / "out", "--json-output", path) == 0
    assert [len(pictures) for pictures in seen] == [0, 1, 2]
    found = json.loads(path.read_text())
    assert [picture["image"] for picture in seen[-1]] == found["images"][:2]
    assert seen[-1][1]["annotations"][0].items() <= found["annotations"][0].items()
    assert not list(tmp_path.glob("out/*.partial"))


def test_what_a_killed_run_left_is_kept(oracle, folder, tmp_path, capsys) -> None:
    left = tmp_path / "out" / "predictions.json.1.partial"
    left.parent.mkdir()
    left.write_text("results\n")
    assert run("predict", "--source", folder, "-o", tmp_path / "out") == 0
    assert f"{left} has the results of another run" in capsys.readouterr().err
    assert left.read_text() == "results\n"
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]) == 3


def test_sigterm_is_like_ctrl_c(oracle, folder, tmp_path, monkeypatch, capsys) -> None:
    forward = Oracle.forward

    def terminated(self: Oracle, images):
        if images[0, 0, 99, 99] == 60:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, images)

    monkeypatch.setattr(Oracle, "forward", terminated)
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        assert run("predict", "--source", folder, "-o", tmp_path / "out") == 130
        assert signal.getsignal(signal.SIGTERM) is not signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "interrupted; 2 of 3 pictures were finished and written" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]) == 2


def test_interrupted_before_the_first_picture(oracle, folder, tmp_path, monkeypatch) -> None:
    def interrupted(self: Oracle, images) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Oracle, "forward", interrupted)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions.json").write_text("of an earlier run")
    assert run("predict", "--source", folder, "-o", tmp_path / "out") == 130
    assert {path.name: path.read_text() for path in tmp_path.glob("out/*")} == {"predictions.json": "of an earlier run"}


def test_a_full_disk_keeps_what_is_done(oracle, folder, tmp_path, capsys) -> None:
    """A limit on the size of files stands for the full disk: the second picture with a person does not fit."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1]))
    try:
        assert run("predict", "--source", folder, "-o", tmp_path) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (journal,) = tmp_path.glob("*.partial")
    first, second, *_ = journal.read_text().splitlines()
    assert json.loads(first)["image"]["file_name"].endswith("140.png")
    assert len(json.loads(second)["annotations"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("dgcn predict: error: ")
    assert error.endswith(f"File too large; the results are in {journal}")


def test_an_overlay_that_cannot_be_written_costs_nothing_else(oracle, folder, tmp_path, capsys) -> None:
    long = (folder / "20.png").rename(folder / f"{'n' * 250}.png")
    (tmp_path / "out" / "60.dgcn.jpg").mkdir(parents=True)
    assert run("predict", "--source", folder, "-o", tmp_path / "out") == 1
    output = capsys.readouterr()
    warnings = sorted(output.err.splitlines())
    assert len(warnings) == 2
    assert re.search(r"60\.dgcn\.jpg.*: Is a directory", warnings[0])
    assert f"{long.stem}.dgcn.jpg" in warnings[1]
    assert "File name too long" in warnings[1]
    assert "3 persons in 3 of 3 pictures" in output.out
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["annotations"]) == 3


def test_an_overlay_too_wide_for_a_jpeg(tmp_path) -> None:
    path = tmp_path / "wide.jpg"
    with pytest.raises(ValueError, match=rf"{path}: 65501 x 2 px do not fit a JPEG"):
        write_overlay(path, np.zeros((2, 65501, 3), np.uint8), [], COCO)
    write_overlay(path, np.zeros((2, 65500, 3), np.uint8), [], COCO)


@pytest.mark.parametrize("command", ["predict", "demo"])
def test_outputs_are_tried_first(command, oracle, folder, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch_network, "load_model", lambda path: pytest.fail("a model was loaded"))
    (tmp_path / "file").touch()
    source = folder / "20.png"
    cases = [(["-o", tmp_path / "file"], "file/.*: (Not a directory|File exists)")]
    if command == "predict":
        cases += [
            (["-o", tmp_path, "--json-output", folder], f"{folder}: Is a directory"),
            (["-o", tmp_path, "--json-output", "/dev/null"], "/dev/null: is a pipe or a device, not a file"),
            (["-o", tmp_path, "--json-output", f"{'n' * 256}.json"], "nnnn.json: File name too long"),
        ]
    for arguments, message in cases:
        assert run(command, "--source", source, *arguments) == 2
        error = capsys.readouterr().err
        assert re.fullmatch(rf"dgcn {command}: error: .*{message}\n", error)


def test_predict_writes_over_no_input(oracle, folder, tmp_path, capsys) -> None:
    source = folder / "20.png"
    before = source.read_bytes()
    (tmp_path / "link.json").symlink_to(source)
    assert run("predict", "--source", folder, "-o", tmp_path / "out", "--json-output", tmp_path / "link.json") == 2
    assert "link.json cannot be written: it is an input or another output" in capsys.readouterr().err
    assert source.read_bytes() == before


def test_an_output_that_is_a_link_to_a_new_file(oracle, folder, tmp_path) -> None:
    link, target = tmp_path / "link.json", tmp_path / "target.json"
    link.symlink_to(target.name)
    assert run("predict", "--source", folder / "20.png", "-o", tmp_path / "out", "--json-output", link) == 0
    assert link.is_symlink()
    assert json.loads(target.read_text())["images"]


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


def test_a_damaged_exif_block_is_no_news(oracle, folder, tmp_path, capsys) -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0"  # five entries, of which none follows
    Image.open(folder / "20.png").save(folder / "20.jpg", exif=exif)
    with pytest.warns(UserWarning, match="Corrupt EXIF data"):
        read_image(folder / "20.jpg", upright=True)
    assert run("predict", "--source", folder / "20.jpg", "-o", tmp_path / "out") == 0
    assert capsys.readouterr().err == ""


def test_thousands_of_pictures_of_one_name() -> None:
    names = overlay_names([Path("a.jpg")] * 20_000)
    assert len(set(names)) == 20_000
    assert names[-1] == "a-20000.dgcn.jpg"


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
