"""Fields for the tests of the decoder, painted in numpy from layouts of persons."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

STRIDE = 8  # px
# fmt: off
COCO_LIMBS = [(15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9),
              (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)]
COCO_SIGMAS = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
# fmt: on
BLOCK = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), -1).reshape(-1, 2)  # 3 x 3 cells, (dx, dy)
HAND_LIMBS = [(0 if i % 4 == 1 else i - 1, i) for i in range(1, 21)]


def empty_fields(num_keypoints: int, num_limbs: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.zeros((num_keypoints, 5, height, width), np.float32),
        np.zeros((num_limbs, 8, height, width), np.float32),
    )


def paint(persons, scales, limbs, height: int, width: int):
    """Noise-free fields of persons [P, K, 3] (x, y in cells, visible) with joint scales [P, K] in cells.

    PIF: the 4 x 4 cells around a joint, the nearest joint wins; PAF: 3 x 3 cells along a limb, the nearest limb wins.
    """
    pif, paf = empty_fields(persons.shape[1], len(limbs), height, width)
    nearest_joint = np.full((persons.shape[1], height, width), np.inf)
    nearest_limb = np.full((len(limbs), height, width), np.inf)

    def claim(distances, cx, cy, distance):
        if 0 <= cx < width and 0 <= cy < height and distance < distances[cy, cx]:
            distances[cy, cx] = distance
            return True
        return False

    for person, scale in zip(persons, scales, strict=True):
        for k, (x, y, visible) in enumerate(person):
            left, top = round(x - 1.5), round(y - 1.5)
            for cy in range(top, top + 4) if visible else ():
                for cx in range(left, left + 4):
                    if claim(nearest_joint[k], cx, cy, np.hypot(cx - x, cy - y)):
                        pif[k, 1:, cy, cx] = 1, x, y, scale[k]
        for m, (a, b) in enumerate(limbs):
            if not (person[a, 2] and person[b, 2]):
                continue
            start, step = person[a, :2], person[b, :2] - person[a, :2]
            length = np.hypot(*step)
            normal = np.array([-step[1], step[0]]) / max(length, 1e-9)
            for t in np.linspace(0, 1, max(2, int(np.ceil(length)) + 1)):
                for cx, cy in np.round(start + t * step).astype(int) + BLOCK:
                    if claim(nearest_limb[m], cx, cy, abs(([cx, cy] - start) @ normal)):
                        paf[m, 1:, cy, cx] = 1, *start, *person[b, :2], scale[a], scale[b]
    return pif, paf


def layouts(data_dir: Path, num_persons: int) -> Iterator[tuple[np.ndarray, np.ndarray, int, int]]:
    """Real layouts with so many persons: keypoints [P, 17, 3] and scales [P, 17] in cells, field height and width.

    Images are scaled to a long edge of 641 px.
    """
    with gzip.open(data_dir / "coco_val2017_layouts.json.gz") as file:
        coco = json.load(file)
    persons_of: dict[int, list] = {}
    for annotation in coco["annotations"]:
        if annotation["num_keypoints"] > 0:
            persons_of.setdefault(annotation["image_id"], []).append(annotation["keypoints"])
    for image in coco["images"]:
        persons = np.array(persons_of.get(image["id"], []), float).reshape(-1, 17, 3)
        if len(persons) != num_persons:
            continue
        cells_per_px = 640 / max(image["width"], image["height"]) / STRIDE
        persons[..., :2] *= cells_per_px
        visible = persons[..., 2:] > 0
        low = np.where(visible, persons, np.inf)[..., :2].min(1)
        high = np.where(visible, persons, -np.inf)[..., :2].max(1)
        scales = np.sqrt((high - low).prod(1))[:, None] * COCO_SIGMAS
        yield persons, scales, *(int(np.ceil(image[edge] * cells_per_px)) + 1 for edge in ("height", "width"))


def components(visible: np.ndarray, limbs) -> list[set[int]]:
    """The connected parts of a skeleton whose keypoints are visible."""
    parts = [{k} for k in np.flatnonzero(visible)]
    for a, b in limbs:
        joined = [part for part in parts if a in part or b in part]
        if visible[a] and visible[b] and len(joined) == 2:
            parts = [part for part in parts if part not in joined] + [joined[0] | joined[1]]
    return parts
