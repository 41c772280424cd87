"""`DGCMFused` in a network of torchvision: three keypoints of a made-up figure, trained for a minute, exported to ONNX.

    python keypoints.py keypoints.onnx

The figure is a chain of three dots: red, green, blue. Where the next dot is covered, its neighbour tells where to look.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18
from torchvision.models.feature_extraction import create_feature_extractor

from dgcn_ext import DGCMFused
from dgcn_ext.onnx import translation_table

KEYPOINTS = 3
STRIDE = 8  # pixels to a cell of the heat maps
# Probability that keypoint i learns from keypoint j in a step: here the neighbours along the chain.
ADJACENCY = torch.tensor([[1.0, 0.8, 0.2], [0.5, 1.0, 0.5], [0.2, 0.8, 1.0]])


class KeypointNetwork(nn.Module):
    """Images [B, 3, H, W] to heat maps [B, K, H/8, W/8], as logits: those of the head, and those of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = create_feature_extractor(resnet18(), {"layer2": "features"})
        self.dgcm = DGCMFused(
            128, ADJACENCY, lift_channels=32
        )  # 128 channels in, 128 out: it fits between any two layers
        self.head = nn.Conv2d(128, KEYPOINTS, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features, node_logits = self.dgcm(self.trunk(images)["features"])
        return self.head(features), node_logits


def draw_batch(count: int, size: int = 64) -> tuple[Tensor, Tensor]:
    """Images [count, 3, size, size] with a figure each, and its heat maps [count, K, size/8, size/8]."""
    first, step = torch.rand(count, 1, 2) * size / 2, torch.rand(count, 1, 2) * size / 5 + 2
    dots = first + step * torch.arange(KEYPOINTS)[:, None]  # [count, K, (x, y)] px
    x, y = (torch.arange(size)[None, None, :] - dots[..., i, None] for i in (0, 1))
    distance = y[..., :, None] ** 2 + x[..., None, :] ** 2  # [count, K, size, size] px²
    images = torch.exp(-distance / 8) + 0.1 * torch.randn(count, 3, size, size)
    return images, torch.exp(-distance[..., ::STRIDE, ::STRIDE] / (2 * STRIDE**2))


def train(network: nn.Module, steps: int) -> list[float]:
    """The loss of each step. The module's own heat maps are supervised too, as in the paper."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(steps):
        images, target = draw_batch(8)
        loss = sum(F.binary_cross_entropy_with_logits(logits, target) for logits in network(images))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def export(network: KeypointNetwork, path: str) -> None:
    """Write the network for inference as ONNX: any number of images of any size."""
    network.eval()
    network.dgcm = network.dgcm.fold()  # the graph and the batch norms become part of its convolutions
    torch.onnx.export(
        network,
        (torch.zeros(2, 3, 64, 96),),
        path,
        input_names=["images"],
        output_names=["heat_maps", "node_logits"],
        dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
        custom_translation_table=translation_table(),
        dynamo=True,
        verbose=False,
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python keypoints.py MODEL.onnx, the file to write")
    torch.manual_seed(0)
    network = KeypointNetwork()
    losses = train(network, steps=200)
    print(f"loss {losses[0]:.3f}, after {len(losses)} steps {losses[-1]:.3f}")
    export(network, sys.argv[1])
