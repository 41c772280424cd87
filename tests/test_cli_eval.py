"""`dgcn eval`: what it prints and writes, and what it looks at before the network runs."""

from __future__ import annotations

import errno
import json
import re
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from cli_cases import PICTURES, run
from oracle import Oracle, coco_set, picture, standing, with_orientation

from dgcn import files
from dgcn.cli.eval import METRICS as METRIC_NAMES
from dgcn.data.images import read_record
from dgcn.data.reader import read_records
from dgcn.evaluation.metrics import EVALUATIONS
from dgcn.evaluation.oks import METRICS
from dgcn.model.checkpoint import save_model
from dgcn.model.network import build_model
from dgcn.predict import torch_network
from dgcn.skeleton import COCO


@pytest.fixture
def annotations(tmp_path) -> Path:
    """The COCO annotations of `folder`."""
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(coco_set([f"{tone}.png" for tone in PICTURES], list(PICTURES.values()))))
    return path


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


def test_eval_by_another_metric(oracle, folder, annotations, tmp_path, capsys) -> None:
    path = tmp_path / "metrics.json"
    arguments = ["--images", folder, "--annotations", annotations, "--json-output", path]
    assert run("eval", *arguments, "--metric", "crowdpose", "--bootstrap", 5) == 0
    assert list(json.loads(path.read_text())) == [
        *("AP", "AP50", "AP75", "AR", "AR50", "AR75"),
        *("AP_easy", "AP_medium", "AP_hard"),
    ]
    lines = capsys.readouterr().out.splitlines()
    assert lines[:1] + lines[8:10] == [
        "AP        1.0000",
        "AP_hard   n/a",
        "95 % interval of AP: 1.0000 to 1.0000 (5 resamples of the pictures)",
    ]
    assert tuple(EVALUATIONS) == METRIC_NAMES


def test_eval_per_keypoint(oracle, folder, annotations, tmp_path, capsys) -> None:
    path = tmp_path / "metrics.json"
    arguments = ["--images", folder, "--annotations", annotations, "--json-output", path]
    assert run("eval", *arguments, "--per-keypoint") == 0
    metrics = json.loads(path.read_text())
    assert tuple(metrics) == (*METRICS, "per_keypoint")
    assert tuple(metrics["per_keypoint"]) == COCO.keypoints
    assert metrics["per_keypoint"]["nose"] == {
        "AP": pytest.approx(1.0),
        "PCK": 1.0,
        "error": pytest.approx(0, abs=0.01),
        "swapped": -1.0,
    }
    lines = capsys.readouterr().out.splitlines()
    assert lines[10].split() == ["AP", "PCK", "error", "swapped"]
    assert re.fullmatch(r"nose +1\.0000 +1\.0000 +0\.\d{4} +n/a", lines[11])


def test_eval_says_what_a_metric_needs_first(oracle, folder, annotations, monkeypatch, capsys) -> None:
    monkeypatch.setattr(Oracle, "forward", lambda self, images: pytest.fail("the network ran"))
    assert run("eval", "--images", folder, "--annotations", annotations, "--metric", "mpii-ap") == 2
    error = "dgcn eval: error: the metric mpii-ap must have MPII's keypoints, by name, got .* without head_top, .*\n"
    assert re.fullmatch(error, capsys.readouterr().err)


def test_eval_writes_a_submission_without_ground_truth(oracle, folder, annotations, tmp_path, capsys) -> None:
    test_set = annotations.rename(tmp_path / "image_info_test-dev2017.json")
    test_set.write_text(json.dumps(json.loads(test_set.read_text()) | {"annotations": []}))
    zipped, results = tmp_path / "out" / "submission.zip", tmp_path / "results.json"
    arguments = ["--images", folder, "--annotations", test_set, "--submit", zipped, "--results", results]
    assert run("eval", *arguments, "--per-keypoint", "--bootstrap", 5) == 0
    output = capsys.readouterr()
    assert output.err.count("n/a") == 1
    assert len(output.out.splitlines()) == 1  # how long it took
    with zipfile.ZipFile(zipped) as archive:
        assert archive.namelist() == ["person_keypoints_test-dev2017_dgcn_results.json"]
        text = archive.read(archive.namelist()[0]).decode()
    kept = ("image_id", "category_id", "keypoints", "score")
    expected = [{name: result[name] for name in kept} for result in json.loads(results.read_text())]
    assert json.loads(text) == expected
    assert len(expected) == 3
    assert " " not in text
    assert ".0," not in text


