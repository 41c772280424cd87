"""How long does the decoder take, against OpenPifPaf's in C++, on the same fields?

On one thread, fields of a 641 × 641 px input with 0, 1, 5, 20 and 50 persons (scenes.py), at stride 8 and 4, with
default options and with force-complete. Each decoder runs in a process of its own (peer.py) on the same file. Both must
find the same persons: positions within 0.01 px, confidences within 1e-4. Below dgcn's times stand those of its stages
(PifPafDecoder.stage_times).
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

TARGETS = {1: 6.0, 5: 8.0, 20: 12.0, 50: 14.0}  # times faster, by persons, at stride 8
FORCE_COMPLETE_TARGET = 15.0


@pytest.fixture(scope="module")
def workers(force_complete: bool) -> Iterator[dict[str, Worker]]:
    options = ["--force-complete"] if force_complete else []
    workers = {"dgcn": Worker(sys.executable, "dgcn-decoder", *options)}
    if peer.PYTHON:
        workers[peer.NAME] = Worker(peer.PYTHON, "openpifpaf-decoder", *options)
    yield workers
    for worker in workers.values():
        worker.close()


def disagreement(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference of a position [px] among joints that were found. Asserts that all else agrees."""
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours[..., 0], theirs[..., 0], rtol=0, atol=1e-4)
    found = ours[..., 0] > 0
    return float(abs(ours - theirs)[found][:, 1:3].max(initial=0))


@scenes.NEEDS_DATA
@pytest.mark.parametrize("force_complete", [False, True], ids=["default", "force_complete"], scope="module")
@pytest.mark.parametrize("stride", [8, 4])
@pytest.mark.parametrize("num_persons", [0, 1, 5, 20, 50])
def test_decoder(
    compare: Compare, workers: dict[str, Worker], tmp_path: Path, num_persons: int, stride: int, force_complete: bool
) -> None:
    pif, paf = scenes.scene(num_persons, stride)
    fields = {"pif": pif, "paf": paf, "stride": stride, "skeleton": scenes.COCO_LIMBS}
    persons = {name: worker.load(tmp_path, **fields).reshape(-1, 17, 4) for name, worker in workers.items()}
    facts: dict[str, float] = {"persons_found": len(persons["dgcn"])}
    if peer.NAME in persons:
        facts["largest_difference_px"] = disagreement(persons["dgcn"], persons[peer.NAME])
        assert facts["largest_difference_px"] < 0.01

    options = "force-complete" if force_complete else "default options"
    target = FORCE_COMPLETE_TARGET if force_complete else TARGETS.get(num_persons)
    result = compare(
        f"decoder, {options}, stride {stride}",
        {name: Variant(worker, timer=ELSEWHERE) for name, worker in workers.items()},
        case=f"{num_persons} persons",
        direction=f"decode, {options}, stride {stride}",
        threads=1,
        **facts,
        baselines=["dgcn"],
        claims=[Claim(peer.NAME, "dgcn", target, at_least=True)] if target and num_persons and stride == 8 else [],
        missing=peer.MISSING,
    )
    stages = workers["dgcn"].ask(stages=50)
    result["stages_ms"] = {stage: round(seconds * 1e3, 6) for stage, seconds in stages.items()}
