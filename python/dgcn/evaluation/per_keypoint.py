"""How well each keypoint is found, and PCK."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..records import Annotation, ImageRecord
from ..skeleton import Skeleton
from .bootstrap import Matches
from .oks import match, person_truths
from .people import assign, collect_people
from .results import by_id, check_results

PCK_LIMIT = 0.1
"""Distance up to which a keypoint is correct, in the person's scale."""


def pck(records: Sequence[ImageRecord], results: Sequence[Mapping[str, Any]]) -> float:
    """The fraction of the annotated keypoints that were found within a tenth of the person's scale. Needs no sigmas.

    The scale is `Annotation.scale`, the square root of the area. Each annotated person is given one found person, each
    found person at most once, so that as many keypoints as possible are correct; keypoints not found are wrong.

    Args:
        records: the images.
        results: COCO keypoint results on them; may be empty.

    Returns:
        In [0, 1]; -1 if no keypoint is annotated.

    Raises:
        TypeError, ValueError: results that do not fit the images.
    """
    person = next((person for record in records for person in record.persons), None)
    if person is None:
        return -1.0
    annotated, correct = 0, 0
    for people in collect_people(records, results, len(person.keypoints), _scale):
        distances = people.distances()
        annotated += int(people.annotated.sum())
        correct += int((distances[assign(distances, PCK_LIMIT)] <= PCK_LIMIT).sum())
    return correct / annotated


def evaluate_per_keypoint(
    records: Sequence[ImageRecord], results: Sequence[Mapping[str, Any]], skeleton: Skeleton
) -> dict[str, dict[str, float]]:
    """By name of the keypoint four numbers, -1 where there is nothing to measure.

    "AP": average precision with the OKS of that keypoint alone as the similarity. Persons found are ranked by their
    scores. Those without the keypoint are left out, annotated persons without it are ignored.
    "PCK": as `pck` has it, with the same choice of the person found.
    "error": mean distance from the true keypoint in units of the person's scale, where it was found.
    "swapped": how often a keypoint was found that is more than a tenth of the scale off and nearer to the true place of
    its mirror image, among those found of which both are annotated.

    Arguments and errors are those of `pck`, and the skeleton that both are of.
    """
    count = skeleton.num_keypoints
    flip = list(skeleton.flip)
    annotated, correct, found, swapped, mirrored = np.zeros((5, count), dtype=np.int64)
    errors = np.zeros(count)
    for people in collect_people(records, results, count, _scale):
        own, mirror = people.distances(), people.distances(flip)
        pairs = assign(own, PCK_LIMIT)
        own, mirror = own[pairs], mirror[pairs]
        is_found, has_both = np.isfinite(own), np.isfinite(own) & np.isfinite(mirror)
        annotated += people.annotated.sum(axis=0)
        correct += (own <= PCK_LIMIT).sum(axis=0)
        found += is_found.sum(axis=0)
        errors += np.where(is_found, own, 0).sum(axis=0)
        mirrored += has_both.sum(axis=0)
        swapped += (has_both & (own > PCK_LIMIT) & (mirror < own)).sum(axis=0)
    mirrored[np.arange(count) == flip] = 0  # a keypoint on the axis has no mirror image
    columns = {
        "AP": np.array(_average_precisions(records, results, skeleton)),
        "PCK": _ratio(correct, annotated),
        "error": _ratio(errors, found),
        "swapped": _ratio(swapped, mirrored),
    }
    return {
        name: {column: float(values[k]) for column, values in columns.items()}
        for k, name in enumerate(skeleton.keypoints)
    }


def _average_precisions(
    records: Sequence[ImageRecord], results: Sequence[Mapping[str, Any]], skeleton: Skeleton
) -> list[float]:
    """AP of each keypoint by itself, as if it were all that a person has."""
    images = by_id(records)
    found = check_results(results, images, skeleton.num_keypoints)
    precisions = []
    for k, sigma in enumerate(skeleton.sigmas):
        alone = [_keypoint_alone(record, k) for record in images.values()]
        places = [person | {"keypoints": person["keypoints"][3 * k : 3 * k + 3]} for person in found]
        places = [person for person in places if person["keypoints"].any()]
        matches = Matches(match(list(images), person_truths(alone, 1), places, [sigma]))
        precisions.append(matches.average_precision())
    return precisions


def _keypoint_alone(record: ImageRecord, k: int) -> ImageRecord:
    persons = [replace(person, keypoints=person.keypoints[k : k + 1]) for person in record.annotations]
    return replace(record, annotations=tuple(persons))


def _scale(person: Annotation) -> float:
    return person.scale


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """-1 where `whole` is 0."""
    return np.where(whole > 0, part / np.maximum(whole, 1), -1.0)
