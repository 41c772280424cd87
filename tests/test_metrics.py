"""COCO keypoint metrics against hand-made cases, pycocotools itself, and resampling done the slow way; what all metrics
have in common."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
from metric_cases import MPII, annotated, find_badly, image

from dgcn.data.coco_format import read_ground_truth
from dgcn.evaluation.metrics import EVALUATIONS
from dgcn.evaluation.oks import METRICS, bootstrap_interval, evaluate_keypoints
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
    triangles = dataset(1, [truth]) | {"categories": [{"id": 1, "keypoints": ["a", "b", "c"]}]}
    strict, lenient = (evaluate_keypoints(triangles, [result], sigmas=[s] * 3)["AP"] for s in (0.01, 0.5))
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
    with pytest.raises(TypeError, match=r"resamples must be an integer, got 2\.5"):
        bootstrap_interval(truth, results, resamples=2.5)


def test_ids_of_any_type_rank_alike(noisy) -> None:
    """Strings and large numbers as ids of images and of the category give the numbers of plain ones."""
    truth, results = noisy

    def renamed(name, category_id) -> tuple[dict, list[dict]]:
        def of(entries):
            return [entry | {"image_id": name(entry["image_id"]), "category_id": category_id} for entry in entries]

        images = [{"id": name(image["id"])} for image in truth["images"]]
        document = truth | {"images": images, "annotations": of(truth["annotations"])}
        return document | {"categories": [PERSONS | {"id": category_id}]}, of(results)

    expected = evaluate_keypoints(truth, results), bootstrap_interval(truth, results, resamples=20)
    for name, category_id in ((lambda i: f"picture {i:03}", "person"), (lambda i: 10**30 + i, 0), (float, 7.0)):
        other = renamed(name, category_id)
        assert (evaluate_keypoints(*other), bootstrap_interval(*other, resamples=20)) == expected
        assert evaluate_keypoints(*other, [name(3)]) == evaluate_keypoints(truth, results, [3])


def test_what_evaluation_needs_not(noisy) -> None:
    """Results without boxes, with boxes here and there, nested, or from numpy; the order of the annotations' images."""
    truth, results = noisy
    expected = evaluate_keypoints(truth, results)
    boxed = [result | {"bbox": box(result)} if index % 2 else result for index, result in enumerate(results)]
    assert evaluate_keypoints(truth, boxed) == expected
    assert evaluate_keypoints(truth, [result | {"caption": "", "segmentation": []} for result in boxed]) == expected
    nested = [result | {"keypoints": np.reshape(result["keypoints"], (17, 3))} for result in results]
    assert evaluate_keypoints(truth, nested) == expected
    assert evaluate_keypoints(truth | {"images": truth["images"][::-1]}, results) == expected


def box(result: dict) -> list[float]:
    xy = np.reshape(result["keypoints"], (17, 3))[:, :2]
    return [*xy.min(axis=0), *np.ptp(xy, axis=0)]


def test_the_area_of_a_result_is_that_of_its_box() -> None:
    """A false alarm whose box is small does not count against large persons."""
    truth = person(0, 10, 20, 200)
    alarm = found(person(0, 500, 20, 200), 0.9)
    results = [found(truth, 0.5), alarm]
    assert evaluate_keypoints(dataset(1, [truth]), results)["APL"] == pytest.approx(0.5)
    alarm["bbox"] = [500, 20, 10, 10]
    assert evaluate_keypoints(dataset(1, [truth]), results)["APL"] == pytest.approx(1.0)


def test_the_best_twenty_of_an_image_count() -> None:
    truth = person(0, 10, 20, 80)
    alarms = [found(person(0, 300, 20, 80), 0.9) for _ in range(20)]
    assert evaluate_keypoints(dataset(1, [truth]), [*alarms[1:], found(truth, 0.5)])["AR"] == 1.0
    assert evaluate_keypoints(dataset(1, [truth]), [*alarms, found(truth, 0.5)])["AR"] == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 77}, r"results\[1\] must have image_id of an image of the annotations, got 77"),
        ({"image_id": "0"}, r"image_id .*got '0'"),
        ({"image_id": [0]}, r"image_id .*got \[0\]"),
        ({"image_id": None}, r"image_id .*got None"),
        ({"category_id": 2}, r"results\[1\] must have category_id 1, as the annotations, got 2"),
        ({"category_id": None}, r"category_id 1, .*got None"),
        ({"keypoints": [1, 2, 3]}, r"results\[1\] must have keypoints of 51 finite numbers.*got \[1, 2, 3\]"),
        ({"keypoints": None}, r"keypoints .*got None"),
        ({"keypoints": [float("nan")] * 51}, r"keypoints .*got \[nan"),
        ({"keypoints": ["x"] * 51}, r"keypoints .*got \['x'"),
        ({"score": float("nan")}, r"results\[1\] must have score that is a finite number, got nan"),
        ({"score": None}, r"score .*got None"),
        ({"score": [0.5]}, r"score .*got \[0.5\]"),
        ({"bbox": [1, 2]}, r"results\[1\] must have bbox of four finite numbers, got \[1, 2\]"),
    ],
)
def test_bad_results(noisy, change, message) -> None:
    truth, results = noisy
    with pytest.raises(ValueError, match=message) as error:
        evaluate_keypoints(truth, [results[0], results[1] | change])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("annotations", [None, 3, [1], b"set.json"])
