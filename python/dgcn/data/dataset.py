"""Training data: augmented samples of a keypoint data set and their targets."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from ..codec import PifPafCodec, Targets
from ..records import Annotation, ImageRecord
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

    def numpy(self) -> Targets:
        """Arrays that share the memory of the tensors."""
        values = {name: value.numpy() for name, value in vars(self).items() if name != "node_confidence"}
        nodes = {stride: value.numpy() for stride, value in self.node_confidence.items()}
        return Targets(**values, node_confidence=nodes)

    def map(self, function: Callable[[Tensor], Tensor]) -> TargetBatch:
        """What `function` makes of each of the tensors, in the order of `tensors`."""
        values = {name: function(value) for name, value in vars(self).items() if name != "node_confidence"}
        nodes = {stride: function(value) for stride, value in self.node_confidence.items()}
        return TargetBatch(**values, node_confidence=nodes)

    def tensors(self) -> list[Tensor]:
        """All of them."""
        return [*(value for value in vars(self).values() if isinstance(value, Tensor)), *self.node_confidence.values()]

    def to(self, device: torch.device) -> TargetBatch:
        """On `device`; the copy to a GPU from page-locked memory is not waited for."""
        return self.map(lambda value: value.to(device, non_blocking=True))

    def __getitem__(self, part: slice) -> TargetBatch:
        """Those of some of the samples, without a copy."""
        return self.map(lambda value: value[part])


MAX_SKIPPED = 8
"""Bad pictures one after another at which skipping ends: with so many a disk is gone, not a picture."""


def digest(records: Sequence[ImageRecord]) -> str:
    """What tells a data set from others: the number of its images, and a checksum of what is annotated."""
    checksum = 0
    for record in records:
        checksum = zlib.crc32(repr(record.image_id).encode(), checksum)
        for annotation in record.annotations:
            checksum = zlib.crc32(np.asarray(annotation.keypoints).tobytes(), checksum)
            checksum = zlib.crc32(repr((annotation.box, annotation.area, annotation.iscrowd)).encode(), checksum)
    return f"{len(records)} images, checksum {checksum:08x}"


class KeypointDataset(Dataset[dict[str, Any]]):
    """Training samples from the pictures of an annotation file on which at least one person has keypoints.

    A sample is a dict:
        image: uint8 tensor [3, S, S], channels last, RGB, S = `transform.size`
        image_id: as in the file
        annotations: what is annotated on it, in its pixels
        skipped: (path, reason) of each picture that could not be read, in whose place this sample is

    `collate` makes a batch of them, with the targets of `codec` and the PIF confidence at every stride of
    `node_strides`.

    What is random about sample i depends on (`seed`, epoch, i) alone, so that a resumed run sees the same samples
    whatever its number of workers.

    Args:
        on_bad_image: what to do where a picture is missing or damaged: raise its error, or take the next sample of
            the data set. With "skip" no picture is looked at before it is needed: a run that is resumed after one was
            lost must have the samples that it had before.
    """

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
        on_bad_image: Literal["stop", "skip"] = "stop",
    ) -> None:
        """Reads and checks the whole file; raises as `read_records`, and ValueError where nobody has keypoints."""
        checks = on_bad_image == "stop"
        records = read_records(Path(images), Path(annotations), skeleton, reading, needs_pictures=checks)
        self.records = [record for record in records if record.persons]
        if not self.records:
            raise ValueError(f"{annotations} has no person with keypoints")
        self.transform = transform
        self.codec = codec
        self.node_strides = tuple(node_strides)
        self.seed = seed
        self.on_bad_image = on_bad_image
        # Those of a batch of one: a batch of B has B times as many bytes.
        self._image = torch.empty(1, transform.size, transform.size, 3, dtype=torch.uint8)
        self._targets = TargetBatch.from_numpy(self._encode([[]]))
        self._num_bytes = [tensor.nbytes for tensor in [*self._targets.tensors(), self._image]]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Sample `index` of epoch 0."""
        return self.sample(index, 0)

    def sample(self, index: int, epoch: int) -> dict[str, Any]:
        """Sample `index` of an epoch, or what is in its place.

        Raises:
            OSError, ValueError: the picture cannot be read, or with `on_bad_image="skip"` `MAX_SKIPPED` in a row.
        """
        skipped = []
        for place in [(index + i) % len(self) for i in range(MAX_SKIPPED)]:
            record = self.records[place]
            try:
                image = read_record(record)
                break
            except (OSError, ValueError) as error:
                if self.on_bad_image == "stop":
                    raise
                skipped.append((str(record.path), describe_error(error, str(record.path))))
        else:
            (first, _), (_, reason) = skipped[0], skipped[-1]
            raise ValueError(f"{MAX_SKIPPED} pictures in a row cannot be read: {first} and those after it; {reason}")
        rng = np.random.default_rng((self.seed, epoch, place))
        image, annotations = self.transform(image, record.annotations, rng)
        return {
            "image": torch.from_numpy(image).permute(2, 0, 1),
            "image_id": record.image_id,
            "annotations": annotations,
            "skipped": skipped,
        }

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Samples as a batch: image uint8 [B, 3, S, S], channels last; targets, a `TargetBatch`; image_id and skipped,
        lists."""
        return self.unpack(self.pack(items))

    def pack(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The batch of `collate` with all its tensors in one, "buffer".

        For each tensor that a process of a loader sends, the training process waits a millisecond or more.
        """
        buffer = _empty(self.num_bytes(len(items)))
        images, targets = self._views(buffer, len(items))
        torch.stack([item["image"].permute(1, 2, 0) for item in items], out=images)
        self._encode([item["annotations"] for item in items], out=targets.numpy())
        return {
            "buffer": buffer,
            "image_id": [item["image_id"] for item in items],
            "skipped": [picture for item in items for picture in item["skipped"]],
        }

    def unpack(self, packed: dict[str, Any]) -> dict[str, Any]:
        """The batch of `collate`, from what `pack` returned."""
        batch = dict(packed)
        images, targets = self._views(batch.pop("buffer"), len(batch["image_id"]))
        return {"image": images.permute(0, 3, 1, 2), "targets": targets, **batch}

    def num_bytes(self, count: int) -> int:
        """Bytes of the tensors of a batch of `count` samples."""
        return count * sum(self._num_bytes)

    def _views(self, buffer: Tensor, count: int) -> tuple[Tensor, TargetBatch]:
        """Images [B, S, S, 3] and targets of a batch of `count` samples in the memory of `buffer`."""
        parts = iter(buffer.split([count * size for size in self._num_bytes]))

        def view(of_one: Tensor) -> Tensor:
            return next(parts).view(of_one.dtype).view(count, *of_one.shape[1:])

        targets = self._targets.map(view)
        return view(self._image), targets

    def _encode(self, pictures: Sequence[Sequence[Annotation]], out: Targets | None = None) -> Targets:
        size = self.transform.size
        threads = torch.get_num_threads()
        return self.codec.encode_batch(pictures, size, size, node_strides=self.node_strides, threads=threads, out=out)


def describe_error(error: Exception, what: str) -> str:
    """`error`, raised while `what` was loaded, in one line that names it."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return reason if what in reason else f"{what} could not be loaded: {reason}"


def _empty(num_bytes: int) -> Tensor:
    """A uint8 tensor; in a process of a loader it lies in memory shared with the training process.

    Otherwise it would be copied there when it is sent, which takes a third of such a process's time.
    """
    if get_worker_info() is None:
        return torch.empty(num_bytes, dtype=torch.uint8)
    return torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(num_bytes))
