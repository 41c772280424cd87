"""The compiled decoder against its specification in numpy, on small random fields of every kind."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from painting import paint

from dgcn_ext.decoder import DecoderConfig, PifPafDecoder
from dgcn_ext.reference.decoding import decode, effective_options, gather, heads_to_fields

CASES = 250  # of each kind

# The defaults; what lets persons grow out of noise; what takes confidences as they are in the cells.
PRESETS = (
    {},
    {"map_neighbors": 2.0, "connection_threshold": 0.1, "instance_threshold": 0.05},
    {"seed_map_weight": 0.0, "connection_map_weight": 0.0, "instance_threshold": 0.05},
)
# What random configurations draw from: on either side of the defaults, and the ends of each range that matter.
OPTIONS = {
    "map_threshold": (0.0, 0.1, 0.5, 1.0),
    "map_neighbors": (0.5, 1.0, 4.0, 64.0),
    "map_sigma": (0.0, 0.25, 2.0),
    "map_min_sigma": (0.001, 0.5, 3.0),
    "seed_threshold": (0.0, 0.05, 0.5, 1.0),
    "seed_map_weight": (0.0, 0.5, 1.0),
    "max_seeds": (1, 20),
    "connection_threshold": (0.0, 0.1, 0.5),
    "connection_map_weight": (0.0, 0.5, 1.0),
    "connection_window": (0.0, 0.5, 2.0, 4.0),
    "connection_min_scale": (0.001, 2.0, 8.0),
    "blend_min_score": (0.0, 0.2),
    "blend_min_ratio": (0.0, 0.9, 2.0),
    "blend_max_distance": (0.0, 0.1, 2.0, 1e6),
    "max_persons": (1, 3),
    "keypoint_threshold": (0.0, 0.2, 0.5),
    "keypoint_threshold_relative": (0.0, 0.25, 0.8, 2.0),
    "reverse_match": (False,),
    "reverse_max_distance": (0.0, 0.25, 4.0),
    "occupancy_reduction": (1.0, 1.5, 5.0, 1e6),
    "occupancy_min_half_side": (0.0, 0.5, 6.0),
    "suppression_factor": (0.0, 0.3, 1.0),
    "instance_threshold": (0.0, 0.1, 0.5),
    "force_complete": (True,),
    "complete_threshold": (0.0, 0.05, 0.4),
    "complete_window": (0.5, 1.0, 100.0),
    "complete_confidence": (1e-12, 0.2, 1.0),
    "refine_rounds": (1, 2),
    "refine_threshold": (0.0, 0.3),
    "refine_sigma": (0.0, 0.5, 4.0),
    "refine_min_sigma": (0.001, 0.5, 3.0),
}
SPECIALS = np.array([np.nan, np.inf, -np.inf, 0, -1, 1, 3, 1e-30, 1e8, -1e8, 1e30, -1e30], np.float32)


@dataclass(frozen=True)
class Case:
    num_keypoints: int
    skeleton: list[tuple[int, int]]
    config: DecoderConfig
    stride: int
    pif: np.ndarray
    paf: np.ndarray


def random_skeleton(rng: np.random.Generator) -> tuple[int, list[tuple[int, int]]]:
    """One to five keypoints, joined as a tree, with limbs left out or added, in any order and direction."""
    num_keypoints = int(rng.choice(5, p=(0.05, 0.2, 0.25, 0.25, 0.25))) + 1
    tree = [(int(rng.integers(k)), k) for k in range(1, num_keypoints)]
    others = [(a, b) for b in range(num_keypoints) for a in range(b) if (a, b) not in tree]
    extra = rng.integers(4) if others and rng.random() < 0.4 else 0
    limbs = tree + [others[i] for i in rng.permutation(len(others))[:extra]]
    if rng.random() < 0.1:
        limbs = limbs[: len(limbs) // 2]
    labels = rng.permutation(num_keypoints).tolist()
    limbs = [(labels[a], labels[b]) if rng.random() < 0.5 else (labels[b], labels[a]) for a, b in limbs]
    return num_keypoints, [limbs[i] for i in rng.permutation(len(limbs))]


def random_config(rng: np.random.Generator) -> DecoderConfig:
    """One of the PRESETS with none, a few or many options changed."""
    options = dict(PRESETS[rng.choice(3, p=(0.4, 0.4, 0.2))])
    share = rng.choice([0, 0.04, 0.15])
    for name, values in OPTIONS.items():
        if rng.random() < share:
            options[name] = values[rng.integers(len(values))]
    return DecoderConfig(**options)


def painted(rng: np.random.Generator, num_keypoints: int, skeleton, height: int, width: int):
    """One to three persons of any size, with noise on the cells and random confidences."""
    count = int(rng.integers(1, 4))
    centers = rng.uniform((1, 1), (width - 2, height - 2), (count, 1, 2))
    joints = centers + rng.normal(0, rng.choice([0.5, 1, 3]), (count, num_keypoints, 2))
    visible = rng.random((count, num_keypoints, 1)) < rng.choice([0.7, 1, 1])
    scales = rng.uniform(0.2, 3, (count, num_keypoints))
    pif, paf = paint(np.concatenate([joints, visible], -1), scales, skeleton, height, width)
    for field in (pif, paf):
        components = field[:, 1:]
        deviation = rng.choice([0, 0.02, 0.3])
        components[:, 1:] += (components[:, :1] > 0) * rng.normal(0, deviation, components[:, 1:].shape)
        components[:, 0] *= rng.uniform(rng.choice([0.2, 0.9]), 1, components[:, 0].shape)
        components[:, 0] += rng.uniform(0, rng.choice([0, 0.1, 0.35]), components[:, 0].shape)
    return pif, paf


def noise(rng: np.random.Generator, num_keypoints: int, skeleton, height: int, width: int):
    """Cells of any confidence that point near themselves, and limbs from anywhere to anywhere."""
    pif = rng.uniform(0, 1, (num_keypoints, 5, height, width)).astype(np.float32)
    paf = rng.uniform(0, 1, (len(skeleton), 8, height, width)).astype(np.float32)
    reach, scale = rng.choice([0.5, 2, 5]), rng.choice([0.5, 2, 6])
    rows, columns = np.mgrid[:height, :width]
    for field, x in ((pif, 2), (paf, 2), (paf, 4)):
        field[:, x] = columns + rng.normal(0, reach, field[:, x].shape)
        field[:, x + 1] = rows + rng.normal(0, reach, field[:, x].shape)
    pif[:, 4] *= scale
    paf[:, 6:] *= scale
    for field in (pif, paf):
        field[:, 1] **= rng.choice([0.5, 1, 2])
    return pif, paf


def quantized(rng: np.random.Generator, *layout):
    """Many equal values, some equal to a threshold, and whole rows that repeat one cell."""
    pif, paf = (painted if rng.random() < 0.6 else noise)(rng, *layout)
    for field in (pif, paf):
        confidences = np.array([0, 0.1, 0.2, 0.3, 0.5, 1], np.float32)
        field[:, 1] = confidences[np.abs(field[:, 1, ..., None] - confidences).argmin(-1)]
        steps = rng.choice([1, 2, 8])  # to a cell
        field[:, 2:] = np.round(field[:, 2:] * steps) / steps
        if len(field) and rng.random() < 0.5:
            field[:, :, rng.integers(field.shape[2])] = field[:, :, :1, 0]
    if rng.random() < 0.1:
        pif[:], paf[:] = rng.choice([0, 1], 2)
    return pif, paf


def hostile(rng: np.random.Generator, *layout):
    """Some values are not finite, huge, negative or above 1."""
    pif, paf = (painted if rng.random() < 0.7 else noise)(rng, *layout)
    for field in (pif, paf):
        wrong = rng.random(field.shape) < rng.choice([0.003, 0.03, 0.3])
        field[wrong] = rng.choice(SPECIALS, wrong.sum())
    return pif, paf


# The least share of cases in which a person has several joints; most others have thresholds that nothing reaches.
SHARE_GROWN = {"painted": 0.6, "noise": 0.2, "quantized": 0.4, "hostile": 0.45}
KINDS = {paint_fields.__name__: paint_fields for paint_fields in (painted, noise, quantized, hostile)}


def random_case(kind: str, index: int) -> Case:
    rng = np.random.default_rng([list(KINDS).index(kind), index])
    num_keypoints, skeleton = random_skeleton(rng)
    height, width = (int(edge) for edge in rng.integers(5, 11, 2))
    pif, paf = KINDS[kind](rng, num_keypoints, skeleton, height, width)
    return Case(num_keypoints, skeleton, random_config(rng), int(rng.choice([1, 2, 3, 4, 8])), pif, paf)


def decode_both(case: Case, context: str) -> np.ndarray:
    """The persons: the same and with the same joints from both, and numbers within a rounding or two."""
    found = PifPafDecoder(case.num_keypoints, case.skeleton, case.config)(case.pif, case.paf, case.stride)
    expected = decode(case.pif, case.paf, case.stride, case.num_keypoints, case.skeleton, case.config)
    assert found.shape == expected.shape, context
    assert np.array_equal(found[..., 0] > 0, expected[..., 0] > 0), context
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=context)
    return expected


@pytest.mark.parametrize("kind", KINDS)
def test_random_fields(kind):
    grown = 0
    for index in range(CASES):
        case = random_case(kind, index)
        persons = decode_both(case, f"{kind} {index}")
        grown += ((persons[..., 0] > 0).sum(1) > 1).any()
        if index % 4 == 0:
            completing = replace(case, config=replace(case.config, force_complete=True))
            decode_both(completing, f"{kind} {index} force_complete")
    assert grown / CASES > SHARE_GROWN[kind]


def to_heads(pif: np.ndarray, paf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Heads that stand for about these fields."""
    rows, columns = np.mgrid[: pif.shape[2], : pif.shape[3]].astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        logits = [np.log(field[:, 1] / (1 - field[:, 1])) for field in (pif, paf)]
        raw_scale = np.log(np.expm1(pif[:, 4]))
    unused = np.full_like(pif[:, 0], np.nan)
    pif_head = np.stack([logits[0], pif[:, 2] - columns, pif[:, 3] - rows, unused, raw_scale], 1)
    ends = [paf[:, i] - (columns if i % 2 == 0 else rows) for i in range(2, 6)]
    return pif_head, np.stack([logits[1], *ends, paf[:, 6], paf[:, 7]], 1)


