"""`dgcn data`, and every data set through training and evaluation on the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_cases import run
from keypoint_sets import ANIMAL, HAND, HAND_LIMBS, MARKERS, draw_set
from PIL import Image

from dgcn.model.checkpoint import load_model
from dgcn.predict.sheet import draw_sheet
from dgcn.predict.visualize import LEFT, RIGHT
from dgcn.records import Annotation, ImageRecord
from dgcn.skeleton import COCO, CROWDPOSE, MPII


def write_description(path: Path, images: Path, annotations: Path, **fields: Any) -> Path:
    split = {"images": str(images), "annotations": str(annotations)}
    path.write_text(json.dumps({"train": split, "val": split, **fields}))
    return path


def test_data_prints_rules_and_counts_and_draws_samples(tmp_path, capsys, caplog) -> None:
    draw_set(tmp_path, MARKERS, pictures=4)
    caplog.set_level("INFO")
    description = write_description(tmp_path / "d.yaml", tmp_path, tmp_path / "train.json")
    assert run("data", "--data", description, "-o", tmp_path / "out", "--samples", 3) == 0
    output = capsys.readouterr().out
    assert "train: 4 pictures, 4 persons with keypoints, 0 ignored regions" in output
    assert "val: 4 pictures" in output
    assert "  a       4 visible       0 hidden" in output
    rules = {message.partition(":")[0] for message in caplog.messages if not message.startswith("pictures")}
    assert rules == {"area", "iscrowd", "limbs", "flip pairs", "sigmas", "upright pose"}
    with Image.open(tmp_path / "out/samples.jpg") as sheet:
        assert sheet.size[0] > 1000


def test_data_names_every_bad_picture(tmp_path, capsys) -> None:
    draw_set(tmp_path, MARKERS, pictures=4)
    (tmp_path / "0.png").unlink()
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:200])
    arguments = ("--images", tmp_path, "--annotations", tmp_path / "train.json", "-o", tmp_path)
    assert run("data", *arguments) == 1
    output = capsys.readouterr().out
    assert f"image 0 of {tmp_path / 'train.json'} is missing: {tmp_path / '0.png'}" in output
    assert f"{tmp_path / '2.png'} cannot be read as a picture" in output
    assert output.endswith("2 pictures are missing or damaged\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--data, or else --images and --annotations must be given"),
        (("--images", "a"), "--data, or else --images and --annotations must be given"),
        (("--data", "none.yaml"), "none.yaml"),
        (("--data", "train.json"), "train.json is an annotation file: --data takes a description that names it"),
        (("--data", "d.yaml", "--images", "a"), "--images and --annotations must be given without --data"),
        (("--images", "none", "--annotations", "train.json"), "the image folder none does not exist"),
        (("--images", ".", "--annotations", "d.yaml"), "d.yaml must be a COCO file"),
        (("--data", "d.yaml", "-o", "train.json"), "train.json"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    draw_set(tmp_path, MARKERS, pictures=1)
    write_description(tmp_path / "d.yaml", tmp_path, tmp_path / "train.json")
    assert run("data", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_wrong_flip_is_seen_on_the_sheet(tmp_path) -> None:
    """Of somebody who faces the camera, orange is right of blue in the picture and in its mirror image."""
    Image.fromarray(np.full((200, 200, 3), 128, np.uint8)).save(tmp_path / "a.png")
    pose = np.column_stack([np.add(COCO.upright_pose, (100, 15)), np.full(17, 2)])
    record = ImageRecord(1, tmp_path / "a.png", (Annotation(pose, (70, 15, 60, 170), 8000.0),))

    def centers(skeleton) -> list[float]:
        """Mean column of the orange pixels less that of the blue ones, in the picture and in the mirror image."""
        sheet = draw_sheet([record], skeleton, columns=2).astype(int)
        picture, mirror = sheet[:, 722:1083], sheet[:, 1083:1444]
        return [
            float(np.diff([np.nonzero((abs(tile - color) < 40).all(axis=2))[1].mean() for color in (RIGHT, LEFT)])[0])
            for tile in (picture, mirror)
        ]

    assert min(centers(COCO)) > 10
    unflipped = centers(replace(COCO, flip=tuple(range(17))))
    assert unflipped[0] > 10
    assert unflipped[1] < -10


TRAIN = ("--backbone", "mobilenetv1_075", "--size", 97, "--epochs", 1, "--freeze-epochs", 0, "--device", "cpu")
TRAIN = (*TRAIN, "--warmup-steps", 2, "--lift-channels", 8, "--workers", 0, "--scale-range", 0.9, 1.1)


def train_and_evaluate(tmp_path: Path, description: Path, *flags: object) -> tuple[Any, dict[str, Any]]:
    """The skeleton of the trained checkpoint, and what it says of the data."""
    work = tmp_path / "work"
    assert run("train", "--data", description, "--work-dir", work, *TRAIN, *flags) == 0
    model, metadata = load_model(work / "last.safetensors")
    assert run("eval", "--data", description, "--checkpoint", work / "last.safetensors", "--long-edge", 97) == 0
    return model.config.skeleton, metadata["data"]


@pytest.mark.parametrize(
    ("names", "category", "limbs"),
    [(MARKERS, {}, 4), (HAND, {"skeleton": HAND_LIMBS}, 20), (ANIMAL, {"sigmas": [0.05] * 39}, None)],
    ids=["5 markers", "21 of a hand", "39 of an animal"],
)
def test_own_keypoints_train_and_evaluate(tmp_path, names, category, limbs, capsys) -> None:
    """Ten steps each; the checkpoint tells the category, and how limbs and sigmas came about."""
    draw_set(tmp_path, names, pictures=20, category=category)
    description = write_description(tmp_path / "d.yaml", tmp_path, tmp_path / "train.json")
    skeleton, data = train_and_evaluate(tmp_path, description, "--batch-size", 2)
    assert skeleton.keypoints == tuple(names)
    assert skeleton.num_limbs == (len(skeleton.mirror_limbs()) if limbs is None else limbs)
    assert data["category"] == {"id": 5, "name": "thing"}
    rules = {rule["name"]: rule for rule in data["rules"]}
    assert ("minimum spanning tree" in rules["limbs"]["source"]) == ("skeleton" not in category)
    assert rules["sigmas"]["is_assumed"] == ("sigmas" not in category)
    assert "AP" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("folder", "file", "skeleton"),
    [
        ("coco", "test_coco.json", COCO),
        ("crowdpose", "test_crowdpose.json", CROWDPOSE),
        ("mpii", "test_mpii.json", MPII),
    ],
)
def test_the_data_sets_of_the_paper_train_and_evaluate(tmp_path, data_dir, folder, file, skeleton) -> None:
    pictures = data_dir / "fixtures/mmpose_tests" / folder
    description = write_description(tmp_path / "d.yaml", pictures, pictures / file)
    found, _ = train_and_evaluate(tmp_path, description, "--batch-size", 1, "--epochs", 3)
    assert found == skeleton
