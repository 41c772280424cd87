"""MobileNetV1-0.75, a small trunk that pose-trained weights exist for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from dgcn_ext.folding import merge_norm

from .base import Backbone, read_trunk, trunk_entry


class DepthwiseSeparable(nn.Module):
    """Depthwise 3×3, then pointwise 1×1, each followed by batch norm and ReLU6 (MobileNetV1's block)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.dw = nn.Conv2d(in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False)
        self.dw_bn = nn.BatchNorm2d(in_channels)
        self.pw = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.pw_bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu6(self.dw_bn(self.dw(x)))
        return nn.functional.relu6(self.pw_bn(self.pw(x)))


class MobileNetV1(Backbone):
    """The MobileNetV1-0.75 trunk with its last stage kept at stride 16 (1.2 M parameters).

    Symmetric padding keeps cell i centred on pixel 16·i, which is what the fields assume.
    """

    STEM = 24
    BLOCKS = ((48, 1), (96, 2), (96, 1), (192, 2), (192, 1), (384, 2)) + ((384, 1),) * 7  # (channels, stride)
    TAPS: ClassVar = {3: 4, 5: 8, 13: 16}  # block number (from 1) -> stride of the feature map it ends

    def __init__(self) -> None:
        super().__init__()
        self.channels = {stride: self.BLOCKS[number - 1][0] for number, stride in self.TAPS.items()}
        self.mean = self.std = (127.5, 127.5, 127.5)
        self.stem = nn.Conv2d(3, self.STEM, 3, 2, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(self.STEM)
        widths = (self.STEM, *(channels for channels, _ in self.BLOCKS))
        self.blocks = nn.ModuleList(
            DepthwiseSeparable(width, channels, stride)
            for width, (channels, stride) in zip(widths, self.BLOCKS, strict=False)
        )

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        x = nn.functional.relu6(self.stem_bn(self.stem(x)))
        features = {}
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            if number in self.TAPS:
                features[self.TAPS[number]] = x
        return features

    def stem_modules(self) -> Iterable[nn.Module]:
        return (self.stem, self.stem_bn, *self.blocks[:3])  # the third block ends F4

    def fold(self) -> None:
        for module in (self, *self.blocks):
            layers = dict(module.named_children())
            for name in layers.keys() & {"stem", "dw", "pw"}:
                merged = merge_norm(layers[name], layers[f"{name}_bn"])
                if merged is not None:
                    module.add_module(name, merged)
                    module.add_module(f"{name}_bn", nn.Identity())

    @torch.no_grad()
    def load_trunk(self, path: str | Path, calibration: Tensor) -> None:
        """As `Backbone.load_trunk`, of a trunk whose batch norms are folded into biases.

        Such a trunk has no statistics to train with. Each batch norm is therefore given the statistics that
        `calibration` shows at its place, and the weight and bias that undo them, so that the output is the folded
        network's and training starts from sound statistics.

        Keys: stem.weight, stem.bias, blocks.{1..13}.{dw,pw}.{weight,bias}.
        """
        arrays = read_trunk(path)

        def start(conv: nn.Conv2d, norm: nn.BatchNorm2d, name: str, x: Tensor) -> Tensor:
            bias = trunk_entry(path, arrays, f"{name}.bias", norm.bias.shape)
            conv.weight.copy_(trunk_entry(path, arrays, f"{name}.weight", conv.weight.shape))
            x = conv(x)
            variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
            assert norm.running_mean is not None and norm.running_var is not None  # noqa: PT018 - for the type checker
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
            norm.weight.copy_((variance + norm.eps).sqrt())
            norm.bias.copy_(mean + bias)
            return nn.functional.relu6(x + bias[:, None, None])

        x = start(self.stem, self.stem_bn, "stem", calibration)
        for number, block in enumerate(self.blocks, start=1):
            assert isinstance(block, DepthwiseSeparable)
            x = start(block.dw, block.dw_bn, f"blocks.{number}.dw", x)
            x = start(block.pw, block.pw_bn, f"blocks.{number}.pw", x)
