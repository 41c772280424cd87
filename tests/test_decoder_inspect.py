"""The decoder's evidence, stage times, and the limits on seeds and persons."""

from __future__ import annotations

import numpy as np
import pytest
from painting import COCO_LIMBS, STRIDE, empty_fields, paint

from dgcn_ext.decoder import DecoderConfig, PifPafDecoder

LIMBS = [(0, 1), (2, 1)]


@pytest.fixture
def fields() -> tuple[np.ndarray, np.ndarray]:
    """Two persons of three keypoints on 16 x 20 cells, with noise on every component."""
    persons = np.array([[[5.25, 6.5, 1], [10, 7, 1], [12, 12, 1]], [[15, 3, 1], [16, 9, 1], [0, 0, 0]]])
    pif, paf = paint(persons, np.full((2, 3), 1.5), LIMBS, 16, 20)
    rng = np.random.default_rng(0)
    for field in (pif, paf):
        field += rng.normal(0, 0.05, field.shape).astype(np.float32)
        field[:, 1] -= 0.1
    return pif, paf


def painted_map(cells: np.ndarray, height: int, width: int) -> np.ndarray:
    """The map of PIF cells [5, H, W] by its definition."""
    row, column = np.mgrid[:height, :width]
    total = np.zeros((height, width))
    for _, confidence, x, y, scale in cells.reshape(5, -1).T.astype(float) * [1, 1, STRIDE, STRIDE, STRIDE]:
        if confidence < 0.3:
            continue
        dx, dy, sigma = column - x, row - y, max(1, 0.5 * scale)
        weight = np.where(dx**2 + dy**2 <= sigma**2, (1 - (dx**2 + dy**2) / (16 * sigma**2)) ** 8, 0)
        weight[(abs(dx) < 0.5) & (abs(dy) < 0.5)] = 1
        total += min(confidence, 1) / 16 * weight
    return np.minimum(total, 1)


def test_confidence_maps(fields):
    maps = PifPafDecoder(3, LIMBS).inspect(*fields, STRIDE).confidence_maps
    assert maps.shape == (3, 15 * STRIDE + 1, 19 * STRIDE + 1)
    assert maps.dtype == np.float32
    for cells, confidence_map in zip(fields[0], maps, strict=True):
        np.testing.assert_allclose(confidence_map, painted_map(cells, *maps.shape[1:]), atol=1e-5)
    assert maps.max() > 0.8


