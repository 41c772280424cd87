"""How long does it take from the heads of the shipped model to the persons, on real pictures and one core?

The heads are those of 30 validation pictures at the model's long edge, in the layout in which its network leaves them
(channels_last), in others, and in 16 bits. Beside them stand the same heads made into fields by numpy
(`dgcn_ext.reference.heads_to_fields`) and decoded then. Each picture is decoded by all variants in turns. A time is the
median over the pictures of the medians over the rounds.
"""

from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.harness import Record
from benchmarks.prediction.pictures import NEEDS_PICTURES, PICTURES
from dgcn.predict.predictor import Predictor
from dgcn_ext.decoder import PifPafDecoder
from dgcn_ext.reference import heads_to_fields

NUM_PICTURES, ROUNDS = 30, 15

Heads = tuple[NDArray[Any], NDArray[Any]]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor()


@pytest.fixture(scope="module")
def heads(predictor: Predictor, request: pytest.FixtureRequest) -> list[Heads]:
    count = 1 if request.config.getoption("smoke") else NUM_PICTURES
    return [(fields.pif, fields.paf) for path in PICTURES[:count] for fields in predictor.fields([path])]


def as_float16(head: NDArray[Any]) -> NDArray[Any]:
    return head.astype(np.float16, order="K")


LAYOUTS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "channels_last": lambda head: head,
    "NCHW": np.ascontiguousarray,
    "channels_last, float16": as_float16,
}


def claim(name: str, times: dict[str, list[float]], limit: float) -> dict[str, Any]:
    """Of the median over the pictures, in milliseconds."""
    p25, median, p75 = np.percentile(times[name], (25, 50, 75)).tolist()
    return {
        "claim": f"{name}, ms a picture",
        "target": f"≤ {limit:.2f}",
        "measured": round(median, 4),
        "p25": round(p25, 4),
        "p75": round(p75, 4),
        "met": median <= limit,
    }


@NEEDS_PICTURES
@pytest.mark.usefixtures("one_core")
@pytest.mark.parametrize("force_complete", [False, True], ids=["default", "force_complete"])
def test_heads(record: Record, predictor: Predictor, heads: list[Heads], smoke: bool, force_complete: bool) -> None:
    decoder = PifPafDecoder(
        predictor.skeleton.num_keypoints,
        predictor.skeleton.limbs,
        replace(predictor.config, force_complete=force_complete),
    )

    def by_way_of_fields(pif: NDArray[Any], paf: NDArray[Any], stride: int) -> NDArray[np.float32]:
        return decoder(*heads_to_fields(pif, paf, predictor.skeleton.limbs), stride)

    variants: dict[str, tuple[Callable[..., NDArray[np.float32]], Callable[[NDArray[Any]], NDArray[Any]]]]
    variants = {name: (decoder, layout) for name, layout in LAYOUTS.items()}
    variants["NCHW, fields by numpy"] = by_way_of_fields, np.ascontiguousarray
    times: dict[str, list[float]] = {name: [] for name in variants}
    stages = []
    for pif, paf in heads:
        prepared = {name: (decode, layout(pif), layout(paf)) for name, (decode, layout) in variants.items()}
        own: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(1 if smoke else ROUNDS):
            for name, (decode, *arrays) in prepared.items():
                decode(*arrays, predictor.stride)  # brings the heads into the caches
                start = perf_counter()
                decode(*arrays, predictor.stride)
                own[name].append(1e3 * (perf_counter() - start))
        for name, values in own.items():
            times[name].append(float(np.median(values)))
        stages.append(decoder.stage_times(pif, paf, predictor.stride))
    record(
        "heads to persons, one core",
        case="force-complete" if force_complete else "default options",
        direction="decode heads",
        pictures=len(heads),
        claims=[claim("channels_last", times, 1.2 if force_complete else 0.8)],
        variants={
            name: {
                "p25_ms": float(np.percentile(values, 25)),
                "median_ms": float(np.median(values)),
                "p75_ms": float(np.percentile(values, 75)),
                "relative_to": {},
            }
            for name, values in times.items()
        },
        stages_ms={stage: round(1e3 * float(np.median([each[stage] for each in stages])), 4) for stage in stages[0]},
    )