def test_annotations_of_other_types(annotations) -> None:
    with pytest.raises(TypeError, match="annotations must be a path, the content of a COCO file, or its records, got "):
        evaluate_keypoints(annotations, [])


@pytest.mark.parametrize("results", [None, 5, "results.json", {"image_id": 1}, ["results.json"], [None]])
def test_results_are_a_list_of_results(noisy, results) -> None:
    with pytest.raises(TypeError, match=r"results(\[0\])? must be a (list of )?COCO results?, got "):
        evaluate_keypoints(noisy[0], results)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_ids": [99]}, r"image_ids must be among .* got 99"),
        ({"image_ids": ["0"]}, r"image_ids must be among .* got '0'"),
        ({"image_ids": []}, r"image_ids must name at least one image"),
        ({"sigmas": [0.1] * 16}, r"must have one category with the 16 keypoints"),
        ({"sigmas": []}, r"sigmas must be a positive number for each keypoint, got \[\]"),
        ({"sigmas": [0.1] * 16 + [0]}, r"sigmas must be a positive number for each keypoint"),
        ({"sigmas": 0.1}, r"sigmas must be a positive number for each keypoint, got 0\.1"),
    ],
)
def test_bad_arguments(noisy, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_keypoints(*noisy, **arguments)


def test_records_and_sigmas_of_another_skeleton(noisy) -> None:
    records = read_ground_truth(noisy[0], 17)
    assert evaluate_keypoints(records, noisy[1]) == evaluate_keypoints(*noisy)
    with pytest.raises(
        ValueError, match=r"sigmas must be 17 numbers, one for each keypoint of the annotations, got 16"
    ):
        evaluate_keypoints(records, [], sigmas=[0.1] * 16)


def test_a_file_that_is_not_there(tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        evaluate_keypoints(tmp_path / "absent.json", [])


def test_real_ground_truth_against_itself(data_dir) -> None:
    path = data_dir / "coco320" / "annotations" / "person_keypoints_val.json"
    persons = [a for a in json.loads(path.read_text())["annotations"] if a["num_keypoints"]]
    metrics = evaluate_keypoints(path, [found(annotation, 0.9) for annotation in persons])
    assert list(metrics.values()) == pytest.approx([1.0] * 10, abs=1e-3)  # unlabelled (0, 0) widen some boxes


@pytest.fixture(scope="module")
def people() -> tuple[list, list[dict]]:
    """Persons of 16 keypoints with all that any metric asks for, found badly."""
    rng = np.random.default_rng(8)
    records = [
        image(
            i,
            *(annotated(rng.uniform(1, 400, (16, 2)), 60) for _ in range(rng.integers(1, 4))),
            crowd_index=rng.random(),
        )
        for i in range(12)
    ]
    return records, find_badly(records, seed=9)


@pytest.mark.parametrize("metric", EVALUATIONS)
def test_every_metric_without_persons_and_without_results(metric, people) -> None:
    records, results = people
    evaluation = EVALUATIONS[metric]
    nobody = [replace(record, annotations=()) for record in records]
    undefined = evaluation(nobody, results, MPII)
    assert set(undefined.metrics().values()) == {-1.0}
    assert undefined.interval(5) == (-1.0, -1.0)
    missed = evaluation(records, [], MPII)
    assert {name: value for name, value in missed.metrics().items() if value not in (0.0, -1.0)} == {}
    assert next(iter(missed.metrics().values())) == 0.0
    assert missed.interval(5) == (0.0, 0.0)


@pytest.mark.parametrize("metric", EVALUATIONS)
def test_every_metric_whatever_the_ids_and_the_order(metric, people) -> None:
    records, results = people
    evaluation = EVALUATIONS[metric](records, results, MPII)
    renamed = [replace(record, image_id=f"{record.image_id:03}", category_id="x") for record in records]
    found_there = [result | {"image_id": f"{result['image_id']:03}", "category_id": "x"} for result in results]
    other = EVALUATIONS[metric](renamed[::-1], found_there[::-1], MPII)
    main = next(iter(evaluation.metrics().values()))
    assert other.metrics() == pytest.approx(evaluation.metrics())
    assert other.interval(10) == pytest.approx(evaluation.interval(10))
    assert evaluation.interval(10)[0] < main < evaluation.interval(200)[1]
