"""How long does a graph convolution take on a GPU, against what PyTorch offers and what its memory allows?

    python benchmarks/bench_graph_conv_cuda.py         writes benchmarks/results/graph_conv_cuda.json

Two questions. Where the features are large (x beyond 256 MB, many times the L2 cache), only memory bandwidth counts:
"copy" moves the bytes that must move (two feature maps forward, five with the backward) as one device copy. At the size
of a training step, launches count: formulations.py says what is compared, torch.compile with static shapes, all of it
in float32 proper (no TF32); "replayed" is each captured in a CUDA graph. What fits in the L2 cache stays there from
call to call, as it does in a network that has just written x.
"""

from dataclasses import replace

import formulations
import harness
import pytest
import torch
from formulations import Formulation, Inputs, Shape
from harness import Claim, Variant
from pytest_benchmark.fixture import BenchmarkFixture

TRAINING_SHAPE = (8, 17, 81, 81)
LARGE_SHAPES = {torch.float32: (160, 17, 161, 161), torch.bfloat16: (320, 17, 161, 161)}  # x: 282 MB

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch finds none")


@pytest.mark.parametrize("direction", formulations.DIRECTIONS)
def test_against_pytorch(benchmark: BenchmarkFixture, direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    describe(benchmark, "against PyTorch", TRAINING_SHAPE, direction, torch.float32)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    present, missing = formulations.formulations("cuda")
    present |= {f"{name}, replayed": replace(one, cuda_graph=True) for name, one in present.items()}
    inputs = Inputs.random(TRAINING_SHAPE, direction, device="cuda")
    formulations.check(present, inputs)
    claims = []
    if direction == "forward+backward":
        for suffix in ("", ", replayed"):
            claims.append(Claim(f"eager{suffix}", f"dgcn{suffix}", 6.0, at_least=True))
            claims.append(Claim(f"compiled baddbmm{suffix}", f"dgcn{suffix}", 2.0, at_least=True))
    harness.interleave(
        benchmark,
        {name: Variant(one.bind(inputs)) for name, one in present.items()},
        baselines=("dgcn", "dgcn, replayed"),
        claims=claims,
        missing=missing,
        device="cuda",
    )


@pytest.mark.parametrize("direction", formulations.DIRECTIONS)
@pytest.mark.parametrize("dtype", LARGE_SHAPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_bandwidth(benchmark: BenchmarkFixture, dtype: torch.dtype, direction: str) -> None:
    shape = LARGE_SHAPES[dtype]
    describe(benchmark, "bandwidth", shape, direction, dtype)
    inputs = Inputs.random(shape, direction, device="cuda", dtype=dtype)
    dgcn = Formulation(formulations.dgcn)
    formulations.check({"dgcn": dgcn}, inputs)
    bytes_moved = formulations.bytes_moved(shape, direction, dtype)
    source = torch.ones(bytes_moved // 2, dtype=torch.uint8, device="cuda")
    target = torch.zeros_like(source)
    harness.interleave(
        benchmark,
        {
            "dgcn": Variant(dgcn.bind(inputs), work=bytes_moved, unit="B"),
            "copy": Variant(lambda: target.copy_(source), work=bytes_moved, unit="B"),
        },
        baselines=["copy"],
        claims=[Claim("copy", "dgcn", 0.85 if direction == "forward" else 0.75, at_least=True)],
        device="cuda",
    )


def describe(benchmark: BenchmarkFixture, what: str, shape: Shape, direction: str, dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    benchmark.group = f"graph_conv on CUDA, {what}, {direction}, {name}"
    benchmark.extra_info.update(case=str(list(shape)), direction=direction, dtype=name)


if __name__ == "__main__":
    raise SystemExit(harness.main(__file__))
