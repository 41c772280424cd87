"""Eq. 5 and 6 against a loop over persons and pairs, and the constant computed from COCO."""

from __future__ import annotations

import gzip
import json
import math

import numpy as np
import pytest
import torch

from dgcn.data.coco_format import read_ground_truth
from dgcn.graph import (
    coco_distances,
    distance_matrix,
    hand_crafted_adjacency,
    identity_adjacency,
    known_distances,
    measurements,
    ones_adjacency,
    read_distances,
    soft_adjacency,
    strongest_edges,
)
from dgcn.records import Annotation
from dgcn.skeleton import COCO, Skeleton


def random_persons(seed, persons=40, keypoints=6):
    rng = np.random.default_rng(seed)
    return (
        rng.uniform(0, 500, (persons, keypoints, 2)),
        rng.integers(0, 3, (persons, keypoints)),
        rng.uniform(20, 300, persons),
    )


def test_distance_matrix_is_the_mean_over_persons_with_both_keypoints():
    xy, visibility, scale = random_persons(0)
    expected = np.zeros((6, 6))
    for i in range(6):
        for j in range(6):
            seen = [
                math.dist(xy[n, i], xy[n, j]) / scale[n]
                for n in range(40)
                if visibility[n, i] > 0 and visibility[n, j] > 0
            ]
            expected[i, j] = sum(seen) / len(seen)
    distances = distance_matrix(xy, visibility, scale)
    assert distances.dtype == np.float64
    np.testing.assert_allclose(distances, expected, rtol=1e-12)


def test_unannotated_keypoints_do_not_count_whatever_their_coordinates():
    xy, visibility, scale = random_persons(1)
    expected = distance_matrix(xy, visibility, scale)
    xy[visibility == 0] = np.nan
    np.testing.assert_array_equal(distance_matrix(xy, visibility, scale), expected)


def test_pair_never_seen_together_is_infinitely_far_and_least_related():
    xy, visibility, scale = random_persons(2)
    visibility[:, 0] = 2
    visibility[::2, 3], visibility[1::2, 3] = 0, 2
    visibility[1::2, 4], visibility[::2, 4] = 0, 2
    distances = distance_matrix(xy, visibility, scale)
    assert distances[3, 4] == distances[4, 3] == np.inf
    assert np.isfinite(np.delete(distances, [3, 4], axis=0)).all()
    adjacency = soft_adjacency(distances)
    assert torch.isfinite(adjacency).all()
    assert adjacency[3].argmin() == 4


def test_nobody_and_integer_coordinates():
    empty = distance_matrix(np.zeros((0, 3, 2)), np.zeros((0, 3)), np.zeros(0))
    np.testing.assert_array_equal(empty, np.where(np.eye(3), 0, np.inf))
    # An unknown graph treats all neighbours alike.
    np.testing.assert_allclose(soft_adjacency(empty), np.where(np.eye(3), 1, 0.5))
    xy = np.array([[[0, 0], [3, 4]]], dtype=np.int16)
    assert distance_matrix(xy, np.array([[1, 2]], dtype=np.uint8), np.array([10.0]))[0, 1] == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 3)), np.zeros((2, 3)), np.ones(2)), r"keypoints_xy must have shape \[P, K, 2\], got \[2, 3\]"),
        ((np.zeros((2, 3, 2)), np.zeros((2, 4)), np.ones(2)), r"visibility and scale .* got \[2, 4\] and \[2\]"),
        ((np.zeros((2, 3, 2)), np.zeros((2, 3)), np.ones(3)), r"visibility and scale .* got \[2, 3\] and \[3\]"),
        ((np.zeros((2, 3, 2)), np.zeros((2, 3)), np.array([1.0, 0.0])), "scale must be finite and positive"),
        ((np.zeros((2, 3, 2)), np.zeros((2, 3)), np.array([1.0, np.nan])), "scale must be finite and positive"),
        ((np.full((2, 3, 2), np.nan), np.ones((2, 3)), np.ones(2)), "keypoints_xy must be finite"),
    ],
)
def test_distance_matrix_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        distance_matrix(*arguments)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 100.0])
def test_soft_adjacency_is_a_row_softmax_off_the_diagonal(gamma):
    distances = distance_matrix(*random_persons(3))
    adjacency = soft_adjacency(distances, gamma)
    assert adjacency.dtype == torch.float32
    for i in range(6):
        others = [j for j in range(6) if j != i]
        # exp(l_j) / sum exp(l_n) as 1 / sum exp(l_n - l_j), which cannot overflow to NaN
        for j in others:
            with np.errstate(over="ignore"):
                expected = 1 / np.exp([gamma / distances[i, n] - gamma / distances[i, j] for n in others]).sum()
            assert adjacency[i, j].item() == pytest.approx(expected, rel=1e-5, abs=1e-30)
        assert adjacency[i, i] == 1


