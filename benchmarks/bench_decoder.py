"""How long does the decoder take, against OpenPifPaf's in C++, on the same fields?

    PEER_PYTHON=/path/to/python benchmarks/bench_decoder.py     writes benchmarks/results/decoder_cpu.json

On one thread, fields of a 641 × 641 px input with 0, 1, 5, 20 and 50 persons (decoder_scenes.py), at stride 8 and 4,
with default options and with force-complete. PEER_PYTHON is an interpreter with openpifpaf 0.13.11 (Python 3.10, torch
1.13.1); without one only dgcn is timed. Each decoder runs in an interpreter of its own (decoder_worker.py) on the same
file; they take turns, and the seconds are the CPU's. Both must find the same persons: positions within 0.01 px,
confidences within 1e-4. Below dgcn's times stand those of its stages (PifPafDecoder.stage_times).
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import decoder_scenes
import harness
import numpy as np
import pytest
from harness import Claim, Variant
from pytest_benchmark.fixture import BenchmarkFixture

WORKER = Path(__file__).with_name("decoder_worker.py")
PEER = "OpenPifPaf 0.13.11"
TARGETS = {1: 6.0, 5: 8.0, 20: 12.0, 50: 14.0}  # times faster, by persons, at stride 8
FORCE_COMPLETE_TARGET = 15.0


class Worker:
    """A decoder in another process; calling it decodes and returns the seconds that a decode took there."""

    def __init__(self, python: str, decoder: str, force_complete: bool) -> None:
        command = [python, str(WORKER), decoder, *(["--force-complete"] if force_complete else [])]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, **question: object) -> dict:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.process.args} ended with status {self.process.wait()}")
        return json.loads(answer)

    def load(self, fields: Path) -> np.ndarray:
        return np.array(self.ask(fields=str(fields))["persons"], np.float32).reshape(-1, 17, 4)

    def __call__(self, calls: int = 1) -> float:
        return self.ask(calls=calls)["seconds"]


@pytest.fixture(scope="module")
def workers(force_complete: bool) -> Iterator[dict[str, Worker]]:
    workers = {"dgcn": Worker(sys.executable, "dgcn", force_complete)}
    if peer := os.environ.get("PEER_PYTHON"):
        workers[PEER] = Worker(peer, "openpifpaf", force_complete)
    yield workers
    for worker in workers.values():
        worker.process.communicate()


def disagreement(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference of a position [px] among joints that were found; the rest is asserted."""
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours[..., 0], theirs[..., 0], rtol=0, atol=1e-4)
    found = ours[..., 0] > 0
    return float(abs(ours - theirs)[found][:, 1:3].max(initial=0))


@decoder_scenes.NEEDS_DATA
@pytest.mark.parametrize("force_complete", [False, True], ids=["default", "force_complete"], scope="module")
@pytest.mark.parametrize("stride", [8, 4])
@pytest.mark.parametrize("num_persons", [0, 1, 5, 20, 50])
def test_decoder(
    benchmark: BenchmarkFixture,
    workers: dict[str, Worker],
    tmp_path: Path,
    num_persons: int,
    stride: int,
    force_complete: bool,
) -> None:
    options = "force-complete" if force_complete else "default options"
    benchmark.group = f"decoder, {options}, stride {stride}"
    benchmark.extra_info.update(
        case=f"{num_persons} persons", direction=f"decode, {options}, stride {stride}", threads=1
    )
    pif, paf = decoder_scenes.scene(num_persons, stride)
    fields = tmp_path / "fields.npz"
    np.savez(fields, pif=pif, paf=paf, stride=stride, skeleton=decoder_scenes.COCO_LIMBS)
    persons = {name: worker.load(fields) for name, worker in workers.items()}
    benchmark.extra_info["persons_found"] = len(persons["dgcn"])
    if PEER in persons:
        benchmark.extra_info["largest_difference_px"] = disagreement(persons["dgcn"], persons[PEER])
        assert benchmark.extra_info["largest_difference_px"] < 0.01

    target = FORCE_COMPLETE_TARGET if force_complete else TARGETS.get(num_persons)
    harness.interleave(
        benchmark,
        {name: Variant(worker) for name, worker in workers.items()},
        baselines=["dgcn"],
        claims=[Claim(PEER, "dgcn", target, at_least=True)] if target and num_persons and stride == 8 else [],
        missing={} if PEER in workers else {PEER: "PEER_PYTHON names no interpreter that has it"},
        device="process",
    )
    stages = workers["dgcn"].ask(stages=50)
    benchmark.extra_info["stages_ms"] = {stage: round(seconds * 1e3, 6) for stage, seconds in stages.items()}


if __name__ == "__main__":
    raise SystemExit(harness.main(__file__))
