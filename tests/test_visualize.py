"""Skeletons on pictures: what is drawn, where, and what is left alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from dgcn.predict.visualize import draw_poses
from dgcn.skeleton import COCO


@dataclass
class Person:
    keypoints: np.ndarray  # [K, 2] px
    scores: np.ndarray  # [K]


@pytest.fixture
def standing() -> Person:
    """A person facing the camera in the middle of a picture of 200 × 200 px."""
    pose = COCO.upright_pose
    return Person(pose + np.array([100, 10]), np.full(17, 0.9))


@pytest.fixture
def gray() -> np.ndarray:
    return np.full((200, 200, 3), 90, np.uint8)


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return (before != after).any(axis=2)


def test_draws_on_a_copy_around_the_person(gray, standing) -> None:
    before = gray.copy()
    drawn = draw_poses(gray, [standing], COCO)
    assert drawn.shape == gray.shape
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(gray, before)
    for x, y in np.rint(standing.keypoints).astype(int):
        assert changed(gray, drawn)[y, x]
    rows, columns = np.nonzero(changed(gray, drawn))
    assert (rows.min(), rows.max()) == pytest.approx((21, 176), abs=8)
    assert (columns.min(), columns.max()) == pytest.approx((73, 127), abs=8)


def test_left_is_warm_and_right_is_cool(gray, standing) -> None:
    drawn = draw_poses(gray, [standing], COCO).astype(int)
    for k, name in enumerate(COCO.keypoints):
        x, y = np.rint(standing.keypoints[k]).astype(int)
        red, _, blue = drawn[y, x]
        if name.startswith("left"):
            assert red > blue + 50
        elif name.startswith("right"):
            assert blue > red + 50


def test_keypoints_up_to_the_threshold_are_left_out(gray, standing) -> None:
    wrist = COCO.keypoints.index("left_wrist")
    standing.scores[wrist] = 0.3
    x, y = np.rint(standing.keypoints[wrist]).astype(int)
    assert changed(gray, draw_poses(gray, [standing], COCO))[y, x]
    assert not changed(gray, draw_poses(gray, [standing], COCO, threshold=0.3))[y, x]


def test_nothing_to_draw(gray, standing) -> None:
    standing.scores[:] = 0
    for poses in ([], [standing]):
        np.testing.assert_array_equal(draw_poses(gray, poses, COCO), gray)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e30, 1e30])
def test_wild_coordinates_do_no_harm(gray, standing, value) -> None:
    standing.keypoints[0] = value
    assert changed(gray, draw_poses(gray, [standing], COCO)).any()


def test_lines_grow_with_the_person(standing) -> None:
    large = Person(standing.keypoints * 5, standing.scores)
    canvas = np.zeros((1000, 1000, 3), np.uint8)
    share = [
        changed(canvas, draw_poses(canvas, [p], COCO)).sum() / np.ptp(p.keypoints[:, 1]) for p in (standing, large)
    ]
    assert share[1] > 2 * share[0]


def test_any_layout_of_the_picture(gray, standing) -> None:
    expected = draw_poses(gray, [standing], COCO)
    fortran, flipped = np.asfortranarray(gray), np.ascontiguousarray(gray[:, :, ::-1])[:, :, ::-1]
    readonly = gray.copy()
    readonly.setflags(write=False)
    for image in (fortran, flipped, readonly):
        np.testing.assert_array_equal(draw_poses(image, [standing], COCO), expected)


def test_bad_input(gray, standing) -> None:
    with pytest.raises(TypeError, match=r"image must be a uint8 array \[H, W, 3\], got Image"):
        draw_poses(Image.fromarray(gray), [standing], COCO)
    with pytest.raises(ValueError, match=r"image must be uint8 \[H, W, 3\], got float32 \[200, 200, 3\]"):
        draw_poses(gray.astype(np.float32), [standing], COCO)
    with pytest.raises(ValueError, match=r"image must be uint8 \[H, W, 3\], got uint8 \[200, 200\]"):
        draw_poses(gray[:, :, 0], [standing], COCO)
    with pytest.raises(ValueError, match=r"poses must have keypoints \[17, 2\] .* got \[14, 2\]"):
        draw_poses(gray, [Person(standing.keypoints[:14], standing.scores[:14])], COCO)


def test_the_colour_of_an_id(gray, standing) -> None:
    """The same in every frame and for every person, on a label above the head as well; others have other colours."""
    (x, y), moved = np.rint(standing.keypoints[0]).astype(int), Person(standing.keypoints + 20, standing.scores)
    first = draw_poses(gray, [standing], COCO, track_ids=[7])
    later = draw_poses(gray, [moved], COCO, track_ids=[7])
    other = draw_poses(gray, [standing], COCO, track_ids=[8])
    np.testing.assert_array_equal(first[y, x], later[y + 20, x + 20])
    assert np.abs(first[y, x].astype(int) - other[y, x]).max() > 80
    assert changed(draw_poses(gray, [standing], COCO), first)[: y - 8].any()
    with pytest.raises(ValueError, match="track_ids must be one for each of the 1 poses, got 2"):
        draw_poses(gray, [standing], COCO, track_ids=[1, 2])


def test_labels_stay_within_the_picture(gray, standing) -> None:
    for place in ([-1000, -1000], [1000, 1000], [np.nan, 0]):
        far = Person(standing.keypoints + place, standing.scores)
        assert draw_poses(gray, [far], COCO, track_ids=[123456]).shape == gray.shape
