"""PCKh and MPII's multi-person AP: by hand, and against a second implementation on MPII's validation set."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
from metric_cases import MPII, annotated, find_badly, found, image, repeat

from dgcn.evaluation.metrics import EVALUATIONS
from dgcn.evaluation.pckh import MpiiApEvaluation, PckhEvaluation
from dgcn.skeleton import COCO

COLUMNS = {
    "Shoulder": (12, 13),
    "Elbow": (11, 14),
    "Wrist": (10, 15),
    "Hip": (2, 3),
    "Knee": (1, 4),
    "Ankle": (0, 5),
}
COUNTED = [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15]
BODY = np.column_stack([np.full(16, 100.0), 100.0 + 40 * np.arange(16)])
HEAD_TOP, LEFT_WRIST, PELVIS = 9, 15, 6


@pytest.fixture(scope="module")
def mpii(data_dir) -> list:
    """The images of MPII's validation set."""
    h5py = pytest.importorskip("h5py", reason="needs h5py, which reads MPII's validation set")
    persons = defaultdict(list)
    with h5py.File(data_dir / "fixtures" / "mpii" / "mpii_valid.h5") as file:
        columns = (file[name][()] for name in ("imgname", "part", "visible", "normalize"))
        for name, part, visible, head_size in zip(*columns, strict=True):
            visibility = np.where((part > 0).all(axis=1), np.where(visible > 0, 2, 1), 0)
            persons[name.decode()].append(annotated(part - 1, float(head_size), visibility))
    return [image(name, *of_image) for name, of_image in persons.items()]


def test_pckh_by_hand() -> None:
    """Four annotated keypoints, two of them right."""
    visibility = np.isin(np.arange(16), [HEAD_TOP, PELVIS, LEFT_WRIST, 10, 8]) * 2
    xy = BODY.copy()
    xy[HEAD_TOP, 0] += 10  # half the head size: right
    xy[8, 0] += 10.1  # the upper neck, wrong
    xy[LEFT_WRIST] = 0  # not found
    metrics = PckhEvaluation([image(1, annotated(BODY, 20, visibility))], [found(1, xy, 0.5)], MPII).metrics()
    assert list(metrics) == ["Mean", "Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle"]
    expected = {"Mean": 2 / 4, "Head": 1, "Wrist": 1 / 2}  # the pelvis, which is right, does not count
    assert metrics == {name: expected.get(name, -1.0) for name in metrics}


def test_pckh_gives_each_found_person_once() -> None:
    """One person was found where two are annotated, and another person beside them: half is right."""
    records = [image(1, annotated(BODY, 20), annotated(BODY + 4, 20))]
    results = [found(1, BODY + 2, 0.5), found(1, BODY + 900, 0.9)]
    assert PckhEvaluation(records, results, MPII).metrics()["Mean"] == 0.5
    # Whoever comes first, as many keypoints as possible are right: A is near both persons, B near the second only.
    results = [found(1, BODY + 2, 0.9), found(1, BODY + 10, 0.5)]
    for persons in (records[0].annotations, records[0].annotations[::-1]):
        assert PckhEvaluation([image(1, *persons)], results, MPII).metrics()["Mean"] == 1.0


def test_mpii_ap_by_hand() -> None:
    """Only the wrist is annotated, of three persons; what was found of it, from the best score down, is
    right, wrong, right: precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3."""
    wrist = np.isin(np.arange(16), [LEFT_WRIST]) * 2
    records = [image(i, annotated(BODY, 20, wrist)) for i in range(3)]
    nothing = np.zeros((16, 2))

    def at(offset: float) -> np.ndarray:
        xy = nothing.copy()
        xy[LEFT_WRIST] = BODY[LEFT_WRIST] + (offset, 0)
        return xy

    scores = np.zeros(16)
    results = [
        found(0, at(10), 0.1, scores + 0.9),
        found(0, at(3), 0.05, scores + 0.8),  # second for the same person, and so wrong
        found(2, at(0), 0.9, scores + 0.3),
    ]
    metrics = MpiiApEvaluation(records, results, MPII).metrics()
    assert metrics["Wrist"] == metrics["Mean"] == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3)
    assert metrics["Ankle"] == -1.0
    # A keypoint that is not annotated counts against the person found.
    ankle = at(0)
    ankle[0] = BODY[0]
    both = [image(0, annotated(BODY, 20, wrist)), image(1, annotated(BODY, 20, wrist + np.eye(16, dtype=int)[0] * 2))]
    results = [found(0, ankle, 0.5, scores + 0.9), found(1, ankle, 0.5, scores + 0.4)]
    assert MpiiApEvaluation(both, results, MPII).metrics()["Ankle"] == 0.5


def test_mpii_ap_keeps_the_best_found_person() -> None:
    """The person with more keypoints right is kept, whatever its score; the other's are wrong."""
    half = BODY.copy()
    half[::2] += 500
    results = [found(0, half, 0.9), found(0, BODY, 0.2)]
    metrics = MpiiApEvaluation([image(0, annotated(BODY, 20))], results, MPII).metrics()
    assert metrics["Mean"] == pytest.approx(0.5)  # the only hit of each keypoint comes after one false positive


def distance(person, result, k: int) -> float:
    (x, y, v), (a, b, seen) = person.keypoints[k], result["keypoints"][3 * k : 3 * k + 3]
    return math.hypot(x - a, y - b) / person.head_size if v > 0 and seen > 0 else math.inf


def close(person, result, k: int) -> bool:
    return distance(person, result, k) <= 0.5


