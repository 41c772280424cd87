"""timm's feature extractors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..config import OWN_BACKBONES
from .base import STRIDES, Backbone


def check_timm_model(name: str, pretrained: bool) -> None:
    """Raise ValueError unless timm has a model of this name and, if `pretrained`, weights for it."""
    import timm

    if not timm.is_model(name):
        own = ", ".join(f"'{each}'" for each in OWN_BACKBONES)
        raise ValueError(f"backbone must be {own} or the name of a timm model, got '{name}'")
    if pretrained and not timm.is_model_pretrained(name):
        raise ValueError(f"pretrained needs a timm model with weights, and '{name}' has none")


def read_maps(body: Any) -> tuple[list[int], list[int]]:
    """Strides and channels of all maps of a feature extractor, its input max-pool left out."""
    strides = list(body.feature_info.reduction())
    if has_max_pool(body):
        strides = [stride // 2 if stride > 2 else stride for stride in strides]
    return strides, list(body.feature_info.channels())


def has_max_pool(body: Any) -> bool:
    return isinstance(getattr(body, "maxpool", None), nn.MaxPool2d)


class TimmBackbone(Backbone):
    """Any timm model with `features_only` and a stride-16 map; ResNets without the input max-pool, as in the paper.

    Without the max-pool a ResNet's stages have half the strides timm reports: layer2, layer3 and layer4 are F4, F8 and
    F16 with 512, 1024 and 2048 channels. Networks that round sizes down (unpadded pooling or patches, as in DenseNet
    and ConvNeXt) get their input padded at the right and at the bottom: every map has ceil(H/s) × ceil(W/s) cells.
    """

    def __init__(self, name: str, pretrained: bool) -> None:
        super().__init__()
        import timm

        try:
            with torch.device("meta"):
                strides, widths = read_maps(timm.create_model(name, features_only=True))
            # The last map of a stride is the deepest one there.
            indices = {stride: index for index, stride in enumerate(strides) if stride in STRIDES}
            if 16 not in indices:
                raise ValueError(f"backbone must have a map at stride 16, and '{name}' has strides {strides}")
            # Layers beyond the last of these maps are left out: nothing would train them.
            options: Any = {"features_only": True, "out_indices": tuple(indices.values())}
            body: Any = timm.create_model(name, pretrained=pretrained, **options)
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
        if has_max_pool(body):
            body.maxpool = nn.Identity()
        self.strides = list(indices)
        self.channels = {stride: widths[index] for stride, index in indices.items()}
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
        return {stride: each.shape[-2] for stride, each in zip(self.strides, maps, strict=True)}

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        height, width = x.shape[-2:]
        if self.rounds_down:
            x = nn.functional.pad(x, (0, 15, 0, 15), mode="replicate")
        maps: Sequence[Tensor] = self.body(x)
        return {
            stride: each[..., : -(-height // stride), : -(-width // stride)]
            for stride, each in zip(self.strides, maps, strict=True)
        }
