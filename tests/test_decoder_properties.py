"""Symmetries of the decoder: order of persons, keypoints and limbs; flipped images; persons elsewhere in the image."""

from __future__ import annotations

import numpy as np
import pytest
from painting import STRIDE, paint

from dgcn_ext.decoder import DecoderConfig, PifPafDecoder

LIMBS = [(0, 1), (2, 1), (2, 3), (1, 4), (4, 0)]  # with a cycle, in either direction
NUM_KEYPOINTS = 5
HEIGHT, WIDTH = 24, 30  # cells
SEEDS = range(40)
CONFIGS = pytest.mark.parametrize(
    "config", [DecoderConfig(), DecoderConfig(force_complete=True)], ids=["default", "force-complete"]
)


def random_persons(rng: np.random.Generator, apart: bool) -> tuple[np.ndarray, np.ndarray]:
    """Two to four persons [P, K, 3] with scales [P, K], in cells; often on top of each other, unless they are `apart`.

    Coordinates are odd multiples of 1/128 cells, so that no joint is half-way between two pixels of stride 8.
    """
    count = rng.integers(2, 5)
    quarters = rng.permutation([(7, 7), (22, 7), (7, 17), (22, 17)])[:count, None]
    centers = quarters if apart else rng.uniform((6, 6), (WIDTH - 8, HEIGHT - 8), (count, 1, 2))
    joints = centers + rng.uniform(-3, 3, (count, NUM_KEYPOINTS, 2))
    joints = (2 * np.floor(joints * 64) + 1) / 128
    return np.concatenate([joints, np.ones((count, NUM_KEYPOINTS, 1))], -1), rng.uniform(0.4, 2, (count, NUM_KEYPOINTS))


def random_fields(rng: np.random.Generator, apart: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Fields of those persons with random confidences, as of an uncertain network."""
    pif, paf = paint(*random_persons(rng, apart), LIMBS, HEIGHT, WIDTH)
    for field in (pif, paf):
        field[:, 1] *= rng.uniform(0.4, 1, field[:, 1].shape)
    return pif, paf


def decode(fields, config: DecoderConfig, limbs=LIMBS) -> np.ndarray:
    persons = PifPafDecoder(NUM_KEYPOINTS, limbs, config)(*fields, STRIDE)
    assert (persons[..., 0] > 0).sum(1).max() >= 3  # a scene to compare
    return persons


def assert_same_persons(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found[..., 0] > 0, expected[..., 0] > 0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)


@CONFIGS
def test_order_of_persons_in_the_scene(config):
    for seed in SEEDS:
        persons, scales = random_persons(np.random.default_rng(seed), apart=False)
        fields = paint(persons, scales, LIMBS, HEIGHT, WIDTH)
        order = np.random.default_rng(seed).permutation(len(persons))
        permuted = paint(persons[order], scales[order], LIMBS, HEIGHT, WIDTH)
        np.testing.assert_array_equal(decode(permuted, config), decode(fields, config))


@CONFIGS
def test_order_of_keypoints_and_limbs(config):
    """New labels, limbs listed in another order and each in a random direction: the same persons under those labels."""
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        pif, paf = random_fields(rng)
        keypoints, order = rng.permutation(NUM_KEYPOINTS), rng.permutation(len(LIMBS))
        label = np.argsort(keypoints)  # keypoints[label[k]] = k
        limbs, permuted_paf = [], paf[order]
        for m, limb in enumerate(order):
            a, b = label[list(LIMBS[limb])]
            if rng.random() < 0.5:
                a, b = b, a
                permuted_paf[m] = permuted_paf[m, [0, 1, 4, 5, 2, 3, 7, 6]]
            limbs.append((a, b))
        found = decode((pif[keypoints], permuted_paf), config, limbs)
        assert_same_persons(found[:, label], decode((pif, paf), config))


@CONFIGS
@pytest.mark.parametrize("axis", [0, 1], ids=["left-right", "upside down"])
def test_flipped_image(config, axis):
    """Of persons that do not overlap: the square a joint occupies is not symmetric, but one bitmap cell to the left."""
    edge = (WIDTH, HEIGHT)[axis]
    for seed in SEEDS:
        pif, paf = random_fields(np.random.default_rng(seed), apart=True)
        flipped = [np.flip(field, 3 - axis).copy() for field in (pif, paf)]
        flipped[0][:, 2 + axis] = (edge - 1) - flipped[0][:, 2 + axis]
        for x in (2, 4):
            flipped[1][:, x + axis] = (edge - 1) - flipped[1][:, x + axis]
        expected = decode((pif, paf), config)
        found = expected[..., 0] > 0
        expected[..., 1 + axis] = np.where(found, (edge - 1) * STRIDE - expected[..., 1 + axis], 0)
        assert_same_persons(decode(flipped, config), expected)


@CONFIGS
def test_shifted_by_whole_cells(config):
    """The scene in a larger image, at any place."""
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        pif, paf = random_fields(rng)
        expected = decode((pif, paf), config)
        left, top, right, bottom = rng.integers(0, 12, 4)
        shifted = [np.pad(field, ((0, 0), (0, 0), (top, bottom), (left, right))) for field in (pif, paf)]
        for field, starts in ((shifted[0], (2,)), (shifted[1], (2, 4))):
            for x in starts:
                field[:, x] += left
                field[:, x + 1] += top
        found = expected[..., 0] > 0
        expected[..., 1:3] += found[..., None] * np.array([left, top]) * STRIDE
        assert_same_persons(decode(shifted, config), expected)
