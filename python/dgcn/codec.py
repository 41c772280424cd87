"""PIF and PAF: from annotated persons to training targets, and from the network's heads to the decoder's fields.

Legend: K keypoints, M limbs, P persons, H x W cells; the cell in row i and column j of a field of stride s is centred
on pixel (x, y) = (s j, s i). Offsets and scales are in cells. The fields are those of PifPaf (Kreiss et al. 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from dgcn_ext.encoder import PifPafEncoder, Targets

from .records import Annotation
from .skeleton import Skeleton

__all__ = ["PAF_COMPONENTS", "PIF_COMPONENTS", "Output", "PifPafCodec", "Targets"]

PIF_COMPONENTS = 5  # of a head: c, x, y, b, scale
PAF_COMPONENTS = 7  # c, x1, y1, x2, y2, b1, b2


class Output(NamedTuple):
    """What the network returns for images [B, 3, H, W]; h, w are the cells of the fields' stride (8).

    The heads as they are, and views of their components under the names that these have in `Targets`.
    """

    pif: Tensor  # [B, K, 5, h, w]: c (logit), x, y (cells, relative to the cell), b, scale (before softplus)
    paf: Tensor  # [B, M, 7, h, w]: c (logit), x1, y1, x2, y2 (cells, relative to the cell), b1, b2
    node_logits: list[tuple[int, Tensor]]  # (stride s, [B, K, h_s, w_s]) of every DGCM: the intermediate supervision

    @property
    def pif_confidence(self) -> Tensor:
        """[B, K, h, w] logits."""
        return self.pif[:, :, 0]

    @property
    def pif_offset(self) -> Tensor:
        """[B, K, 2, h, w] (x, y) in cells."""
        return self.pif[:, :, 1:3]

    @property
    def pif_spread(self) -> Tensor:
        """[B, K, h, w], b of the offset."""
        return self.pif[:, :, 3]

    @property
    def pif_scale(self) -> Tensor:
        """[B, K, h, w], before softplus."""
        return self.pif[:, :, 4]

    @property
    def paf_confidence(self) -> Tensor:
        """[B, M, h, w] logits."""
        return self.paf[:, :, 0]

    @property
    def paf_offset(self) -> Tensor:
        """[B, M, 4, h, w] (x1, y1, x2, y2) in cells."""
        return self.paf[:, :, 1:5]

    @property
    def paf_spread(self) -> Tensor:
        """[B, M, 2, h, w], b of either end's offset."""
        return self.paf[:, :, 5:7]


