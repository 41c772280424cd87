"""From annotation files to skeletons: rules, descriptions, the exports of labelling tools."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from keypoint_sets import ANIMAL, HAND, HAND_LIMBS, MARKERS, draw_set, pose_of

from dgcn.data.coco_format import AREA_OF_BOX
from dgcn.data.description import Description, Split, read_description
from dgcn.data.reader import ReadOptions, read_keypoint_file, read_records
from dgcn.data.rules import ASSUMED_SIGMA, SkeletonOptions, make_skeleton
from dgcn.records import Category, KeypointFile
from dgcn.skeleton import COCO, CROWDPOSE, PRESETS, Skeleton


def skeleton_of(path: Path, **options: Any) -> tuple[Skeleton, dict[str, str]]:
    """The skeleton of a file, and its rules as text by name."""
    skeleton, rules = make_skeleton(read_keypoint_file(path), "the file", SkeletonOptions(**options))
    return skeleton, {rule.name: str(rule) for rule in rules}


def named(names: tuple[str, ...], **fields: Any) -> KeypointFile:
    return KeypointFile(Category(keypoints=names, **fields), [])


def test_known_keypoints_have_their_known_skeleton() -> None:
    for preset in PRESETS:
        skeleton, rules = make_skeleton(named(preset.keypoints), "the file", SkeletonOptions())
        assert skeleton == preset
        assert not any(rule.is_assumed for rule in rules)
    spaced = tuple(name.replace("_", " ").title() for name in COCO.keypoints)
    skeleton, _ = make_skeleton(named(spaced), "the file", SkeletonOptions())
    assert (skeleton.keypoints, skeleton.limbs, skeleton.sigmas) == (spaced, COCO.limbs, COCO.sigmas)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_known_skeletons_are_their_own_mirror_image(preset: Skeleton) -> None:
    assert len(preset.mirror_limbs()) == preset.num_limbs
    mirrored = preset.upright_pose[list(preset.flip)] * [-1, 1]
    np.testing.assert_allclose(mirrored, preset.upright_pose, atol=1e-12)
    for i, j in enumerate(preset.flip):
        sides = preset.keypoints[i].partition("_")[0], preset.keypoints[j].partition("_")[0]
        assert (sides in {("left", "right"), ("right", "left")}) if i != j else not {*sides} & {"left", "right"}


def test_a_hand_has_the_limbs_of_its_category_and_no_mirror(tmp_path) -> None:
    path = draw_set(tmp_path, HAND, category={"skeleton": HAND_LIMBS, "sigmas": [0.03] * 21})
    skeleton, rules = skeleton_of(path)
    assert skeleton.limbs == tuple((i - 1, j - 1) for i, j in HAND_LIMBS)
    assert skeleton.sigmas == (0.03,) * 21
    assert skeleton.flip == tuple(range(21))
    assert rules["limbs"].endswith("(skeleton of the category in the file)")
    assert skeleton.name == "thing"
    # All objects have one shape, so the median is that shape; the scale is the root of 0.53 of the box.
    shape = pose_of(21)
    extent = np.ptp(shape, axis=0)
    expected = (shape - shape.min(axis=0) - extent / 2) / np.sqrt(AREA_OF_BOX * extent.prod())
    np.testing.assert_allclose(skeleton.upright_pose, expected, atol=1e-9)


def test_without_a_skeleton_limbs_are_the_minimum_spanning_tree(tmp_path) -> None:
    skeleton, rules = skeleton_of(draw_set(tmp_path, MARKERS))
    shape = pose_of(5)
    distances = np.linalg.norm(shape[:, None] - shape, axis=-1)
    # Prim's algorithm, by hand.
    tree, inside = set(), {0}
    while len(inside) < 5:
        i, j = min(((i, j) for i in inside for j in set(range(5)) - inside), key=lambda edge: distances[edge])
        tree.add((min(i, j), max(i, j)))
        inside.add(j)
    assert set(skeleton.limbs) == tree
    assert "minimum spanning tree" in rules["limbs"]
    assert skeleton.sigmas == (ASSUMED_SIGMA,) * 5
    assert rules["sigmas"] == f"sigmas: {ASSUMED_SIGMA} for all keypoints (assumed: no sigmas are known)"


def test_flip_pairs_and_sigmas_follow_the_names() -> None:
    names = ("Nose", "LShoulder", "RShoulder", "hip_left", "hip_right", "l_paw", "left tail", "elbow-L", "elbow-R")
    limbs = tuple((i, i + 1) for i in range(1, 9))
    skeleton, rules = make_skeleton(named(names), "the file", SkeletonOptions(skeleton=limbs))
    assert skeleton.flip == (0, 2, 1, 4, 3, 5, 6, 8, 7)
    odd = [rule for rule in rules if rule.is_assumed and rule.name == "flip pairs"]
    assert [rule.value for rule in odd] == ["none for l_paw, left tail"]
    assert skeleton.sigmas[0] == COCO.sigmas[0]
    assert [skeleton.side(k) for k in range(9)] == [
        None,
        "left",
        "right",
        "left",
        "right",
        "left",
        "left",
        "left",
        "right",
    ]
    animal, _ = make_skeleton(named(ANIMAL), "the file", SkeletonOptions(skeleton=limbs))
    assert [ANIMAL[j] for i, j in enumerate(animal.flip) if i == ANIMAL.index("l_front_paw")] == ["r_front_paw"]


@pytest.mark.parametrize(
    ("names", "flip", "odd"),
    [
        (("snout", "leftear", "rightear", "tailbase"), (0, 2, 1, 3), ""),
        (("front_left_paw", "front_right_paw", "eye_left.1", "eye_right.1"), (1, 0, 3, 2), ""),
        (("眼_left", "眼_right", "рука_l", "рука_r", "鼻"), (1, 0, 3, 2, 4), ""),
        (("眼_left", "耳_right"), (0, 1), "眼_left, 耳_right"),
        (("l_eye", "L Eye", "r_eye"), (0, 1, 2), "l_eye, L Eye, r_eye"),  # which of two is the mirror image?
        (("bright", "eclair"), (0, 1), ""),
    ],
)
def test_left_and_right_are_found_wherever_names_tell_them(names, flip, odd) -> None:
    limbs = ((1, 2),)
    skeleton, rules = make_skeleton(named(names), "the file", SkeletonOptions(skeleton=limbs))
    assert skeleton.flip == flip
    missing = [rule.value for rule in rules if rule.name == "flip pairs" and rule.value.startswith("none for")]
    assert missing == ([f"none for {odd}"] if odd else [])
    if flip == tuple(range(len(names))):
        assert any(rule.value == "none" and rule.is_assumed for rule in rules)


def test_limbs_of_the_rule_are_their_own_mirror_image(tmp_path) -> None:
    path = draw_set(tmp_path, ANIMAL)
    skeleton, _ = skeleton_of(path)
    assert len(skeleton.mirror_limbs()) == skeleton.num_limbs >= len(ANIMAL) - 1


def test_what_is_given_comes_first(tmp_path) -> None:
    path = draw_set(tmp_path, MARKERS, category={"skeleton": [[1, 2]], "sigmas": [0.1] * 5})
    given = {"skeleton": ((1, 3), (3, 1), (2, 4)), "flip_idx": (1, 0, 2, 3, 4), "sigmas": (0.2,) * 5}
    skeleton, rules = skeleton_of(path, **given)
    assert skeleton.limbs == ((0, 2), (1, 3))  # each once
    assert skeleton.flip == (1, 0, 2, 3, 4)
    assert skeleton.sigmas == (0.2,) * 5
    assert [skeleton.side(k) for k in range(3)] == ["left", "right", None]
    assert all("given as" in rules[name] for name in ("limbs", "flip pairs", "sigmas"))


def test_crowdpose_numbers_its_limbs_like_coco(data_dir) -> None:
    """Its official file has COCO's limbs, whose indices are out of range for 14 keypoints."""
    path = data_dir / "fixtures/mmpose_tests/crowdpose/test_crowdpose.json"
    skeleton, rules = skeleton_of(path)
    assert skeleton == CROWDPOSE
    assert rules["limbs"].endswith("got [16, 14])")
    records = read_keypoint_file(path).records
    assert [record.crowd_index for record in records] == [0.33, pytest.approx(records[1].crowd_index)]
    person = records[0].annotations[0]
    assert person.area == pytest.approx(AREA_OF_BOX * person.box[2] * person.box[3])


