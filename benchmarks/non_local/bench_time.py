"""How long does the exact non-local layer take, against its other forms and against attention?

On one thread, in float32, C = 128 channels; forms.py describes the variants. "attention" is
scaled_dot_product_attention with one head on q, k, v of the same shape: another function, but the usual alternative.
benchmarks/plots.py draws the results: docs/nonlocal.svg.
"""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.harness import Claim, Compare, Variant
from benchmarks.non_local import forms
from benchmarks.non_local.forms import CHANNELS, POSITIONS

ALL_POSITIONS = (41**2, 81**2, POSITIONS, 321**2, 1001**2)
CASES = [*((positions, "forward+backward") for positions in ALL_POSITIONS), (POSITIONS, "forward")]
CLAIMS = [Claim("dense", "dgcn", 100, at_least=True), Claim("composed", "dgcn", 4, at_least=True)]
QUADRATIC_UP_TO = 161**2  # where dense and attention take ten seconds
COMPOSED_UP_TO = 321**2


@pytest.mark.parametrize(("positions", "direction"), CASES)
def test_relu_affinity(compare: Compare, one_core: None, positions: int, direction: str) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 1, positions)
    g, h = torch.randn(2, 1, CHANNELS, positions)
    backward = direction == "forward+backward"
    missing = {}
    if positions > QUADRATIC_UP_TO:
        missing = dict.fromkeys(("dense", "attention"), f"{positions}² pairs would take minutes")
    if positions > COMPOSED_UP_TO:
        missing["composed"] = "its float64 prefix sums would take 10 GB"
    calls = {
        name: forms.bind(form, [a, b, g], h if backward else None)
        for name, form in forms.FORMS.items()
        if name not in missing
    }
    forms.check(calls, a, b, g, h)
    if "attention" not in missing:
        q, k, v, grad_y = torch.randn(4, 1, 1, positions, CHANNELS)
        calls["attention"] = forms.bind(scaled_dot_product_attention, [q, k, v], grad_y if backward else None)
    compare(
        f"relu_affinity, {direction}, float32, 1 thread",
        {name: Variant(call) for name, call in calls.items()},
        case=str([1, CHANNELS, positions]),
        direction=direction,
        dtype="float32",
        threads=1,
        positions=positions,
        baselines=["dgcn"],
        claims=CLAIMS if (positions, direction) == (POSITIONS, "forward+backward") else [],
        missing=missing,
        min_rounds=3,  # one of the slowest takes a minute
    )