def test_soft_adjacency_survives_large_gamma_and_coinciding_keypoints():
    distances = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    for gamma in (0.5, 1e6):
        adjacency = soft_adjacency(distances, gamma)
        np.testing.assert_allclose(adjacency, [[1, 1, 0], [1, 1, 0], [0.5, 0.5, 1]], atol=1e-6)


def test_single_keypoint_has_itself():
    assert soft_adjacency(np.zeros((1, 1))).tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("distances", "gamma", "message"),
    [
        (np.ones((2, 3)), 0.5, r"distances must be square, got shape \[2, 3\]"),
        (np.full((2, 2), np.nan), 0.5, "not NaN"),
        (np.full((2, 2), -1.0), 0.5, "at least 0"),
        (np.ones((2, 2)), -1.0, "gamma must be finite and at least 0, got -1.0"),
        (np.ones((2, 2)), math.inf, "gamma must be finite"),
    ],
)
def test_soft_adjacency_refuses(distances, gamma, message):
    with pytest.raises(ValueError, match=message):
        soft_adjacency(distances, gamma)


def test_fixed_graphs():
    hand = hand_crafted_adjacency(COCO)
    assert torch.equal(hand, hand.T)
    assert hand.sum() == 17 + 2 * 19
    assert hand[15, 13] == hand[0, 0] == 1
    assert hand[0, 16] == 0
    assert torch.equal(identity_adjacency(5), torch.eye(5))
    assert torch.equal(ones_adjacency(5), torch.ones(5, 5))


def test_strongest_edges_are_those_of_the_soft_adjacency_with_mirror_images_together():
    edges = strongest_edges(COCO, coco_distances())
    assert len(edges) == 17 * 16 // 2 - COCO.num_limbs == len(set(edges))
    assert not {frozenset(edge) for edge in edges} & {frozenset(limb) for limb in COCO.limbs}
    names = [{COCO.keypoints[end] for end in edge} for edge in edges]
    assert names[:2] == [{"left_knee", "right_knee"}, {"left_ankle", "right_ankle"}]
    mirrored = [{COCO.keypoints[COCO.flip[end]] for end in edge} for edge in edges]
    for index, edge in enumerate(mirrored):
        assert abs(names.index(edge) - index) <= 1


def test_coco_distances_are_plausible():
    distances = coco_distances()
    assert distances.shape == (17, 17)
    np.testing.assert_array_equal(distances, distances.T)
    np.testing.assert_array_equal(np.diag(distances), 0)
    name = COCO.keypoints.index
    nose = distances[name("nose")]
    assert 0 < nose[name("left_eye")] < nose[name("left_shoulder")] < nose[name("left_hip")] < nose[name("left_ankle")]
    # Off the diagonal every row of A_s sums to 1: about one neighbour is drawn per keypoint.
    np.testing.assert_allclose(soft_adjacency(distances).sum(dim=1), 2, rtol=1e-5)


