"""COCO-style keypoint data: read and checked once, then augmented samples and their targets for training."""

from __future__ import annotations

import json
import math
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .codec import PifPafCodec, Targets
from .images import read_image
from .skeleton import Annotation, Skeleton
from .transforms import TrainTransform


@dataclass(frozen=True)
class ImageRecord:
    """One picture of a COCO file: its id, where it lies, and what is annotated on it (pixels of the file)."""

    image_id: int
    path: Path
    annotations: tuple[Annotation, ...]

    @property
    def persons(self) -> list[Annotation]:
        """Those of the annotations that are one person with keypoints."""
        return [annotation for annotation in self.annotations if not annotation.is_ignored]


def read_coco(images: str | Path, annotations: str | Path, skeleton: Skeleton) -> list[ImageRecord]:
    """Every picture of the COCO keypoint file `annotations`, whose files lie in the folder `images`, in file order.

    Raises FileNotFoundError for a missing folder or file, naming the image id, and ValueError for content that is not
    COCO keypoints of `skeleton`, naming the annotation id."""
    images, annotations = Path(images), Path(annotations)
    if not images.is_dir():
        raise FileNotFoundError(f"the image folder {images} does not exist")
    with open(annotations, encoding="utf-8") as file:
        try:
            content = json.load(file)
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{annotations} is not a JSON file: {error}") from error
    if not isinstance(content, dict) or "images" not in content or "annotations" not in content:
        raise ValueError(f"{annotations} must be a COCO file with the lists 'images' and 'annotations'")

    categories = _keypoint_categories(content, annotations, skeleton)
    paths: dict[int, Path] = {}
    for image in content["images"]:
        if "id" not in image or "file_name" not in image:
            raise ValueError(f"every image of {annotations} must have an 'id' and a 'file_name', got {image}")
        image_id = image["id"]
        if image_id in paths:
            raise ValueError(f"{annotations} lists image {image_id} twice")
        paths[image_id] = images / image["file_name"]
        if not paths[image_id].is_file():
            raise FileNotFoundError(f"image {image_id} of {annotations} is missing: {paths[image_id]}")
    by_image: dict[int, list[Annotation]] = {image_id: [] for image_id in paths}
    for entry in content["annotations"]:
        if categories is not None and entry.get("category_id") not in categories:
            continue
        if entry.get("image_id") not in by_image:
            raise ValueError(f"annotation {entry.get('id')} is on image {entry.get('image_id')}, which is not listed")
        by_image[entry["image_id"]].append(_parse_annotation(entry, skeleton))
    return [ImageRecord(image_id, path, tuple(by_image[image_id])) for image_id, path in paths.items()]


@dataclass(frozen=True, kw_only=True)
class TargetBatch:
    """The codec's targets of a batch as tensors; NaN marks what is not supervised."""

    pif_confidence: Tensor  # [B, K, h, w] in {0, 1, NaN}
    pif_offset: Tensor  # [B, K, 2, h, w] cells
    pif_scale: Tensor  # [B, K, h, w] cells
    paf_confidence: Tensor  # [B, M, h, w] in {0, 1, NaN}
    paf_offset: Tensor  # [B, M, 4, h, w] cells
    node_confidence: dict[int, Tensor]  # stride s -> [B, K, h_s, w_s] in {0, 1, NaN}

    @classmethod
    def from_numpy(cls, targets: Targets) -> TargetBatch:
        """Tensors that share the memory of a batch's targets."""
        values = {name: torch.from_numpy(value) for name, value in vars(targets).items() if name != "node_confidence"}
        nodes = {stride: torch.from_numpy(value) for stride, value in targets.node_confidence.items()}
        return cls(**values, node_confidence=nodes)

    def tensors(self) -> list[Tensor]:
        """All of them."""
        return [*(value for value in vars(self).values() if isinstance(value, Tensor)), *self.node_confidence.values()]

    def to(self, device: torch.device) -> TargetBatch:
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        nodes = {stride: value.to(device) for stride, value in self.node_confidence.items()}
        return TargetBatch(**moved, node_confidence=nodes)