def channels_last(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(2, 3, 0, 1)).transpose(2, 3, 0, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_heads(kind):
    """Raw heads give the persons of the fields that they stand for, whatever their type and layout."""
    grown = 0
    for index in range(100):
        case = random_case(kind, index)
        case = replace(case, config=replace(case.config, force_complete=index % 2 == 1))
        decoder = PifPafDecoder(case.num_keypoints, case.skeleton, case.config)
        heads = to_heads(case.pif, case.paf)
        for dtype, layout in ((np.float32, np.asarray), (np.float16, channels_last), (np.float32, np.asfortranarray)):
            with np.errstate(over="ignore"):
                stored = [layout(head.astype(dtype)) for head in heads]
            found = decoder(*stored, case.stride)
            fields = heads_to_fields(*stored, case.skeleton)
            expected = decode(*fields, case.stride, case.num_keypoints, case.skeleton, case.config)
            context = f"{kind} {index} {dtype.__name__}"
            assert np.array_equal(found[..., 0] > 0, expected[..., 0] > 0), context
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=context)
        grown += ((expected[..., 0] > 0).sum(1) > 1).any()
    assert grown > 20


@pytest.mark.parametrize("kind", ["painted", "quantized"])
def test_random_fields_with_values_on_a_threshold(kind):
    """Thresholds are scores of the case's own connections and confidences of its own joints."""
    every_joint = {"keypoint_threshold": 0.0, "keypoint_threshold_relative": 0.0, "instance_threshold": 0.0}
    for index in range(CASES, CASES + 100):
        case, rng = random_case(kind, index), np.random.default_rng(index)
        config = replace(case.config, **every_joint, suppression_factor=1.0)
        decoder = PifPafDecoder(case.num_keypoints, case.skeleton, config)
        scores = decoder.inspect(case.pif, case.paf, case.stride).connections["score"]
        confidences = decoder(case.pif, case.paf, case.stride)[..., 0]
        for name, values in {"blend_min_score": scores, "keypoint_threshold": confidences[confidences > 0]}.items():
            if len(values):
                on_threshold = replace(config, **{name: float(rng.choice(values))})
                decode_both(replace(case, config=on_threshold), f"{kind} {index} {name}")


