"""What do bfloat16 and channels_last cost the graph convolution, against float32 in NCHW?

    python benchmarks/bench_graph_conv_formats.py      writes benchmarks/results/graph_conv_formats_cpu.json

On one thread; x and grad_y come in that dtype and layout, the parameters in float32.
"""

import formulations
import harness
import machine
import pytest
import torch
from formulations import Formulation, Inputs, Shape
from harness import Claim, Variant
from pytest_benchmark.fixture import BenchmarkFixture

SHAPES = ((8, 17, 41, 41), (8, 17, 81, 81), (1, 17, 161, 161))
FORMATS = {
    "float32": (torch.float32, torch.contiguous_format),
    "bfloat16": (torch.bfloat16, torch.contiguous_format),
    "float32 channels_last": (torch.float32, torch.channels_last),
    "bfloat16 channels_last": (torch.bfloat16, torch.channels_last),
}
CLAIMS = (
    Claim("bfloat16", "float32", 1.0),
    Claim("float32 channels_last", "float32", 1.15),
    Claim("bfloat16 channels_last", "bfloat16", 1.15),
)


@pytest.mark.parametrize("direction", formulations.DIRECTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_graph_conv_formats(benchmark: BenchmarkFixture, shape: Shape, direction: str) -> None:
    benchmark.group = f"graph_conv of dgcn, {direction}, 1 thread"
    benchmark.extra_info.update(case=str(list(shape)), direction=direction, threads=1)
    dgcn = Formulation(formulations.dgcn)
    variants = {}
    with machine.cores(1):
        for name, (dtype, memory_format) in FORMATS.items():
            inputs = Inputs.random(shape, direction, dtype=dtype, memory_format=memory_format)
            formulations.check({name: dgcn}, inputs)
            variants[name] = Variant(dgcn.bind(inputs))
        harness.interleave(benchmark, variants, baselines=["float32"], claims=CLAIMS)


if __name__ == "__main__":
    raise SystemExit(harness.main(__file__))