class CocoKeypoints(Dataset[dict[str, Any]]):
    """Training samples from the pictures of a COCO file on which at least one person has keypoints.

    An item is a dict:
        image: uint8 tensor [3, S, S], RGB, S = `transform.size`
        image_id: int
        annotations: what is annotated on it, in its pixels

    `collate` makes a batch of them, with the targets of `codec` and the PIF confidence at every stride of
    `node_strides`.

    What is random about sample i depends on (`seed`, epoch, i) alone, so that a resumed run sees the same samples
    whatever its number of workers; call `set_epoch` before each epoch."""

    def __init__(
        self,
        images: str | Path,
        annotations: str | Path,
        skeleton: Skeleton,
        transform: TrainTransform,
        codec: PifPafCodec,
        *,
        node_strides: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        """Reads and checks the whole file; raises as `read_coco`, and ValueError where nobody has keypoints."""
        self.records = [record for record in read_coco(images, annotations, skeleton) if record.persons]
        if not self.records:
            raise ValueError(f"{annotations} has no person with keypoints")
        self.annotations = annotations
        self.transform = transform
        self.codec = codec
        self.node_strides = tuple(node_strides)
        self.seed = seed
        # Shared, so that workers which outlive an epoch see the next one; in a file where /dev/shm is full.
        self._epoch = multiprocessing.RawValue("q", 0)

    def __len__(self) -> int:
        return len(self.records)

    def set_epoch(self, epoch: int) -> None:
        """Draw the samples of this epoch (from 0) from now on, in every worker."""
        self._epoch.value = epoch

    def persons(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Keypoints [P, K, 2] px, visibility [P, K] and scale [P] px of everybody annotated, for `distance_matrix`.

        Raises ValueError where nobody has a size."""
        persons = [person for record in self.records for person in record.persons if person.scale > 0]
        if not persons:
            raise ValueError(
                f"{self.annotations} must give at least one person with keypoints an area or a box above 0: the graphs"
                " 'dynamic' and 'soft' measure distances in units of it (Eq. 5), got 0 for all"
            )
        keypoints = np.array([person.keypoints for person in persons])
        return keypoints[..., :2], keypoints[..., 2], np.array([person.scale for person in persons])

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        rng = np.random.default_rng((self.seed, self._epoch.value, index))
        image, annotations = self.transform(read_image(record.path), record.annotations, rng)
        return {
            "image": torch.from_numpy(image).permute(2, 0, 1).contiguous(),
            "image_id": record.image_id,
            "annotations": annotations,
        }

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Items as a batch: image uint8 [B, 3, S, S], image_id (a list), targets (a `TargetBatch`)."""
        images = torch.stack([item["image"] for item in items])
        targets = self.codec.encode_batch(
            [item["annotations"] for item in items],
            *images.shape[2:],
            node_strides=self.node_strides,
            threads=torch.get_num_threads(),
        )
        return {
            "image": images,
            "image_id": [item["image_id"] for item in items],
            "targets": TargetBatch.from_numpy(targets),
        }


def _keypoint_categories(content: dict[str, Any], source: Path, skeleton: Skeleton) -> set[int] | None:
    """Ids of the categories with keypoints, all checked to be the skeleton's; None where the file names no category."""
    if "categories" not in content:
        return None
    found = {category["id"]: category["keypoints"] for category in content["categories"] if "keypoints" in category}
    if not found:
        raise ValueError(f"no category of {source} has keypoints")
    for category_id, names in found.items():
        if tuple(names) != skeleton.keypoints:
            raise ValueError(
                f"category {category_id} of {source} must have the keypoints of the skeleton "
                f"'{skeleton.name}' {list(skeleton.keypoints)}, got {names}"
            )
    return set(found)


def _parse_annotation(entry: dict[str, Any], skeleton: Skeleton) -> Annotation:
    """One entry of COCO's list 'annotations', checked; without keypoints (a crowd may have none) all are missing."""
    where = f"annotation {entry.get('id')} on image {entry.get('image_id')}"
    count = skeleton.num_keypoints
    numbers = _to_numbers(entry.get("keypoints") or [0] * (3 * count), "keypoints", where).astype(np.float32)
    if numbers.shape != (3 * count,):
        raise ValueError(f"{where} must have {count} keypoints of (x, y, v), got {numbers.size} numbers")
    keypoints = numbers.reshape(count, 3)
    if not np.isfinite(keypoints).all():
        raise ValueError(f"{where} has a keypoint that is not finite")
    if not np.isin(keypoints[:, 2], (0, 1, 2)).all():
        raise ValueError(f"{where} has a keypoint whose visibility is not 0, 1 or 2: {keypoints[:, 2].tolist()}")
    box = _to_numbers(entry.get("bbox", ()), "bbox", where)
    if box.shape != (4,) or not np.isfinite(box).all() or (box[2:] < 0).any():
        raise ValueError(f"{where} must have a bbox (x, y, width >= 0, height >= 0), got {box.tolist()}")
    x, y, width, height = box.tolist()
    area = float(_to_numbers(entry.get("area", width * height), "area", where))
    if not 0 <= area < math.inf:
        raise ValueError(f"{where} must have an area of at least 0, got {area}")
    return Annotation(keypoints, (x, y, width, height), area, bool(entry.get("iscrowd", 0)))


def _to_numbers(value: Any, name: str, where: str) -> np.ndarray:
    try:
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the {name} of {where} must be numbers, got {value}") from error
