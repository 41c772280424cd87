"""Training data: augmented samples of a keypoint data set and their targets."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..codec import PifPafCodec, Targets
from ..skeleton import Skeleton
from .images import read_record
from .reader import ReadOptions, read_records
from .transforms import TrainTransform


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
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def __getitem__(self, samples: slice) -> TargetBatch:
        """Those of some samples of the batch."""
        return self._map(lambda tensor: tensor[samples])

    def _map(self, change: Callable[[Tensor], Tensor]) -> TargetBatch:
        changed = {name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        nodes = {stride: change(value) for stride, value in self.node_confidence.items()}
        return TargetBatch(**changed, node_confidence=nodes)


class KeypointDataset(Dataset[dict[str, Any]]):
    """Training samples from the pictures of an annotation file on which at least one person has keypoints.

    An item is a dict:
        image: uint8 tensor [3, S, S], RGB, S = `transform.size`
        image_id: as in the file
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
        reading: ReadOptions | None = None,
        node_strides: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        """Reads and checks the whole file; raises as `read_records`, and ValueError where nobody has keypoints."""
        records = read_records(Path(images), Path(annotations), skeleton, reading)
        self.records = [record for record in records if record.persons]
        if not self.records:
            raise ValueError(f"{annotations} has no person with keypoints")
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

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        rng = np.random.default_rng((self.seed, self._epoch.value, index))
        image, annotations = self.transform(read_record(record), record.annotations, rng)
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
