"""Sizes, and that a dot painted on a picture lands where its coordinates say, in training and in prediction."""

from __future__ import annotations

import numpy as np
import pytest

from dgcn.data.transforms import PAD_COLOR, Preprocess, TrainTransform, fit_pad, resize_pad, transform_annotation
from dgcn.records import Annotation
from dgcn.sizes import check_size, padded_size
from dgcn.skeleton import COCO

PLAIN = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "grayscale_probability": 0.0}


def picture_with_dot(width, height, x, y, radius):
    """Padding-coloured uint8 [height, width, 3] with a round blob about (x, y) px, to any fraction of a pixel."""
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    blob = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * radius**2))
    return np.rint(np.array(PAD_COLOR) + 100 * blob[..., None]).astype(np.uint8)


def dot(image):
    """(x, y) px of the blob: its centre of mass."""
    weight = np.clip(image.astype(np.float64) - PAD_COLOR, 0, None).sum(axis=2)
    columns, rows = np.meshgrid(np.arange(image.shape[1]), np.arange(image.shape[0]))
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


def person(*joints, box=(0, 0, 10, 10), area=50.0, iscrowd=False):
    """An annotation whose first joints are the given (x, y, v)."""
    keypoints = np.zeros((17, 3), np.float32)
    if joints:
        keypoints[: len(joints)] = joints
    return Annotation(keypoints, tuple(map(float, box)), area, iscrowd)


@pytest.mark.parametrize("size", [17, 33, 321, 385, 513, 641])
def test_network_sizes(size):
    assert check_size(size) == size
    assert padded_size(size) == size
    assert padded_size(size - 1) == size
    assert padded_size(size + 1) == size + 16


@pytest.mark.parametrize(("size", "hint"), [(640, "625 or 641"), (384, "369 or 385"), (1, "17 or 33")])
def test_other_sizes_are_refused_with_a_hint(size, hint):
    with pytest.raises(ValueError, match=f"multiple of 16 plus 1 .say {hint}., got {size}"):
        check_size(size)


@pytest.mark.parametrize(
    ("width", "height", "canvas_shape"),
    [(640, 480, (289, 385)), (480, 640, (385, 289)), (100, 100, (385, 385)), (1000, 10, (17, 385))],
)
def test_resize_pad_sizes(width, height, canvas_shape):
    canvas, preprocess = resize_pad(np.full((height, width, 3), 255, np.uint8), 385)
    assert canvas.dtype == np.uint8
    assert canvas.shape == (*canvas_shape, 3)
    assert preprocess.original_size == (width, height)
    # The last pixel of the picture is where the convention says, and what follows is padding.
    right, bottom = round((width - 1) * preprocess.scale), round((height - 1) * preprocess.scale)
    assert (canvas[1 : bottom - 1, 1 : right - 1] > 250).all()
    assert (canvas[bottom + 2 :] == PAD_COLOR).all()
    assert (canvas[:, right + 2 :] == PAD_COLOR).all()


@pytest.mark.parametrize(("width", "height", "canvas_width"), [(1, 1, 17), (2, 1, 33)])
def test_resize_pad_of_hardly_a_picture(width, height, canvas_width):
    canvas, preprocess = resize_pad(np.full((height, width, 3), 255, np.uint8), 33)
    assert canvas.shape == (17, canvas_width, 3)
    assert preprocess.scale == 32


