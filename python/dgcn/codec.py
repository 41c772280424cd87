"""PIF and PAF: from annotated persons to training targets, and from the network's heads to the decoder's fields.

Legend: K keypoints, M limbs, P persons, H x W cells; the cell in row i and column j of a field of stride s is centred
on pixel (x, y) = (s j, s i). Offsets and scales are in cells. The fields are those of PifPaf (Kreiss et al. 2019).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from .skeleton import Annotation, Skeleton

_MIN_JOINTS = 3  # with fewer visible joints a bounding box says nothing about the size of a person
_MAX_POSE_RATIO = 5.0  # how much larger than its visible part a whole person is taken to be, at most
_HIDDEN_RADIUS = 32.0  # pixels; a hidden joint this close to a visible one of its type is what that one hides
_PIF_PATCH = np.stack(np.meshgrid(np.arange(4), np.arange(4)), axis=-1).reshape(16, 2)
_PAF_BLOCK = np.stack(np.meshgrid(np.arange(-1, 2), np.arange(-1, 2)), axis=-1).reshape(9, 2)


@dataclass(frozen=True, eq=False)
class Targets:
    """What the heads should say, float32; NaN where there is nothing to learn from.

    pif_confidence: [K, H, W], 1 near a joint, 0 elsewhere, NaN in regions of unannotated people.
    pif_offset: [K, 2, H, W], cell -> joint, (x, y) in cells; NaN where pif_confidence is not 1.
    pif_scale: [K, H, W], size of the joint in cells (instance scale times OKS sigma); NaN also where it is unknown.
    paf_confidence: [M, H, W], 1 along a limb, 0 or NaN elsewhere.
    paf_offset: [M, 4, H, W], cell -> both ends of the limb, (x1, y1, x2, y2) in cells; NaN where there is no limb.
    """

    pif_confidence: np.ndarray
    pif_offset: np.ndarray
    pif_scale: np.ndarray
    paf_confidence: np.ndarray
    paf_offset: np.ndarray


class PifPafCodec:
    """Encodes the annotations of one picture as fields of `stride` pixels a cell, and raw heads as decoder input."""

    def __init__(self, skeleton: Skeleton, stride: int) -> None:
        if stride < 1:
            raise ValueError(f"stride must be at least 1 pixel, got {stride}")
        self.skeleton = skeleton
        self.stride = stride
        self._limbs = np.array(skeleton.limbs, dtype=np.intp).reshape(-1, 2)
        self._sigmas = np.array(skeleton.sigmas)
        self._upright_area = _box_area(skeleton.upright_pose)

    def encode(self, annotations: Sequence[Annotation], height_px: int, width_px: int) -> Targets:
        """Targets of a picture of `height_px` x `width_px` network pixels, both a multiple of the stride plus 1.

        PIF: a joint claims the 4x4 cells around it; the nearest joint wins a cell. PAF: a limb claims 3x3 cells at
        every step of about a cell along it; the smallest perpendicular distance wins. Inside the boxes of crowds and
        of persons without keypoints the confidence is NaN, unless an annotated person claims the cell."""
        height, width = self._field_size(height_px, width_px)
        joints, painted = self._joints(annotations, height, width)
        person, k, row, column = self._joint_cells(joints, painted, height, width)
        pif_confidence = self._background(annotations, self.skeleton.num_keypoints, height, width)
        pif_confidence[k, row, column] = 1
        pif_offset = np.full((self.skeleton.num_keypoints, 2, height, width), np.nan, np.float32)
        pif_offset[k, :, row, column] = joints[person, k] - np.column_stack([column, row])
        pif_scale = np.full((self.skeleton.num_keypoints, height, width), np.nan, np.float32)
        pif_scale[k, row, column] = self._joint_scales(annotations)[person, k]

        ends, m, row, column = self._limb_cells(joints, painted, height, width)
        paf_confidence = self._background(annotations, self.skeleton.num_limbs, height, width)
        paf_confidence[m, row, column] = 1
        paf_offset = np.full((self.skeleton.num_limbs, 4, height, width), np.nan, np.float32)
        paf_offset[m, :, row, column] = ends - np.column_stack([column, row, column, row])
        return Targets(pif_confidence, pif_offset, pif_scale, paf_confidence, paf_offset)

    def encode_confidence(self, annotations: Sequence[Annotation], height_px: int, width_px: int) -> np.ndarray:
        """`encode(...).pif_confidence` alone: the target of the intermediate supervision, cheaper at its own stride."""
        height, width = self._field_size(height_px, width_px)
        _, k, row, column = self._joint_cells(*self._joints(annotations, height, width), height, width)
        confidence = self._background(annotations, self.skeleton.num_keypoints, height, width)
        confidence[k, row, column] = 1
        return confidence

    def decode_fields(self, pif_head: Tensor, paf_head: Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
        """Raw heads `pif_head` [B, K, 5, H, W] and `paf_head` [B, M, 7, H, W], any float dtype, to what the decoder
        reads: for each picture float32 (pif [K, 5, H, W], paf [M, 8, H, W]).

        Heads are (c, x, y, b, sigma) and (c, x1, y1, x2, y2, b1, b2): c a logit, offsets from the cell, sigma the scale
        before a softplus. Fields are (0, confidence, x, y, scale) and (0, confidence, x1, y1, x2, y2, scale1, scale2)
        in absolute cells; a limb's scales are those of the PIF at its end points."""
        self._check_heads(pif_head, paf_head)
        pif, paf = pif_head.detach().float(), paf_head.detach().float()
        parts = (
            pif[:, :, 0].sigmoid(),
            pif[:, :, 1:3],
            F.softplus(pif[:, :, 4]),
            paf[:, :, 0].sigmoid(),
            paf[:, :, 1:5],
        )
        return [self._assemble(Targets(*of_image)) for of_image in zip(*(p.cpu().numpy() for p in parts), strict=True)]

    def targets_to_fields(self, targets: Targets) -> tuple[np.ndarray, np.ndarray]:
        """The fields of heads that learned `targets` by heart: what the decoder should turn back into the persons.

        NaN becomes 0: no confidence, no offset, and the smallest scale where a joint's is unknown."""
        return self._assemble(Targets(*(np.nan_to_num(getattr(targets, field.name)) for field in fields(targets))))

    def _field_size(self, height_px: int, width_px: int) -> tuple[int, int]:
        for name, pixels in (("height_px", height_px), ("width_px", width_px)):
            if pixels < 1 or (pixels - 1) % self.stride:
                raise ValueError(f"{name} must be a multiple of the stride {self.stride} plus 1, got {pixels}")
        return (height_px - 1) // self.stride + 1, (width_px - 1) // self.stride + 1

    def _joints(self, annotations: Sequence[Annotation], height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions in cells, float64 [P, K, 2], and which joints are painted, bool [P, K]: those annotated, inside the
        picture, and not hidden behind a visible one of the same type."""
        count = self.skeleton.num_keypoints
        for annotation in annotations:
            if annotation.keypoints.shape != (count, 3):
                raise ValueError(f"keypoints must have shape ({count}, 3), got {annotation.keypoints.shape}")
        keypoints = np.array([a.keypoints for a in annotations], np.float64).reshape(-1, count, 3)
        xy, visibility = keypoints[:, :, :2] / self.stride, keypoints[:, :, 2]
        inside = ((xy >= 0) & (xy <= (width - 1, height - 1))).all(axis=-1)
        crowd = np.array([a.iscrowd for a in annotations], bool)[:, None]
        painted = (visibility > 0) & inside & ~crowd
        for k in range(count):
            seen = np.flatnonzero(painted[:, k] & (visibility[:, k] == 2))
            hidden = np.flatnonzero(painted[:, k] & (visibility[:, k] == 1))
            distance = np.linalg.norm(xy[hidden, None, k] - xy[None, seen, k], axis=-1)
            painted[hidden[(distance * self.stride < _HIDDEN_RADIUS).any(axis=1)], k] = False
        return xy, painted

    def _joint_scales(self, annotations: Sequence[Annotation]) -> np.ndarray:
        """Size of every joint in cells, float64 [P, K]; NaN for persons too little of whom is visible.

        The size of a whole person is estimated from its visible joints: the square root of the area of their bounding
        box, times how much the reference pose grows from the same joints to all of them."""
        scales = np.full(len(annotations), np.nan)
        for n, annotation in enumerate(annotations):
            visible = annotation.keypoints[:, 2] > 0
            area = _box_area(annotation.keypoints[visible, :2])
            if visible.sum() >= _MIN_JOINTS and area > 0:
                visible_area = _box_area(self.skeleton.upright_pose[visible])
                ratio = math.sqrt(self._upright_area / visible_area) if visible_area > 0 else math.inf
                scales[n] = math.sqrt(area) / self.stride * min(_MAX_POSE_RATIO, ratio)
        return scales[:, None] * self._sigmas

    def _joint_cells(
        self, joints: np.ndarray, painted: np.ndarray, height: int, width: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Person, keypoint, row and column of every PIF cell that a joint gets."""
        person, k = np.nonzero(painted)
        xy = joints[person, k][:, None]
        cells = np.rint(xy - 1.5) + _PIF_PATCH
        winner, row, column = _nearest(cells, np.linalg.norm(cells - xy, axis=-1), k, height, width)
        return person[winner], k[winner], row, column

    def _limb_cells(
        self, joints: np.ndarray, painted: np.ndarray, height: int, width: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Ends (x1, y1, x2, y2), limb, row and column of every PAF cell that a limb gets."""
        person, m = np.nonzero(painted[:, self._limbs].all(axis=-1))
        first, second = joints[person, self._limbs[m, 0]], joints[person, self._limbs[m, 1]]
        along = second - first
        length = np.linalg.norm(along, axis=1)

        # The steps of all limbs in one list: step t of a limb of n steps lies t / (n - 1) of the way along it.
        steps = np.maximum(2, np.ceil(length)).astype(np.intp)
        owner = np.repeat(np.arange(len(steps)), steps)
        step = np.arange(len(owner)) - np.repeat(np.cumsum(steps) - steps, steps)
        points = first[owner] + along[owner] * (step / (steps[owner] - 1))[:, None]
        cells = np.rint(points)[:, None] + _PAF_BLOCK

        x, y = np.moveaxis(cells - first[owner, None], -1, 0)
        along_x, along_y = along[owner, :, None].swapaxes(0, 1)
        norm = length[owner, None]
        # Where both ends fall together there is no direction: the distance is that to the ends.
        perpendicular = np.where(norm > 0, abs(x * along_y - y * along_x) / np.maximum(norm, 1e-9), np.hypot(x, y))
        winner, row, column = _nearest(cells, perpendicular, m[owner], height, width)
        limb = owner[winner]
        return np.hstack([first, second])[limb], m[limb], row, column

    def _background(self, annotations: Sequence[Annotation], channels: int, height: int, width: int) -> np.ndarray:
        """Confidence [channels, H, W] before anything is painted: 0, NaN in every cell that an ignored box touches."""
        confidence = np.zeros((channels, height, width), np.float32)
        for annotation in annotations:
            if annotation.is_ignored:
                x, y, w, h = (value / self.stride for value in annotation.box)
                rows = slice(max(0, math.floor(y)), max(0, math.ceil(y + h) + 1))
                columns = slice(max(0, math.floor(x)), max(0, math.ceil(x + w) + 1))
                confidence[:, rows, columns] = np.nan
        return confidence

    def _assemble(self, values: Targets) -> tuple[np.ndarray, np.ndarray]:
        """Decoder fields pif [K, 5, H, W] and paf [M, 8, H, W] of one picture from parts without NaN for "nothing"."""
        (k, height, width), m = values.pif_confidence.shape, len(values.paf_confidence)
        cell = np.indices((height, width), dtype=np.float32)[::-1]  # x, y
        pif, paf = np.zeros((k, 5, height, width), np.float32), np.zeros((m, 8, height, width), np.float32)
        pif[:, 1] = values.pif_confidence
        pif[:, 2:4] = values.pif_offset + cell
        pif[:, 4] = values.pif_scale
        paf[:, 1] = values.paf_confidence
        paf[:, 2:6] = values.paf_offset + np.tile(cell, (2, 1, 1))
        for end, joint in enumerate(self._limbs.T):
            # fmin and fmax also turn the NaN of a diverged network into an index; the decoder judges it as a value.
            x, y = (
                np.rint(np.fmin(np.fmax(paf[:, component + 2 * end], 0), size - 1)).astype(np.intp)
                for component, size in ((2, width), (3, height))
            )
            paf[:, 6 + end] = values.pif_scale.take((joint[:, None, None] * height + y) * width + x)
        return pif, paf

    def _check_heads(self, pif_head: Tensor, paf_head: Tensor) -> None:
        k, m = self.skeleton.num_keypoints, self.skeleton.num_limbs
        if pif_head.ndim != 5 or pif_head.shape[1:3] != (k, 5):
            raise ValueError(f"pif_head must have shape [B, {k}, 5, H, W], got {list(pif_head.shape)}")
        expected = [pif_head.shape[0], m, 7, *pif_head.shape[3:]]
        if list(paf_head.shape) != expected:
            raise ValueError(f"paf_head must have shape {expected}, as pif_head, got {list(paf_head.shape)}")


def _box_area(points: np.ndarray) -> float:
    """Area of the bounding box of `points` [N, 2]; 0 for none."""
    return float(np.prod(np.ptp(points, axis=0))) if len(points) else 0.0


def _nearest(
    cells: np.ndarray, distance: np.ndarray, channel: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Who gets a cell that several claim. Claimant n of `channel` [N] wants the `cells` [N, C, 2] (x, y), at `distance`
    [N, C] from each; those outside the field are nobody's. Returns winner (0..N-1), row and column of every cell
    claimed in some channel, each once; of equally near claimants the first wins."""
    inside = ((cells >= 0) & (cells < (width, height))).all(axis=-1)
    claimant = np.nonzero(inside)[0]
    column, row = cells[inside].astype(np.intp).T
    order = np.argsort(distance[inside], kind="stable")
    cell = (channel[claimant] * height + row) * width + column
    winners = order[np.unique(cell[order], return_index=True)[1]]
    return claimant[winners], row[winners], column[winners]
