"""How long does the exact non-local layer take on a GPU, against a copy of g and against its other forms?

Eight images (and one) at stride 4 of a 641 px input, and eight at stride 16, C = 128 channels; forms.py describes the
variants, in true float32 (no TF32). "replayed" is a variant captured in a CUDA graph, for which the host is never late.
"copy" is one device copy of g, which reads it once and writes it once: csrc/nonlocal/cuda counts the operator's own
passes over memory. g is contiguous, or its channels are adjacent in memory, as after a convolution in channels_last.
"""

import pytest
import torch

from benchmarks.harness import CUDA, Claim, Compare, Variant, captured
from benchmarks.non_local import forms
from benchmarks.non_local.forms import CHANNELS, POSITIONS
from dgcn_ext import functional

STRIDE_16 = 41 * 41
CLAIMS = [Claim("dgcn, replayed", "copy", 8), Claim("dense", "dgcn", 50, at_least=True)]

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch finds none")


@pytest.mark.parametrize("direction", forms.DIRECTIONS)
@pytest.mark.parametrize(
    ("images", "positions", "dtype", "layout"),
    [
        (8, POSITIONS, torch.float32, "contiguous"),
        (8, POSITIONS, torch.float32, "adjacent channels"),
        (8, POSITIONS, torch.bfloat16, "adjacent channels"),
        (1, POSITIONS, torch.float32, "adjacent channels"),
        (8, STRIDE_16, torch.float32, "adjacent channels"),
    ],
)
def test_relu_affinity_cuda(
    compare: Compare, images: int, positions: int, dtype: torch.dtype, layout: str, direction: str
) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, images, positions, device="cuda")
    g, h = torch.randn(2, images, CHANNELS, positions, device="cuda").to(dtype)
    if layout == "adjacent channels":
        g, h = (features.mT.contiguous().mT for features in (g, h))
    backward = direction == "forward+backward"
    present = forms.FORMS if dtype == torch.float32 else {"dgcn": functional.relu_affinity}
    calls = {name: forms.bind(form, [a, b, g], h if backward else None) for name, form in present.items()}
    if dtype == torch.float32:
        forms.check(calls, a, b, g, h)
    calls["dgcn, replayed"] = captured(calls["dgcn"])
    variants = {name: Variant(call, timer=CUDA) for name, call in calls.items()}
    target, bytes_copied = torch.empty_like(g), 2 * g.numel() * g.element_size()
    variants["copy"] = Variant(lambda: target.copy_(g), work=bytes_copied, unit="B", timer=CUDA)
    name = str(dtype).removeprefix("torch.")
    compare(
        f"relu_affinity on CUDA, {direction}, {name}, {layout}",
        variants,
        case=str([images, CHANNELS, positions]),
        direction=direction,
        dtype=name,
        layout=layout,
        baselines=["dgcn", "copy"],
        claims=CLAIMS if (images, positions) == (8, POSITIONS) and layout != "contiguous" and backward else [],
        missing={name: "is written for float32" for name in forms.FORMS if name not in present},
    )