@pytest.mark.parametrize(("width", "height", "scale"), [(640, 480, 128 / 639), (480, 640, 96 / 639)])
def test_fit_pad(width, height, scale):
    """The larger edge fits, and the picture lies on the canvas as `resize_pad` puts it."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    canvas, preprocess = fit_pad(image, 97, 129)
    assert (canvas.shape, preprocess) == ((97, 129, 3), Preprocess(scale, (width, height)))
    tight, _ = resize_pad(image, round(scale * 639) + 1)
    rows, columns = tight.shape[:2]
    assert np.array_equal(canvas[:rows, :columns], tight)
    assert (canvas[rows:] == PAD_COLOR).all()
    assert (canvas[:, columns:] == PAD_COLOR).all()


def test_resize_pad_at_the_same_size_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (33, 49, 3), dtype=np.uint8)
    canvas, preprocess = resize_pad(image, 49)
    np.testing.assert_array_equal(canvas, image)
    assert preprocess.scale == 1


@pytest.mark.parametrize(("width", "height"), [(97, 64), (250, 333), (640, 480), (1500, 1111)])
def test_dot_comes_back_to_its_original_pixel(width, height):
    x, y = width * 0.61 + 0.3, height * 0.27 + 0.4
    canvas, preprocess = resize_pad(picture_with_dot(width, height, x, y, radius=max(width, height) / 50), 257)
    scale = 256 / (max(width, height) - 1)
    np.testing.assert_allclose(dot(canvas), (x * scale, y * scale), atol=0.05)
    np.testing.assert_allclose(preprocess.to_original(dot(canvas)), (x, y), atol=0.05 / scale)


def test_to_original_keeps_the_shape():
    assert Preprocess(2.0, (10, 10)).to_original(np.ones((3, 17, 2), np.float32)).tolist() == [[[0.5, 0.5]] * 17] * 3


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_pictures_of_another_kind_are_refused(image):
    transform = TrainTransform(size=33, skeleton=COCO)
    with pytest.raises(ValueError, match=r"image must be non-empty uint8 \[H, W, 3\], got"):
        resize_pad(image, 33)
    with pytest.raises(ValueError, match=r"image must be non-empty uint8 \[H, W, 3\], got"):
        transform(image, [], np.random.default_rng(0))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("width", "height"), [(320, 200), (900, 1200)])
def test_training_moves_dot_and_keypoint_alike(seed, width, height):
    transform = TrainTransform(size=257, skeleton=COCO, scale_range=(0.5, 1.0), **PLAIN)
    x, y = width * 0.4 + 0.3, height * 0.6 + 0.4
    image = picture_with_dot(width, height, x, y, radius=max(width, height) / 50)
    warped, (moved,) = transform(image, [person((x, y, 2))], np.random.default_rng(seed))
    assert warped.shape == (257, 257, 3)
    assert moved.keypoints[0, 2] == 2
    np.testing.assert_allclose(dot(warped), moved.keypoints[0, :2], atol=0.15)


def test_training_and_prediction_agree_without_augmentation():
    image = picture_with_dot(700, 900, 310.3, 520.8, radius=18)
    transform = TrainTransform(size=257, skeleton=COCO, scale_range=(1, 1), rotation=0, flip_probability=0, **PLAIN)
    warped, (moved,) = transform(image, [person((310.3, 520.8, 2))], np.random.default_rng(0))
    canvas, preprocess = resize_pad(image, 257)
    step = dot(warped) - dot(canvas)  # the position in the square is still random along the short edge
    np.testing.assert_allclose(step[1], 0, atol=0.05)
    np.testing.assert_allclose(preprocess.to_original(moved.keypoints[0, :2] - step), (310.3, 520.8), atol=0.4)


def test_flip_mirrors_the_picture_and_swaps_sides():
    transform = TrainTransform(size=257, skeleton=COCO, scale_range=(1, 1), rotation=0, flip_probability=1, **PLAIN)
    joints = np.zeros((17, 3), np.float32)
    joints[5], joints[6] = (60, 40, 2), (20, 50, 1)  # left and right shoulder
    _, (moved,) = transform(
        np.zeros((257, 257, 3), np.uint8), [Annotation(joints, (20, 40, 40, 10), 400)], np.random.default_rng(0)
    )
    np.testing.assert_allclose(moved.keypoints[5], (236, 50, 1), atol=1e-3)
    np.testing.assert_allclose(moved.keypoints[6], (196, 40, 2), atol=1e-3)
    np.testing.assert_allclose(moved.box, (196, 40, 40, 10), atol=1e-3)


def test_the_same_generator_gives_the_same_sample_and_another_does_not():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
    persons = [person((30, 40, 2), (50, 60, 1)), person(box=(5, 5, 40, 40))]
    transform = TrainTransform(size=129, skeleton=COCO)
    first, annotations = transform(image, persons, np.random.default_rng(5))
    again, same = transform(image, persons, np.random.default_rng(5))
    np.testing.assert_array_equal(first, again)
    assert [a.box for a in annotations] == [a.box for a in same]
    assert not np.array_equal(first, transform(image, persons, np.random.default_rng(6))[0])


def test_somebody_stays_in_view_and_nothing_lies_outside():
    transform = TrainTransform(size=129, skeleton=COCO, scale_range=(0.3, 6.0))
    image = np.zeros((400, 300, 3), np.uint8)
    # Joints close together, so that the person's middle in view means its joints in view.
    persons = [person((10, 12, 2), (14, 11, 2)), person((280, 390, 1), (284, 392, 2))]
    for seed in range(200):
        _, moved = transform(image, persons, np.random.default_rng(seed))
        keypoints = np.concatenate([a.keypoints for a in moved])
        assert (keypoints[:, 2] > 0).sum() >= 2
        assert (keypoints[:, :2] >= 0).all()
        assert (keypoints[:, :2] <= 128).all()
        assert (keypoints[keypoints[:, 2] == 0] == 0).all()
        for annotation in moved:
            x, y, w, h = annotation.box
            assert x >= 0
            assert y >= 0
            assert x + w <= 128 + 1e-6
            assert y + h <= 128 + 1e-6


def test_keypoints_leave_boxes_are_clipped_and_absent_people_dropped():
    shift = np.array([[1.0, 0, -50], [0, 1.0, 0]])
    partly = person((40, 10, 2), (60, 10, 1), (51, 5, 0), box=(40, 0, 30, 20), area=500)
    moved = transform_annotation(partly, shift, (65, 65))
    assert moved is not None
    np.testing.assert_allclose(moved.keypoints[:3], [(0, 0, 0), (10, 10, 1), (0, 0, 0)])
    assert moved.box == (0, 0, 20, 20)
    assert moved.area == 500
    assert not moved.is_ignored
    assert transform_annotation(person((20, 10, 2), box=(10, 0, 20, 20)), shift, (65, 65)) is None

    # Nothing but a box is left of somebody: from then on it is a region to ignore.
    torso = transform_annotation(person((45, 10, 2), box=(40, 0, 30, 20)), shift, (65, 65))
    assert torso is not None
    assert torso.is_ignored
    crowd = transform_annotation(person(box=(55, 5, 10, 10), iscrowd=True), shift, (65, 65))
    assert crowd is not None
    assert crowd.iscrowd
    assert crowd.box == (5, 5, 10, 10)


def test_box_of_a_turned_person_holds_it_and_area_scales():
    angle = np.radians(30)
    turn = 2 * np.array([[np.cos(angle), -np.sin(angle), 50], [np.sin(angle), np.cos(angle), 20]])
    moved = transform_annotation(person((10, 20, 2), (30, 50, 2), box=(10, 20, 20, 30), area=300), turn, (401, 401))
    assert moved is not None
    x, y, w, h = moved.box
    joints = moved.keypoints[:2, :2]
    assert (joints >= (x - 1e-3, y - 1e-3)).all()
    assert (joints <= (x + w + 1e-3, y + h + 1e-3)).all()
    assert moved.area == pytest.approx(1200)


def test_jitter_changes_colours_only():
    image = np.random.default_rng(0).integers(0, 256, (65, 65, 3), dtype=np.uint8)
    still = {"size": 65, "skeleton": COCO, "scale_range": (1, 1), "rotation": 0, "flip_probability": 0}
    plain, _ = TrainTransform(**still, **PLAIN)(image, [], np.random.default_rng(1))
    np.testing.assert_array_equal(plain, image)
    gray, _ = TrainTransform(**still, **{**PLAIN, "grayscale_probability": 1.0})(image, [], np.random.default_rng(1))
    np.testing.assert_array_equal(gray[..., 0], gray[..., 2])
    dark = [
        TrainTransform(**still, **{**PLAIN, "brightness": 0.5})(image, [], np.random.default_rng(seed))[0].mean()
        for seed in range(20)
    ]
    assert min(dark) < image.mean() * 0.8
    assert max(dark) > image.mean() * 1.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 256}, "multiple of 16 plus 1"),
        ({"scale_range": (0, 1)}, "scale_range must be 0 < low <= high"),
        ({"scale_range": (2, 1)}, "scale_range must be 0 < low <= high"),
        ({"rotation": -1}, "rotation must be in"),
        ({"flip_probability": 1.5}, r"flip_probability must be in \[0, 1\], got 1.5"),
        ({"contrast": -0.1}, "contrast must be in"),
    ],
)
def test_malformed_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrainTransform(**{"size": 257, "skeleton": COCO, **options})
