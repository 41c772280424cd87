"""The trunk of MoveNet MultiPose: MobileNetV2-1.5 and a feature pyramid down to stride 4, for pose-trained weights.

The weights were trained with batch norm and come without: every convolution has a bias, and nothing else to fold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Backbone, read_trunk, trunk_entry


class SamePadConv(nn.Conv2d):
    """3×3 convolution of stride 2 with TensorFlow's padding for even sizes: at the right and at the bottom alone.

    Cell j then sees the pixels 2j to 2j + 2 at every size, as in training. ceil(n / 2) cells for n pixels.
    """

    def __init__(self, in_channels: int, out_channels: int, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, 3, stride=2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 2, 0, 2)))


def conv3x3(in_channels: int, out_channels: int, stride: int, groups: int = 1) -> nn.Conv2d:
    if stride == 2:
        return SamePadConv(in_channels, out_channels, groups)
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, groups=groups)


class InvertedResidual(nn.Module):
    """MobileNetV2's block: 1×1 to `expansion` times the channels, depthwise 3×3, 1×1 without activation."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = expansion * in_channels
        self.expand = nn.Conv2d(in_channels, hidden, 1) if expansion > 1 else None
        self.dw = conv3x3(hidden, hidden, stride, groups=hidden)
        self.project = nn.Conv2d(hidden, out_channels, 1)
        self.is_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.dw(y)))
        return x + y if self.is_residual else y


class Smooth(nn.Module):
    """Depthwise 3×3 and 1×1 with ReLU: what follows the sum at each level of the pyramid."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.dw = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.pw = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.pw(self.dw(x)))


class Pyramid(nn.Module):
    """From coarse to fine: the level below, twice as large, plus a 1×1 of the trunk's map, smoothed."""

    def __init__(self) -> None:
        super().__init__()
        self.lateral32 = nn.Conv2d(1280, 64, 1)
        self.lateral16 = nn.Conv2d(96, 64, 1)
        self.smooth16 = Smooth(64, 32)
        self.lateral8 = nn.Conv2d(48, 32, 1)
        self.smooth8 = Smooth(32, 24)
        self.lateral4 = nn.Conv2d(40, 24, 1)
        self.smooth4 = Smooth(24, 24)


class MoveNet(Backbone):
    """MoveNet MultiPose's trunk (4.7 M parameters) with one feature map for each stride that is asked for.

    F16 brings together what the pyramid knows at stride 4 (its 4×4 cells as channels) and 16, the last block of the
    trunk at stride 16, and the coarsest level; F8 and F4 likewise. Each ends with a batch norm, since the parts differ
    in size.
    """

    # (output channels, stride) of each block; the expansion is 1 in the first and 6 in the others.
    BLOCKS = (
        *((24, 1), (40, 2), (40, 1), (48, 2), (48, 1), (48, 1), (96, 2), (96, 1), (96, 1), (96, 1)),
        *((144, 1), (144, 1), (144, 1), (240, 2), (240, 1), (240, 1), (480, 1)),
    )
    STEM_BLOCKS = 3  # blocks 0 to 2 end at stride 4

    def __init__(self, strides: Collection[int]) -> None:
        super().__init__()
        widths = {16: 16 * 24 + 32 + 144 + 64, 8: 4 * 24 + 24 + 48 + 32, 4: 24 + 40 + 24}
        self.channels = {stride: widths[stride] for stride in sorted(set(strides) & widths.keys())}
        self.mean = self.std = (127.5, 127.5, 127.5)
        self.stem = SamePadConv(3, 48)
        inputs = (48, *(channels for channels, _ in self.BLOCKS))
        self.blocks = nn.ModuleList(
            InvertedResidual(width, channels, stride, 6 if index else 1)
            for index, (width, (channels, stride)) in enumerate(zip(inputs, self.BLOCKS, strict=False))
        )
        self.top = nn.Conv2d(480, 1280, 1)
        self.fpn = Pyramid()
        self.norms = nn.ModuleDict({str(stride): nn.BatchNorm2d(width) for stride, width in self.channels.items()})

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        return {stride: self.norms[str(stride)](joined) for stride, joined in self.join(x).items()}

    def join(self, x: Tensor) -> dict[int, Tensor]:
        """The feature maps before their batch norms."""
        x = F.relu6(self.stem(x))
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        fpn = self.fpn
        p32 = enlarge(fpn.lateral32(F.relu6(self.top(x))), maps[9])
        p16 = fpn.smooth16(p32 + fpn.lateral16(maps[9]))
        p8 = fpn.smooth8(enlarge(p16, maps[5]) + fpn.lateral8(maps[5]))
        p4 = fpn.smooth4(enlarge(p8, maps[2]) + fpn.lateral4(maps[2]))
        parts = {
            16: lambda: (cells_as_channels(p4, 4), p16, maps[12], p32),
            8: lambda: (cells_as_channels(p4, 2), p8, maps[5], enlarge(p16, maps[5])),
            4: lambda: (p4, maps[2], enlarge(p8, maps[2])),
        }
        return {stride: torch.cat(parts[stride](), dim=1) for stride in self.channels}

    def stem_modules(self) -> Iterable[nn.Module]:
        return (self.stem, *self.blocks[: self.STEM_BLOCKS])

    @torch.no_grad()
    def load_trunk(self, path: str | Path, calibration: Tensor) -> None:
        """As `Backbone.load_trunk`; keys are those of the modules, and others, such as heads, are left out."""
        arrays = read_trunk(path)
        own = {name: value for name, value in self.state_dict().items() if not name.startswith("norms.")}
        self.load_state_dict({n: trunk_entry(path, arrays, n, v.shape) for n, v in own.items()}, strict=False)
        for stride, joined in self.join(calibration).items():
            norm = self.norms[str(stride)]
            assert isinstance(norm, nn.BatchNorm2d)
            variance, mean = torch.var_mean(joined, dim=(0, 2, 3))
            norm.load_state_dict({"running_mean": mean, "running_var": variance}, strict=False)


def enlarge(x: Tensor, like: Tensor) -> Tensor:
    """Twice as many cells, bilinear, as far as `like` goes: an odd size has one cell less than twice the size below."""
    enlarged = F.interpolate(x, scale_factor=2, mode="bilinear")
    height, width = (size - before for size, before in zip(like.shape[-2:], enlarged.shape[-2:], strict=True))
    return F.pad(enlarged, (0, width, 0, height))


def cells_as_channels(x: Tensor, factor: int) -> Tensor:
    """The cells of each `factor` × `factor` square as channels: [B, C, h, w] to [B, C·factor², ceil(h/factor), ...]."""
    height, width = ((size + factor - 1) // factor * factor - size for size in x.shape[-2:])
    return F.pixel_unshuffle(F.pad(x, (0, width, 0, height), mode="replicate"), factor)