def pckh_by_trying_all(records, results) -> dict[str, float]:
    right, all_of = np.zeros(16), np.zeros(16)
    for record in records:
        persons = record.persons
        candidates = [result for result in results if result["image_id"] == record.image_id]
        candidates += [None] * len(persons)

        def rank(choice, persons=persons) -> tuple[int, float]:
            pairs = [(person, result) for person, result in zip(persons, choice, strict=True) if result is not None]
            distances = [distance(person, result, k) for person, result in pairs for k in COUNTED]
            return sum(d <= 0.5 for d in distances), sum(1 - d for d in distances if d < 1)

        best = max(itertools.permutations(candidates, len(persons)), key=rank)
        for person, result in zip(persons, best, strict=True):
            all_of += person.keypoints[:, 2] > 0
            right[[k for k in COUNTED if result is not None and close(person, result, k)]] += 1
    rate = right / all_of
    columns = {"Head": rate[9]} | {name: (rate[i] + rate[j]) / 2 for name, (i, j) in COLUMNS.items()}
    return {"Mean": right[COUNTED].sum() / all_of[COUNTED].sum(), **columns}


def mpii_ap_by_loops(records, results) -> dict[str, float]:
    detections, truths = defaultdict(list), defaultdict(int)
    for record in records:
        kept = {}
        persons = record.persons
        candidates = sorted((r for r in results if r["image_id"] == record.image_id), key=lambda r: -r["score"])
        for result in candidates:
            rates = [
                sum(close(person, result, k) for k in COUNTED) / sum(person.keypoints[k, 2] > 0 for k in COUNTED)
                for person in persons
            ]
            if rates and max(rates) > 0:
                person = rates.index(max(rates))
                if person not in kept or rates[person] > kept[person][0]:
                    kept[person] = rates[person], result
        owner = {id(result): persons[person] for person, (_, result) in kept.items()}
        for k in COUNTED:
            truths[k] += sum(person.keypoints[k, 2] > 0 for person in persons)
            for result in candidates:
                if result["keypoints"][3 * k + 2]:
                    hit = id(result) in owner and close(owner[id(result)], result, k)
                    detections[k].append((result["keypoint_scores"][k], hit))
    precision = {}
    for k in COUNTED:
        hits = [hit for _, hit in sorted(detections[k], reverse=True)]
        curve = [(sum(hits[: n + 1]) / truths[k], sum(hits[: n + 1]) / (n + 1)) for n in range(len(hits))]
        recalls = sorted({recall for recall, _ in curve})
        steps = zip([0.0, *recalls], recalls, strict=False)
        precision[k] = sum((b - a) * max(p for recall, p in curve if recall >= b) for a, b in steps)
    columns = {"Head": (precision[8] + precision[9]) / 2}
    columns |= {name: (precision[i] + precision[j]) / 2 for name, (i, j) in COLUMNS.items()}
    return {"Mean": sum(columns.values()) / 7, **columns}


def test_against_a_second_implementation(mpii) -> None:
    results = find_badly(mpii, seed=1)
    assert PckhEvaluation(mpii, results, MPII).metrics() == pytest.approx(pckh_by_trying_all(mpii, results))
    assert MpiiApEvaluation(mpii, results, MPII).metrics() == pytest.approx(mpii_ap_by_loops(mpii, results))


def test_the_whole_validation_set_against_itself(mpii) -> None:
    results = [found(record.image_id, person.keypoints[:, :2], 0.5) for record in mpii for person in record.persons]
    for metric in (PckhEvaluation, MpiiApEvaluation):
        assert metric(mpii, results, MPII).metrics() == pytest.approx(dict.fromkeys(metric([], [], MPII).metrics(), 1))


@pytest.mark.parametrize("metric", [PckhEvaluation, MpiiApEvaluation])
def test_intervals_are_those_of_resampled_sets(metric) -> None:
    rng = np.random.default_rng(2)
    records = [
        image(i, *(annotated(BODY + rng.uniform(0, 50, 2), 20) for _ in range(rng.integers(1, 3)))) for i in range(10)
    ]
    results = find_badly(records, seed=3)
    draws = np.random.default_rng(5).multinomial(10, np.full(10, 0.1), size=20)
    values = [metric(*repeat(records, results, counts), MPII).metrics()["Mean"] for counts in draws]
    interval = metric(records, results, MPII).interval(resamples=20, seed=5)
    assert interval == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=1e-12)


@pytest.mark.parametrize("metric", ["pckh", "mpii-ap"])
def test_what_these_metrics_need(metric) -> None:
    evaluation = EVALUATIONS[metric]
    with pytest.raises(
        ValueError, match=f"the metric {metric} must have MPII's .* 'coco' without head_top, upper_neck$"
    ):
        evaluation([], [], COCO)
    with pytest.raises(ValueError, match=f"the metric {metric} must have the head sizes .*, got none"):
        evaluation([image(1, annotated(BODY))], [], MPII)
    with pytest.raises(ValueError, match=r"results\[0\] must have keypoint_scores of 16 finite numbers, got \[1\]"):
        evaluation([image(1)], [found(1, BODY, 0.5, [1])], MPII)
    with pytest.raises(ValueError, match=r"records must have persons of 16 keypoints, got 3"):
        evaluation([image(1, annotated(BODY[:3], 20))], [], MPII)
    # A person without a head size is not looked at where others have one.
    records = [image(1, annotated(BODY, 20), annotated(BODY + 900))]
    assert evaluation(records, [found(1, BODY, 0.5)], MPII).metrics()["Mean"] == 1.0