@pytest.mark.parametrize(
    ("names", "fields", "options", "message"),
    [
        (None, {}, {}, r"the file: keypoints must be named, by its category or by `keypoints`, got no names"),
        (MARKERS, {}, {}, r"the file must have a person with keypoints .*, got none, and no skeleton is given"),
        (MARKERS, {"skeleton": [[0, 1]]}, {}, r"skeleton of its category must be .* in 1\.\.5, got \[0, 1\]"),
        (MARKERS, {"skeleton": [[1, 6]]}, {}, r"in 1\.\.5, got \[1, 6\]"),
        (MARKERS, {"skeleton": [[2, 2]]}, {}, r"pairs of different keypoints in 1\.\.5, got \[2, 2\]"),
        (MARKERS, {"skeleton": [[1.5, 2]]}, {}, r"got \[1\.5, 2\]"),
        (MARKERS, {"skeleton": [[1, float("inf")]]}, {}, r"got \[1, inf\]"),
        (MARKERS, {}, {"skeleton": ()}, r"skeleton must have at least one limb for the keypoints"),
        (MARKERS, {"sigmas": [10**400] * 5}, {"skeleton": ((1, 2),)}, r"must be 5 positive numbers below"),
        (MARKERS, {"skeleton": {"a": "b"}}, {}, r"must be a list of pairs, got {'a': 'b'}"),
        (MARKERS, {"sigmas": [0.1] * 4}, {"skeleton": ((1, 2),)}, r"sigmas of its category must be 5 positive numbers"),
        (
            MARKERS,
            {"sigmas": [0.1] * 4 + [0]},
            {"skeleton": ((1, 2),)},
            r"must be 5 positive numbers below 1e\+06, got .*0\]",
        ),
        (MARKERS, {}, {"skeleton": ((1, 2),), "flip_idx": (1, 2, 0, 3, 4)}, r"flip_idx must pair up the 5 keypoints"),
        (MARKERS, {}, {"skeleton": ((1, 2),), "flip_idx": (0, 1)}, r"flip_idx must pair up .*got \[0, 1\]"),
        (MARKERS, {}, {"skeleton": ((1, 2),), "sigmas": (0.1, "x", 1, 1, 1)}, r"sigmas must be 5 positive numbers"),
        (COCO.keypoints, {}, {"skeleton": ((1, 18),)}, r"skeleton must be pairs .* in 1\.\.17, got \(1, 18\)"),
    ],
)
def test_what_does_not_fit_the_keypoints_is_refused(names, fields, options, message) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make_skeleton(named(names, **fields), "the file", SkeletonOptions(**options))
    assert "\n" not in str(error.value)


