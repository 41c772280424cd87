"""How does the time of a graph convolution grow with its size, and how far from the roofline is it?

    python benchmarks/bench_graph_conv_sizes.py        writes benchmarks/results/graph_conv_sizes_cpu.json
    python benchmarks/plot_graph_conv.py               draws it: docs/graph_conv_cpu.svg

On one thread, in float32, from one map of 8×8 to a hundred of 161×161 (stride 4 of a 641 px input). formulations.py
says what is compared; torch.compile compiles once for all sizes. The roofline is the longer of two limits that are
timed along: "FMA peak", the useful flops at the core's peak, and "copy", the bytes that must move copied.
"""

import formulations
import harness
import machine
import pytest
from formulations import Inputs, Shape
from harness import Variant
from pytest_benchmark.fixture import BenchmarkFixture

# 64 positions to 2.6 million.
SHAPES = (
    (1, 17, 8, 8),
    (1, 17, 21, 21),
    (1, 17, 41, 41),
    (1, 17, 81, 81),
    (1, 17, 161, 161),
    (4, 17, 161, 161),
    (20, 17, 161, 161),
    (100, 17, 161, 161),
)
NAMES = ("eager", "baddbmm", "compiled baddbmm", "dgcn")


@pytest.mark.benchmark(max_time=1, min_rounds=3)
@pytest.mark.parametrize("direction", formulations.DIRECTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_graph_conv_sizes(benchmark: BenchmarkFixture, shape: Shape, direction: str) -> None:
    benchmark.group = f"graph_conv, {direction}, float32, 1 thread"
    positions = shape[0] * shape[2] * shape[3]
    benchmark.extra_info.update(
        case=str(list(shape)), direction=direction, dtype="float32", threads=1, positions=positions
    )
    present, missing = formulations.formulations(dynamic=True)
    flops = formulations.flops(shape, direction)
    with machine.cores(1):
        inputs = Inputs.random(shape, direction)
        if shape[0] == 1:  # the same code computes the larger ones, whose float64 reference would take minutes
            formulations.check({name: present[name] for name in NAMES if name in present}, inputs)
        variants = {
            name: Variant(one.bind(inputs), work=flops, unit="flop") for name, one in present.items() if name in NAMES
        }
        variants["FMA peak"] = machine.multiply_add(flops)
        variants["copy"] = machine.copy(formulations.bytes_moved(shape, direction))
        harness.interleave(
            benchmark,
            variants,
            baselines=["baddbmm", "FMA peak"],
            missing={name: why for name, why in missing.items() if name in NAMES},
        )


if __name__ == "__main__":
    raise SystemExit(harness.main(__file__))
