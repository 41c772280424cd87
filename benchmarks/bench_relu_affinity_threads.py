"""How much faster is the exact non-local layer on two threads than on one?

    python benchmarks/bench_relu_affinity_threads.py      writes benchmarks/results/relu_affinity_threads_cpu.json

For one image at stride 4 of a 641 px input and for eight, in float32, with two cores for the process whichever its
threads.
"""

from functools import partial

import harness
import machine
import pytest
import torch
from bench_relu_affinity import CHANNELS, bind
from harness import Claim, Variant
from pytest_benchmark.fixture import BenchmarkFixture

from dgcn_ext.functional import relu_affinity

POSITIONS = 161**2


@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
@pytest.mark.parametrize("images", [1, 8])
def test_relu_affinity_threads(benchmark: BenchmarkFixture, images: int, direction: str) -> None:
    benchmark.group = f"relu_affinity, {direction}, float32"
    benchmark.extra_info.update(case=str([images, CHANNELS, POSITIONS]), direction=direction, dtype="float32")
    torch.manual_seed(0)
    a, b = torch.randn(2, images, POSITIONS)
    g, h = torch.randn(2, images, CHANNELS, POSITIONS)
    with machine.cores(2):
        call = bind(relu_affinity, [a, b, g], h if direction == "forward+backward" else None)
        harness.interleave(
            benchmark,
            {
                "1 thread": Variant(call, prepare=partial(torch.set_num_threads, 1)),
                "2 threads": Variant(call, prepare=partial(torch.set_num_threads, 2)),
            },
            baselines=["2 threads"],
            claims=[Claim("1 thread", "2 threads", 1.6, at_least=True)] if direction == "forward+backward" else [],
        )


if __name__ == "__main__":
    raise SystemExit(harness.main(__file__))