def test_a_description_in_yaml_and_in_json(tmp_path) -> None:
    values = {
        "path": "data",
        "format": "coco",
        "train": {"images": "train", "annotations": "train.json"},
        "test": {"images": "/abs", "annotations": "image_info.json"},
        "category": "hand",
        "keypoints": ["a", "b"],
        "skeleton": [[1, 2]],
        "flip_idx": [1, 0],
        "sigmas": [0.1, 0.2],
    }
    lines = [f"{key}: {json.dumps(value)}" for key, value in values.items()]
    for name, text in (("d.yaml", "\n".join(lines)), ("d.json", json.dumps(values))):
        (tmp_path / name).write_text(text)
        found = read_description(tmp_path / name)
        assert found.split("train") == Split(tmp_path / "data/train", tmp_path / "data/train.json")
        assert found.split("test").images == Path("/abs")
        assert found.reading == ReadOptions(format="coco", category="hand", keypoints=("a", "b"))
        given = {"skeleton": ((1, 2),), "flip_idx": (1, 0), "sigmas": (0.1, 0.2)}
        assert found.skeleton == SkeletonOptions(**given, source=str(tmp_path / name))
        with pytest.raises(ValueError, match=rf"{name} must have the split val, got \['test', 'train'\]"):
            found.split("val")


