"""How long does the exact non-local layer take on a GPU, against a copy of g, its other forms and PyTorch's parts?

    python benchmarks/bench_relu_affinity_cuda.py      writes benchmarks/results/relu_affinity_cuda.json

Eight images (and one) at stride 4 of a 641 px input, C = 128 channels; bench_relu_affinity.py says what dense and
composed are, in float32 proper (no TF32). "copy" is one device copy of g, which reads it once and writes it once: the
operator's passes over memory are counted in csrc/nonlocal/cuda/kernels.cuh. g is contiguous, or its channels are
neighbours, as after a convolution in channels_last.
"""

import harness
import pytest
import torch
from bench_relu_affinity import CHANNELS, FORMS, bind, check
from harness import Claim, Variant
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from dgcn_ext import functional

POSITIONS = 161**2
CLAIMS = [Claim("dgcn", "copy", 8), Claim("dense", "dgcn", 50, at_least=True)]
NOT_IN = "the other forms are written for float32"

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch finds none")


@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
@pytest.mark.parametrize(
    ("images", "dtype", "layout"),
    [
        (8, torch.float32, "contiguous"),
        (8, torch.float32, "neighbouring channels"),
        (8, torch.bfloat16, "neighbouring channels"),
        (1, torch.float32, "contiguous"),
    ],
)
def test_relu_affinity_cuda(
    benchmark: BenchmarkFixture, images: int, dtype: torch.dtype, layout: str, direction: str
) -> None:
    name = str(dtype).removeprefix("torch.")
    benchmark.group = f"relu_affinity on CUDA, {direction}, {name}, {layout}"
    case = str([images, CHANNELS, POSITIONS])
    benchmark.extra_info.update(case=case, direction=direction, dtype=name, layout=layout)
    torch.manual_seed(0)
    a, b = torch.randn(2, images, POSITIONS, device="cuda")
    g, h = torch.randn(2, images, CHANNELS, POSITIONS, device="cuda").to(dtype)
    if layout == "neighbouring channels":
        g, h = (features.mT.contiguous().mT for features in (g, h))
    grad_y = h if direction == "forward+backward" else None

    forms = FORMS if dtype == torch.float32 else {"dgcn": functional.relu_affinity}
    calls = {form: bind(function, [a, b, g], grad_y) for form, function in forms.items()}
    if dtype == torch.float32:
        check(calls, a, b, g, h)
    target = torch.empty_like(g)

    def copy() -> Tensor:
        return target.copy_(g)

    bytes_copied = 2 * g.numel() * g.element_size()
    variants = {form: Variant(call) for form, call in calls.items()}
    variants["copy"] = Variant(copy, work=bytes_copied, unit="B")
    harness.interleave(
        benchmark,
        variants,
        baselines=["dgcn", "copy"],
        claims=CLAIMS if images == 8 and grad_y is not None else [],
        missing={form: NOT_IN for form in FORMS if form not in calls},
        device="cuda",
    )


if __name__ == "__main__":
    raise SystemExit(harness.main(__file__))
