"""How long does the decoder take, against OpenPifPaf's in C++, on the same fields?

On one thread, fields of a 641 × 641 px input with 0, 1, 5, 20 and 50 persons (scenes.py), at stride 8 and 4, and those
of the shipped model on real pictures, with default options and with force-complete. Each decoder runs in a process of
its own (peer.py) on the same file. Both must find the same persons: positions within 0.01 px, confidences within 1e-4.
Below dgcn's times stand those of its stages (PifPafDecoder.stage_times).
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import peer
from benchmarks.decoder import scenes
from benchmarks.harness import ELSEWHERE, Claim, Compare, Variant
from benchmarks.peer import Worker
from benchmarks.prediction.pictures import NEEDS_PICTURES, PICTURES
from dgcn.predict.predictor import Predictor
from dgcn_ext.reference import heads_to_fields

TARGETS = {1: 6.0, 5: 8.0, 20: 12.0, 50: 14.0}  # times faster, by persons, at stride 8
FORCE_COMPLETE_TARGET = 15.0
NUM_PICTURES = 5
FORCE_COMPLETE = pytest.mark.parametrize(
    "force_complete", [False, True], ids=["default", "force_complete"], scope="module"
)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor()


@pytest.fixture(scope="module")
def workers(force_complete: bool) -> Iterator[dict[str, Worker]]:
    flags = ["--force-complete"] if force_complete else []
    workers = {"dgcn": Worker(sys.executable, "dgcn-decoder", *flags)}
    if peer.PYTHON:
        workers[peer.NAME] = Worker(peer.PYTHON, "openpifpaf-decoder", *flags)
    yield workers
    for worker in workers.values():
        worker.close()


def disagreement(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference of a position [px] among joints that were found. Asserts that all else agrees."""
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours[..., 0], theirs[..., 0], rtol=0, atol=1e-4)
    found = ours[..., 0] > 0
    return float(abs(ours - theirs)[found][:, 1:3].max(initial=0))


def time_decoders(
    compare: Compare,
    workers: dict[str, Worker],
    folder: Path,
    fields: scenes.Fields,
    *,
    group: str,
    stride: int,
    target: float | None,
    **facts: object,
) -> None:
    """Time all decoders on the same fields, which they read from a file in `folder`."""
    pif, paf = fields
    scene = {"pif": pif, "paf": paf, "stride": stride, "skeleton": scenes.COCO_LIMBS}
    persons = {name: worker.load(folder, **scene).reshape(-1, 17, 4) for name, worker in workers.items()}
    facts["persons_found"] = len(persons["dgcn"])
    if peer.NAME in persons:
        facts["largest_difference_px"] = difference = disagreement(persons["dgcn"], persons[peer.NAME])
        assert difference < 0.01
    result = compare(
        f"decoder, {group}",
        {name: Variant(worker, timer=ELSEWHERE) for name, worker in workers.items()},
        direction=f"decode, {group}",
        threads=1,
        **facts,
        baselines=["dgcn"],
        claims=[Claim(peer.NAME, "dgcn", target, at_least=True)] if target else [],
        missing=peer.MISSING,
    )
    stages = workers["dgcn"].ask(stages=50)
    result["stages_ms"] = {stage: round(seconds * 1e3, 6) for stage, seconds in stages.items()}


def options(force_complete: bool) -> str:
    return "force-complete" if force_complete else "default options"


@FORCE_COMPLETE
@scenes.NEEDS_DATA
@pytest.mark.parametrize("stride", [8, 4])
@pytest.mark.parametrize("num_persons", [0, 1, 5, 20, 50])
def test_decoder(
    compare: Compare, workers: dict[str, Worker], tmp_path: Path, num_persons: int, stride: int, force_complete: bool
) -> None:
    target = FORCE_COMPLETE_TARGET if force_complete else TARGETS.get(num_persons)
    time_decoders(
        compare,
        workers,
        tmp_path,
        scenes.scene(num_persons, stride),
        group=f"{options(force_complete)}, stride {stride}",
        stride=stride,
        target=target if num_persons and stride == 8 else None,
        case=f"{num_persons} persons",
    )


@FORCE_COMPLETE
@NEEDS_PICTURES
@pytest.mark.parametrize("picture", PICTURES[:NUM_PICTURES], ids=lambda path: path.stem)
def test_decoder_real_fields(
    compare: Compare,
    workers: dict[str, Worker],
    predictor: Predictor,
    tmp_path: Path,
    picture: Path,
    force_complete: bool,
) -> None:
    (heads,) = predictor.fields([picture])
    time_decoders(
        compare,
        workers,
        tmp_path,
        heads_to_fields(heads.pif, heads.paf, predictor.skeleton.limbs),
        group=f"{options(force_complete)}, fields of the shipped model",
        stride=predictor.stride,
        target=None,
        case=picture.stem,
    )