def test_eval_submits_a_zip(oracle, folder, annotations, tmp_path, capsys) -> None:
    path = tmp_path / "submission.json"
    assert run("eval", "--images", folder, "--annotations", annotations, "--submit", path) == 2
    assert capsys.readouterr().err == f"dgcn eval: error: --submit must be a .zip file, got {path}\n"


def test_eval_where_nobody_is_found(folder, annotations, tmp_path) -> None:
    checkpoint = tmp_path / "model.safetensors"
    save_model(checkpoint, build_model("mobilenetv1_075", lift_channels=8), {"long_edge": 97})
    assert run("eval", "--checkpoint", checkpoint, "--images", folder, "--annotations", annotations) == 0


def test_bad_annotations_are_one_line(oracle, folder, tmp_path, capsys) -> None:
    path = tmp_path / "broken.json"
    path.write_text("{")
    assert run("eval", "--images", folder, "--annotations", path) == 2
    assert "broken.json is not a JSON file" in capsys.readouterr().err


def test_eval_checks_its_outputs_first(oracle, folder, annotations, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(Oracle, "forward", lambda self, images: pytest.fail("the network ran"))
    before = annotations.read_bytes()
    (tmp_path / "file").touch()
    for flag, path, message in (
        ("--json-output", tmp_path, "Is a directory"),
        ("--results", tmp_path / "file" / "results.json", "Not a directory|File exists"),
        ("--results", annotations, "is an input or another output"),
        ("--json-output", tmp_path / "pictures" / ".." / annotations.name, "is an input or another output"),
        ("--json-output", folder / "20.png", "is an input or another output"),
        ("--json-output", tmp_path / f"{'n' * 300}.json", "File name too long"),
    ):
        assert run("eval", "--images", folder, "--annotations", annotations, flag, path) == 2
        error = capsys.readouterr().err
        assert error.startswith("dgcn eval: error: ")
        assert str(path) in error
        assert re.search(message, error)
        assert error.count("\n") == 1
    assert annotations.read_bytes() == before


def test_eval_keeps_the_numbers_of_a_full_disk(oracle, folder, annotations, tmp_path, monkeypatch, capsys) -> None:
    def full(path: Path, document: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(files, "write_json", full)
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
    assert "AP" not in output.out


def test_eval_looks_at_all_pictures_first(oracle, folder, annotations, monkeypatch, capsys) -> None:
    monkeypatch.setattr(Oracle, "forward", lambda self, images: pytest.fail("the network ran"))
    for content in (b"", b"not a picture", (folder / "20.png").read_bytes()[:20]):
        (folder / "140.png").write_bytes(content)
        assert run("eval", "--images", folder, "--annotations", annotations) == 2
        assert re.fullmatch(
            r"dgcn eval: error: .*140\.png (cannot be read as|is damaged or not) a picture.*\n", capsys.readouterr().err
        )
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
    monkeypatch.setattr(torch_network, "load_model", lambda path: (Oracle({90: ((360, 480), people)}), {}))
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
    for record in read_records(photographs, found, COCO):
        assert read_record(record)[:50, :50].max() < 40
        assert len(record.persons) == 2
    assert run("eval", "--images", photographs, "--annotations", found, "--json-output", metrics) == 0
    assert json.loads(metrics.read_text())["AP"] == pytest.approx(1.0)
