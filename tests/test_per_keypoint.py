"""PCK and the numbers of each keypoint."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from metric_cases import MPII, annotated, find_badly, found, image

from dgcn.evaluation.oks import evaluate_keypoints
from dgcn.evaluation.per_keypoint import evaluate_per_keypoint, pck
from dgcn.skeleton import Skeleton

FACE = Skeleton(
    name="face",
    keypoints=("nose", "left_eye", "right_eye"),
    limbs=((0, 1), (0, 2)),
    sigmas=(0.05, 0.05, 0.05),
    flip=(0, 2, 1),
    upright_pose=np.zeros((3, 2)),
)
XY = np.array([[150.0, 200.0], [200.0, 100.0], [100.0, 100.0]])  # scale 100
SEEN = annotated(XY)
NOTHING = {"AP": -1.0, "PCK": -1.0, "error": -1.0, "swapped": -1.0}


def test_by_hand() -> None:
    """Three persons: one found, one with its eyes swapped, and one whose nose is 10 px off and left eye not found."""
    assert SEEN.scale == 100
    swapped, blind = XY[[0, 2, 1]], XY + np.array([[10, 0], [0, 0], [0, 0]])
    blind[1] = 0
    records = [image(i, SEEN) for i in range(3)]
    results = [found(i, xy, 0.9 - i / 10) for i, xy in enumerate((XY, swapped, blind))]
    numbers = evaluate_per_keypoint(records, results, FACE)
    assert list(numbers) == list(FACE.keypoints)
    assert numbers["nose"]["PCK"] == 1.0  # 10 px are a tenth of the scale
    assert numbers["nose"]["error"] == pytest.approx(0.1 / 3)
    assert numbers["nose"]["swapped"] == -1.0
    assert numbers["left_eye"] == pytest.approx({"AP": 34 / 101, "PCK": 1 / 3, "error": 1 / 2, "swapped": 1 / 2})
    # Of the right eyes the first and the third from the top are right: precision 2/3 up to recall 2/3.
    ap = (34 + 33 * 2 / 3) / 101
    assert numbers["right_eye"] == pytest.approx({"AP": ap, "PCK": 2 / 3, "error": 1 / 3, "swapped": 1 / 3})
    assert pck(records, results) == pytest.approx(6 / 9)


def test_a_keypoint_counts_where_it_is_annotated() -> None:
    half = annotated(XY, visibility=[0, 2, 2])
    assert evaluate_per_keypoint([image(1, half)], [found(1, XY, 0.5)], FACE)["nose"] == NOTHING
    # An eye at the place of the other eye is only swapped where that is annotated.
    other_missing = replace(annotated(XY, visibility=[2, 2, 0]), area=100.0**2)
    numbers = evaluate_per_keypoint([image(1, other_missing)], [found(1, XY[[0, 2, 1]], 0.5)], FACE)
    assert (numbers["left_eye"]["PCK"], numbers["left_eye"]["swapped"]) == (0.0, -1.0)


def test_a_person_with_both_sides_swapped_is_found() -> None:
    """No keypoint is right, and yet it is clear who was found."""
    tall = XY * (1, 2)
    records = [image(1, annotated(tall, visibility=[0, 2, 2]))]
    records[0] = replace(records[0], annotations=(replace(records[0].annotations[0], area=100.0 * 200),))
    numbers = evaluate_per_keypoint(records, [found(1, tall[[0, 2, 1]], 0.5)], FACE)
    assert numbers["left_eye"]["swapped"] == numbers["right_eye"]["swapped"] == 1.0
    assert numbers["left_eye"]["PCK"] == 0.0


def test_ap_is_that_of_persons_with_one_keypoint() -> None:
    rng = np.random.default_rng(4)
    records = [image(i, *(annotated(rng.uniform(1, 400, (16, 2))) for _ in range(2))) for i in range(6)]
    results = find_badly(records, seed=6)
    numbers = evaluate_per_keypoint(records, results, MPII)
    for k in (0, 9):
        alone = [
            replace(record, annotations=tuple(replace(p, keypoints=p.keypoints[[k]]) for p in record.annotations))
            for record in records
        ]
        places = [result | {"keypoints": result["keypoints"][3 * k : 3 * k + 3]} for result in results]
        places = [place for place in places if place["keypoints"][2]]
        expected = evaluate_keypoints(alone, places, sigmas=[MPII.sigmas[k]])["AP"]
        assert numbers[MPII.keypoints[k]]["AP"] == pytest.approx(expected)


def test_nobody_annotated_and_nobody_found() -> None:
    assert evaluate_per_keypoint([image("a")], [found("a", XY, 0.5)], FACE) == dict.fromkeys(FACE.keypoints, NOTHING)
    assert pck([image("a")], [found("a", XY, 0.5)]) == -1.0
    missed = NOTHING | {"AP": 0.0, "PCK": 0.0}
    assert evaluate_per_keypoint([image("a", SEEN)], [], FACE) == dict.fromkeys(FACE.keypoints, missed)
    assert pck([image("a", SEEN)], []) == 0.0
