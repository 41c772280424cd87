"""A small COCO set to train on: one stick figure a picture."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from dgcn.skeleton import COCO


def write_set(folder: Path, count: int, *, side: int = 64, suffix: str = ".png") -> None:
    """Write `count` pictures of `side` px and their annotations, people.json, into `folder`."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(count):
        pose = COCO.upright_pose * 0.3 + rng.uniform(12, 48, 2) + rng.normal(0, 0.5, (17, 2))
        picture = rng.integers(90, 120, (64, 64, 3), dtype=np.uint8)
        for i, j in COCO.limbs:
            start, end = np.rint(pose[[i, j]]).astype(int).tolist()
            cv2.line(picture, start, end, (255, 40 * (i % 6), 40 * (j % 6)), 2)
        name = f"{number}{suffix}"
        cv2.imwrite(str(folder / name), cv2.resize(picture, (side, side)))
        pose = pose * side / 64
        low, high = pose.min(axis=0), pose.max(axis=0)
        keypoints = np.column_stack([pose, np.full(17, 2)]).ravel().tolist()
        box = [*low.tolist(), *(high - low).tolist()]
        images.append({"id": number, "file_name": name, "width": side, "height": side})
        annotation = {"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "num_keypoints": 17}
        annotations.append(annotation | {"keypoints": keypoints, "bbox": box, "area": box[2] * box[3]})
    categories = [{"id": 1, "name": "person", "keypoints": list(COCO.keypoints), "skeleton": []}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "people.json").write_text(json.dumps(content))
