"""PIF and PAF: what the network returns, and its training targets from annotated persons.

Legend: K keypoints, M limbs, P persons, H x W cells; the cell in row i and column j of a field of stride s is centred
on pixel (x, y) = (s j, s i). Offsets and scales are in cells. The fields are those of PifPaf (Kreiss et al. 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dgcn_ext.encoder import PifPafEncoder, Targets

from .records import Annotation
from .skeleton import Skeleton

if TYPE_CHECKING:
    from torch import Tensor

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
    """Encodes the annotations of pictures as fields of `stride` pixels a cell."""

    def __init__(self, skeleton: Skeleton, stride: int) -> None:
        if stride < 1:
            raise ValueError(f"stride must be at least 1 pixel, got {stride}")
        self.skeleton = skeleton
        self.stride = stride
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

    def targets_to_heads(self, targets: Targets) -> tuple[np.ndarray, np.ndarray]:
        """The heads that predict `targets` exactly: the decoder should find the encoded persons in them.

        NaN becomes 0: no confidence, no offset, and scale 0 where a joint's is unknown.

        Returns:
            float32 pif [K, 5, H, W] and paf [M, 7, H, W], as in `Output`.
        """
        with np.errstate(divide="ignore"):  # the logit of 1 is infinite, as is what softplus makes 0 of
            logits = [
                np.log(confidence / (1 - confidence))
                for confidence in map(np.nan_to_num, (targets.pif_confidence, targets.paf_confidence))
            ]
            scale = np.log(np.expm1(np.nan_to_num(targets.pif_scale)))
        offsets = [np.nan_to_num(offset) for offset in (targets.pif_offset, targets.paf_offset)]
        unused = [np.zeros_like(logit)[:, None] for logit in logits]
        return (
            np.concatenate([logits[0][:, None], offsets[0], unused[0], scale[:, None]], axis=1),
            np.concatenate([logits[1][:, None], offsets[1], unused[1], unused[1]], axis=1),
        )

    def _picture(self, annotations: Sequence[Annotation]) -> tuple[np.ndarray, np.ndarray]:
        """Keypoints [P, K, 3] of the persons that have any, and the boxes [R, 4] of everybody else."""
        count = self.skeleton.num_keypoints
        for annotation in annotations:
            if annotation.keypoints.shape != (count, 3):
                raise ValueError(f"keypoints must have shape ({count}, 3), got {annotation.keypoints.shape}")
        persons = [annotation.keypoints for annotation in annotations if not annotation.is_ignored]
        boxes = [annotation.box for annotation in annotations if annotation.is_ignored]
        return np.array(persons).reshape(-1, count, 3), np.array(boxes).reshape(-1, 4)