def test_who_is_measured_and_in_which_unit():
    seen = np.column_stack([np.arange(34.0).reshape(17, 2), np.full(17, 2)])
    persons = [
        Annotation(seen, (0, 0, 10, 50), 900.0),
        Annotation(seen, (0, 0, 40, 50), 0.0),  # unknown: the box has to do
        Annotation(seen, (0, 0, 0, 5), 0.0),  # without any size: cannot be measured
    ]
    xy, visibility, scale = measurements(persons, "a.json")
    np.testing.assert_array_equal(xy, [seen[:, :2]] * 2)
    np.testing.assert_array_equal(visibility, np.full((2, 17), 2))
    np.testing.assert_allclose(scale, [30, np.sqrt(2000)])
    with pytest.raises(ValueError, match=r"a\.json must have a person .* with an area or a box above 0"):
        measurements(persons[2:], "a.json")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "is not a JSON file"),
        ([1], r"must have the entries 'keypoints' and 'distances' of a graph\.json, got list"),
        ({"keypoints": ["a", "b"]}, r"must have the entries .*, got \['keypoints'\]"),
        (
            {"keypoints": ["b", "a"], "distances": [[0, 1], [1, 0]]},
            r"of the skeleton 'two', \['a', 'b'\], got \['b', 'a'\]",
        ),
        ({"keypoints": ["a", "b"], "distances": [[0, 1]]}, "distances must be 2 rows of 2 numbers of at least 0"),
        ({"keypoints": ["a", "b"], "distances": [[0, -1], [-1, 0]]}, "distances must be 2 rows"),
        ({"keypoints": ["a", "b"], "distances": [[0, "far"], [1, 0]]}, "distances must be 2 rows"),
        ({"keypoints": ["a", "b"], "distances": 3}, "distances must be 2 rows"),
    ],
)
def test_files_of_other_graphs_are_refused(document, message, tmp_path):
    path = tmp_path / "graph.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    with pytest.raises(ValueError, match=message) as error:
        read_distances(path, skeleton("two", ["a", "b"]))
    assert str(error.value).startswith(str(path))


def skeleton(name, keypoints):
    count = len(keypoints)
    return Skeleton(
        name=name,
        keypoints=tuple(keypoints),
        limbs=(),
        sigmas=(0.1,) * count,
        flip=tuple(range(count)),
        upright_pose=np.zeros((count, 2)),
    )


def check_shipped(names, persons):
    """What ships for keypoints of these names is Eq. 5 of these persons, to the digits it is written with."""
    distances = distance_matrix(*measurements(persons, "persons"))
    np.testing.assert_allclose(known_distances(skeleton("any", names)), distances, rtol=1e-5)


def test_no_distances_are_known_of_other_keypoints():
    assert known_distances(skeleton("other", ["nose", "tail"])) is None


def test_coco_distances_are_those_of_the_coco_persons(data_dir):
    """Whose areas are not in the file, so that their boxes have to do."""
    file = np.load(data_dir / "coco_train2017_person_keypoints.npz")
    keypoints = np.dstack([file["keypoints_xy"], file["visibility"]])
    sizes = file["bbox_wh"].astype(np.float64).tolist()
    check_shipped(COCO.keypoints, [Annotation(k, (0, 0, w, h), 0) for k, (w, h) in zip(keypoints, sizes, strict=True)])


def test_crowdpose_distances_are_those_of_its_validation_persons(data_dir):
    content = gzip.decompress((data_dir / "fixtures" / "crowdpose" / "crowdpose_val.json.gz").read_bytes())
    document = json.loads(content)
    records = read_ground_truth(document, 14)
    check_shipped(document["categories"][0]["keypoints"], [person for each in records for person in each.persons])


def test_mpii_distances_are_those_of_its_validation_persons(data_dir):
    """A joint that nobody marked is at (0, 0); the file's scale is MPII's, enlarged by 1.25."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(data_dir / "fixtures" / "mpii" / "mpii_valid.h5") as file:
        joints, scale = file["part"][:], 200 * file["scale"][:] / 1.25
    keypoints = np.dstack([joints, (joints != 0).any(axis=2)])
    right = [f"right_{joint}" for joint in ("ankle", "knee", "hip", "wrist", "elbow", "shoulder")]
    left = [name.replace("right", "left") for name in right]
    names = [*right[:3], *left[2::-1], "pelvis", "thorax", "upper_neck", "head_top", *right[3:], *left[:2:-1]]
    check_shipped(names, [Annotation(k, (0, 0, s, s), s * s) for k, s in zip(keypoints, scale.tolist(), strict=True)])
