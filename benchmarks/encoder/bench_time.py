"""How long does encoding a picture's persons take, against the numpy reference, filling the memory, and OpenPifPaf?

A picture of 641 × 641 px at stride 8 (4.3 MB of targets), on one thread. Persons are of random size and place, all
joints visible (scenes.py).

    dgcn            PifPafEncoder, new arrays for every picture
    dgcn, out=      the same into the arrays of the picture before
    numpy           dgcn_ext.reference.encode
    memset          sets as many bytes to one value: nothing that returns dense arrays is faster
    OpenPifPaf      its encoders, in a process of their own (peer.py)
"""

import ctypes
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks import peer
from benchmarks.encoder.scenes import ENCODER, SIZE, STRIDE, arrays, pictures, scene
from benchmarks.harness import ELSEWHERE, THREAD, Claim, Compare, Variant
from benchmarks.peer import Worker
from dgcn.skeleton import COCO
from dgcn_ext.reference import encode

BATCH = 8
KNOWN = {"skeleton": COCO.limbs, "sigmas": COCO.sigmas, "upright_pose": COCO.upright_pose}


@pytest.fixture
def openpifpaf() -> Iterator[Worker | None]:
    worker = Worker(peer.PYTHON, "openpifpaf-encoder") if peer.PYTHON else None
    yield worker
    if worker:
        worker.close()


@pytest.mark.parametrize("num_persons", [1, 5, 20, 50])
def test_encoder(compare: Compare, one_core: None, openpifpaf: Worker | None, tmp_path: Path, num_persons: int) -> None:
    keypoints = scene(num_persons)
    reference = partial(encode, keypoints, SIZE, SIZE, STRIDE, **KNOWN)
    out = ENCODER(keypoints, SIZE, SIZE, STRIDE)
    for actual, required in zip(arrays(out), arrays(reference()), strict=True):
        np.testing.assert_array_equal(actual, required)
    num_bytes = sum(array.nbytes for array in arrays(out))
    memory = ctypes.create_string_buffer(num_bytes)
    variants = {
        "dgcn": Variant(partial(ENCODER, keypoints, SIZE, SIZE, STRIDE), timer=THREAD),
        "dgcn, out=": Variant(partial(ENCODER, keypoints, SIZE, SIZE, STRIDE, out=out), timer=THREAD),
        "numpy": Variant(reference, timer=THREAD),
        "memset": Variant(partial(ctypes.memset, memory, 255, num_bytes), timer=THREAD),
    }
    if openpifpaf:
        openpifpaf.load(tmp_path, keypoints=keypoints, size=SIZE, **KNOWN)
        variants[peer.NAME] = Variant(openpifpaf, timer=ELSEWHERE)
    result = compare(
        f"encoder, {SIZE} px, stride {STRIDE}, 1 thread",
        variants,
        case=f"{num_persons} persons",
        direction="encode",
        persons=num_persons,
        threads=1,
        baselines=["numpy", "memset", peer.NAME],
        claims=[Claim("numpy", "dgcn", 20.0, at_least=True), Claim(peer.NAME, "dgcn", 100.0, at_least=True)],
        missing=peer.MISSING,
    )
    if num_persons == 5:
        measured = result["variants"]["dgcn"]["median_ms"]
        claim = {"claim": "dgcn, ms a picture", "target": "≤ 1", "measured": measured, "met": measured <= 1.0}
        result["claims"].append(claim)


@pytest.mark.parametrize("node_strides", [(), (8, 16)], ids=["fields", "nodes"])
def test_encoder_batch(compare: Compare, one_core: None, node_strides: tuple[int, ...]) -> None:
    """A training batch, without and with the two strides of the intermediate supervision."""
    batch_pictures = pictures(BATCH, 5)
    batch = partial(ENCODER.batch, batch_pictures, SIZE, SIZE, STRIDE, node_strides=node_strides, threads=1)

    def one_by_one() -> list[np.ndarray]:
        items = [ENCODER(keypoints, SIZE, SIZE, STRIDE, node_strides=node_strides) for keypoints, _ in batch_pictures]
        every = [[*arrays(item), *item.node_confidence.values()] for item in items]
        return [np.stack(parts) for parts in zip(*every, strict=True)]

    compare(
        f"encoder, a batch of {BATCH} pictures of 5 persons, {SIZE} px, stride {STRIDE}, 1 thread",
        {
            "dgcn": Variant(batch, timer=THREAD),
            "dgcn, out=": Variant(partial(batch, out=batch()), timer=THREAD),
            "one by one, np.stack": Variant(one_by_one, timer=THREAD),
        },
        case=f"nodes {list(node_strides)}" if node_strides else "fields alone",
        direction="encode a batch",
        persons=5,
        batch=BATCH,
        threads=1,
        baselines=["one by one, np.stack"],
    )
