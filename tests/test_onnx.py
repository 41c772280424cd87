"""The operators in ONNX Runtime against eager PyTorch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from dgcn_ext import DGCMFused, functional, ops

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from dgcn_ext.onnx import translation_table  # noqa: E402


class Network(nn.Module):
    """Every form of the operators that has a translation, in one network because an export takes seconds."""

    def __init__(self) -> None:
        super().__init__()
        adjacency = torch.rand(17, 17).where(torch.rand(17, 17) < 0.4, 0.0)
        adjacency[3] = 0  # a row without edges
        fused = DGCMFused(16, adjacency, lift_channels=8)
        for module in fused.modules():
            if isinstance(module, nn.BatchNorm2d):  # γ = 0 would hide what the non-local layer adds
                nn.init.normal_(module.weight)
                nn.init.normal_(module.running_mean)
        self.dgcm = nn.ModuleList([fused, fused.fold()])

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = [output for dgcm in self.dgcm for output in dgcm(x)]
        nodes = torch.cat((x, x[:, :1]), dim=1)
        half = nodes.half()
        layer = self.dgcm[0].graph_conv
        graph, weight, bias = (layer.edge_weight, layer.adjacency), layer.weight, layer.bias
        return [
            *outputs,
            functional.graph_conv(nodes, *graph, weight, residual=nodes, semantics="mask", aggregate="target"),
            functional.graph_conv(half, *graph, bias=bias, residual=half, activation="none"),
            *affinities(nodes.flatten(2)),
        ]


def affinities(g: Tensor) -> list[Tensor]:
    keys, others = g[:, 0], g[:, 1]
    ties = (4 * keys).round() / 4
    return [
        functional.relu_affinity(ties, -ties.flip(1), g),
        functional.relu_affinity(keys + 1e4, others - 1e4, g),  # prefix sums that nearly cancel
        functional.relu_affinity(keys - 9, others, g),  # hardly any pair passes ReLU
        functional.relu_affinity(keys, others, g.half()),
    ]


def test_exported_network_equals_eager(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Network().eval()
    torch.onnx.export(
        network,
        (torch.randn(2, 16, 9, 11),),
        tmp_path / "network.onnx",
        dynamo=True,
        custom_translation_table=translation_table(),
        dynamic_shapes=({0: Dim("batch"), 2: Dim("height"), 3: Dim("width")},),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    for shape in [(2, 16, 41, 41), (3, 16, 5, 3), (1, 16, 1, 1)]:
        x = torch.randn(shape)
        outputs = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        for actual, expected in zip(outputs, network(x), strict=True):
            rtol, atol = (1e-3, 1e-3) if expected.dtype == torch.float16 else (1e-4, 1e-5)
            torch.testing.assert_close(torch.from_numpy(actual), expected.detach(), rtol=rtol, atol=atol)


def test_random_graphs_are_refused() -> None:
    translate = translation_table()[ops.graph_conv_forward]
    with pytest.raises(ValueError, match=r"drawn at random cannot be exported to ONNX: call eval\(\)"):
        translate("x", "edge_weight", "adjacency", None, None, None, "seed", False, False, False, True)
