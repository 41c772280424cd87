"""The compiled encoder: comparison with its specification in numpy, symmetries, good and bad arguments."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from painting import COCO_LIMBS, COCO_SIGMAS, HAND_LIMBS, layouts

from dgcn.skeleton import COCO
from dgcn_ext.encoder import PifPafEncoder, Targets
from dgcn_ext.reference import encode

FIELDS = ("pif_confidence", "pif_offset", "pif_scale", "paf_confidence", "paf_offset")
# fmt: off
MPII_LIMBS = [(0, 1), (1, 2), (2, 6), (6, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9), (10, 11), (11, 12), (12, 7),
              (7, 13), (13, 14), (14, 15)]
CROWDPOSE_LIMBS = [(0, 1), (0, 2), (2, 4), (1, 3), (3, 5), (0, 6), (1, 7), (6, 7), (6, 8), (8, 10), (7, 9), (9, 11),
                   (12, 13), (13, 0), (13, 1)]
# fmt: on
SKELETONS = {
    "coco": (17, COCO_LIMBS),
    "mpii": (16, MPII_LIMBS),
    "crowdpose": (14, CROWDPOSE_LIMBS),
    "hand": (21, HAND_LIMBS),
    "two nodes": (2, [(1, 0)]),
    "disconnected": (5, [(0, 1), (4, 3)]),
    "no limbs": (3, []),
}


def build(name="coco"):
    """The encoder of a skeleton, and the arguments of its specification."""
    num_keypoints, limbs = SKELETONS[name]
    rng = np.random.default_rng(num_keypoints)
    if name == "coco":
        sigmas, pose = COCO_SIGMAS, COCO.upright_pose
    else:
        sigmas, pose = rng.uniform(0.02, 0.12, num_keypoints), rng.uniform(0, 170, (num_keypoints, 2))
    known = {"skeleton": limbs, "sigmas": sigmas, "upright_pose": pose}
    return PifPafEncoder(num_keypoints, *known.values()), known


def random_persons(rng, pose, height, width, snapped):
    """Keypoints [P, K, 3] of persons that overlap, hide each other and stick out of the picture; `snapped` to a grid of
    2 px, they are equally far from many cells."""
    count = rng.integers(0, 9)
    xy = pose * rng.uniform(0.05, 1.5, (count, 1, 1)) + rng.uniform((-40, -40), (width, height), (count, 1, 2))
    xy += rng.normal(0, 4, xy.shape)
    if snapped:
        xy = 2 * np.round(xy / 2)
    return np.concatenate([xy, rng.choice([0, 1, 2], (*xy.shape[:2], 1), p=[0.2, 0.2, 0.6])], axis=-1)


def random_boxes(rng, height, width):
    return rng.uniform((-60, -60, 0, 0), (width, height, 90, 90), (rng.integers(0, 3), 4))


def assert_same(actual: Targets, expected: Targets) -> None:
    for name in FIELDS:
        assert getattr(actual, name).dtype == np.float32
        np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name), err_msg=name)
    assert actual.node_confidence.keys() == expected.node_confidence.keys()
    for stride, confidence in expected.node_confidence.items():
        np.testing.assert_array_equal(actual.node_confidence[stride], confidence)


@pytest.mark.parametrize("name", SKELETONS)
def test_equals_its_specification(name):
    encoder, known = build(name)
    rng = np.random.default_rng(7)
    persons = 0
    for i in range(200):
        height, width = ((145, 193), (97, 65), (17, 161), (1, 1))[i % 4]
        stride, node_strides = ((8, (16, 4)), (4, (16,)), (16, ()), (2, (8,)))[i // 4 % 4]
        keypoints = random_persons(rng, known["upright_pose"], height, width, snapped=i % 3 == 0)
        options = {"ignored": random_boxes(rng, height, width), "node_strides": node_strides}
        persons += len(keypoints)
        actual = encoder(keypoints, height, width, stride, **options)
        assert_same(actual, encode(keypoints, height, width, stride, **options, **known))
    assert persons > 700


def test_equals_its_specification_on_real_layouts(data_dir):
    encoder, known = build()
    rng = np.random.default_rng(0)
    for persons, _, height, width in (layout for n in (1, 4, 9) for layout in [*layouts(data_dir, n)][:25]):
        keypoints = persons * (8, 8, 1)
        keypoints[..., 2] *= rng.choice([1, 2], persons.shape[:2])  # some hidden
        size = 16 * (height // 2) + 1, 16 * (width // 2) + 1
        actual = encoder(keypoints, *size, 8, node_strides=(16, 8))
        assert_same(actual, encode(keypoints, *size, 8, node_strides=(16, 8), **known))


wild = st.sampled_from([np.nan, np.inf, -np.inf, 1e300, -1e300, 1e9, -1e9, 2e9, -0.0, 0.0, 1e-310, 64.0, 63.99999])
numbers = st.one_of(wild, st.floats(-100, 200))


@settings(max_examples=300)
@given(
    keypoints=st.integers(0, 4).flatmap(lambda n: hnp.arrays(np.float64, (n, 5, 3), elements=numbers)),
    ignored=st.integers(0, 3).flatmap(lambda n: hnp.arrays(np.float64, (n, 4), elements=numbers)),
)
def test_equals_its_specification_on_wild_values(keypoints, ignored):
    encoder, known = build("disconnected")
    keypoints[..., 2] = np.where(keypoints[..., 2] > 50, 2, keypoints[..., 2])
    options = {"ignored": ignored, "node_strides": (16,)}
    actual = encoder(keypoints, 65, 33, 8, **options)
    assert_same(actual, encode(keypoints, 65, 33, 8, **options, **known))
    assert not np.isinf(actual.pif_scale).any()


# Symmetries -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_order_of_persons_does_not_matter_without_ties(seed):
    encoder, known = build()
    rng = np.random.default_rng(seed)
    keypoints = random_persons(rng, known["upright_pose"], 145, 193, snapped=False)
    ignored = rng.uniform(0, 100, (3, 4))
    order = rng.permutation(len(keypoints))
    expected = encoder(keypoints, 145, 193, 8, ignored=ignored, node_strides=(16,))
    assert_same(encoder(keypoints[order], 145, 193, 8, ignored=ignored[::-1], node_strides=(16,)), expected)


def test_first_of_equals_wins():
    encoder, _ = build("two nodes")
    first, second = ([[x, 20, 2], [x, 60, 2]] for x in (16, 32))
    for persons, x in (([first, second], 16), ([second, first], 32)):
        targets = encoder(np.array(persons), 81, 81, 8)
        column = 3  # 24 px, midway
        assert targets.pif_offset[0, 0, 2, column] == x / 8 - column
        assert targets.paf_offset[0, 0, 5, column] == x / 8 - column


@pytest.mark.parametrize(("distance", "painted"), [(32, True), (31, False)])
def test_hidden_joint_beside_a_visible_one(distance, painted):
    encoder, _ = build("two nodes")
    visible, hidden = ([[x, 40, visibility], [0, 0, 0]] for x, visibility in ((40, 2), (40 + distance, 1)))
    targets = encoder(np.array([visible, hidden]), 81, 81, 8)
    assert targets.pif_confidence[0, 5, 9] == painted  # the cell of (72, 40) px


@pytest.mark.parametrize("seed", range(10))
def test_shifting_by_whole_cells(seed):
    encoder, known = build()
    rng = np.random.default_rng(seed)
    keypoints = random_persons(rng, known["upright_pose"] / 2, 100, 100, snapped=False)
    # Well inside, exact in float32 after the shift, and never midway between cells, where rounding is to even.
    keypoints[..., :2] = 200 + np.round(16 * keypoints[..., :2]) / 16 + 1 / 32
    ignored = 8.0 * rng.integers(25, 40, (2, 4))
    rows, columns = rng.integers(-3, 4, 2)
    base = encoder(keypoints, 641, 641, 8, ignored=ignored)
    keypoints[..., :2] += 8 * columns, 8 * rows
    ignored[:, :2] += 8 * columns, 8 * rows
    moved = encoder(keypoints, 641, 641, 8, ignored=ignored)
    for name in FIELDS:
        expected = np.roll(getattr(base, name), (rows, columns), axis=(-2, -1))
        np.testing.assert_array_equal(getattr(moved, name), expected, err_msg=name)


@pytest.mark.parametrize("seed", range(20))
def test_mirroring(seed):
    encoder, known = build()
    rng = np.random.default_rng(seed)
    keypoints = random_persons(rng, known["upright_pose"], 145, 193, snapped=False)
    ignored = random_boxes(rng, 145, 193)
    base = encoder(keypoints, 145, 193, 8, ignored=ignored)
    keypoints[..., 0] = 192 - keypoints[..., 0]
    ignored[:, 0] = 192 - ignored[:, 0] - ignored[:, 2]
    mirrored = encoder(keypoints, 145, 193, 8, ignored=ignored)
    for name in FIELDS:
        expected = getattr(base, name)[..., ::-1].copy()
        if name.endswith("offset"):
            expected[:, ::2] *= -1
        np.testing.assert_allclose(getattr(mirrored, name), expected, rtol=1e-5, atol=1e-5, err_msg=name)


def test_scales_grow_with_the_picture():
    """Twice as many pixels of the same scene at twice the stride: the same targets."""
    encoder, known = build()
    keypoints = random_persons(np.random.default_rng(5), known["upright_pose"], 145, 193, snapped=False)
    keypoints[..., 2] *= 2  # hidden ones go by pixels
    assert_same(encoder(keypoints * (2, 2, 1), 289, 385, 16), encoder(keypoints, 145, 193, 8))


# Batches, threads, memory ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(11)
    return [
        (random_persons(rng, COCO.upright_pose, 145, 193, snapped=False), random_boxes(rng, 145, 193))
        for _ in range(24)
    ]


@pytest.mark.parametrize("threads", [0, 1, 2, 7, 100])
def test_batches_equal_single_pictures(pictures, threads):
    encoder, _ = build()
    batch = encoder.batch(pictures, 145, 193, 8, node_strides=(16, 8), threads=threads)
    assert batch.paf_offset.shape == (24, 19, 4, 19, 25)
    assert batch.node_confidence[16].shape == (24, 17, 10, 13)
    for b, (keypoints, ignored) in enumerate(pictures):
        alone = encoder(keypoints, 145, 193, 8, ignored=ignored, node_strides=(16, 8))
        parts = {name: getattr(batch, name)[b] for name in FIELDS}
        nodes = {stride: confidence[b] for stride, confidence in batch.node_confidence.items()}
        assert_same(Targets(**parts, node_confidence=nodes), alone)


def test_empty_batch_and_empty_picture():
    encoder, _ = build()
    batch = encoder.batch([], 33, 65, 8, node_strides=(16,))
    assert batch.pif_offset.shape == (0, 17, 2, 5, 9)
    assert batch.node_confidence[16].shape == (0, 17, 3, 5)
    for nobody in ([], np.zeros((0, 17, 3)), np.zeros((2, 17, 3))):
        targets = encoder(nobody, 33, 65, 8)
        assert not targets.pif_confidence.any()
        assert not targets.paf_confidence.any()
        assert all(np.isnan(getattr(targets, name)).all() for name in ("pif_offset", "pif_scale", "paf_offset"))


def test_one_encoder_in_many_threads(pictures):
    encoder, _ = build()
    expected = encoder.batch(pictures, 145, 193, 8, threads=1)
    failures = []

    def work():
        for _ in range(5):
            try:
                assert_same(encoder.batch(pictures, 145, 193, 8, threads=2), expected)
            except AssertionError as error:
                failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_results_do_not_depend_on_what_out_held(pictures):
    encoder, _ = build()
    (before, boxes_before), (keypoints, ignored) = pictures[:2]
    expected = encoder(keypoints, 145, 193, 8, ignored=ignored, node_strides=(4,))
    out = encoder(before, 145, 193, 8, ignored=boxes_before, node_strides=(4,))
    for fill in (None, 3.0, np.nan):
        if fill is not None:
            for array in (*(getattr(out, name) for name in FIELDS), out.node_confidence[4]):
                array.fill(fill)
        assert encoder(keypoints, 145, 193, 8, ignored=ignored, node_strides=(4,), out=out) is out
        assert_same(out, expected)
    batch = encoder.batch(pictures[:3], 145, 193, 8)
    again = encoder.batch(pictures[3:6], 145, 193, 8, out=batch)
    assert again is batch
    assert_same(batch, encoder.batch(pictures[3:6], 145, 193, 8))


# Arguments ------------------------------------------------------------------------------------------------------------


def test_dtypes_and_layouts(pictures):
    encoder, _ = build()
    keypoints, ignored = pictures[0]
    keypoints, ignored = np.round(keypoints), np.round(ignored)
    expected = encoder(keypoints, 145, 193, 8, ignored=ignored)
    for dtype in (np.float32, ">f8", np.int16):
        assert_same(encoder(keypoints.astype(dtype), 145, 193, 8, ignored=ignored.astype(dtype)), expected)
    assert_same(encoder(keypoints.tolist(), 145, 193, np.int64(8), ignored=ignored.tolist()), expected)
    assert_same(encoder(np.asfortranarray(keypoints), 145, 193, 8, ignored=np.asfortranarray(ignored)), expected)


def test_bad_pictures():
    encoder, _ = build()
    none = np.zeros((1, 17, 3))
    for keypoints, message in (
        (np.zeros((1, 16, 3)), r"keypoints must have the shape \[N, 17, 3\], got \[1, 16, 3\]"),
        (np.zeros((17, 3)), r"keypoints must have the shape \[N, 17, 3\], got \[17, 3\]"),
        (np.zeros((0, 14, 3)), r"keypoints must have the shape \[N, 17, 3\], got \[0, 14, 3\]"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder(keypoints, 33, 33, 8)
    with pytest.raises(TypeError, match="keypoints must be numbers, got object"):
        encoder(None, 33, 33, 8)
    for pictures in (None, 5, np.ones(())):
        with pytest.raises(TypeError, match=r"pictures must be a sequence of pairs \(keypoints, ignored\), got "):
            encoder.batch(pictures, 33, 33, 8)
    with pytest.raises(TypeError, match="ignored must be numbers, got <U1"):
        encoder(none, 33, 33, 8, ignored=[["a"] * 4])
    with pytest.raises(ValueError, match=r"ignored must have the shape \[N, 4\], got \[4\]"):
        encoder(none, 33, 33, 8, ignored=(0, 0, 1, 1))
    with pytest.raises(ValueError, match=r"pictures\[1\] ignored must have the shape \[N, 4\], got \[1, 3\]"):
        encoder.batch([(none, []), (none, np.zeros((1, 3)))], 33, 33, 8)
    with pytest.raises(TypeError, match=r"pictures\[0\] must be a pair \(keypoints, ignored\), got ndarray"):
        encoder.batch([none], 33, 33, 8)
    with pytest.raises(ValueError, match=r"threads must be in \[0, 2147483647\], got -1"):
        encoder.batch([], 33, 33, 8, threads=-1)


@pytest.mark.parametrize("kind", ["ragged", "grad", "bfloat16"])
def test_pictures_that_numpy_cannot_read(kind):
    encoder, _ = build()
    unreadable = [[1, 2], [3]]
    if kind != "ragged":
        torch = pytest.importorskip("torch")
        unreadable = torch.zeros(1, 17, 3, requires_grad=True) if kind == "grad" else torch.zeros(1, 17, 3).bfloat16()
    with pytest.raises(TypeError, match=f"^keypoints must be numbers, got {type(unreadable).__name__}: ."):
        encoder(unreadable, 33, 33, 8)
    with pytest.raises(TypeError, match=r"^pictures\[0\] ignored must be numbers, got "):
        encoder.batch([(np.zeros((1, 17, 3)), unreadable)], 33, 33, 8)


def test_bad_sizes():
    encoder, _ = build()
    for arguments, message in (
        ((32, 33, 8), "height must be a multiple of stride = 8 plus 1, got 32"),
        ((33, 40, 8), "width must be a multiple of stride = 8 plus 1, got 40"),
        ((0, 33, 8), r"height must be in \[1, 2147483647\], got 0"),
        ((33, 2**31, 8), r"width must be in \[1, 2147483647\], got 2147483648"),
        ((33, 33, 0), r"stride must be in \[1, 2147483647\], got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder([], *arguments)
    with pytest.raises(ValueError, match=r"height must be a multiple of node_strides\[1\] = 16 plus 1, got 41"):
        encoder([], 41, 33, 8, node_strides=(8, 16))
    with pytest.raises(TypeError, match=r"node_strides must be a sequence of strides, got 8"):
        encoder([], 33, 33, 8, node_strides=8)
    with pytest.raises(TypeError, match=r"stride must be an integer, got 8\.0"):
        encoder([], 33, 33, 8.0)
    for side in (2**31 - 1, 10**6 + 1):  # elements that no 64 bits count, bytes that no machine has
        with pytest.raises(MemoryError):
            encoder([], side, side, 1)


def test_bad_out():
    encoder, _ = build()
    good = encoder([], 33, 33, 8, node_strides=(4,))

    def write_to(out, **options):
        encoder([], 33, 33, 8, **{"node_strides": (4,), "out": out, **options})

    with pytest.raises(TypeError, match="out must be Targets, got dict"):
        write_to(vars(good))
    with pytest.raises(ValueError, match=r"out.node_confidence must have the strides \[16\], got \[4\]"):
        write_to(good, node_strides=(16,))
    with pytest.raises(ValueError, match=r"out.pif_scale must have the shape \[17, 5, 5\], got \[17, 5, 4\]"):
        write_to(dataclasses.replace(good, pif_scale=good.pif_scale[..., 1:]))
    with pytest.raises(TypeError, match=r"out.paf_offset must be a float32 array, got float64"):
        write_to(dataclasses.replace(good, paf_offset=good.paf_offset.astype(float)))
    with pytest.raises(ValueError, match=r"out.paf_confidence must be C-contiguous and writeable"):
        write_to(dataclasses.replace(good, paf_confidence=np.asfortranarray(good.paf_confidence)))
    with pytest.raises(ValueError, match=r"out.node_confidence\[4\] must have the shape \[17, 9, 9\], got \[9, 9\]"):
        write_to(dataclasses.replace(good, node_confidence={4: good.node_confidence[4][0]}))


def test_bad_skeletons():
    sigmas, pose = [0.1, 0.1], [[0, 0], [1, 1]]
    for arguments, message in (
        ((2, [(0, 2)], sigmas, pose), r"skeleton\[0\] = \(0, 2\) must hold keypoint indices in \[0, 1\]"),
        ((2, [(0, 1), (1, 0)], sigmas, pose), r"skeleton\[1\] = \(1, 0\) must not repeat skeleton\[0\]"),
        ((0, [], [], []), "num_keypoints must be in"),
        ((2, [], [0.1], pose), r"sigmas must have the shape \[2\], got \[1\]"),
        ((2, [], [0.1, 0.0], pose), "sigmas must be positive and finite, got 0.0"),
        ((2, [], sigmas, [0, 1]), r"upright_pose must have the shape \[2, 2\], got \[2\]"),
        ((2, [], sigmas, [[0, 0], [np.nan, 1]]), r"upright_pose must be finite, got \(nan, 1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            PifPafEncoder(*arguments)


def test_copies_and_text(pictures):
    encoder, _ = build()
    keypoints, ignored = pictures[0]
    expected = encoder(keypoints, 145, 193, 8, ignored=ignored)
    for twin in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert twin.skeleton == encoder.skeleton
        assert twin.num_keypoints == 17
        assert_same(twin(keypoints, 145, 193, 8, ignored=ignored), expected)
    sigmas, pose = np.full(2, 0.5), np.ones((2, 2))
    encoder = PifPafEncoder(2, [(1, 0)], sigmas, pose)
    sigmas[:], pose[:] = 7, 7
    for twin in (encoder, pickle.loads(pickle.dumps(encoder))):
        assert repr(twin) == "PifPafEncoder(2, [(1, 0)], [0.5, 0.5], [[1.0, 1.0], [1.0, 1.0]])"
    assert repr(build("two nodes")[0]).startswith("PifPafEncoder(2, [(1, 0)], [0.")


def test_works_without_torch(tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None; import dgcn_ext; from dgcn_ext.reference import encode; "
        "dgcn_ext.PifPafEncoder(1, [], [0.1], [[0, 0]])([], 9, 9, 8)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
