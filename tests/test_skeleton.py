"""Skeletons: what is checked when one is made, the COCO constant, and the trip through a checkpoint's JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from dgcn.records import Annotation
from dgcn.skeleton import COCO, Skeleton


def test_coco_is_the_skeleton_of_the_coco_files():
    one_based = (
        "(16,14)(14,12)(17,15)(15,13)(12,13)(6,12)(7,13)(6,7)(6,8)(7,9)(8,10)(9,11)(2,3)(1,2)(1,3)(2,4)(3,5)(4,6)(5,7)"
    )
    pairs = [tuple(int(n) - 1 for n in pair.split(",")) for pair in one_based.strip("()").split(")(")]
    assert list(COCO.limbs) == pairs
    assert (COCO.num_keypoints, COCO.num_limbs) == (17, 19)
    assert COCO.keypoints[0] == "nose"
    assert COCO.keypoints[16] == "right_ankle"


def test_coco_sigmas_are_those_of_pycocotools():
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    np.testing.assert_allclose(COCO.sigmas, cocoeval.Params("keypoints").kpt_oks_sigmas)


def test_mirror_swaps_sides_of_names_and_of_the_reference_pose():
    for name, other in zip(COCO.keypoints, (COCO.keypoints[i] for i in COCO.flip), strict=True):
        swapped = {"left": "right", "right": "left"}.get(name.split("_")[0], name)
        assert other.split("_")[0] == swapped
    np.testing.assert_array_equal(COCO.upright_pose[list(COCO.flip)] * (-1, 1), COCO.upright_pose)


def test_reference_pose_stands_upright():
    y = dict(zip(COCO.keypoints, COCO.upright_pose[:, 1], strict=True))
    assert y["left_eye"] < y["nose"] < y["left_shoulder"] < y["left_elbow"] < y["left_hip"]
    assert y["left_hip"] < y["left_knee"] < y["left_ankle"]
    width, height = np.ptp(COCO.upright_pose, axis=0)
    assert 2 < height / width < 4


def test_json_round_trip():
    read = Skeleton.from_dict(json.loads(json.dumps(COCO.to_dict())))
    assert read == COCO
    assert hash(read) == hash(COCO)
    assert read.limbs == COCO.limbs
    assert not read.upright_pose.flags.writeable


def test_skeletons_differ_by_any_field():
    assert replace(COCO, name="other") != COCO
    assert replace(COCO, upright_pose=COCO.upright_pose * 2) != COCO
    assert COCO != "coco"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keypoints": ()}, "keypoints must be at least one name"),
        ({"keypoints": ("nose",) * 17}, "none twice"),
        ({"limbs": ((0, 17),)}, r"0\.\.16, got \(0, 17\)"),
        ({"limbs": ((3, 3),)}, "two different keypoints"),
        ({"sigmas": (0.1,) * 16}, "sigmas must be 17 positive"),
        ({"sigmas": (0.0,) * 17}, "sigmas must be 17 positive"),
        ({"sigmas": (float("nan"),) * 17}, "sigmas must be 17 positive"),
        ({"flip": (1, 2, 0, *range(3, 17))}, "flip must pair up"),
        ({"flip": tuple(range(16))}, "flip must pair up"),
        ({"upright_pose": np.zeros((16, 2))}, r"upright_pose must be finite and of shape \(17, 2\)"),
        ({"upright_pose": np.full((17, 2), np.inf)}, "upright_pose must be finite"),
    ],
)
def test_malformed_skeletons_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(COCO, **changes)


def test_from_dict_names_missing_entries():
    with pytest.raises(ValueError, match=r"must have the entries.*'sigmas'"):
        Skeleton.from_dict({"name": "x"})


def test_skeleton_without_limbs():
    point = Skeleton(name="p", keypoints=("a",), limbs=(), sigmas=(0.1,), flip=(0,), upright_pose=np.zeros((1, 2)))
    assert (point.num_keypoints, point.num_limbs) == (1, 0)
    assert Skeleton.from_dict(point.to_dict()) == point


def test_annotation_scale_is_from_the_mask_and_else_from_the_box():
    keypoints = np.zeros((17, 3), np.float32)
    assert Annotation(keypoints, (0, 0, 4, 9), 25).scale == 5
    assert Annotation(keypoints, (0, 0, 4, 9), 0).scale == 6


def test_which_annotations_are_ignored():
    nobody, somebody = np.zeros((17, 3), np.float32), np.zeros((17, 3), np.float32)
    somebody[3] = (5, 5, 1)
    assert Annotation(nobody, (0, 0, 4, 9), 25).is_ignored
    assert not Annotation(somebody, (0, 0, 4, 9), 25).is_ignored
    assert Annotation(somebody, (0, 0, 4, 9), 25, iscrowd=True).is_ignored
