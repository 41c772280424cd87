"""How long does the exported non-local layer take in ONNX Runtime, against the dense form?

y_i = (1/N) Σ_j relu(a_i + b_j) g_j over N positions of 128 channels, on one core: by sorting and prefix sums, as
`dgcn export` writes it (dgcn_ext/onnx.py), and with the N×N matrix. N = 925 is stride 16 of 385 × 577 px. Both must
agree with dgcn_ext.reference in float64.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from benchmarks.harness import Compare, Variant
from benchmarks.non_local.forms import CHANNELS, TOLERANCE
from dgcn_ext import functional, reference
from dgcn_ext.onnx import translation_table


class Sorting(nn.Module):
    def forward(self, a: Tensor, b: Tensor, g: Tensor) -> Tensor:
        return functional.relu_affinity(a, b, g)


class Dense(nn.Module):
    def forward(self, a: Tensor, b: Tensor, g: Tensor) -> Tensor:
        return g @ (b[:, :, None] + a[:, None, :]).relu() / g.shape[2]


def export(path: Path, module: nn.Module, inputs: dict[str, Tensor]) -> Callable[[], list[np.ndarray]]:
    """`module` on `inputs`, in ONNX Runtime on one thread."""
    torch.onnx.export(
        module.eval(),
        tuple(inputs.values()),
        path,
        input_names=list(inputs),
        dynamo=True,
        custom_translation_table=translation_table(),
        verbose=False,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return partial(session.run, None, {name: value.numpy() for name, value in inputs.items()})


@pytest.mark.parametrize("positions", [25 * 25, 25 * 37, 41 * 41])
def test_relu_affinity_onnx(compare: Compare, one_core: None, tmp_path: Path, positions: int) -> None:
    torch.manual_seed(0)
    inputs = {"a": torch.randn(1, positions), "b": torch.randn(1, positions), "g": torch.randn(1, CHANNELS, positions)}
    expected = reference.relu_affinity(*(value.double() for value in inputs.values()))
    calls = {}
    for name, module in {"sorting": Sorting(), "dense": Dense()}.items():
        calls[name] = export(tmp_path / f"{name}.onnx", module, inputs)
        error = torch.from_numpy(calls[name]()[0]) - expected
        assert error.norm() < TOLERANCE * expected.norm(), name
    compare(
        "relu_affinity in ONNX Runtime, forward, float32, 1 thread",
        {name: Variant(call) for name, call in calls.items()},
        case=f"N = {positions}",
        direction="forward",
        threads=1,
        positions=positions,
        baselines=["sorting"],
    )
