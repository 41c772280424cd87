"""Fields to decode: real layouts of people, painted with the noise of a network.

A scene of 1 or 5 persons is the picture of COCO val2017 that has so many persons and shows most of their joints. The
larger scenes collect the persons of several pictures of 5, each at its own place. The noise has the amounts that were
seen in recorded outputs of a trained network: the confidence of a cell on a joint or limb is 0.6 ± 0.12, that of all
others ± 0.015; coordinates are ± 0.1 cells and scales ± 10 % off; a cell of the background points anywhere within ± 1.5
cells.
"""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.machine import ROOT

sys.path.append(str(ROOT / "tests"))

from painting import COCO_LIMBS, STRIDE, layouts, paint

SIDE = 81  # cells at stride 8 of a 641 px input

Fields = tuple[np.ndarray, np.ndarray]


def data_dir() -> Path:
    """The folder of real data: $DGCN_DATA, else ../shared/data beside the repository."""
    return Path(os.environ.get("DGCN_DATA", ROOT.parent / "shared" / "data"))


NEEDS_DATA = pytest.mark.skipif(not data_dir().is_dir(), reason=f"needs the real data: no folder {data_dir()}")


def persons_of_layouts(num_persons: int) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints [P, 17, 3] and scales [P, 17] in cells at stride 8, within SIDE × SIDE cells."""
    together = min(num_persons, 5)
    pictures = sorted(layouts(data_dir(), together), key=lambda picture: -np.count_nonzero(picture[0][..., 2]))
    persons, scales, _, _ = zip(*pictures[: num_persons // together], strict=True)
    return np.concatenate(persons), np.concatenate(scales)


def scene(num_persons: int, stride: int = STRIDE, seed: int = 0) -> Fields:
    """PIF [17, 5, H, W] and PAF [19, 8, H, W] of a 641 × 641 px input; 0 persons: a background without any evidence."""
    refine = STRIDE // stride
    side = (SIDE - 1) * refine + 1
    persons, scales = persons_of_layouts(max(num_persons, 1))
    persons = persons * [refine, refine, num_persons > 0]
    return add_noise(paint(persons, scales * refine, COCO_LIMBS, side, side), np.random.default_rng(seed))


def add_noise(fields: Fields, rng: np.random.Generator) -> Fields:
    noisy = []
    for field, coordinates in zip(fields, (2, 4), strict=True):
        height, width = field.shape[2:]
        painted = field[:, 1] > 0
        size = painted.shape
        confidence = np.where(painted, rng.normal(0.6, 0.12, size), abs(rng.normal(0, 0.015, size))).clip(0, 1)
        column_row = np.tile(np.mgrid[:height, :width][::-1], (coordinates // 2, 1, 1))
        xy = np.where(painted[:, None], field[:, 2 : 2 + coordinates], column_row)
        xy = xy + rng.normal(0, 1, xy.shape) * np.where(painted, 0.1, 1.5)[:, None]
        scale = np.where(painted[:, None], field[:, 2 + coordinates :], 1)
        scale = scale * rng.normal(1, 0.1, scale.shape)
        noisy.append(np.concatenate([field[:, :1], confidence[:, None], xy, scale], 1).astype(np.float32))
    return noisy[0], noisy[1]