TRAIN = {"train": {"images": "a", "annotations": "b"}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"must be a description of a data set, .*, got None"),
        ("[1, 2]", r"must be a description of a data set"),
        ("a: [", r"is not a YAML or JSON file: while parsing"),
        ("\0", r"is not a YAML or JSON file"),
        ({"images": [], "annotations": []}, r"is an annotation file: --data takes a description that names it"),
        ({}, r"must have at least one of the splits"),
        (TRAIN | {"names": ["a"]}, r"fields must be among .*, got \['names'\]"),
        ({"train": "images/train"}, r"train must have the fields images and annotations, got 'images/train'"),
        ({"train": {"images": "a"}}, r"train must have the fields images and annotations"),
        ({"train": {"images": 3, "annotations": "b"}}, r"train\.images must be a path, got 3"),
        (TRAIN | {"path": ["a"]}, r"path must be a path, got \['a'\]"),
        (TRAIN | {"format": "yolo"}, r"format must be one of \('coco', 'crowdpose', 'mpii'\), got 'yolo'"),
        (TRAIN | {"category": 1.5}, r"category must be the name or the id of one, got 1\.5"),
        (TRAIN | {"keypoints": "nose"}, r"keypoints must be a list, got 'nose'"),
        (TRAIN | {"keypoints": []}, r"keypoints must be different names of text, at least one, got \(\)"),
        (TRAIN | {"keypoints": ["a", "a"]}, r"keypoints must be different names"),
        (TRAIN | {"keypoints": ["a", 1]}, r"keypoints must be different names"),
        (TRAIN | {"skeleton": [1, 2]}, r"skeleton must be pairs of keypoints, counted from 1, got"),
        (TRAIN | {"skeleton": [["a", "b"]]}, r"skeleton must be pairs of keypoints"),
        (TRAIN | {"flip_idx": ["x"]}, r"flip_idx must be numbers"),
        (TRAIN | {"sigmas": {"a": 1}}, r"sigmas must be a list, got"),
    ],
)
def test_what_is_no_description_is_refused(tmp_path, content, message) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        read_description(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


XYV = np.column_stack([pose_of(5) * 40 + 20, np.full(5, 2)]).ravel().tolist()
EXPORTS: dict[str, dict[str, Any]] = {
    "Roboflow": {
        "images": [{"id": 0, "license": 1, "file_name": "0_png.rf.8d.jpg", "height": 96, "width": 96, "extra": {}}],
        "annotations": [
            {"id": 0, "image_id": 0, "category_id": 1, "bbox": [1, 2, 80, 80], "area": 6400, "segmentation": []}
            | {"iscrowd": 0, "keypoints": XYV}
        ],
        "categories": [
            {"id": 0, "name": "things", "supercategory": "none"},
            {"id": 1, "name": "thing", "supercategory": "things", "keypoints": list(MARKERS), "skeleton": [[1, 2]]},
        ],
    },
    "CVAT": {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "images": [{"id": 1, "file_name": "task/0_png.rf.8d.jpg", "width": 96, "height": 96, "license": 0}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [], "area": 6400.0, "bbox": [1.0, 2.0, 80, 80]}
            | {"iscrowd": 0, "attributes": {"occluded": False}, "keypoints": XYV, "num_keypoints": 5}
        ],
        "categories": [{"id": 1, "name": "thing", "supercategory": "", "keypoints": list(MARKERS), "skeleton": []}],
    },
    "Label Studio": {
        "images": [{"id": "7", "file_name": "..\\media\\upload\\3\\0_png.rf.8d.jpg", "width": 96, "height": 96}],
        "annotations": [{"id": 0, "image_id": "7", "category_id": 0, "keypoints": XYV, "bbox": None, "area": None}],
        "categories": [{"id": 0, "name": "thing", "keypoints": list(MARKERS)}],
    },
    "DeepLabCut": {
        "images": [{"id": 3, "file_name": "/home/x/project/labeled-data/0_png.rf.8d.jpg", "width": 96, "height": 96}],
        "annotations": [
            {"id": 5, "image_id": 3, "category_id": 1, "bbox": [1.5, 2.5, 80, 80], "area": 6400, "iscrowd": 0}
            | {"keypoints": [*XYV[:12], float("nan"), float("nan"), 0], "num_keypoints": 4, "individual": "mouse1"}
        ],
        "categories": [{"id": 1, "name": "mouse", "supercategory": "animal", "keypoints": list(MARKERS)}],
    },
}


