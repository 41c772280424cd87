"""How does the time of a graph convolution grow with its size, and how far from the roofline is it?

On one thread, in float32, from one map of 8×8 to a hundred of 161×161 (stride 4 of a 641 px input). formulations.py
describes the variants; torch.compile compiles once for all sizes. The roofline is the longer of two limits that take
turns with them: "FMA peak", the useful operations at the core's peak, and "copy", a copy of the bytes that must move.
benchmarks/plots.py draws the results: docs/graph_conv_cpu.svg.
"""

import pytest

from benchmarks import machine
from benchmarks.graph_conv import formulations
from benchmarks.graph_conv.formulations import Inputs, Shape
from benchmarks.harness import Compare, Variant

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


@pytest.mark.parametrize("direction", formulations.DIRECTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=formulations.shape_id)
def test_graph_conv_sizes(compare: Compare, one_core: None, shape: Shape, direction: str) -> None:
    present, missing = ({n: one[n] for n in NAMES if n in one} for one in formulations.formulations(dynamic=True))
    inputs = Inputs.random(shape, direction)
    if shape[0] == 1:  # the same code computes the larger ones, whose float64 reference would take minutes
        formulations.check(present, inputs)
    flops = formulations.flops(shape, direction)
    compare(
        f"graph_conv by size, {direction}, float32, 1 thread",
        {name: Variant(one.bind(inputs), work=flops, unit="flop") for name, one in present.items()}
        | {"FMA peak": machine.multiply_add(flops), "copy": machine.copy(formulations.bytes_moved(shape, direction))},
        case=str(list(shape)),
        direction=direction,
        dtype="float32",
        threads=1,
        positions=shape[0] * shape[2] * shape[3],
        baselines=["baddbmm", "FMA peak"],
        missing=missing,
        min_rounds=5,
        seconds=1.0,
    )
