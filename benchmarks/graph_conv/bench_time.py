"""How long does a graph convolution take, drawing its graph included, against PyTorch and against what one core allows?

On one thread, in float32; torch.compile gets static shapes. formulations.py describes the variants. Two limits take
turns with them: "FMA peak", the useful operations at the core's peak, and "copy", a copy of the bytes that must move.
"""

import pytest

from benchmarks import machine
from benchmarks.graph_conv import formulations
from benchmarks.graph_conv.formulations import Inputs, Shape
from benchmarks.harness import Claim, Compare, Variant

OVERHEAD_SHAPE = (1, 17, 8, 8)  # so small that the call itself takes the time
SHAPES = ((8, 17, 41, 41), (8, 17, 81, 81), (1, 17, 161, 161))
OTHER_K = tuple((8, k, 41, 41) for k in (14, 16, 19, 133))


def claims(shape: Shape, direction: str) -> list[Claim]:
    if shape == OVERHEAD_SHAPE:
        return [Claim("dgcn", "baddbmm", 0.60)] if direction == "forward+backward" else []
    if shape not in SHAPES:
        return []
    forward = direction == "forward"
    return [
        Claim("dgcn", "baddbmm", 0.60 if forward else 0.45),
        Claim("dgcn", "eager", 0.18 if forward else 0.15),
        Claim("dgcn", "compiled", 1.0),
        Claim("dgcn", "compiled baddbmm", 1.0),
        Claim("FMA peak", "dgcn", 0.80 if forward else 0.60, at_least=True),
    ]


@pytest.mark.parametrize("direction", formulations.DIRECTIONS)
@pytest.mark.parametrize("shape", [OVERHEAD_SHAPE, *SHAPES, *OTHER_K], ids=formulations.shape_id)
def test_graph_conv(compare: Compare, one_core: None, shape: Shape, direction: str) -> None:
    present, missing = formulations.formulations()
    if shape in OTHER_K:
        present, missing = {name: present[name] for name in ("baddbmm", "dgcn")}, {}
    inputs = Inputs.random(shape, direction)
    formulations.check(present, inputs)
    flops = formulations.flops(shape, direction)
    compare(
        f"graph_conv, {direction}, float32, 1 thread",
        {name: Variant(one.bind(inputs), work=flops, unit="flop") for name, one in present.items()}
        | {"FMA peak": machine.multiply_add(flops), "copy": machine.copy(formulations.bytes_moved(shape, direction))},
        case=str(list(shape)),
        direction=direction,
        dtype="float32",
        threads=1,
        baselines=("baddbmm", "eager", "FMA peak"),
        claims=claims(shape, direction),
        missing=missing,
    )
