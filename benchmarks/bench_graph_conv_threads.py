"""How much faster is the graph convolution on two threads than on one?

    python benchmarks/bench_graph_conv_threads.py      writes benchmarks/results/graph_conv_threads_cpu.json

In float32, with two cores for the process whichever its threads: what one thread leaves idle stays idle.
"""

from functools import partial

import formulations
import harness
import machine
import pytest
import torch
from formulations import Formulation, Inputs, Shape
from harness import Claim, Variant
from pytest_benchmark.fixture import BenchmarkFixture

LARGER_SHAPES = ((8, 17, 81, 81), (1, 17, 161, 161))
SHAPES = ((8, 17, 41, 41), *LARGER_SHAPES)


@pytest.mark.parametrize("direction", formulations.DIRECTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_graph_conv_threads(benchmark: BenchmarkFixture, shape: Shape, direction: str) -> None:
    benchmark.group = f"graph_conv of dgcn, {direction}, float32"
    benchmark.extra_info.update(case=str(list(shape)), direction=direction, dtype="float32")
    with machine.cores(2):
        call = Formulation(formulations.dgcn).bind(Inputs.random(shape, direction))
        harness.interleave(
            benchmark,
            {
                "1 thread": Variant(call, prepare=partial(torch.set_num_threads, 1)),
                "2 threads": Variant(call, prepare=partial(torch.set_num_threads, 2)),
            },
            baselines=["2 threads"],
            claims=[Claim("1 thread", "2 threads", 1.7, at_least=True)] if shape in LARGER_SHAPES else [],
        )


if __name__ == "__main__":
    raise SystemExit(harness.main(__file__))
