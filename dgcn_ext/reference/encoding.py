"""What ``dgcn_ext.encoder.PifPafEncoder`` computes, in numpy: its results are these to the bit.

Legend: P persons, K keypoints, M limbs, H x W field cells, `stride` px each. All arithmetic is in float64, in cells
where nothing else is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dgcn_ext.encoder import Targets

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.intp]

_MAX_COORDINATE = 1e9  # px; what is beyond, or not finite, counts as not annotated
_MIN_JOINTS = 3  # with fewer annotated joints a bounding box says nothing about the size of a person
_MAX_POSE_RATIO = 5.0  # how much larger than its visible part a whole person is taken to be, at most
_HIDDEN_RADIUS = 32.0  # px; a hidden joint this close to a visible one of its keypoint is what that one hides
_PIF_PATCH = np.stack(np.meshgrid(np.arange(4), np.arange(4)), axis=-1).reshape(16, 2)
_PAF_BLOCK = np.stack(np.meshgrid(np.arange(-1, 2), np.arange(-1, 2)), axis=-1).reshape(9, 2)


def encode(
    keypoints: ArrayLike,
    height: int,
    width: int,
    stride: int,
    *,
    skeleton: ArrayLike,
    sigmas: ArrayLike,
    upright_pose: ArrayLike,
    ignored: ArrayLike = (),
    node_strides: Sequence[int] = (),
) -> Targets:
    """The targets of one picture; arguments and result are those of `PifPafEncoder`, which also checks them."""
    sigmas, upright_pose = np.asarray(sigmas, np.float64), np.asarray(upright_pose, np.float64)
    keypoints = np.asarray(keypoints, np.float64).reshape(-1, len(sigmas), 3)
    limbs = np.asarray(skeleton, np.intp).reshape(-1, 2)
    ignored = np.asarray(ignored, np.float64).reshape(-1, 4)

    usable = (keypoints[:, :, 2] > 0) & (abs(keypoints[:, :, :2]) <= _MAX_COORDINATE).all(axis=-1)
    painted = _painted(keypoints, usable, height, width)
    joints = keypoints[:, :, :2] / stride
    scales = _person_scales(keypoints, usable, upright_pose)[:, None] * sigmas / stride
    size = _field_size(height, width, stride)

    person, k, row, column = _joint_cells(joints, painted, *size)
    pif_confidence = _background(ignored, len(sigmas), *size, stride)
    pif_confidence[k, row, column] = 1
    pif_offset = np.full((len(sigmas), 2, *size), np.nan, np.float32)
    pif_offset[k, :, row, column] = joints[person, k] - np.column_stack([column, row])
    pif_scale = np.full((len(sigmas), *size), np.nan, np.float32)
    pif_scale[k, row, column] = scales[person, k]

    ends, m, row, column = _limb_cells(joints, painted, limbs, *size)
    paf_confidence = _background(ignored, len(limbs), *size, stride)
    paf_confidence[m, row, column] = 1
    paf_offset = np.full((len(limbs), 4, *size), np.nan, np.float32)
    paf_offset[m, :, row, column] = ends - np.column_stack([column, row, column, row])

    node_confidence = {}
    for node_stride in node_strides:
        size = _field_size(height, width, node_stride)
        _, k, row, column = _joint_cells(keypoints[:, :, :2] / node_stride, painted, *size)
        node_confidence[node_stride] = _background(ignored, len(sigmas), *size, node_stride)
        node_confidence[node_stride][k, row, column] = 1
    return Targets(pif_confidence, pif_offset, pif_scale, paf_confidence, paf_offset, node_confidence)


def _field_size(height: int, width: int, stride: int) -> tuple[int, int]:
    return (height - 1) // stride + 1, (width - 1) // stride + 1


def _painted(keypoints: Floats, usable: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    """Which joints are painted, [P, K]: those inside the picture that no visible one of their keypoint hides."""
    xy, visibility = keypoints[:, :, :2], keypoints[:, :, 2]
    painted = usable & ((xy >= 0) & (xy <= (width - 1, height - 1))).all(axis=-1)
    for k in range(keypoints.shape[1]):
        seen = np.flatnonzero(painted[:, k] & (visibility[:, k] >= 2))
        hidden = np.flatnonzero(painted[:, k] & (visibility[:, k] < 2))
        near = _square(xy[hidden, None, k] - xy[None, seen, k]) < _HIDDEN_RADIUS**2
        painted[hidden[near.any(axis=1)], k] = False
    return painted


def _person_scales(keypoints: Floats, usable: NDArray[np.bool_], upright_pose: Floats) -> Floats:
    """Size of every person in px, [P]; NaN for those too little of whom is annotated.

    The size of the whole person is estimated from its annotated joints: the square root of the area of their bounding
    box, times how much the upright pose grows from the same joints to all of them."""
    scales = np.full(len(keypoints), np.nan)
    for n, joints in enumerate(usable):
        area, upright_area = _box_area(keypoints[n, joints, :2]), _box_area(upright_pose[joints])
        if joints.sum() >= _MIN_JOINTS and area > 0:
            ratio = math.sqrt(_box_area(upright_pose) / upright_area) if upright_area > 0 else math.inf
            scales[n] = math.sqrt(area) * min(_MAX_POSE_RATIO, ratio)
    return scales


def _joint_cells(
    joints: Floats, painted: NDArray[np.bool_], height: int, width: int
) -> tuple[Indices, Indices, Indices, Indices]:
    """Person, keypoint, row and column of every PIF cell that a joint gets: the nearest of those in a 4x4 patch."""
    person, k = np.nonzero(painted)
    xy = joints[person, k][:, None]
    cells: Floats = np.rint(xy - 1.5) + _PIF_PATCH
    winner, row, column = _nearest(cells, _square(xy - cells), k, height, width)
    return person[winner], k[winner], row, column


def _limb_cells(
    joints: Floats, painted: NDArray[np.bool_], limbs: Indices, height: int, width: int
) -> tuple[Floats, Indices, Indices, Indices]:
    """Ends (x1, y1, x2, y2), limb, row and column of every PAF cell that a limb gets."""
    person, m = np.nonzero(painted[:, limbs].all(axis=-1))
    first, second = joints[person, limbs[m, 0]], joints[person, limbs[m, 1]]
    along = second - first
    length = np.sqrt(_square(along))

    # The steps of all limbs in one list: step t of a limb of n steps lies t / (n - 1) of the way along it.
    steps = np.maximum(2, np.ceil(length)).astype(np.intp)
    owner = np.repeat(np.arange(len(steps)), steps)
    step = np.arange(len(owner)) - np.repeat(np.cumsum(steps) - steps, steps)
    points = first[owner] + along[owner] * (step / (steps[owner] - 1))[:, None]
    cells = np.rint(points)[:, None] + _PAF_BLOCK

    x, y = np.moveaxis(cells - first[owner, None], -1, 0)
    along_x, along_y = along[owner, :, None].swapaxes(0, 1)
    # Perpendicular to the limb; where both ends fall together there is no direction, and it is the way to them.
    distance = np.sqrt(x * x + y * y)
    norm = np.broadcast_to(length[owner, None], distance.shape)
    np.divide(abs(x * along_y - y * along_x), norm, out=distance, where=norm > 0)
    winner, row, column = _nearest(cells, distance, m[owner], height, width)
    limb = owner[winner]
    return np.hstack([first, second])[limb], m[limb], row, column


def _background(ignored: Floats, channels: int, height: int, width: int, stride: int) -> NDArray[np.float32]:
    """Confidence [channels, H, W] before anything is painted: 0, NaN in every cell that an ignored box touches."""
    confidence = np.zeros((channels, height, width), np.float32)
    for box in ignored[(abs(ignored) <= _MAX_COORDINATE).all(axis=1)]:
        x, y, w, h = (float(value) / stride for value in box)
        rows = slice(max(0, math.floor(y)), max(0, math.ceil(y + h) + 1))
        columns = slice(max(0, math.floor(x)), max(0, math.ceil(x + w) + 1))
        confidence[:, rows, columns] = np.nan
    return confidence


def _nearest(
    cells: Floats, distance: Floats, channel: Indices, height: int, width: int
) -> tuple[Indices, Indices, Indices]:
    """The nearest claimant of every cell that is claimed in a channel, once each; of equally near ones the first.

    Args:
        cells: [N, C, 2], the cells (x, y) that claimant n claims. Those outside the field are dropped.
        distance: [N, C], of the claimant from each of them.
        channel: [N], of the claimant.
        height, width: of the field.

    Returns:
        Claimant (0..N-1), row and column of each cell.
    """
    inside = ((cells >= 0) & (cells < (width, height))).all(axis=-1)
    claimant = np.nonzero(inside)[0]
    column, row = cells[inside].astype(np.intp).T
    order = np.argsort(distance[inside], kind="stable")
    cell = (channel[claimant] * height + row) * width + column
    winners = order[np.unique(cell[order], return_index=True)[1]]
    return claimant[winners], row[winners], column[winners]


def _square(vectors: Floats) -> Floats:
    """|v|² of `vectors` [..., 2]."""
    return vectors[..., 0] * vectors[..., 0] + vectors[..., 1] * vectors[..., 1]


def _box_area(points: Floats) -> float:
    """Area of the bounding box of `points` [N, 2]; 0 for none."""
    return float(np.prod(np.ptp(points, axis=0))) if len(points) else 0.0
