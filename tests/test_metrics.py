"""COCO keypoint metrics against hand-made cases, pycocotools itself, and resampling done the slow way."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from dgcn.metrics import METRICS, bootstrap_interval, evaluate_keypoints
from dgcn.skeleton import COCO

PERSONS = {"id": 1, "name": "person", "keypoints": list(COCO.keypoints), "skeleton": []}


def person(image_id: int, x: float, y: float, size: float, **changes) -> dict:
    """A standing person, `size` pixels tall, in the form of a ground-truth annotation."""
    pose = COCO.upright_pose - COCO.upright_pose.min(axis=0)
    xy = pose * size / pose[:, 1].max() + (x, y)
    keypoints = np.column_stack([xy, np.full(17, 2.0)]).ravel().tolist()
    box = [x, y, size / 2, size]
    annotation = {"image_id": image_id, "category_id": 1, "keypoints": keypoints, "num_keypoints": 17, "bbox": box}
    return annotation | {"area": size * size / 2, "iscrowd": 0} | changes


def found(annotation: dict, score: float, offset: float = 0.0) -> dict:
    """A result: the person of `annotation`, every keypoint `offset` pixels to the right."""
    keypoints = np.array(annotation["keypoints"]).reshape(-1, 3) + np.array([offset, 0, 0])
    return {
        "image_id": annotation["image_id"],
        "category_id": 1,
        "keypoints": keypoints.ravel().tolist(),
        "score": score,
    }


def dataset(num_images: int, annotations: list[dict]) -> dict:
    numbered = [annotation | {"id": number} for number, annotation in enumerate(annotations)]  # from 0, on purpose
    return {"images": [{"id": i} for i in range(num_images)], "annotations": numbered, "categories": [PERSONS]}


@pytest.fixture(scope="module")
def noisy() -> tuple[dict, list[dict]]:
    """Twelve pictures of persons; results near, far, doubled, missing and made up."""
    rng = np.random.default_rng(3)
    truth = [
        person(i, *rng.uniform(0, 300, 2), rng.uniform(40, 200)) for i in range(10) for _ in range(rng.integers(1, 5))
    ]
    truth.append(person(10, 50, 50, 120, iscrowd=1, num_keypoints=0, keypoints=[0] * 51))
    results = []
    for annotation in truth:
        for _ in range(rng.integers(0, 3)):
            results.append(found(annotation, rng.random(), rng.normal(0, 0.05) * annotation["bbox"][3]))
    results += [found(person(i, *rng.uniform(0, 300, 2), 90), rng.random()) for i in (0, 4, 11)]
    return dataset(12, truth), results


def test_perfect_results_score_one() -> None:
    truth = [person(0, 10, 20, 80), person(0, 150, 20, 150), person(1, 5, 5, 60)]
    metrics = evaluate_keypoints(dataset(2, truth), [found(annotation, 0.9) for annotation in truth])
    assert tuple(metrics) == METRICS
    assert list(metrics.values()) == pytest.approx([1.0] * 10)


def test_no_results_score_zero() -> None:
    metrics = evaluate_keypoints(dataset(2, [person(0, 10, 20, 80), person(1, 0, 0, 200)]), [])
    assert set(metrics.values()) == {0.0}


def test_sizes_without_ground_truth_are_minus_one() -> None:
    truth = person(0, 10, 20, 80)  # 3200 square pixels: medium
    metrics = evaluate_keypoints(dataset(1, [truth]), [found(truth, 0.5)])
    assert (metrics["APM"], metrics["APL"], metrics["ARL"]) == (pytest.approx(1.0), -1.0, -1.0)


def test_known_precision() -> None:
    """A miss above the only hit halves the precision at every recall."""
    truth = person(0, 10, 20, 80)
    metrics = evaluate_keypoints(dataset(1, [truth]), [found(person(0, 300, 20, 80), 0.9), found(truth, 0.5)])
    assert (metrics["AP"], metrics["AR"]) == (pytest.approx(0.5), 1.0)


def test_image_ids_restrict() -> None:
    truth = [person(0, 10, 20, 80), person(1, 10, 20, 80)]
    results = [found(truth[0], 0.9)]
    assert evaluate_keypoints(dataset(2, truth), results)["AR"] == 0.5
    assert evaluate_keypoints(dataset(2, truth), results, image_ids=[0])["AR"] == 1.0
    assert evaluate_keypoints(dataset(2, truth), results, image_ids={1})["AR"] == 0.0


def test_sigmas_of_another_skeleton() -> None:
    truth = person(0, 10, 20, 80)
    truth["keypoints"], truth["num_keypoints"] = [20, 30, 2, 40, 60, 2, 20, 80, 2], 3
    result = found(truth, 0.9, offset=6)
    strict, lenient = (evaluate_keypoints(dataset(1, [truth]), [result], sigmas=[s] * 3)["AP"] for s in (0.01, 0.5))
    assert (strict, lenient) == (0.0, pytest.approx(1.0))


def test_reads_a_file_changes_nothing_prints_nothing(noisy, tmp_path, capsys) -> None:
    truth, results = noisy
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    before = copy.deepcopy((truth, results))
    assert evaluate_keypoints(path, results) == evaluate_keypoints(truth, results)
    assert (truth, results) == before
    assert capsys.readouterr() == ("", "")


def test_ids_of_annotations_do_not_matter(noisy) -> None:
    truth, results = noisy  # ids from 0, which pycocotools by itself counts as unmatched
    renumbered = truth | {"annotations": [a | {"id": a["id"] + 1} for a in truth["annotations"]]}
    assert evaluate_keypoints(truth, results) == evaluate_keypoints(renumbered, results)


def test_bootstrap_is_ap_of_resampled_sets(noisy) -> None:
    """Each resample, written out as a data set in which pictures occur several times, has the AP that it is given."""
    truth, results = noisy
    rng = np.random.default_rng(5)
    values = []
    for counts in rng.multinomial(12, np.full(12, 1 / 12), size=40):
        copies = [(image, copy_id) for copy_id, image in enumerate(np.repeat(np.arange(12), counts).tolist())]
        annotations, repeated = (
            [
                entry | {"image_id": copy_id}
                for image, copy_id in copies
                for entry in entries
                if entry["image_id"] == image
            ]
            for entries in (truth["annotations"], results)
        )
        values.append(evaluate_keypoints(dataset(12, annotations), repeated)["AP"])
    interval = bootstrap_interval(truth, results, resamples=40, seed=5)
    assert interval == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=1e-12)


def test_bootstrap_extremes(noisy) -> None:
    truth, results = noisy
    assert bootstrap_interval(truth, [], resamples=10) == (0.0, 0.0)
    assert bootstrap_interval(dataset(3, []), [], resamples=10) == (-1.0, -1.0)
    with pytest.raises(ValueError, match=r"resamples must be at least 1, got 0"):
        bootstrap_interval(truth, results, resamples=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda truth, results: (truth, results, [99]), r"image_ids must be among .* got 99"),
        (lambda truth, results: (truth, results, []), r"image_ids must name at least one image"),
        (lambda truth, results: (truth, [results[0] | {"image_id": 77}], None), r"results must have a image_id .* 77"),
        (lambda truth, results: (truth, [results[0] | {"category_id": 2}], None), r"category_id .* got 2"),
        (
            lambda truth, results: (truth, [results[0] | {"keypoints": [1, 2, 3]}], None),
            r"results must have 17 keypoints",
        ),
        (lambda truth, results: ({"images": [], "categories": []}, results, None), r'has no "annotations"'),
        (
            lambda truth, results: (dataset(1, [{"image_id": 0}]), [], None),
            r"annotation 0 has no category_id, keypoints",
        ),
    ],
)
def test_bad_input(noisy, change, message) -> None:
    truth, results, image_ids = change(*noisy)
    with pytest.raises(ValueError, match=message):
        evaluate_keypoints(truth, results, image_ids)


def test_bad_files(tmp_path) -> None:
    broken, array = tmp_path / "broken.json", tmp_path / "array.json"
    broken.write_text('{"images": [')
    array.write_text("[]")
    with pytest.raises(ValueError, match=r"broken\.json is not JSON"):
        evaluate_keypoints(broken, [])
    with pytest.raises(ValueError, match=r"array\.json is not a COCO keypoint set: expected an object, got list"):
        evaluate_keypoints(array, [])
    with pytest.raises(FileNotFoundError):
        evaluate_keypoints(tmp_path / "absent.json", [])


def test_real_ground_truth_against_itself(data_dir) -> None:
    path = data_dir / "coco320" / "annotations" / "person_keypoints_val.json"
    persons = [a for a in json.loads(path.read_text())["annotations"] if a["num_keypoints"]]
    metrics = evaluate_keypoints(path, [found(annotation, 0.9) for annotation in persons])
    assert list(metrics.values()) == pytest.approx([1.0] * 10, abs=1e-3)  # unlabelled (0, 0) widen some boxes