def nearest(confidence_map: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return confidence_map[(y + 0.5).astype(int), (x + 0.5).astype(int)]


def test_seeds(fields):
    inspection = PifPafDecoder(3, LIMBS).inspect(*fields, STRIDE)
    seeds = inspection.seeds
    assert (np.diff(seeds["confidence"]) <= 0).all()
    seen = set()
    for keypoint, cells in enumerate(fields[0]):
        found = seeds[seeds["keypoint"] == keypoint]
        _, confidence, x, y, scale = cells.reshape(5, -1)[:, found["cell"]]
        for name, value in {"x": x, "y": y, "scale": scale}.items():
            np.testing.assert_array_equal(found[name], value * STRIDE)
        support = nearest(inspection.confidence_maps[keypoint], found["x"], found["y"])
        np.testing.assert_allclose(found["confidence"], 0.9 * support + 0.1 * np.minimum(confidence, 1), rtol=1e-5)
        seen |= {(keypoint, cell) for cell in found["cell"].tolist()}
    assert len(seen) == len(seeds) > 50


def test_connections(fields):
    inspection = PifPafDecoder(3, LIMBS).inspect(*fields, STRIDE)
    total = 0
    for limb, ends in enumerate(LIMBS):
        for backward in (False, True):
            start, end = ends[::-1] if backward else ends
            found = inspection.connections
            found = found[(found["limb"] == limb) & (found["start"] == start) & (found["end"] == end)]
            assert (np.diff(found["cell"]) > 0).all()
            _, confidence, x1, y1, x2, y2, scale1, scale2 = fields[1][limb].reshape(8, -1)[:, found["cell"]]
            if backward:
                x1, y1, x2, y2, scale2 = x2, y2, x1, y1, scale1
            for name, value in {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "scale2": scale2}.items():
                np.testing.assert_array_equal(found[name], value * STRIDE)
            support = nearest(inspection.confidence_maps[end], found["x2"], found["y2"])
            np.testing.assert_allclose(found["score"], np.minimum(confidence, 1) * (0.1 + 0.9 * support), rtol=1e-5)
            assert (found["score"] > 0.3).all()
            total += len(found)
    assert total == len(inspection.connections) > 50

    completing = PifPafDecoder(3, LIMBS, DecoderConfig(force_complete=True)).inspect(*fields, STRIDE).connections
    assert len(completing) > total
    assert completing["score"].min() < 0.3


def test_inspection_of_nothing():
    decoder = PifPafDecoder(17, COCO_LIMBS)
    for size, pixels in (((0, 20), (0, 0)), ((3, 4), (2 * STRIDE + 1, 3 * STRIDE + 1))):
        inspection = decoder.inspect(*empty_fields(17, 19, *size), STRIDE)
        assert inspection.confidence_maps.shape == (17, *pixels)
        assert not inspection.confidence_maps.any()
        assert len(inspection.seeds) == len(inspection.connections) == 0
    with pytest.raises(ValueError, match=r"pif must have the shape \[17, 5, H, W\]"):
        decoder.inspect(*empty_fields(2, 19, 3, 4), STRIDE)


@pytest.mark.parametrize("force_complete", [False, True])
def test_stage_times(fields, force_complete):
    decoder = PifPafDecoder(3, LIMBS, DecoderConfig(force_complete=force_complete))
    expected = decoder(*fields, STRIDE)
    times = decoder.stage_times(*fields, STRIDE)
    assert list(times) == ["reading", "maps", "seeds", "growing", "completing", "suppressing", "refining"]
    assert sum(times.values()) > 0
    assert all(seconds >= 0 for seconds in times.values())
    assert force_complete or times["completing"] == 0
    assert len(expected) == 2
    np.testing.assert_array_equal(decoder(*fields, STRIDE), expected)

    pif, paf = fields
    assert not any(decoder.stage_times(pif[..., :0], paf[..., :0], STRIDE).values())
    with pytest.raises(ValueError, match=r"pif must have the shape \[3, 5, H, W\], got \[2, 5, 16, 20\]"):
        decoder.stage_times(pif[:2], paf, STRIDE)
    with pytest.raises(TypeError, match=r"stride must be an integer, got 8\.0"):
        decoder.stage_times(pif, paf, 8.0)
    with pytest.raises(ValueError, match="max_map_pixels"):
        decoder.stage_times(pif, paf, 100_000)


def test_the_best_seeds_are_kept(fields):
    every = PifPafDecoder(3, LIMBS).inspect(*fields, STRIDE).seeds
    for max_seeds in (1, 7, len(every), 10**6):
        kept = PifPafDecoder(3, LIMBS, DecoderConfig(max_seeds=max_seeds)).inspect(*fields, STRIDE).seeds
        np.testing.assert_array_equal(kept, every[:max_seeds])


def test_growing_stops_at_max_persons(fields):
    decoder = PifPafDecoder(3, LIMBS)
    every, best_seed = decoder(*fields, STRIDE), decoder.inspect(*fields, STRIDE).seeds[0]
    assert len(every) == 2
    (person,) = PifPafDecoder(3, LIMBS, DecoderConfig(max_persons=1))(*fields, STRIDE)
    assert tuple(person[best_seed["keypoint"]]) == tuple(best_seed[["confidence", "x", "y", "scale"]])
    np.testing.assert_array_equal(PifPafDecoder(3, LIMBS, DecoderConfig(max_persons=2))(*fields, STRIDE), every)
    for name in ("max_seeds", "max_persons"):
        with pytest.raises(ValueError, match=rf"{name} must be in \[1, 2147483647\], got 0"):
            DecoderConfig(**{name: 0})
