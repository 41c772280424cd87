"""A stand-in for a trained network: it knows who is in each picture and says so in the heads' own terms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dgcn.codec import Output, PifPafCodec
from dgcn.data.transforms import resize_pad
from dgcn.records import Annotation
from dgcn.skeleton import COCO

STRIDE = 8
CERTAIN = 12.0  # logit


def standing(x: float, y: float, height: float) -> np.ndarray:
    """Keypoints float32 [17, 3] (x px, y px, visibility 2) of a standing person with its ears at (x, y)."""
    pose = COCO.upright_pose - COCO.upright_pose[COCO.keypoints.index("nose")]
    xy = pose * height / np.ptp(pose[:, 1]) + np.array([x, y])
    return np.column_stack([xy, np.full(17, 2)]).astype(np.float32)


def box(keypoints: np.ndarray) -> tuple[float, float, float, float]:
    """(x, y, width, height) around `keypoints` [K, 3]."""
    (x, y), (w, h) = keypoints[:, :2].min(axis=0).tolist(), np.ptp(keypoints[:, :2], axis=0).tolist()
    return x, y, w, h


def coco_set(names: Sequence[str], pictures: Sequence[tuple[tuple[int, int], list[np.ndarray]]]) -> dict[str, Any]:
    """The COCO keypoint set of pictures, called `names`, of a (width, height) and keypoints [17, 3] each."""
    images, annotations = [], []
    for image_id, (name, ((width, height), persons)) in enumerate(zip(names, pictures, strict=True), start=1):
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for keypoints in persons:
            _, _, w, h = bounds = box(keypoints)
            person = {"id": len(annotations) + 1, "image_id": image_id, "category_id": 1, "iscrowd": 0}
            person |= {"keypoints": keypoints.ravel().tolist(), "num_keypoints": 17, "bbox": bounds, "area": w * h / 2}
            annotations.append(person)
    category = {"id": 1, "name": "person", "keypoints": list(COCO.keypoints), "skeleton": []}
    return {"images": images, "annotations": annotations, "categories": [category]}


def picture(tone: int, width: int, height: int) -> np.ndarray:
    """A uint8 [H, W, 3] picture of one tone, by which `Oracle` knows it again."""
    return np.full((height, width, 3), tone, np.uint8)


def with_orientation(path: Path, orientation: int) -> None:
    """Put an EXIF block that says how to turn the picture into the JPEG at `path`."""
    entry = (0x0112).to_bytes(2, "big") + (3).to_bytes(2, "big") + (1).to_bytes(4, "big")
    tiff = (
        b"MM\0*" + (8).to_bytes(4, "big") + (1).to_bytes(2, "big") + entry + orientation.to_bytes(2, "big") + bytes(6)
    )
    segment = b"Exif\0\0" + tiff
    content = path.read_bytes()
    path.write_bytes(content[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + content[2:])


class Oracle(nn.Module):
    """Returns the heads of a network that sees the persons of a picture exactly.

    persons: by the tone of its picture, that picture's (width, height) and its keypoints, each [17, 3] in its pixels.
    """

    stride = STRIDE

    def __init__(self, persons: dict[int, tuple[tuple[int, int], list[np.ndarray]]]) -> None:
        super().__init__()
        self.persons = persons
        self.config = SimpleNamespace(skeleton=COCO)
        self.batch_sizes: list[int] = []

    def fold(self) -> Oracle:
        return self

    def forward(self, images: Tensor) -> Output:
        assert images.dtype == torch.uint8
        self.batch_sizes.append(len(images))
        heads = [self._heads(image) for image in images]
        return Output(torch.stack([pif for pif, _ in heads]), torch.stack([paf for _, paf in heads]), [])

    def _heads(self, image: Tensor) -> tuple[Tensor, Tensor]:
        height, width = image.shape[1:]
        brightness = float(image[0, height // 4, width // 4])
        tone = min(self.persons, key=lambda tone: abs(tone - brightness))  # resampling may have changed it a little
        (original_width, original_height), persons = self.persons[tone]
        _, preprocess = resize_pad(picture(0, original_width, original_height), max(width, height))
        moved = [keypoints * np.float32([preprocess.scale, preprocess.scale, 1]) for keypoints in persons]
        annotations = [Annotation(keypoints, box(keypoints), area=1.0) for keypoints in moved]
        targets = PifPafCodec(COCO, STRIDE).encode(annotations, height, width)
        names = ("pif_confidence", "pif_offset", "pif_scale", "paf_confidence", "paf_offset")
        parts = {name: torch.from_numpy(getattr(targets, name)).nan_to_num(0.0) for name in names}
        pif, paf = torch.zeros(17, 5, *parts["pif_scale"].shape[1:]), torch.zeros(19, 7, *parts["pif_scale"].shape[1:])
        pif[:, 0] = CERTAIN * (2 * parts["pif_confidence"] - 1)
        pif[:, 1:3] = parts["pif_offset"]
        pif[:, 4] = parts["pif_scale"].clamp(min=1e-3).expm1().log()  # the inverse of softplus
        paf[:, 0] = CERTAIN * (2 * parts["paf_confidence"] - 1)
        paf[:, 1:5] = parts["paf_offset"]
        return pif, paf
