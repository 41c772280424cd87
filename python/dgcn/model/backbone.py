"""Backbones: timm's feature extractors, and the small MobileNetV1-0.75 trunk of the model that ships with dgcn.

A backbone maps normalised images [B, 3, H, W] to one feature map per stride, {4: F4, 8: F8, 16: F16} with F_s
[B, channels[s], ceil(H/s), ceil(W/s)], and states the `mean` and `std` (0..255 RGB) of its normalisation.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from dgcn_ext.folding import merge_norm

from .config import MOBILENET

STRIDES = (4, 8, 16)


class Backbone(nn.Module):
    """What the model asks of a backbone: `channels` by stride, and the normalisation of its input."""

    channels: dict[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def fold(self) -> None:
        """Merge batch norms with running statistics into the convolutions before them; for inference, in place.

        Leaves everything as it is, unless a backbone knows which norm follows which convolution.
        """

    def load_folded(self, path: str | Path, calibration: Tensor) -> None:
        """Start from the weights of a trunk without batch norms; ValueError where there is no such file format."""
        raise ValueError(f"init_trunk needs the backbone '{MOBILENET}', got {type(self).__name__}")


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

    def fold(self) -> None:
        for module in (self, *self.blocks):
            layers = dict(module.named_children())
            for name in layers.keys() & {"stem", "dw", "pw"}:
                merged = merge_norm(layers[name], layers[f"{name}_bn"])
                if merged is not None:
                    module.add_module(name, merged)
                    module.add_module(f"{name}_bn", nn.Identity())

    @torch.no_grad()
    def load_folded(self, path: str | Path, calibration: Tensor) -> None:
        """Start from a trunk whose batch norms are already folded into biases (an .npz file).

        The folded network has no statistics to train with. Each batch norm is therefore given the statistics that
        `calibration` ([B, 3, H, W], normalised) shows at its place, and the weight and bias that undo them, so that the
        output is the folded network's and training starts from sound statistics.

        Keys: stem.weight, stem.bias, blocks.{1..13}.{dw,pw}.{weight,bias}; raises ValueError where they do not fit.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                folded = {name: torch.from_numpy(arrays[name]).float() for name in arrays.files}
        except (AttributeError, EOFError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path} is not an .npz file of arrays or is damaged") from error

        def start(conv: nn.Conv2d, norm: nn.BatchNorm2d, name: str, x: Tensor) -> Tensor:
            for part, wanted in (("weight", conv.weight.shape), ("bias", norm.bias.shape)):
                key = f"{name}.{part}"
                if key not in folded or folded[key].shape != wanted:
                    got = tuple(folded[key].shape) if key in folded else "nothing"
                    raise ValueError(f"{path}: {key} must have the shape {tuple(wanted)}, got {got}")
            conv.weight.copy_(folded[f"{name}.weight"])
            x = conv(x)
            variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
            assert norm.running_mean is not None and norm.running_var is not None  # noqa: PT018 - for the type checker
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
            norm.weight.copy_((variance + norm.eps).sqrt())
            norm.bias.copy_(mean + folded[f"{name}.bias"])
            return nn.functional.relu6(x + folded[f"{name}.bias"][:, None, None])

        x = start(self.stem, self.stem_bn, "stem", calibration)
        for number, block in enumerate(self.blocks, start=1):
            assert isinstance(block, DepthwiseSeparable)
            x = start(block.dw, block.dw_bn, f"blocks.{number}.dw", x)
            x = start(block.pw, block.pw_bn, f"blocks.{number}.pw", x)


class TimmBackbone(Backbone):
    """Any timm model with `features_only` and a stride-16 map; ResNets without the input max-pool, as in the paper.

    Without the max-pool a ResNet's stages have half the strides timm reports: layer2, layer3 and layer4 are F4, F8 and
    F16 with 512, 1024 and 2048 channels. Networks that round sizes down (unpadded pooling or patches, as in DenseNet
    and ConvNeXt) get their input padded at the right and at the bottom: every map has ceil(H/s) × ceil(W/s) cells.
    """

    def __init__(self, name: str, pretrained: bool) -> None:
        super().__init__()
        import timm

        if not timm.is_model(name):
            raise ValueError(f"backbone must be '{MOBILENET}' or the name of a timm model, got '{name}'")
        if pretrained and not timm.is_model_pretrained(name):
            raise ValueError(f"pretrained needs a timm model with weights, and '{name}' has none")
        try:
            body: Any = timm.create_model(name, pretrained=pretrained, features_only=True)
        except OSError as error:
            raise ConnectionError(
                f"pretrained: the weights of '{name}' cannot be fetched from the Hugging Face Hub and are not in its"
                f" cache; connect once, copy the cache (HF_HOME) of a machine that has them, or train without: {error}"
            ) from error
        except RuntimeError as error:
            if "features_only" not in str(error):
                raise
            raise ValueError(f"backbone must support timm's features_only, and '{name}' does not") from error
        self.body = body
        strides = list(body.feature_info.reduction())
        if isinstance(getattr(body, "maxpool", None), nn.MaxPool2d):
            body.maxpool = nn.Identity()
            strides = [stride // 2 if stride > 2 else stride for stride in strides]
        # The last map of a stride is the deepest one there.
        self.taps = {stride: index for index, stride in enumerate(strides) if stride in STRIDES}
        if 16 not in self.taps:
            raise ValueError(f"backbone must have a map at stride 16, and '{name}' has strides {strides}")
        widths = body.feature_info.channels()
        self.channels = {stride: widths[index] for stride, index in self.taps.items()}
        try:
            self.rounds_down = self.map_sizes(65)[16] != 5
        except (AssertionError, RuntimeError) as error:  # what models of a fixed input size raise
            raise ValueError(f"backbone must take images of any size 16n+1, and '{name}' does not: {error}") from error
        settings = timm.data.resolve_model_data_config(body)
        red, green, blue = (255 * value for value in settings["mean"])
        self.mean = (red, green, blue)
        red, green, blue = (255 * value for value in settings["std"])
        self.std = (red, green, blue)

    @torch.no_grad()
    def map_sizes(self, size: int) -> dict[int, int]:
        """Height of the maps, by stride, for an input `size` pixels high."""
        training = self.body.training
        maps = self.body.eval()(torch.zeros(1, 3, size, size))
        self.body.train(training)
        return {stride: maps[index].shape[-2] for stride, index in self.taps.items()}

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        height, width = x.shape[-2:]
        if self.rounds_down:
            x = nn.functional.pad(x, (0, 15, 0, 15), mode="replicate")
        maps: Sequence[Tensor] = self.body(x)
        return {
            stride: maps[index][..., : -(-height // stride), : -(-width // stride)]
            for stride, index in self.taps.items()
        }


def build_backbone(name: str, *, pretrained: bool = False) -> Backbone:
    """The backbone called `name`: 'mobilenetv1_075', or any timm model (`pretrained` asks timm for its weights)."""
    return MobileNetV1() if name == MOBILENET else TimmBackbone(name, pretrained)


def check_channels(backbone: Backbone, levels: Mapping[int, object] | Sequence[int]) -> None:
    """Raise ValueError where `backbone` lacks one of the wanted strides."""
    missing = [stride for stride in levels if stride not in backbone.channels]
    if missing:
        raise ValueError(f"levels must be among F{sorted(backbone.channels)} for this backbone, got {missing}")
