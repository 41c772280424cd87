"""How long does encoding a picture's persons take, against the numpy specification and against filling the memory?

    python benchmarks/bench_encoder.py                  writes benchmarks/results/encoder_cpu.json
    python benchmarks/bench_encoder.py -k 20            a part of it; any options of pytest

COCO's 17 keypoints and 19 limbs, a picture of 641 x 641 px at stride 8 (4.3 MB of targets), on one thread:

    dgcn            PifPafEncoder, new arrays for every picture
    dgcn, out=      ... into the arrays of the picture before
    numpy           dgcn_ext.reference.encode
    memset          all that is written, set to one value: nothing that returns dense arrays is faster

    OpenPifPaf      its encoders, in a process of their own (openpifpaf_encoder.py), where PEER_PYTHON names a Python
                    with openpifpaf 0.13.11

Persons are of random size and place, all joints visible. Seconds are those of the one thread on the CPU: what other
processes do meanwhile does not count.
"""

import ctypes
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import thread_time

import harness
import machine
import numpy as np
import pytest
from harness import Claim, Variant
from pytest_benchmark.fixture import BenchmarkFixture

from dgcn.skeleton import COCO
from dgcn_ext.encoder import PifPafEncoder, Targets
from dgcn_ext.reference import encode

SIZE, STRIDE = 641, 8  # px
BATCH = 8
ENCODER = PifPafEncoder(COCO.num_keypoints, COCO.limbs, COCO.sigmas, COCO.upright_pose)


def scene(num_persons: int, seed: int = 0) -> np.ndarray:
    """Keypoints [P, 17, 3] of persons of 80 to 400 px, most of whom are inside the picture."""
    rng = np.random.default_rng(seed)
    heights = rng.uniform(80, 400, (num_persons, 1, 1))
    xy = COCO.upright_pose * heights / 175 + rng.uniform(20, 600, (num_persons, 1, 2))
    return np.concatenate([xy, np.full((num_persons, 17, 1), 2)], axis=-1)


def reference(keypoints: np.ndarray) -> Targets:
    known = {"skeleton": COCO.limbs, "sigmas": COCO.sigmas, "upright_pose": COCO.upright_pose}
    return encode(keypoints, SIZE, SIZE, STRIDE, **known)


def timed(call: Callable[[], object]) -> Variant:
    """A variant for the harness's device "process": given a number of calls, it tells the seconds that one took."""

    def seconds(calls: int = 1) -> float:
        start = thread_time()
        for _ in range(calls):
            call()
        return (thread_time() - start) / calls

    return Variant(seconds)


@contextmanager
def openpifpaf(keypoints: np.ndarray) -> Iterator[dict[str, Variant]]:
    """OpenPifPaf at work on a scene, a call once; nothing where it is not installed."""
    peer = os.environ.get("PEER_PYTHON")
    if not peer:
        yield {}
        return
    scene = {
        "skeleton": COCO.limbs,
        "sigmas": COCO.sigmas,
        "upright_pose": COCO.upright_pose.tolist(),
        "keypoints": keypoints.tolist(),
        "size": SIZE,
    }
    command = [peer, str(Path(__file__).with_name("openpifpaf_encoder.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps(scene), file=process.stdin, flush=True)

        def seconds(calls: int = 1) -> float:
            print(calls, file=process.stdin, flush=True)
            return float(process.stdout.readline())

        yield {"OpenPifPaf": Variant(seconds)}
        process.stdin.close()


def arrays(targets: Targets) -> list[np.ndarray]:
    return [array for name, array in vars(targets).items() if name != "node_confidence"]


@pytest.mark.parametrize("num_persons", [1, 5, 20, 50])
def test_encoder(benchmark: BenchmarkFixture, num_persons: int) -> None:
    benchmark.group = f"encoder, {SIZE} px, stride {STRIDE}, 1 thread"
    benchmark.extra_info.update(case=f"{num_persons} persons", direction="encode", persons=num_persons, threads=1)
    keypoints = scene(num_persons)
    out, expected = ENCODER(keypoints, SIZE, SIZE, STRIDE), reference(keypoints)
    for actual, required in zip(arrays(out), arrays(expected), strict=True):
        np.testing.assert_array_equal(actual, required)
    num_bytes = sum(array.nbytes for array in arrays(out))
    memory = ctypes.create_string_buffer(num_bytes)
    with machine.cores(1), openpifpaf(keypoints) as peer:
        harness.interleave(
            benchmark,
            {
                "dgcn": timed(partial(ENCODER, keypoints, SIZE, SIZE, STRIDE)),
                "dgcn, out=": timed(partial(ENCODER, keypoints, SIZE, SIZE, STRIDE, out=out)),
                "numpy": timed(partial(reference, keypoints)),
                "memset": timed(partial(ctypes.memset, memory, 255, num_bytes)),
                **peer,
            },
            baselines=["numpy", "memset", "OpenPifPaf"],
            claims=[
                Claim("numpy", "dgcn", 20.0, at_least=True),
                Claim("OpenPifPaf", "dgcn", 100.0, at_least=True),
            ],
            missing={} if peer else {"OpenPifPaf": "PEER_PYTHON names no interpreter that has it"},
            device="process",
        )
    if num_persons == 5:
        milliseconds = benchmark.extra_info["variants"]["dgcn"]["median_ms"]
        benchmark.extra_info["claims"].append(
            {"claim": "dgcn, ms a picture", "target": "≤ 1", "measured": milliseconds, "met": milliseconds <= 1.0}
        )


@pytest.mark.parametrize("node_strides", [(), (8, 16)], ids=["fields", "nodes"])
def test_encoder_batch(benchmark: BenchmarkFixture, node_strides: tuple[int, ...]) -> None:
    """A training batch, with the two strides of the intermediate supervision or without."""
    benchmark.group = f"encoder, a batch of {BATCH} pictures of 5 persons, {SIZE} px, stride {STRIDE}, 1 thread"
    case = f"nodes {list(node_strides)}" if node_strides else "fields alone"
    benchmark.extra_info.update(case=case, direction="encode a batch", persons=5, batch=BATCH, threads=1)
    pictures = [(scene(5, seed), ()) for seed in range(BATCH)]
    batch = partial(ENCODER.batch, pictures, SIZE, SIZE, STRIDE, node_strides=node_strides, threads=1)
    with machine.cores(1):
        harness.interleave(
            benchmark,
            {
                "dgcn": timed(batch),
                "dgcn, out=": timed(partial(batch, out=batch())),
                "one by one, np.stack": timed(partial(one_by_one, pictures, node_strides)),
            },
            baselines=["one by one, np.stack"],
            device="process",
        )


def one_by_one(pictures: list[tuple[np.ndarray, tuple[()]]], node_strides: tuple[int, ...]) -> list[np.ndarray]:
    """What a data set does whose items are encoded each by itself."""
    items = [ENCODER(keypoints, SIZE, SIZE, STRIDE, node_strides=node_strides) for keypoints, _ in pictures]
    every = [[*arrays(item), *item.node_confidence.values()] for item in items]
    return [np.stack(parts) for parts in zip(*every, strict=True)]


if __name__ == "__main__":
    raise SystemExit(harness.main(__file__))
