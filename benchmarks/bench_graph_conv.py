"""How long does a graph convolution take, its sampling included, against what PyTorch offers and what the core allows?

    python benchmarks/bench_graph_conv.py              all of it; writes benchmarks/results/graph_conv_cpu.json
    python benchmarks/bench_graph_conv.py -k 81x81     a part of it; any options of pytest

On one thread, in float32. formulations.py says what is compared; torch.compile gets static shapes. Two limits are timed
along with it: "FMA peak", the useful flops at the core's peak (2·K² a position forward, three times that with the
backward), and "copy", the bytes that must move (two feature maps forward, five with the backward) copied.
"""

import formulations
import harness
import machine
import pytest
from formulations import Inputs, Shape
from harness import Claim, Variant
from pytest_benchmark.fixture import BenchmarkFixture

CALL_OVERHEAD = (1, 17, 8, 8)  # [B, K, H, W] so small that the way to the arithmetic is what takes the time
SHAPES = ((8, 17, 41, 41), (8, 17, 81, 81), (1, 17, 161, 161))
OTHER_K = tuple((8, k, 41, 41) for k in (14, 16, 19, 133))


def claims(shape: Shape, direction: str) -> list[Claim]:
    if shape == CALL_OVERHEAD:
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
@pytest.mark.parametrize("shape", [CALL_OVERHEAD, *SHAPES, *OTHER_K], ids=lambda shape: "x".join(map(str, shape)))
def test_graph_conv(benchmark: BenchmarkFixture, shape: Shape, direction: str) -> None:
    benchmark.group = f"graph_conv, {direction}, float32, 1 thread"
    benchmark.extra_info.update(case=str(list(shape)), direction=direction, dtype="float32", threads=1)
    present, missing = formulations.formulations()
    if shape in OTHER_K:
        present, missing = {name: present[name] for name in ("baddbmm", "dgcn")}, {}
    flops = formulations.flops(shape, direction)
    with machine.cores(1):
        inputs = Inputs.random(shape, direction)
        formulations.check(present, inputs)
        variants = {name: Variant(one.bind(inputs), work=flops, unit="flop") for name, one in present.items()}
        variants["FMA peak"] = machine.multiply_add(flops)
        variants["copy"] = machine.copy(formulations.bytes_moved(shape, direction))
        harness.interleave(
            benchmark,
            variants,
            baselines=("baddbmm", "eager", "FMA peak"),
            claims=claims(shape, direction),
            missing=missing,
        )


if __name__ == "__main__":
    raise SystemExit(harness.main(__file__))
