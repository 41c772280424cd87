"""A sheet of samples of a data set, on which a wrong skeleton or a wrong flip is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ..data.images import read_record
from ..data.transforms import resize_pad, transform_annotation
from ..records import Annotation, ImageRecord
from ..skeleton import Skeleton
from .visualize import OUTLINE, draw_poses

TILE = 353  # px, the long edge of a picture on the sheet
GAP = 8  # px between tiles
IGNORED = (200, 30, 60)
PAPER = (250, 250, 250)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True)
class _Person:
    """What `draw_poses` needs of an annotation."""

    keypoints: np.ndarray
    scores: np.ndarray


def draw_sheet(records: Sequence[ImageRecord], skeleton: Skeleton, *, columns: int = 3) -> np.ndarray:
    """The skeleton, then each picture with its annotations beside its mirror image with the flipped ones.

    The left side of persons is orange and the right side blue in both, so that in a picture of somebody who faces the
    camera orange is at the right: also in the mirror image, unless flip pairs are wrong. Ignored regions are crossed
    out.

    Args:
        records: pictures that can be read.
        skeleton: of their keypoints.
        columns: pairs of pictures in a row.

    Returns:
        uint8 [H, W, 3], RGB.
    """
    tiles = [_legend(skeleton), *(_pair(record, skeleton) for record in records)]
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    sheet = np.full((sum(_height(row) for row in rows), columns * 2 * (TILE + GAP), 3), PAPER, dtype=np.uint8)
    top = 0
    for row in rows:
        for column, tile in enumerate(row):
            height, width = tile.shape[:2]
            sheet[top : top + height, column * width : (column + 1) * width] = tile
        top += _height(row)
    return sheet


def _height(row: Sequence[np.ndarray]) -> int:
    return max(len(tile) for tile in row) + GAP


def _paper(height: int) -> np.ndarray:
    return np.full((height, 2 * (TILE + GAP), 3), PAPER, dtype=np.uint8)


def _pair(record: ImageRecord, skeleton: Skeleton) -> np.ndarray:
    image = read_record(record)
    canvas, preprocess = resize_pad(image, TILE)
    height, width = canvas.shape[:2]
    tile = _paper(height)
    for column, is_mirrored in enumerate((False, True)):
        matrix = np.array([[preprocess.scale, 0, 0], [0, preprocess.scale, 0]])
        shown = canvas
        if is_mirrored:
            matrix[0] = -preprocess.scale, 0, width - 1
            shown = np.ascontiguousarray(canvas[:, ::-1])
        flip = skeleton.flip if is_mirrored else None
        moved = [transform_annotation(a, matrix, (width, height), flip) for a in record.annotations]
        drawn = _draw(shown, [annotation for annotation in moved if annotation is not None], skeleton)
        left = column * (TILE + GAP)
        tile[:height, left : left + width] = drawn
    return tile


def _draw(image: np.ndarray, annotations: Sequence[Annotation], skeleton: Skeleton) -> np.ndarray:
    persons = [
        _Person(annotation.keypoints[:, :2], (annotation.keypoints[:, 2] > 0).astype(np.float32))
        for annotation in annotations
        if not annotation.is_ignored
    ]
    drawn = draw_poses(image, persons, skeleton)
    for annotation in annotations:
        x, y, width, height = (round(value) for value in annotation.box)
        if annotation.is_ignored:
            cv2.rectangle(drawn, (x, y), (x + width, y + height), IGNORED, 1, cv2.LINE_AA)
            cv2.line(drawn, (x, y), (x + width, y + height), IGNORED, 1, cv2.LINE_AA)
            cv2.line(drawn, (x + width, y), (x, y + height), IGNORED, 1, cv2.LINE_AA)
    return drawn


def _legend(skeleton: Skeleton) -> np.ndarray:
    """The upright pose with the limbs and the number of each keypoint, beside the numbers' names and flip pairs."""
    tile = _paper(TILE)
    pose = skeleton.upright_pose
    low, extent = pose.min(axis=0), np.ptp(pose, axis=0)
    scale = (TILE - 80) / max(1e-9, float(extent.max()))
    # Somebody who faces the camera has the left side at the right.
    points = (pose - low) * scale + (TILE - extent * scale) / 2
    figure = np.full((TILE, TILE, 3), PAPER, dtype=np.uint8)
    figure = draw_poses(figure, [_Person(points, np.ones(len(points)))], skeleton)
    for index, (x, y) in enumerate(np.rint(points).astype(int).tolist()):
        cv2.putText(figure, str(index + 1), (x + 6, y - 6), _FONT, 0.4, OUTLINE, 1, cv2.LINE_AA)
    tile[:TILE, :TILE] = figure
    lines = max(1, len(skeleton.keypoints))
    step = min(18, (TILE - 10) // lines)
    for index, name in enumerate(skeleton.keypoints):
        mirrored = skeleton.flip[index]
        text = f"{index + 1} {name}" + ("" if mirrored == index else f"  flips to {mirrored + 1}")
        position = (TILE + GAP, 14 + index * step)
        cv2.putText(tile, text, position, _FONT, min(0.4, step / 30), OUTLINE, 1, cv2.LINE_AA)
    return tile
