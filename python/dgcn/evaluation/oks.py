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
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from ..data.coco_format import Annotations, read_ground_truth
from ..records import CocoId, ImageRecord
from .bootstrap import Evaluation, Matches, resample
from .results import by_id, check_results

METRICS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
"""The ten numbers of COCO keypoint evaluation, in the order in which pycocotools summarises them."""

GroundTruth = Annotations | Sequence[ImageRecord]
"""Path of a COCO keypoint JSON, its content, or what `dgcn.data.reader.read_records` made of it."""


class KeypointEvaluation(Evaluation):
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

    def resampled(self, resamples: int = 1000, seed: int = 0) -> np.ndarray:
        matches = Matches(self._matched)
        return resample(matches.average_precision, matches.num_images, resamples, seed)


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


def match(
    image_ids: Sequence[CocoId],
    truths: Sequence[Mapping[str, Any]],
    detections: Sequence[Mapping[str, Any]],
    sigmas: ArrayLike,
    *,
    by_size: bool = False,
) -> COCOeval:
    """Match the `detections` of `check_results` to `person_truths` in the images `image_ids`, in their order.

    Args:
        image_ids: of these detections with one score, those in the first image count first.
        truths: persons and crowds on these images.
        detections: persons found on these images.
        sigmas: OKS sigma of each keypoint.
        by_size: match medium and large persons by themselves as well.
    """
    numbers = {image_id: number for number, image_id in enumerate(image_ids, start=1)}
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_to_coco(truths, numbers), _to_coco(detections, numbers), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.asarray(sigmas, dtype=float)
        if not by_size:
            evaluation.params.areaRng = evaluation.params.areaRng[:1]
        evaluation.evaluate()
    return evaluation


def person_truths(records: Iterable[ImageRecord], count: int) -> list[dict[str, Any]]:
    """What pycocotools needs of the annotations, checked to have `count` keypoints each."""
    truths = []
    for record in records:
        for annotation in record.annotations:
            if len(annotation.keypoints) != count:
                raise ValueError(
                    f"sigmas must be {len(annotation.keypoints)} numbers, one for each keypoint of the annotations, "
                    f"got {count}"
                )
            truths.append(
                {
                    "image_id": record.image_id,
                    "keypoints": annotation.keypoints.ravel(),
                    "num_keypoints": annotation.num_keypoints,
                    "bbox": annotation.box,
                    "area": annotation.area,
                    "iscrowd": int(annotation.iscrowd),
                }
            )
    return truths


def _match(
    annotations: GroundTruth,
    results: Sequence[Mapping[str, Any]],
    image_ids: Collection[CocoId] | None,
    sigmas: Sequence[float] | None,
) -> COCOeval:
    """Check the arguments of `KeypointEvaluation`, and match."""
    oks_sigmas = np.asarray(Params("keypoints").kpt_oks_sigmas if sigmas is None else sigmas, dtype=float)
    if oks_sigmas.ndim != 1 or not oks_sigmas.size or not ((oks_sigmas > 0) & (oks_sigmas < np.inf)).all():
        raise ValueError(f"sigmas must be a positive number for each keypoint, got {reprlib.repr(sigmas)}")
    if isinstance(annotations, str | os.PathLike | Mapping):
        records = by_id(read_ground_truth(annotations, oks_sigmas.size))
    elif _are_records(annotations):
        records = by_id(annotations)
    else:
        raise TypeError(
            f"annotations must be a path, the content of a COCO file, or its records, got {reprlib.repr(annotations)}"
        )
    wanted = records if image_ids is None else dict.fromkeys(image_ids)
    if not wanted:
        raise ValueError("image_ids must name at least one image, got none")
    for image_id in wanted:
        if image_id not in records:
            raise ValueError(f"image_ids must be among the annotations' images, got {image_id!r}")
    truths = person_truths(records.values(), oks_sigmas.size)
    detections = check_results(results, records, oks_sigmas.size)
    return match(
        [image_id for image_id in records if image_id in wanted],
        [truth for truth in truths if truth["image_id"] in wanted],
        [detection for detection in detections if detection["image_id"] in wanted],
        oks_sigmas,
        by_size=True,
    )


def _are_records(annotations: Any) -> bool:
    return isinstance(annotations, Sequence) and all(isinstance(record, ImageRecord) for record in annotations)


def _to_coco(persons: Sequence[Mapping[str, Any]], numbers: Mapping[CocoId, int]) -> COCO:
    """pycocotools' data set of true or found `persons`, on images whose ids it calls `numbers`.

    All ids count from 1: pycocotools reads a match with id 0 as no match, and cannot sort strings."""
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
