"""How long does a graph convolution take on a GPU, against PyTorch and against a copy?

At the size of a training step launches count: formulations.py describes the variants, torch.compile with static shapes,
all in true float32 (no TF32); "replayed" is a variant captured in a CUDA graph. Where x is larger than 256 MB, many
times the L2 cache, only memory bandwidth counts: "dgcn" is replayed, for which the host is never late, and "copy" moves
the bytes that must move in one device copy. What fits in
the L2 cache stays there from call to call, as in a network that has just written x.
"""

from dataclasses import replace

import pytest
import torch

from benchmarks.graph_conv import formulations
from benchmarks.graph_conv.formulations import LARGE_SHAPES, TRAINING_SHAPE, Formulation, Inputs
from benchmarks.harness import CUDA, Claim, Compare, Variant

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch finds none")


@pytest.mark.parametrize("direction", formulations.DIRECTIONS)
def test_graph_conv_cuda(compare: Compare, direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
    compare(
        f"graph_conv on CUDA, against PyTorch, {direction}, float32",
        {name: Variant(one.bind(inputs), timer=CUDA) for name, one in present.items()},
        case=str(list(TRAINING_SHAPE)),
        direction=direction,
        dtype="float32",
        baselines=("dgcn", "dgcn, replayed"),
        claims=claims,
        missing=missing,
    )


@pytest.mark.parametrize("direction", formulations.DIRECTIONS)
@pytest.mark.parametrize("dtype", LARGE_SHAPES, ids=str)
def test_graph_conv_bandwidth_cuda(compare: Compare, dtype: torch.dtype, direction: str) -> None:
    shape = LARGE_SHAPES[dtype]
    inputs = Inputs.random(shape, direction, device="cuda", dtype=dtype)
    dgcn = Formulation(formulations.dgcn)
    formulations.check({"dgcn": dgcn}, inputs)
    dgcn = replace(dgcn, cuda_graph=True)
    bytes_moved = formulations.bytes_moved(shape, direction, dtype)
    source = torch.ones(bytes_moved // 2, dtype=torch.uint8, device="cuda")
    target = torch.zeros_like(source)
    name = str(dtype).removeprefix("torch.")
    compare(
        f"graph_conv on CUDA, bandwidth, {direction}, {name}",
        {
            "dgcn": Variant(dgcn.bind(inputs), work=bytes_moved, unit="B", timer=CUDA),
            "copy": Variant(lambda: target.copy_(source), work=bytes_moved, unit="B", timer=CUDA),
        },
        case=str(list(shape)),
        direction=direction,
        dtype=name,
        baselines=["copy"],
        claims=[Claim("copy", "dgcn", 0.85 if direction == "forward" else 0.75, at_least=True)],
    )