class PifPafCodec:
    """Encodes the annotations of pictures as fields of `stride` pixels a cell, and raw heads as decoder input."""

    def __init__(self, skeleton: Skeleton, stride: int) -> None:
        if stride < 1:
            raise ValueError(f"stride must be at least 1 pixel, got {stride}")
        self.skeleton = skeleton
        self.stride = stride
        self._limbs = np.array(skeleton.limbs, dtype=np.intp).reshape(-1, 2)
        self._encoder = PifPafEncoder(skeleton.num_keypoints, skeleton.limbs, skeleton.sigmas, skeleton.upright_pose)

    def encode(
        self, annotations: Sequence[Annotation], height: int, width: int, *, node_strides: Sequence[int] = ()
    ) -> Targets:
        """Targets of one picture, as `PifPafEncoder` defines them. `Annotation.is_ignored` says which boxes it ignores.

        Args:
            annotations: of the picture, in network pixels.
            height: of the picture in network pixels, a multiple of every stride plus 1.
            width: the same.
            node_strides: strides at which the intermediate supervision needs the PIF confidence.
        """
        keypoints, ignored = self._picture(annotations)
        return self._encoder(keypoints, height, width, self.stride, ignored=ignored, node_strides=node_strides)

    def encode_batch(
        self,
        pictures: Sequence[Sequence[Annotation]],
        height: int,
        width: int,
        *,
        node_strides: Sequence[int] = (),
        threads: int = 0,
        out: Targets | None = None,
    ) -> Targets:
        """The same for the annotations of B pictures of one size, stacked.

        Args:
            pictures, height, width, node_strides: as for one picture.
            threads: how many to use (0: all cores).
            out: targets of these shapes to write into and return.
        """
        checked = [self._picture(annotations) for annotations in pictures]
        return self._encoder.batch(
            checked, height, width, self.stride, node_strides=node_strides, threads=threads, out=out
        )

    def decode_fields(
        self, pif_head: Tensor, paf_head: Tensor, mirrored: tuple[Tensor, Tensor] | None = None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """The decoder's input from the heads of `Output`.

        Args:
            pif_head: [B, K, 5, H, W], of any float dtype.
            paf_head: [B, M, 7, H, W].
            mirrored: both heads for the mirror images of the same pictures, to be averaged with.

        Returns:
            For each picture float32 (pif [K, 5, H, W], paf [M, 8, H, W]): (0, confidence, x, y, scale) and (0,
            confidence, x1, y1, x2, y2, scale1, scale2) in absolute cells. A limb's scales are those of the PIF at its
            end points.

        Raises:
            ValueError: heads of another shape, or `mirrored` with a skeleton that is not its own mirror image.
        """
        parts = self._parts(pif_head, paf_head)
        if mirrored is not None:
            parts = [(a + b) / 2 for a, b in zip(parts, self._mirror(*self._parts(*mirrored)), strict=True)]
        return [self._assemble(*of_image) for of_image in zip(*(part.cpu().numpy() for part in parts), strict=True)]

    def targets_to_fields(self, targets: Targets) -> tuple[np.ndarray, np.ndarray]:
        """The fields of heads that predict `targets` exactly: the decoder should find the encoded persons in them.

        NaN becomes 0: no confidence, no offset, and scale 0 where a joint's is unknown."""
        parts = (
            targets.pif_confidence,
            targets.pif_offset,
            targets.pif_scale,
            targets.paf_confidence,
            targets.paf_offset,
        )
        return self._assemble(*(np.nan_to_num(part) for part in parts))

    def _picture(self, annotations: Sequence[Annotation]) -> tuple[np.ndarray, np.ndarray]:
        """Keypoints [P, K, 3] of the persons that have any, and the boxes [R, 4] of everybody else."""
        count = self.skeleton.num_keypoints
        for annotation in annotations:
            if annotation.keypoints.shape != (count, 3):
                raise ValueError(f"keypoints must have shape ({count}, 3), got {annotation.keypoints.shape}")
        persons = [annotation.keypoints for annotation in annotations if not annotation.is_ignored]
        boxes = [annotation.box for annotation in annotations if annotation.is_ignored]
        return np.array(persons).reshape(-1, count, 3), np.array(boxes).reshape(-1, 4)

    def _parts(self, pif_head: Tensor, paf_head: Tensor) -> list[Tensor]:
        """PIF confidence, offset and scale, PAF confidence and offset: [B, K or M, ...], as `Targets` has them."""
        self._check_heads(pif_head, paf_head)
        heads = Output(pif_head.detach().float(), paf_head.detach().float(), [])
        return [
            heads.pif_confidence.sigmoid(),
            heads.pif_offset,
            F.softplus(heads.pif_scale),
            heads.paf_confidence.sigmoid(),
            heads.paf_offset,
        ]

    def _mirror(self, *parts: Tensor) -> list[Tensor]:
        """The parts of mirrored pictures as of the pictures: last column first, x negated, left and right swapped."""
        pif_confidence, pif_offset, pif_scale, paf_confidence, paf_offset = (part.flip(-1) for part in parts)
        keypoints = list(self.skeleton.flip)
        limbs, is_reversed = np.array(self.skeleton.mirror_limbs(), dtype=np.intp).reshape(-1, 2).T
        ends = is_reversed[:, None] ^ np.arange(2)  # [M, 2]: which end of the mirror image either end is
        negate_x = paf_offset.new_tensor([-1.0, 1.0])[:, None, None]
        paf_offset = paf_offset.unflatten(2, (2, 2)) * negate_x  # [B, M, end, (x, y), H, W]
        return [
            pif_confidence[:, keypoints],
            pif_offset[:, keypoints] * negate_x,
            pif_scale[:, keypoints],
            paf_confidence[:, limbs],
            paf_offset[:, limbs[:, None], ends].flatten(2, 3),
        ]

    def _assemble(
        self,
        pif_confidence: np.ndarray,
        pif_offset: np.ndarray,
        pif_scale: np.ndarray,
        paf_confidence: np.ndarray,
        paf_offset: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Decoder fields pif [K, 5, H, W] and paf [M, 8, H, W] of one picture from parts without NaN targets."""
        height, width = pif_confidence.shape[1:]
        cell = np.indices((height, width), dtype=np.float32)[::-1]  # x, y
        ends = paf_offset.reshape(-1, 2, 2, height, width) + cell  # [M, end, (x, y), H, W]
        # fmin and fmax map NaN, from a diverged network, to a valid index. The field keeps the NaN, and the decoder
        # skips such cells.
        last = np.array([width - 1, height - 1], np.float32)[:, None, None]
        x, y = np.rint(np.fmin(np.fmax(ends, 0), last)).astype(np.intp).swapaxes(0, 2)  # [end, M, H, W] each
        scales = pif_scale.take((self._limbs.T[..., None, None] * height + y) * width + x).swapaxes(0, 1)
        unused_pif, unused_paf = np.zeros_like(pif_confidence), np.zeros_like(paf_confidence)
        pif = np.concatenate(
            [unused_pif[:, None], pif_confidence[:, None], pif_offset + cell, pif_scale[:, None]], axis=1
        )
        paf = np.concatenate(
            [unused_paf[:, None], paf_confidence[:, None], ends.reshape(-1, 4, height, width), scales], axis=1
        )
        return pif, paf

    def _check_heads(self, pif_head: Tensor, paf_head: Tensor) -> None:
        k, m = self.skeleton.num_keypoints, self.skeleton.num_limbs
        if pif_head.ndim != 5 or pif_head.shape[1:3] != (k, PIF_COMPONENTS):
            required = f"[B, {k}, {PIF_COMPONENTS}, H, W]"
            raise ValueError(f"pif_head must have shape {required}, got {list(pif_head.shape)}")
        expected = [pif_head.shape[0], m, PAF_COMPONENTS, *pif_head.shape[3:]]
        if list(paf_head.shape) != expected:
            raise ValueError(f"paf_head must have shape {expected}, as pif_head, got {list(paf_head.shape)}")
