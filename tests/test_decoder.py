"""The PIF/PAF decoder: recorded scenes, painted scenes, arbitrary fields, threads."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from painting import COCO_LIMBS, HAND_LIMBS, STRIDE, components, layouts, paint

from dgcn_ext.decoder import DecoderConfig, PifPafDecoder


@pytest.fixture(scope="module")
def coco_decoder() -> PifPafDecoder:
    return PifPafDecoder(17, COCO_LIMBS)


# Recorded scenes ------------------------------------------------------------------------------------------------------

SCENES = ("scene00_p01", "scene01_p03", "scene02_p08", "scene03_p13")


def load_scene(data_dir: Path, name: str):
    with np.load(data_dir / "decoder_scenes" / f"{name}.npz") as scene:
        fields = scene["pif"], scene["paf"]
        skeleton, stride = scene["skeleton"], int(scene["stride"])
    recorded = json.loads((data_dir / "decoder_scenes" / f"{name}.openpifpaf.json").read_text())
    return *fields, skeleton, stride, np.array(recorded["annotations"])


@pytest.mark.parametrize("name", SCENES)
def test_recorded_scene(data_dir, name):
    pif, paf, skeleton, stride, expected = load_scene(data_dir, name)
    persons = PifPafDecoder(17, skeleton)(pif, paf, stride)
    assert persons.shape == expected.shape
    assert persons.dtype == np.float32
    np.testing.assert_allclose(persons[..., 0], expected[..., 0], rtol=0, atol=2e-5)  # recorded with five decimals
    np.testing.assert_allclose(persons[..., 1:], expected[..., 1:], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", SCENES)
def test_recorded_scene_force_complete(data_dir, name):
    pif, paf, skeleton, stride, expected = load_scene(data_dir, name)
    config = DecoderConfig(force_complete=True)
    persons = PifPafDecoder(17, skeleton, config)(pif, paf, stride)
    assert len(persons) >= len(expected)
    assert (persons[..., 0] > 0).all()
    means = persons[..., 0].mean(1)
    assert (np.diff(means) <= 0).all()


# Painted scenes -------------------------------------------------------------------------------------------------------


def test_single_persons_come_back(data_dir, coco_decoder):
    """Every connected part with at least 15 % of the keypoints is one person, exactly where it was painted."""
    for index, (persons, scales, height, width) in enumerate(layouts(data_dir, 1)):
        if index % 17:
            continue
        found = coco_decoder(*paint(persons, scales, COCO_LIMBS, height, width), STRIDE)
        parts = {frozenset(part) for part in components(persons[0, :, 2] > 0, COCO_LIMBS) if len(part) / 17 >= 0.15}
        assert {frozenset(np.flatnonzero(person[:, 0])) for person in found} == parts, index
        for person in found:
            joints = np.flatnonzero(person[:, 0])
            np.testing.assert_allclose(person[joints, 1:3], persons[0, joints, :2] * STRIDE, atol=0.01)
            np.testing.assert_allclose(person[joints, 3], scales[0, joints] * STRIDE, rtol=1e-4, atol=1e-3)


def test_groups_come_back(data_dir, coco_decoder):
    """Among four persons nearly every painted joint of a large enough part is found by a person of its own part."""
    painted = recovered = invented = 0
    for index, (persons, scales, height, width) in enumerate(layouts(data_dir, 4)):
        if index % 7:
            continue
        found = coco_decoder(*paint(persons, scales, COCO_LIMBS, height, width), STRIDE)
        for person in persons:
            for part in components(person[:, 2] > 0, COCO_LIMBS):
                if len(part) / 17 < 0.15:
                    continue
                joints = sorted(part)
                error = np.linalg.norm(found[:, joints, 1:3] - person[joints, :2] * STRIDE, axis=-1)
                hits = ((error < 0.5) & (found[:, joints, 0] > 0)).sum(1)
                painted += len(joints)
                recovered += hits.max(initial=0)
        truth = persons[persons[..., 2] > 0][:, :2] * STRIDE
        for x, y in found[found[..., 0] > 0][:, 1:3]:
            invented += np.hypot(truth[:, 0] - x, truth[:, 1] - y).min() > 0.5
    assert painted > 500
    assert recovered / painted > 0.99  # a joint hidden behind a nearer one of the same kind has no cells left
    assert invented == 0


# fmt: off
CROWDPOSE_LIMBS = [(0, 2), (2, 4), (1, 3), (3, 5), (6, 8), (8, 10), (7, 9), (9, 11), (12, 13), (0, 13), (1, 13), (0, 1),
                   (6, 7), (0, 6), (1, 7)]
MPII_LIMBS = [(0, 1), (1, 2), (2, 6), (6, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9), (8, 12), (12, 11), (11, 10),
              (8, 13), (13, 14), (14, 15)]
# fmt: on
WHOLE_BODY_LIMBS = [
    *COCO_LIMBS,
    *((15, 17), (15, 18), (15, 19), (16, 20), (16, 21), (16, 22)),  # feet
    *((0, 53), *((k, k + 1) for k in range(23, 90))),  # face
    *((wrist, root) for wrist, root in ((9, 91), (10, 112))),
    *((root + i, root + j) for root in (91, 112) for i, j in HAND_LIMBS),
]


@pytest.mark.parametrize(
    ("num_keypoints", "limbs"),
    [
        (2, [(0, 1)]),
        (1, []),
        (4, [(0, 1), (3, 2)]),
        (14, CROWDPOSE_LIMBS),
        (16, MPII_LIMBS),
        (21, HAND_LIMBS),
        (133, WHOLE_BODY_LIMBS),
        (8, [(i, j) for i in range(8) for j in range(i)]),
    ],
    ids=["toy", "point", "disconnected", "CrowdPose", "MPII", "hand", "whole body", "every pair"],
)
def test_any_skeleton(num_keypoints, limbs):
    """A person comes back as its connected parts, those with too few of the keypoints excepted."""
    rng = np.random.default_rng(num_keypoints)
    cells = np.stack(np.unravel_index(rng.permutation(30 * 30)[:num_keypoints], (30, 30)), 1)
    persons = np.concatenate([cells + rng.uniform(2, 3, cells.shape), np.ones((num_keypoints, 1))], 1)[None]
    found = PifPafDecoder(num_keypoints, limbs)(*paint(persons, np.ones((1, num_keypoints)), limbs, 36, 36), STRIDE)
    parts = {frozenset(part) for part in components(persons[0, :, 2] > 0, limbs) if len(part) / num_keypoints >= 0.15}
    assert {frozenset(np.flatnonzero(person[:, 0])) for person in found} == parts
    for person in found:
        joints = np.flatnonzero(person[:, 0])
        np.testing.assert_allclose(person[joints, 1:3], persons[0, joints, :2] * STRIDE, atol=0.01)


def test_stride_scales_everything():
    """Coordinates and scales are in pixels: a finer stride moves a joint, its confidence may change a little."""
    persons = np.array([[[5.25, 6.5, 1], [10, 7, 1], [12, 12, 1]]])
    limbs = [(0, 1), (1, 2)]
    fields = paint(persons, np.full((1, 3), 1.5), limbs, 20, 20)
    for stride in (1, 4, 16):
        (person,) = PifPafDecoder(3, limbs)(*fields, stride)
        np.testing.assert_allclose(person[:, 1:3], persons[0, :, :2] * stride, rtol=1e-5)
        np.testing.assert_allclose(person[:, 3], 1.5 * stride, rtol=1e-5)


# Arbitrary fields -----------------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(data=st.data())
def test_any_content_gives_finite_persons(data):
    num_keypoints = data.draw(st.integers(1, 4))
    pairs = [(a, b) for a in range(num_keypoints) for b in range(a)]
    limbs = data.draw(st.lists(st.sampled_from(pairs), unique=True, max_size=4)) if pairs else []
    size = data.draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    numbers = st.one_of(st.floats(0, 1, width=32), st.floats(-5, 5, width=32), st.floats(width=32))
    pif = data.draw(hnp.arrays(np.float32, (num_keypoints, 5, *size), elements=numbers))
    paf = data.draw(hnp.arrays(np.float32, (len(limbs), 8, *size), elements=numbers))
    config = DecoderConfig(force_complete=data.draw(st.booleans()))
    persons = PifPafDecoder(num_keypoints, limbs, config)(pif, paf, data.draw(st.integers(1, 20)))
    assert persons.shape[1:] == (num_keypoints, 4)
    assert np.isfinite(persons).all()
    assert (persons[..., 0] >= 0).all()
    assert (persons[..., 0] <= 1).all()
    assert (persons[..., 0].any(1)).all()


@pytest.mark.parametrize("force_complete", [False, True])
@pytest.mark.parametrize("scale", [6, 30])
def test_worst_fields_are_decoded(force_complete, scale):
    """Every cell has confidence 1 and points at itself, with joints of up to a third of the image."""
    pif, paf = np.ones((17, 5, 81, 81), np.float32), np.ones((19, 8, 81, 81), np.float32)
    pif[:, 2:4] = paf[:, 2:4] = paf[:, 4:6] = np.mgrid[:81, :81][::-1]
    pif[:, 4] = paf[:, 6:] = scale
    config = DecoderConfig(force_complete=force_complete, instance_threshold=0.0, keypoint_threshold=0.0)
    persons = PifPafDecoder(17, COCO_LIMBS, config)(pif, paf, STRIDE)
    assert 0 < len(persons) <= config.max_persons
    assert np.isfinite(persons).all()


def test_full_size_noise(coco_decoder):
    ones = np.ones((17, 5, 81, 81), np.float32), np.ones((19, 8, 81, 81), np.float32)
    (person,) = coco_decoder(*ones, STRIDE)  # every cell points at cell (1, 1)
    np.testing.assert_allclose(person[:, 1:], STRIDE, rtol=1e-5)
    rng = np.random.default_rng(0)
    noise = [rng.uniform(0, 1, field.shape) * np.float32(3) for field in ones]
    assert np.isfinite(coco_decoder(*noise, STRIDE)).all()


# Threads --------------------------------------------------------------------------------------------------------------


@functools.cache
def crowd(seed: int, height: int = 40, width: int = 40):
    rng = np.random.default_rng(seed)
    persons = np.concatenate([rng.uniform(2, 36, (6, 21, 2)), np.ones((6, 21, 1))], -1)
    return paint(persons, rng.uniform(0.5, 2, (6, 21)), HAND_LIMBS, height, width)


def test_earlier_images_have_no_effect():
    decoder = PifPafDecoder(21, HAND_LIMBS)
    first = decoder(*crowd(0), STRIDE)
    assert len(first) > 0
    for seed in range(1, 5):
        decoder(*crowd(seed, 38 + seed, 40), STRIDE)
        np.testing.assert_array_equal(decoder(*crowd(0), STRIDE), first)


def test_thousands_of_frames_have_no_effect():
    decoder = PifPafDecoder(2, [(0, 1)])
    rng = np.random.default_rng(0)
    frames = [paint(rng.uniform(2, 10, (1, 2, 3)), np.ones((1, 2)), [(0, 1)], 12, 12) for _ in range(5)]
    first = [decoder(*fields, STRIDE) for fields in frames]
    assert all(len(persons) == 1 for persons in first)
    for _ in range(2000):
        for fields, persons in zip(frames, first, strict=True):
            assert decoder(*fields, STRIDE).tobytes() == persons.tobytes()


def test_batch_in_any_order():
    decoder = PifPafDecoder(21, HAND_LIMBS)
    images = [crowd(seed, 38 + seed, 44) for seed in range(6)]
    forward, backward = decoder.batch(images, STRIDE, 2), decoder.batch(images[::-1], STRIDE, 2)
    for one, other in zip(forward, backward[::-1], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("threads", [0, 1, 2, 5])
def test_batch_equals_serial(threads):
    decoder = PifPafDecoder(21, HAND_LIMBS)
    images = [crowd(seed, 38 + seed, 44) for seed in range(6)]
    batch = decoder.batch(images, STRIDE, threads)
    assert len(batch) == len(images)
    for persons, fields in zip(batch, images, strict=True):
        np.testing.assert_array_equal(persons, decoder(*fields, STRIDE))
    assert decoder.batch([], STRIDE) == []


def test_one_decoder_in_two_threads():
    decoder = PifPafDecoder(21, HAND_LIMBS)
    images = [crowd(seed) for seed in range(2)]
    expected = [decoder(*fields, STRIDE) for fields in images]
    mismatches = []

    def work(i):
        for _ in range(30):
            if not np.array_equal(decoder(*images[i], STRIDE), expected[i]):
                mismatches.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mismatches == []


def test_decoding_releases_the_gil(coco_decoder):
    """With a switch interval of minutes, this thread runs only where the other one releases the GIL."""
    ones = np.ones((17, 5, 81, 81), np.float32), np.ones((19, 8, 81, 81), np.float32)
    begun, finished = threading.Event(), threading.Event()

    def work():
        begun.set()
        coco_decoder.batch([ones] * 12, STRIDE, threads=1)
        finished.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(600)
    try:
        thread = threading.Thread(target=work)
        thread.start()
        begun.wait()
        decoding = not finished.is_set()
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert decoding


# Instruction sets -----------------------------------------------------------------------------------------------------

DECODE_NOISE = """
import sys
import numpy as np
from dgcn_ext.decoder import DecoderConfig, PifPafDecoder

