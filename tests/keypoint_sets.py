"""Small data sets of any skeleton, drawn for the tests: bright dots on a grey picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

HAND = ("wrist", *(f"{finger}{i}" for finger in ("thumb", "index", "middle", "ring", "little") for i in range(1, 5)))
HAND_LIMBS = [(1 if i % 4 == 2 else i - 1, i) for i in range(2, 22)]  # counted from 1, as COCO's
LEG = ("hip", "knee", "ankle", "paw")
ANIMAL = (
    *("nose", "l_eye", "r_eye", "l_ear_base", "r_ear_base", "l_ear_tip", "r_ear_tip", "throat", "withers", "tail_base"),
    *(f"tail_{i}" for i in range(1, 6)),
    *(
        f"{side}_{leg}_{joint}"
        for side in "lr"
        for leg in ("front", "hind")
        for joint in ("hip", "knee", "ankle", "paw")
    ),
    *(f"back_{i}" for i in range(1, 9)),
)
MARKERS = ("a", "b", "c", "d", "e")


def pose_of(count: int, seed: int = 1) -> np.ndarray:
    """[count, 2] in [0, 1]: the same shape for every object of a set."""
    return np.random.default_rng(seed).uniform(0, 1, (count, 2))


def draw_set(
    folder: Path, names: Sequence[str], *, pictures: int = 8, size: int = 96, category: dict[str, Any] | None = None
) -> Path:
    """Write pictures and `train.json` into `folder`; of an annotation only what nobody leaves out.

    Args:
        folder: exists.
        names: of the keypoints.
        pictures: how many, with one object each.
        size: of a picture, in pixels.
        category: more fields of the category.
    """
    rng = np.random.default_rng(0)
    shape = pose_of(len(names))
    images, annotations = [], []
    for number in range(pictures):
        pose = rng.uniform(0.1, 0.3, 2) * size + shape * size * rng.uniform(0.5, 0.6)
        picture = rng.integers(90, 120, (size, size, 3), dtype=np.uint8)
        for k, (x, y) in enumerate(np.rint(pose).astype(int).tolist()):
            cv2.circle(picture, (x, y), 2, (255, 40 * (k % 6), 40 * (k // 6)), cv2.FILLED)
        cv2.imwrite(str(folder / f"{number}.png"), picture)
        low, high = pose.min(axis=0), pose.max(axis=0)
        keypoints = np.column_stack([pose, np.full(len(names), 2)]).ravel().tolist()
        images.append({"id": number, "file_name": f"{number}.png", "width": size, "height": size})
        box = [*low.tolist(), *(high - low).tolist()]
        annotations.append({"id": number, "image_id": number, "category_id": 5, "keypoints": keypoints, "bbox": box})
    categories = [{"id": 5, "name": "thing", "keypoints": list(names), **(category or {})}]
    path = folder / "train.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path