@pytest.mark.parametrize("tool", EXPORTS)
def test_exports_are_read_as_they_are(tmp_path, tool: str) -> None:
    path = tmp_path / "_annotations.coco.json"
    path.write_text(json.dumps(EXPORTS[tool]))
    cv2.imwrite(str(tmp_path / "0_png.rf.8d.jpg"), np.zeros((96, 96, 3), np.uint8))
    found = read_keypoint_file(path, tmp_path)
    skeleton, _ = make_skeleton(found, "the file", SkeletonOptions())
    assert skeleton.keypoints == MARKERS
    (record,) = read_records(tmp_path, path, skeleton)
    assert record.path == tmp_path / "0_png.rf.8d.jpg"
    (person,) = record.persons
    seen = person.keypoints[:, 2] > 0
    np.testing.assert_allclose(person.keypoints[seen], np.reshape(XYV, (5, 3))[seen])
    assert seen.sum() == (4 if tool == "DeepLabCut" else 5)
    assert record.category_id == EXPORTS[tool]["categories"][-1]["id"]


def test_one_of_several_categories_is_chosen(tmp_path) -> None:
    document = json.loads(draw_set(tmp_path, MARKERS).read_text())
    document["categories"].append({"id": 6, "name": "other", "keypoints": ["x", "y"], "skeleton": [[1, 2]]})
    document["annotations"].append({"id": 99, "image_id": 0, "category_id": 6, "keypoints": [1, 1, 2, 9, 9, 2]})
    path = tmp_path / "two.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"one category with keypoints, got \['thing', 'other'\]: choose one"):
        read_keypoint_file(path)
    for category in ("other", 6):
        found = read_keypoint_file(path, options=ReadOptions(category=category))
        assert found.category.keypoints == ("x", "y")
        assert sum(len(record.annotations) for record in found.records) == 1
    with pytest.raises(ValueError, match=r"category must be one of {5: 'thing', 6: 'other'}, got 'x'"):
        read_keypoint_file(path, options=ReadOptions(category="x"))


def test_keypoints_can_be_named_from_outside(tmp_path) -> None:
    document = json.loads(draw_set(tmp_path, MARKERS).read_text())
    del document["categories"][0]["keypoints"]
    path = tmp_path / "unnamed.json"
    path.write_text(json.dumps(document))
    assert read_keypoint_file(path).category.keypoints is None
    found = read_keypoint_file(path, options=ReadOptions(keypoints=("v", "w", "x", "y", "z")))
    assert found.category.keypoints == ("v", "w", "x", "y", "z")
    with pytest.raises(ValueError, match=r"keypoints of annotation 0 on image 0 must be 9 numbers"):
        read_keypoint_file(path, options=ReadOptions(keypoints=("v", "w", "x")))