@pytest.mark.parametrize("kind", KINDS)
def test_evidence(kind):
    """Maps, seeds and connections, each within a rounding or two."""
    for index in range(50):
        case = random_case(kind, index)
        options = effective_options(case.config)
        expected = gather(case.pif, case.paf, case.stride, case.skeleton, options)
        found = PifPafDecoder(case.num_keypoints, case.skeleton, case.config).inspect(case.pif, case.paf, case.stride)
        np.testing.assert_allclose(found.confidence_maps, expected.maps, rtol=1e-5, atol=1e-6)

        seeds = found.seeds
        assert list(zip(seeds["keypoint"].tolist(), seeds["cell"].tolist(), strict=True)) == [
            (seed.keypoint, seed.cell) for seed in expected.seeds
        ]
        joints = np.array([seed.joint for seed in expected.seeds], np.float32).reshape(-1, 4)
        for component, name in enumerate(("confidence", "x", "y", "scale")):
            np.testing.assert_allclose(seeds[name], joints[:, component], rtol=1e-5)

        connections = expected.permissive if case.config.force_complete else expected.connections
        for (start, end), candidates in connections.items():
            same = found.connections[(found.connections["start"] == start) & (found.connections["end"] == end)]
            np.testing.assert_array_equal(same["cell"], candidates.cell)
            np.testing.assert_allclose(same["score"], candidates.score, rtol=1e-5)
            np.testing.assert_allclose(np.stack([same["x1"], same["y1"]], 1), candidates.start)
            np.testing.assert_allclose(np.stack([same["x2"], same["y2"], same["scale2"]], 1), candidates.target)
        assert len(found.connections) == sum(len(candidates.cell) for candidates in connections.values())
