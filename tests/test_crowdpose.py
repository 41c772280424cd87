"""CrowdPose's AP: by hand, and on the official validation file against faster-coco-eval."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from metric_cases import annotated, found, image

from dgcn.evaluation.crowdpose import CrowdPoseEvaluation
from dgcn.records import Annotation, ImageRecord
from dgcn.skeleton import Skeleton

LIMBS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
SIGMAS = (*np.repeat([0.079, 0.072, 0.062, 0.107, 0.087, 0.089], 2), 0.079, 0.079)

CROWDPOSE = Skeleton(
    name="crowdpose",
    keypoints=(*(f"{side}_{limb}" for limb in LIMBS for side in ("left", "right")), "head", "neck"),
    limbs=(),
    sigmas=SIGMAS,
    flip=(1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 12, 13),
    upright_pose=np.zeros((14, 2)),
)
BODY = np.column_stack([100 + 5 * (np.arange(14) % 2), 100.0 + 10 * np.arange(14)])
HEAD_AND_NECK = np.repeat([0, 2], [12, 2])


def test_the_official_file_against_faster_coco_eval(data_dir, tmp_path) -> None:
    coco = pytest.importorskip("faster_coco_eval", reason="needs faster-coco-eval, an independent implementation")
    document = json.loads(gzip.decompress((data_dir / "fixtures" / "crowdpose" / "crowdpose_val.json.gz").read_bytes()))
    assert tuple(document["categories"][0]["keypoints"]) == CROWDPOSE.keypoints
    rng = np.random.default_rng(0)
    persons, results = defaultdict(list), []
    for entry in document["annotations"]:
        keypoints = np.reshape(entry["keypoints"], (14, 3)).astype(float)
        x, y, width, height = entry["bbox"]
        area = rng.random()  # which nobody reads
        persons[entry["image_id"]].append(Annotation(keypoints, (x, y, width, height), area, bool(entry["iscrowd"])))
        for _ in range(rng.integers(0, 4) % 3):
            xy = keypoints[:, :2] + rng.normal(0, rng.choice([0.02, 0.06, 0.3]) * np.sqrt(width * height), (14, 2))
            results.append(found(entry["image_id"], xy, round(rng.random(), 3)))  # a thousand scores, so many are equal
    records = [
        ImageRecord(entry["id"], Path(), tuple(persons[entry["id"]]), crowd_index=entry["crowdIndex"])
        for entry in document["images"]
    ]
    metrics = CrowdPoseEvaluation(records, results, CROWDPOSE).metrics()

    path = tmp_path / "crowdpose.json"
    path.write_text(json.dumps(document))
    truth = coco.COCO(str(path))
    detections = truth.loadRes([dict(result) for result in results])
    oracle = coco.COCOeval_faster(
        truth,
        detections,
        "keypoints_crowd",
        kpt_oks_sigmas=np.array(SIGMAS),
        use_area=False,
        print_function=lambda *_: None,
    )
    oracle.run()
    names = {"AP_all": "AP", "AP_50": "AP50", "AP_75": "AP75", "AR_all": "AR", "AR_50": "AR50", "AR_75": "AR75"}
    expected = {names.get(name, name): value for name, value in oracle.stats_as_dict.items()}
    assert list(metrics) == ["AP", "AP50", "AP75", "AR", "AR50", "AR75", "AP_easy", "AP_medium", "AP_hard"]
    for name, value in expected.items():  # it rounds those of the three classes to four digits
        assert metrics[name] == pytest.approx(value, abs=5e-5 if "_" in name else 1e-12)
    assert min(metrics.values()) > 0.1


def test_where_the_classes_end() -> None:
    """In each class one image of two is found; a crowd index of exactly 0.2 is medium, one of 0.8 hard."""
    indices = [0.0, 0.19, 0.2, 0.79, 0.8, 3.0, None]
    records = [image(i, annotated(BODY), crowd_index=index) for i, index in enumerate(indices)]
    for hit, expected in ((1, "AP_easy"), (2, "AP_medium"), (3, "AP_medium"), (4, "AP_hard"), (6, None)):
        metrics = CrowdPoseEvaluation(records, [found(hit, BODY, 0.5)], CROWDPOSE).metrics()
        classes = {name: metrics[name] for name in ("AP_easy", "AP_medium", "AP_hard")}
        # Half of the recall thresholds 0, 0.01, ..., 1 are reached, and the one in the middle.
        assert classes == {name: pytest.approx(51 / 101 if name == expected else 0) for name in classes}
    assert CrowdPoseEvaluation(records[-1:], [], CROWDPOSE).metrics()["AP_hard"] == -1.0


def test_a_person_of_head_and_neck_is_ignored() -> None:
    person, head = annotated(BODY), annotated(BODY + 300, visibility=HEAD_AND_NECK)
    seen, also_head = found(1, BODY, 0.5), found(1, BODY + 300, 0.9)
    for persons, results in (((person, head), [seen]), ((person, head), [seen, also_head])):
        assert CrowdPoseEvaluation([image(1, *persons)], results, CROWDPOSE).metrics()["AP"] == pytest.approx(1.0)
    assert CrowdPoseEvaluation([image(1, person)], [seen, also_head], CROWDPOSE).metrics()["AP"] == pytest.approx(0.5)
