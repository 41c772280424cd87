"""The examples run, and do what they say."""

from __future__ import annotations

import runpy
import statistics
from pathlib import Path

import pytest
import torch
from conftest import ROOT

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def test_drop_in(tmp_path: Path) -> None:
    example = runpy.run_path(str(ROOT / "examples" / "drop_in" / "keypoints.py"))
    torch.manual_seed(0)
    network = example["KeypointNetwork"]()
    losses = example["train"](network, steps=20)
    assert statistics.mean(losses[-5:]) < 0.8 * statistics.mean(losses[:5])
    example["export"](network, tmp_path / "keypoints.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "keypoints.onnx", providers=["CPUExecutionProvider"])
    images = torch.randn(3, 3, 40, 72)  # as many and as large as in no training step
    with torch.no_grad():
        expected = network(images)
    for found, output in zip(session.run(None, {"images": images.numpy()}), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(found), output, rtol=1e-4, atol=1e-4)
