"""Skeletons drawn on pictures."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence
from typing import Protocol

import cv2
import numpy as np

from ..skeleton import Skeleton

Color = tuple[int, int, int]  # RGB

# Orange and blue stay apart under every common form of colour blindness; joints and limbs on the axis are pale.
LEFT: Color = (255, 140, 25)
RIGHT: Color = (45, 150, 255)
MIDDLE: Color = (245, 240, 225)
OUTLINE: Color = (25, 25, 30)
_SIDE_COLORS = {"left": LEFT, "right": RIGHT, None: MIDDLE}

OPACITY = 0.85
SUBPIXEL_BITS = 4  # cv2 takes fixed-point coordinates: 1/16 px, so that small skeletons do not wobble


class Drawable(Protocol):
    """What `draw_poses` needs of a pose; `dgcn.records.Pose` has it."""

    @property
    def keypoints(self) -> np.ndarray: ...  # [K, 2] px

    @property
    def scores(self) -> np.ndarray: ...  # [K]


def draw_poses(
    image: np.ndarray,
    poses: Iterable[Drawable],
    skeleton: Skeleton,
    *,
    threshold: float = 0.1,
    track_ids: Sequence[int] | None = None,
) -> np.ndarray:
    """A copy of `image` with the `poses` on it: the person's left side orange, the right side blue.

    With `track_ids` every person has the colour of its id instead, and the id above its head.

    Lines are as wide as the person is large. The first pose, the most certain one, is drawn last and so on top.

    Args:
        image: uint8 [H, W, 3], RGB.
        poses: keypoints in pixels of `image`.
        skeleton: names and limbs of their keypoints.
        threshold: keypoints with a score up to this, and limbs that end in one, are left out. The default hides
            nothing that the decoder found by its usual thresholds, but what `force_complete` made up.
        track_ids: an id for each pose.

    Raises:
        TypeError: an image that is not an array.
        ValueError: an image that is not uint8 [H, W, 3], a pose with another number of keypoints, or another number of
            ids than of poses.
    """
    if not isinstance(image, np.ndarray):
        raise TypeError(f"image must be a uint8 array [H, W, 3], got {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    poses = list(poses)
    if track_ids is not None and len(track_ids) != len(poses):
        raise ValueError(f"track_ids must be one for each of the {len(poses)} poses, got {len(track_ids)}")
    sides = [_SIDE_COLORS[skeleton.side(k)] for k in range(skeleton.num_keypoints)]
    overlay = np.ascontiguousarray(image).copy()
    for number, pose in reversed(list(enumerate(poses))):
        if pose.keypoints.shape != (skeleton.num_keypoints, 2):
            raise ValueError(
                f"poses must have keypoints [{skeleton.num_keypoints}, 2] for the skeleton '{skeleton.name}', "
                f"got {list(pose.keypoints.shape)}"
            )
        shown = (pose.scores > threshold) & np.isfinite(pose.keypoints).all(axis=1)
        if track_ids is None:
            _draw_pose(overlay, pose.keypoints, shown, skeleton, sides)
        else:
            color = track_color(track_ids[number])
            _draw_pose(overlay, pose.keypoints, shown, skeleton, [color] * skeleton.num_keypoints)
            _draw_label(overlay, str(track_ids[number]), pose.keypoints[shown], color)
    return cv2.addWeighted(overlay, OPACITY, image, 1 - OPACITY, 0)


def track_color(track_id: int) -> Color:
    """The colour of an id, always the same; those of successive ids are far apart."""
    golden_ratio = 0.618034  # of its multiples, any few in a row are spread over the circle of hues
    red, green, blue = colorsys.hsv_to_rgb(track_id * golden_ratio % 1, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _draw_label(canvas: np.ndarray, text: str, keypoints: np.ndarray, color: Color) -> None:
    """Write `text` on a field of `color` above the head of the person with the `keypoints` [N, 2] px."""
    if not len(keypoints):
        return
    size = max(0.5, max(canvas.shape[:2]) / 900)
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    width, height = width + height, 2 * height
    edge = np.array([canvas.shape[1] - width, canvas.shape[0] - height])
    above = np.ptp(keypoints[:, 1]) / 12 + height  # the topmost joint is an eye, not the crown
    place = keypoints[keypoints[:, 1].argmin()] - [width / 2, above]
    x, y = np.rint(np.clip(np.nan_to_num(place), 0, np.maximum(edge, 0))).astype(int).tolist()
    cv2.rectangle(canvas, (x, y), (x + width, y + height), color, cv2.FILLED)
    corner = x + height // 4, y + 3 * height // 4
    cv2.putText(canvas, text, corner, cv2.FONT_HERSHEY_SIMPLEX, size, OUTLINE, round(2 * size), cv2.LINE_AA)


def _draw_pose(
    canvas: np.ndarray, keypoints: np.ndarray, shown: np.ndarray, skeleton: Skeleton, sides: list[Color]
) -> None:
    """Draw the `shown` [K] of `keypoints` [K, 2] px: outlines first, so that none cuts through a crossing limb."""
    if not shown.any():
        return
    extent = float(np.ptp(keypoints[shown], axis=0).max())
    width = float(np.clip(extent / 70, 1.0, max(canvas.shape[:2]) / 150 + 1.0))
    limit = 4 * max(canvas.shape[:2])  # far outside the canvas, and still within cv2's fixed-point integers
    points = np.rint(np.clip(np.nan_to_num(keypoints), -limit, limit) * 2**SUBPIXEL_BITS).astype(int).tolist()
    for outlined in (True, False):
        border = max(0.5, width / 4) if outlined else 0.0
        for i, j in skeleton.limbs:
            if shown[i] and shown[j]:
                color = OUTLINE if outlined else _limb_color(sides[i], sides[j])
                thickness = max(1, round(width + 2 * border))
                cv2.line(canvas, points[i], points[j], color, thickness, cv2.LINE_AA, SUBPIXEL_BITS)
        for k in np.flatnonzero(shown):
            color = OUTLINE if outlined else sides[k]
            radius = round((0.9 * width + border) * 2**SUBPIXEL_BITS)
            cv2.circle(canvas, points[k], radius, color, cv2.FILLED, cv2.LINE_AA, SUBPIXEL_BITS)


def _limb_color(start: Color, end: Color) -> Color:
    """The side's colour where both ends agree or one lies on the axis; pale where the limb crosses the body."""
    if start == end:
        return start
    if MIDDLE in (start, end):
        return end if start == MIDDLE else start
    return MIDDLE
