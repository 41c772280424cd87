"""How much faster are batches encoded on two threads than on one?

    python benchmarks/bench_encoder_threads.py          writes benchmarks/results/encoder_threads_cpu.json

Pictures of 641 px at stride 8, into arrays that are there (`out=`), with two cores for the process whichever its
threads. A picture of few persons is little more than 4.3 MB to be filled, so there the memory may set the limit.
"""

from functools import partial

import harness
import machine
import pytest
from bench_encoder import ENCODER, SIZE, STRIDE, scene
from harness import Claim, Variant
from pytest_benchmark.fixture import BenchmarkFixture


@pytest.mark.parametrize("num_persons", [5, 20])
@pytest.mark.parametrize("images", [8, 32])
def test_encoder_threads(benchmark: BenchmarkFixture, images: int, num_persons: int) -> None:
    benchmark.group = f"encoder, batches, {SIZE} px, stride {STRIDE}"
    benchmark.extra_info.update(case=f"{images} x {num_persons} persons", direction="encode a batch")
    pictures = [(scene(num_persons, seed), ()) for seed in range(images)]
    out = ENCODER.batch(pictures, SIZE, SIZE, STRIDE)
    with machine.cores(2):
        harness.interleave(
            benchmark,
            {
                "1 thread": Variant(partial(ENCODER.batch, pictures, SIZE, SIZE, STRIDE, threads=1, out=out)),
                "2 threads": Variant(partial(ENCODER.batch, pictures, SIZE, SIZE, STRIDE, threads=2, out=out)),
            },
            baselines=["2 threads"],
            claims=[Claim("1 thread", "2 threads", 1.6, at_least=True)],
        )


if __name__ == "__main__":
    raise SystemExit(harness.main(__file__))
