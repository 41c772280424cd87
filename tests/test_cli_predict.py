"""`dgcn predict` and `dgcn demo`: what is found, what is written, and what survives a failure."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from cli_cases import PICTURES, run
from oracle import Oracle, picture

from dgcn import predictor
from dgcn.cli.predict import list_pictures, overlay_names
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
    monkeypatch.setattr(predictor, "load_model", lambda path: (Oracle({20: tone}), {}))
    source = tmp_path / "me.png"
    cv2.imwrite(str(source), picture(20, *tone[0]))
    assert run("demo", "--source", source, "-o", tmp_path / "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "me.png, 640×480 px: 1 person found"
    assert "17 of 17 keypoints" in lines[1]
    assert lines[2].startswith("network ")
    assert lines[3].startswith("decoder ")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"me.dgcn.jpg", "me.dgcn.json"}