rng = np.random.default_rng(4)
pif, paf = rng.uniform(0, 1, (3, 5, 30, 40)), rng.uniform(0, 1, (3, 8, 30, 40))
pif[:, 2:4] *= 30
paf[:, 2:6] *= 30
decoder = PifPafDecoder(3, [(0, 1), (1, 2), (2, 0)], DecoderConfig(force_complete=True, map_neighbors=4))
sys.stdout.buffer.write(decoder(pif, paf, 8).tobytes())
"""


def decode_noise(capability: str) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"DGCN_CPU_CAPABILITY": capability}
    command = [sys.executable, "-c", DECODE_NOISE]
    return subprocess.run(command, cwd=Path(__file__).parent, env=environment, capture_output=True, check=False)


def test_every_instruction_set_gives_the_same_bits():
    portable, other = decode_noise("portable"), decode_noise("avx2")
    assert portable.returncode == 0, portable.stderr.decode()
    assert len(np.frombuffer(portable.stdout, np.float32)) >= 100 * 3 * 4
    if b"at most what this machine has (portable)" in other.stderr:
        pytest.skip("this CPU has no avx2")
    assert other.stdout == portable.stdout, other.stderr.decode()


def test_an_instruction_set_that_does_not_exist_is_named():
    result = decode_noise("mmx")
    assert result.returncode != 0
    assert b"ValueError: DGCN_CPU_CAPABILITY must be portable, avx2 or avx512" in result.stderr
    assert b"got mmx" in result.stderr
