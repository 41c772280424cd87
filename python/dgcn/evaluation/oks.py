"""COCO keypoint average precision (OKS), computed by pycocotools.

Ground truth is a COCO keypoint set, read as for training (`dgcn.data.coco_format`); results are COCO keypoint results:
dicts with ``image_id``, ``category_id``, ``keypoints`` (x, y, v times K, pixels of the original image; v is not read)
and ``score``. A result's area is that of its ``bbox``, or of the box around its keypoints where it has none.
"""

from __future__ import annotations

import contextlib
import io
import os
import reprlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from dgcn_ext.arguments import check_at_least

from ..data.coco_format import Annotations, is_id, read_ground_truth, to_rows
from ..records import CocoId, ImageRecord
from .bootstrap import resample_images

METRICS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
"""The ten numbers of COCO keypoint evaluation, in the order in which pycocotools summarises them."""

GroundTruth = Annotations | Sequence[ImageRecord]
"""Path of a COCO keypoint JSON, its content, or what `dgcn.data.coco_format.read_coco` made of it."""


class KeypointEvaluation:
    """Results matched to ground truth once, for the numbers and for their uncertainty.

    Args:
        annotations: path of a COCO keypoint JSON, its content, or its records.
        results: COCO keypoint results, with the ids of `annotations`; may be empty.
        image_ids: evaluate these images only; all images of `annotations` by default.
        sigmas: OKS sigma of each keypoint; COCO's 17 by default.

    Raises:
        OSError: no such file.
        TypeError, ValueError: annotations that are not COCO keypoints, or results that do not fit them.
    """

    def __init__(
        self,
        annotations: GroundTruth,
        results: Sequence[Mapping[str, Any]],
        image_ids: Collection[CocoId] | None = None,
        *,
        sigmas: Sequence[float] | None = None,
    ) -> None:
        self._matched = _match(annotations, results, image_ids, sigmas)

    def metrics(self) -> dict[str, float]:
        """Average precision and recall under the names in `METRICS`, in [0, 1].

        -1 where there is no ground truth of that size (pycocotools' convention).
        """
        with contextlib.redirect_stdout(io.StringIO()):
            self._matched.accumulate()
            self._matched.summarize()
        return {name: float(value) for name, value in zip(METRICS, self._matched.stats, strict=True)}

    def interval(self, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
        """95 % interval (percentiles 2.5 and 97.5) of AP under resampling of the images with replacement.

        Resamples without ground truth are left out; (-1, -1) if there is no ground truth at all.
        """
        return resample_images(self._matched, check_at_least("resamples", resamples, 1), seed)


def evaluate_keypoints(
    annotations: GroundTruth,
    results: Sequence[Mapping[str, Any]],
    image_ids: Collection[CocoId] | None = None,
    *,
    sigmas: Sequence[float] | None = None,
) -> dict[str, float]:
    """`metrics` of a `KeypointEvaluation` with these arguments."""
    return KeypointEvaluation(annotations, results, image_ids, sigmas=sigmas).metrics()


def bootstrap_interval(
    annotations: GroundTruth,
    results: Sequence[Mapping[str, Any]],
    image_ids: Collection[CocoId] | None = None,
    *,
    sigmas: Sequence[float] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """`interval` of a `KeypointEvaluation` with these arguments."""
    return KeypointEvaluation(annotations, results, image_ids, sigmas=sigmas).interval(resamples, seed)


def _match(
    annotations: GroundTruth,
    results: Sequence[Mapping[str, Any]],
    image_ids: Collection[CocoId] | None,
    sigmas: Sequence[float] | None,
) -> COCOeval:
    """Match `results` to ground truth in every image.

    pycocotools gets data sets made for it, with ids counted from 1: it reads a match with id 0 as no match, cannot sort
    strings, and wants fields that files may lack."""
    oks_sigmas = np.asarray(Params("keypoints").kpt_oks_sigmas if sigmas is None else sigmas, dtype=float)
    if oks_sigmas.ndim != 1 or not oks_sigmas.size or not ((oks_sigmas > 0) & (oks_sigmas < np.inf)).all():
        raise ValueError(f"sigmas must be a positive number for each keypoint, got {reprlib.repr(sigmas)}")
    if isinstance(annotations, str | os.PathLike | Mapping):
        records = {record.image_id: record for record in read_ground_truth(annotations, oks_sigmas.size)}
    elif _are_records(annotations):
        records = {record.image_id: record for record in annotations}
    else:
        raise TypeError(
            f"annotations must be a path, the content of a COCO file, or its records, got {reprlib.repr(annotations)}"
        )
    # Of detections with one score, those in the first image count first: the numbers keep the order of the ids.
    order = sorted(records, key=lambda image_id: (isinstance(image_id, str), image_id))
    numbers = {image_id: number for number, image_id in enumerate(order, start=1)}
    wanted = order if image_ids is None else list(image_ids)
    if not wanted:
        raise ValueError("image_ids must name at least one image, got none")
    for image_id in wanted:
        if image_id not in numbers:
            raise ValueError(f"image_ids must be among the annotations' images, got {image_id!r}")
    truths = _truths(records, oks_sigmas.size)
    detections = _detections(results, records, oks_sigmas.size)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_to_coco(truths, numbers), _to_coco(detections, numbers), "keypoints")
        evaluation.params.imgIds = sorted(numbers[image_id] for image_id in wanted)
        evaluation.params.kpt_oks_sigmas = oks_sigmas
        evaluation.evaluate()
    return evaluation


def _are_records(annotations: Any) -> bool:
    return isinstance(annotations, Sequence) and all(isinstance(record, ImageRecord) for record in annotations)


def _to_coco(persons: Sequence[Mapping[str, Any]], numbers: Mapping[CocoId, int]) -> COCO:
    """pycocotools' data set of true or found `persons`, on images whose ids it calls `numbers`."""
    data = COCO()
    data.dataset = {
        "images": [{"id": number} for number in numbers.values()],
        "categories": [{"id": 1}],
        "annotations": [
            {**person, "id": person_id, "category_id": 1, "image_id": numbers[person["image_id"]]}
            for person_id, person in enumerate(persons, start=1)
        ],
    }
    data.createIndex()
    return data


def _truths(records: Mapping[CocoId, ImageRecord], count: int) -> list[dict[str, Any]]:
    """What pycocotools needs of the annotations, checked to have `count` keypoints each."""
    truths = []
    for image_id, record in records.items():
        for annotation in record.annotations:
            if len(annotation.keypoints) != count:
                raise ValueError(
                    f"sigmas must be {len(annotation.keypoints)} numbers, one for each keypoint of the annotations, "
                    f"got {count}"
                )
            truths.append(
                {
                    "image_id": image_id,
                    "keypoints": annotation.keypoints.ravel(),
                    "num_keypoints": annotation.num_keypoints,
                    "bbox": annotation.box,
                    "area": annotation.area,
                    "iscrowd": int(annotation.iscrowd),
                }
            )
    return truths


def _detections(
    results: Sequence[Mapping[str, Any]], records: Mapping[CocoId, ImageRecord], count: int
) -> list[dict[str, Any]]:
    """What pycocotools needs of `results`, checked: on known images, of their category, with `count` keypoints each."""
    if isinstance(results, str | bytes | Mapping) or not isinstance(results, Iterable):
        raise TypeError(f"results must be a list of COCO results, got {reprlib.repr(results)}")
    results = list(results)

    def refuse(index: int, field: str, required: str) -> NoReturn:
        got = reprlib.repr(results[index].get(field))
        raise ValueError(f"results[{index}] must have {field} {required}, got {got}")

    for index, result in enumerate(results):
        if not isinstance(result, Mapping):
            raise TypeError(f"results[{index}] must be a COCO result, got {reprlib.repr(result)}")
        image_id = result.get("image_id")
        if not is_id(image_id) or image_id not in records:
            refuse(index, "image_id", "of an image of the annotations")
        if result.get("category_id") != records[image_id].category_id:
            refuse(index, "category_id", f"{records[image_id].category_id!r}, as the annotations")

    keypoints = to_rows([result.get("keypoints") for result in results], (3 * count,), (count, 3))
    scores = to_rows([result.get("score") for result in results], ())
    extents = np.ptp(keypoints.reshape(-1, count, 3)[..., :2], axis=1)
    boxes = np.column_stack([np.zeros_like(extents), extents])
    given = np.array([result.get("bbox") is not None for result in results], dtype=bool)
    boxes[given] = to_rows([result["bbox"] for result, is_given in zip(results, given, strict=True) if is_given], (4,))
    for field, rows, required in (
        ("keypoints", keypoints, f"of {3 * count} finite numbers, three for each sigma"),
        ("score", scores, "that is a finite number"),
        ("bbox", boxes, "of four finite numbers"),
    ):
        good = np.isfinite(rows).all(axis=1)
        if not good.all():
            refuse(int(np.argmin(good)), field, required)
    return [
        {"image_id": result["image_id"], "keypoints": row, "score": score, "area": area}
        for result, row, score, area in zip(
            results, keypoints, scores[:, 0].tolist(), boxes[:, 2:].prod(axis=1).tolist(), strict=True
        )
    ]
