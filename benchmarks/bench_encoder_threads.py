"""How much faster are batches encoded on two threads than on one?

    python benchmarks/bench_encoder_threads.py          writes benchmarks/results/encoder_threads_cpu.json

Pictures of 641 px at stride 8, into arrays that are there (`out=`), with two cores for the process whichever its
threads. A picture of few persons is little more than 4.3 MB to be filled, and eight do not fit the cache, so the memory
may set the limit: "memset" sets as many bytes to one value, a picture at a time.
"""

import ctypes
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import harness
import machine
import numpy as np
import pytest
from bench_encoder import ENCODER, SIZE, STRIDE, arrays, scene
from harness import Claim, Variant
from pytest_benchmark.fixture import BenchmarkFixture


@pytest.mark.parametrize("num_persons", [5, 20])
@pytest.mark.parametrize("images", [8, 32])
def test_encoder_threads(benchmark: BenchmarkFixture, images: int, num_persons: int) -> None:
    benchmark.group = f"encoder, batches, {SIZE} px, stride {STRIDE}"
    benchmark.extra_info.update(case=f"{images} x {num_persons} persons", direction="encode a batch")
    pictures = [(scene(num_persons, seed), ()) for seed in range(images)]
    out = ENCODER.batch(pictures, SIZE, SIZE, STRIDE)
    num_bytes = sum(array.nbytes for array in arrays(out)) // images  # of a picture
    memory = np.ones(images * num_bytes, np.uint8)
    starts = [memory.ctypes.data + i * num_bytes for i in range(images)]

    def fill(start: int) -> None:
        ctypes.memset(start, 255, num_bytes)

    with machine.cores(2), ThreadPoolExecutor(2) as pool:
        harness.interleave(
            benchmark,
            {
                "1 thread": Variant(partial(ENCODER.batch, pictures, SIZE, SIZE, STRIDE, threads=1, out=out)),
                "2 threads": Variant(partial(ENCODER.batch, pictures, SIZE, SIZE, STRIDE, threads=2, out=out)),
                "memset, 1 thread": Variant(lambda: [fill(start) for start in starts]),
                "memset, 2 threads": Variant(lambda: list(pool.map(fill, starts))),
            },
            baselines=["2 threads", "memset, 2 threads"],
            claims=[Claim("1 thread", "2 threads", 1.6, at_least=True)],
        )


if __name__ == "__main__":
    raise SystemExit(harness.main(__file__))
