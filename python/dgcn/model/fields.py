"""A network together with what makes the decoder's fields of its heads, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..codec import Output
from .network import DGCN


class FieldsModel(nn.Module):
    """`FieldsModel(model)(images)`: images as `DGCN` takes them, to the fields that `PifPafDecoder` takes.

        pif [B, K, 5, h, w]: 0, confidence, x, y, scale
        paf [B, M, 8, h, w]: 0, confidence, x1, y1, x2, y2, scale1, scale2

    Both float32, confidences in [0, 1], coordinates absolute, coordinates and scales in cells. A limb's scales are
    those of the PIF in the cells nearest to its end points.

    Args:
        model: whose heads these are.
        flip_test: average what `model` sees in each picture with what it sees in its mirror image.

    Raises:
        ValueError: `flip_test` with a skeleton that is not its own mirror image.
    """

    limbs: Tensor  # [M, 2]: keypoints at the ends
    mirror_keypoints: Tensor  # [K]: the mirror image of each keypoint
    mirror_limbs: Tensor  # [M]: the same of each limb
    mirror_ends: Tensor  # [M, 2]: and of its ends

    def __init__(self, model: DGCN, *, flip_test: bool = False) -> None:
        super().__init__()
        self.model = model
        self.flip_test = flip_test
        skeleton = model.config.skeleton
        self._register("limbs", skeleton.limbs, (-1, 2))
        if flip_test:
            mirrored = skeleton.mirror_limbs()
            self._register("mirror_keypoints", skeleton.flip, (-1,))
            self._register("mirror_limbs", [limb for limb, _ in mirrored], (-1,))
            self._register("mirror_ends", [(1, 0) if is_reversed else (0, 1) for _, is_reversed in mirrored], (-1, 2))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if not self.flip_test:
            return self._fields(*self._parts(self.model(images)))
        both = self._parts(self.model(torch.cat([images, images.flip(-1)])))
        pictures, mirrored = zip(*(part.chunk(2) for part in both), strict=True)
        return self._fields(*((a + b) / 2 for a, b in zip(pictures, self._mirror(*mirrored), strict=True)))

    def _register(self, name: str, indices: object, shape: tuple[int, ...]) -> None:
        self.register_buffer(name, torch.tensor(indices, dtype=torch.int64).reshape(shape), persistent=False)

    def _parts(self, output: Output) -> tuple[Tensor, ...]:
        """PIF confidence [B, K, h, w], offset [B, K, (x, y), h, w] and scale [B, K, h, w], PAF confidence
        [B, M, h, w] and offset [B, M, end, (x, y), h, w], offsets relative to the cell."""
        heads = Output(output.pif.float(), output.paf.float(), [])
        return (
            heads.pif_confidence.sigmoid(),
            heads.pif_offset,
            F.softplus(heads.pif_scale),
            heads.paf_confidence.sigmoid(),
            heads.paf_offset.unflatten(2, (2, 2)),
        )

    def _mirror(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """The parts of mirrored pictures as of the pictures: last column first, x negated, left and right swapped."""
        pif_confidence, pif_offset, pif_scale, paf_confidence, paf_offset = (part.flip(-1) for part in parts)
        negate_x = pif_offset.new_tensor([-1.0, 1.0])[:, None, None]
        return (
            pif_confidence[:, self.mirror_keypoints],
            pif_offset[:, self.mirror_keypoints] * negate_x,
            pif_scale[:, self.mirror_keypoints],
            paf_confidence[:, self.mirror_limbs],
            paf_offset[:, self.mirror_limbs[:, None], self.mirror_ends] * negate_x,
        )

    def _fields(
        self, pif_confidence: Tensor, pif_offset: Tensor, pif_scale: Tensor, paf_confidence: Tensor, paf_offset: Tensor
    ) -> tuple[Tensor, Tensor]:
        height, width = pif_scale.shape[-2:]
        columns, rows = (torch.arange(size, device=pif_scale.device) for size in (width, height))
        cells = torch.stack(torch.meshgrid(columns, rows, indexing="xy")).float()  # [(x, y), h, w]
        ends = paf_offset + cells
        # The comparison maps NaN, from a diverged network, to a valid index. The field keeps the NaN, and the decoder
        # skips such cells.
        x, y = torch.where(ends > 0, ends, 0).minimum(cells[:, -1:, -1:]).round().long().unbind(3)  # [B, M, end, h, w]
        nearest = (self.limbs[:, :, None, None] * height + y) * width + x
        scales = pif_scale.flatten(1).gather(1, nearest.flatten(1)).view_as(nearest)
        pif = [torch.zeros_like(pif_confidence)[:, :, None], pif_confidence[:, :, None], pif_offset + cells]
        paf = [torch.zeros_like(paf_confidence)[:, :, None], paf_confidence[:, :, None], ends.flatten(2, 3), scales]
        return torch.cat([*pif, pif_scale[:, :, None]], dim=2), torch.cat(paf, dim=2)
