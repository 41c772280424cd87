"""COCO keypoint average precision (OKS), computed by pycocotools.

Ground truth is a COCO keypoint JSON; results are COCO keypoint results: dicts with ``image_id``, ``category_id``,
``keypoints`` (x, y, v times K, pixels of the original image) and ``score``. Index legend: T OKS thresholds, D
detections, I images, R recall thresholds.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

METRICS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
"""The ten numbers of COCO keypoint evaluation, in the order in which pycocotools summarises them."""

REQUIRED_FIELDS = ("image_id", "category_id", "keypoints", "num_keypoints", "bbox", "area", "iscrowd")
"""Fields of a ground-truth person without which pycocotools stops in the middle."""

Annotations = str | os.PathLike[str] | Mapping[str, Any]


def evaluate_keypoints(
    annotations: Annotations,
    results: Sequence[Mapping[str, Any]],
    image_ids: Collection[int] | None = None,
    *,
    sigmas: Sequence[float] | None = None,
) -> dict[str, float]:
    """Average precision and recall of `results`, under the names in `METRICS`.

    Args:
        annotations: path of a COCO keypoint JSON, or its content.
        results: COCO keypoint results; may be empty.
        image_ids: evaluate these images only; all images of `annotations` by default.
        sigmas: OKS sigma of each keypoint; COCO's 17 by default.

    Returns:
        Values in [0, 1], or -1 where there is no ground truth of that size (pycocotools' convention).

    Raises:
        ValueError: annotations that are not COCO keypoints, or results that do not fit them.
    """
    evaluation = _match(annotations, results, image_ids, sigmas)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
        evaluation.summarize()
    return {name: float(value) for name, value in zip(METRICS, evaluation.stats, strict=True)}


def bootstrap_interval(
    annotations: Annotations,
    results: Sequence[Mapping[str, Any]],
    image_ids: Collection[int] | None = None,
    *,
    sigmas: Sequence[float] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % interval (percentiles 2.5 and 97.5) of AP under resampling of the images with replacement.

    Detections are matched to ground truth once per image; each resample only accumulates again, so a thousand cost
    seconds. Resamples without ground truth are left out; (-1, -1) if there is no ground truth at all.
    Arguments and errors are those of `evaluate_keypoints`.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    evaluation = _match(annotations, results, image_ids, sigmas)
    matches = _Matches(evaluation)
    rng = np.random.default_rng(seed)
    samples = rng.multinomial(matches.num_images, np.full(matches.num_images, 1 / matches.num_images), size=resamples)
    precisions = [matches.average_precision(counts) for counts in samples]
    defined = [precision for precision in precisions if precision >= 0]
    if not defined:
        return -1.0, -1.0
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


class _Matches:
    """Matched detections of all images, sorted by score: all that AP needs, ready to be weighted image by image."""

    def __init__(self, evaluation: COCOeval) -> None:
        params = evaluation.params
        self.num_images = len(params.imgIds)
        self._recall_thresholds = np.asarray(params.recThrs)
        # evalImgs is [category][area range][image], flattened; area range 0 is "all". None: neither truth nor result.
        per_category = np.array(evaluation.evalImgs, dtype=object).reshape(-1, len(params.areaRng), self.num_images)
        self._categories = [self._collect(images, len(params.iouThrs)) for images in per_category[:, 0]]

    def _collect(self, images: np.ndarray, num_thresholds: int) -> tuple[np.ndarray, ...]:
        """Image index [D], true positives and false positives [T, D] by falling score; ground truths per image [I]."""
        truths = np.zeros(self.num_images, dtype=np.int64)
        owner, scores = [np.empty(0, dtype=np.int64)], [np.empty(0)]
        hits, misses = [np.empty((num_thresholds, 0), dtype=bool)], [np.empty((num_thresholds, 0), dtype=bool)]
        for index, image in enumerate(images):
            if image is None:
                continue
            truths[index] = np.count_nonzero(np.logical_not(image["gtIgnore"]))
            matched, counted = image["dtMatches"] != 0, np.logical_not(image["dtIgnore"])
            owner.append(np.full(len(image["dtScores"]), index))
            scores.append(np.asarray(image["dtScores"], dtype=float))
            hits.append(matched & counted)
            misses.append(~matched & counted)
        order = np.argsort(-np.concatenate(scores), kind="stable")
        return (
            np.concatenate(owner)[order],
            np.concatenate(hits, axis=1)[:, order],
            np.concatenate(misses, axis=1)[:, order],
            truths,
        )

    def average_precision(self, counts: np.ndarray) -> float:
        """AP of the set in which image i occurs `counts[i]` times; -1 if it holds no ground truth.

        Weighting a detection is repeating it, save for the arbitrary order of equal scores within an image: inside a
        run of repeated hits precision rises, and repeated misses add no recall.
        """
        values = []
        for owner, hits, misses, truths in self._categories:
            num_truths = int(counts @ truths)
            if num_truths == 0:
                continue
            weight = counts[owner]
            true_positives = np.cumsum(hits * weight, axis=1)
            positives = true_positives + np.cumsum(misses * weight, axis=1)
            precision = true_positives / np.maximum(positives, 1)
            envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            for row_precision, row_hits in zip(envelope, true_positives, strict=True):
                where = np.searchsorted(row_hits / num_truths, self._recall_thresholds, side="left")
                values.append(np.append(row_precision, 0.0)[where].mean())
        return float(np.mean(values)) if values else -1.0


def _match(
    annotations: Annotations,
    results: Sequence[Mapping[str, Any]],
    image_ids: Collection[int] | None,
    sigmas: Sequence[float] | None,
) -> COCOeval:
    """Match `results` to ground truth in every image."""
    document = _read(annotations)
    known = {image["id"] for image in document["images"]}
    wanted = known if image_ids is None else set(image_ids)
    if not wanted:
        raise ValueError("image_ids must name at least one image, got none")
    if unknown := wanted - known:
        raise ValueError(f"image_ids must be among the annotations' images, got {min(unknown)}")
    _check_results(document, results)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = document
        truth.createIndex()
        found = COCO()
        if results:  # loadRes adds fields to the dicts that it is given, and cannot take an empty list
            found = truth.loadRes([dict(result) for result in results])
        evaluation = COCOeval(truth, found, "keypoints")
        evaluation.params.imgIds = sorted(wanted)
        if sigmas is not None:
            evaluation.params.kpt_oks_sigmas = np.asarray(sigmas, dtype=float)
        _check_lengths(document, results, len(evaluation.params.kpt_oks_sigmas))
        evaluation.evaluate()
    return evaluation


def _read(annotations: Annotations) -> dict[str, Any]:
    """A private copy of the annotations (pycocotools writes into them), checked to be a COCO keypoint set."""
    if isinstance(annotations, Mapping):
        name, document = "annotations", copy.deepcopy(dict(annotations))
    else:
        name = str(annotations)
        try:
            document = json.loads(Path(annotations).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{name} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{name} is not a COCO keypoint set: expected an object, got {type(document).__name__}")
    for key in ("images", "annotations", "categories"):
        if key not in document:
            raise ValueError(f'{name} is not a COCO keypoint set: it has no "{key}"')
    for index, annotation in enumerate(document["annotations"], start=1):
        if missing := [field for field in REQUIRED_FIELDS if field not in annotation]:
            raise ValueError(f"{name}: annotation {annotation.get('id')} has no {', '.join(missing)}")
        annotation["id"] = index  # pycocotools reads a match with id 0 as no match, silently
    return document


def _check_results(document: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError where a result is on an image or of a category that the annotations do not list."""
    for field, listed in (("image_id", document["images"]), ("category_id", document["categories"])):
        known = {entry["id"] for entry in listed}
        for result in results:
            if result[field] not in known:
                raise ValueError(f"results must have a {field} that the annotations list, got {result[field]}")


def _check_lengths(document: Mapping[str, Any], results: Sequence[Mapping[str, Any]], num_keypoints: int) -> None:
    """Raise ValueError unless every person, true or found, has `num_keypoints` keypoints."""
    for name, persons in (("annotations", document["annotations"]), ("results", results)):
        for person in persons:
            if len(person["keypoints"]) != 3 * num_keypoints:
                raise ValueError(
                    f"{name} must have {num_keypoints} keypoints (one OKS sigma each), got"
                    f" {len(person['keypoints'])} numbers for a person in image {person['image_id']}"
                )