def test_names_in_another_order_are_no_other_names(tmp_path) -> None:
    """Left and right would change places without a word."""
    path = draw_set(tmp_path, MARKERS)
    with pytest.raises(
        ValueError, match=r"keypoints must be in the order of .*, \['a', 'b', 'c', 'd', 'e'\], got \['b'"
    ):
        read_keypoint_file(path, options=ReadOptions(keypoints=("b", "a", "c", "d", "e")))
    found = read_keypoint_file(path, options=ReadOptions(keypoints=("v", "b", "c", "d", "e")))
    assert str(found.rules[-1]) == "keypoints: v, b, c, d, e (given, in place of a, b, c, d, e)"


def test_two_images_are_not_one_picture(tmp_path) -> None:
    document = json.loads(draw_set(tmp_path, MARKERS, pictures=2).read_text())
    for number, image in enumerate(document["images"]):
        image["file_name"] = f"clip{number}/0.png"
    path = tmp_path / "clips.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"file_name of image 1 must be that of a picture of its own, .* of image 0"):
        read_keypoint_file(path, tmp_path)


def test_sizes_of_zero_are_those_of_the_keypoints(tmp_path) -> None:
    document = json.loads(draw_set(tmp_path, MARKERS, pictures=1).read_text())
    (entry,) = document["annotations"]
    path = tmp_path / "zero.json"
    for change in ({"area": 0}, {"bbox": [0, 0, 0, 0]}, {"bbox": [0, 0, 0, 0], "area": 0}):
        path.write_text(json.dumps(document | {"annotations": [entry | change]}))
        found = read_keypoint_file(path)
        (person,) = found.records[0].annotations
        assert person.box == pytest.approx(entry["bbox"])
        assert person.area == pytest.approx(AREA_OF_BOX * entry["bbox"][2] * entry["bbox"][3])
        assert {*change} <= {rule.name for rule in found.rules}


def test_unreadable_pictures_are_fatal_or_left_out(tmp_path, caplog) -> None:
    path = draw_set(tmp_path, MARKERS, pictures=3)
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:500])  # whose header can be read
    skeleton, _ = skeleton_of(path)
    with pytest.raises(FileNotFoundError, match=r"image 0 of .*train\.json is missing: .*0\.png"):
        read_records(tmp_path, path, skeleton)
    caplog.set_level(logging.WARNING)
    records = read_records(tmp_path, path, skeleton, ReadOptions(skip_unreadable=True))
    assert [record.image_id for record in records] == [2]
    assert [message.partition(":")[0] for message in caplog.messages if "left" in message] == ["left out", "left out"]
    (tmp_path / "2.png").unlink()
    with pytest.raises(ValueError, match=r"at least one picture that can be read, got none of 3"):
        read_records(tmp_path, path, skeleton, ReadOptions(skip_unreadable=True))


def test_a_test_set_needs_no_annotations(tmp_path) -> None:
    """As COCO's image_info files: categories without keypoints, no annotations."""
    path = tmp_path / "image_info.json"
    categories = [{"id": 3, "name": "car"}, {"id": 7, "name": "person"}]
    path.write_text(json.dumps({"images": [{"id": 1, "file_name": "a.png"}], "categories": categories}))
    description = Description(splits={"test": Split(tmp_path, path), "val": Split(tmp_path, path)})
    (record,) = description.read("test").records
    assert (record.category_id, record.annotations) == (7, ())
    with pytest.raises(ValueError, match=r"must be a COCO file, an object with the lists 'images' and 'annotations'"):
        description.read("val")
