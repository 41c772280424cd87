"""COCO keypoint results, checked against the images that they are of."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from ..data.coco_format import is_id, to_rows
from ..records import CocoId, ImageRecord


def by_id(records: Iterable[ImageRecord]) -> dict[CocoId, ImageRecord]:
    """`records` in the order of their ids, numbers before strings, so that no number depends on the file's order."""
    ordered = sorted(records, key=lambda record: (isinstance(record.image_id, str), record.image_id))
    return {record.image_id: record for record in ordered}


def check_results(
    results: Sequence[Mapping[str, Any]], records: Mapping[CocoId, ImageRecord], count: int
) -> list[dict[str, Any]]:
    """What OKS needs of `results`: image_id, keypoints (float [3 * count]), score and area (of the box, in square px).

    Args:
        results: COCO keypoint results.
        records: the images by their ids.
        count: how many keypoints a person has.

    Raises:
        TypeError, ValueError: a result that is none, or not on one of the images, of their category, or of `count`
            keypoints.
    """
    if isinstance(results, str | bytes | Mapping) or not isinstance(results, Iterable):
        raise TypeError(f"results must be a list of COCO results, got {reprlib.repr(results)}")
    results = list(results)
    for index, result in enumerate(results):
        if not isinstance(result, Mapping):
            raise TypeError(f"results[{index}] must be a COCO result, got {reprlib.repr(result)}")
        image_id = result.get("image_id")
        if not is_id(image_id) or image_id not in records:
            _refuse(results, index, "image_id", "of an image of the annotations")
        if result.get("category_id") != records[image_id].category_id:
            _refuse(results, index, "category_id", f"{records[image_id].category_id!r}, as the annotations")

    keypoints = to_rows([result.get("keypoints") for result in results], (3 * count,), (count, 3))
    scores = to_rows([result.get("score") for result in results], ())
    extents = np.ptp(keypoints.reshape(-1, count, 3)[..., :2], axis=1)
    boxes = np.column_stack([np.zeros_like(extents), extents])
    given = np.array([result.get("bbox") is not None for result in results], dtype=bool)
    boxes[given] = to_rows([result["bbox"] for result, is_given in zip(results, given, strict=True) if is_given], (4,))
    _check_rows(results, "keypoints", keypoints, f"of {3 * count} finite numbers, three for each sigma")
    _check_rows(results, "score", scores, "that is a finite number")
    _check_rows(results, "bbox", boxes, "of four finite numbers")
    return [
        {"image_id": result["image_id"], "keypoints": row, "score": score, "area": area}
        for result, row, score, area in zip(
            results, keypoints, scores[:, 0].tolist(), boxes[:, 2:].prod(axis=1).tolist(), strict=True
        )
    ]


def keypoint_scores(results: Sequence[Mapping[str, Any]], count: int) -> np.ndarray:
    """Float [N, count]: the `keypoint_scores` of checked results, the person's score for each where there are none."""
    scores = [
        [result["score"]] * count if (given := result.get("keypoint_scores")) is None else given for result in results
    ]
    rows = to_rows(scores, (count,))
    _check_rows(results, "keypoint_scores", rows, f"of {count} finite numbers")
    return rows


def _check_rows(results: Sequence[Mapping[str, Any]], field: str, rows: np.ndarray, required: str) -> None:
    """Raise ValueError unless the numbers [N, ...] that the results have as `field` are finite."""
    good = np.isfinite(rows).all(axis=1)
    if not good.all():
        _refuse(results, int(np.argmin(good)), field, required)


def _refuse(results: Sequence[Mapping[str, Any]], index: int, field: str, required: str) -> NoReturn:
    raise ValueError(f"results[{index}] must have {field} {required}, got {reprlib.repr(results[index].get(field))}")
