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


class TimmBackbone(Backbone):
    """Any timm model with `features_only` and a stride-16 map; ResNets without the input max-pool, as in the paper.

    Without the max-pool a ResNet's stages have half the strides timm reports: layer2, layer3 and layer4 are F4, F8 and
    F16 with 512, 1024 and 2048 channels. Networks that round sizes down (unpadded pooling or patches, as in DenseNet
    and ConvNeXt) get their input padded at the right and at the bottom: every map has ceil(H/s) × ceil(W/s) cells.

    Layers that none of the maps depends on, such as a stage of stride 32, are left out: they would take time, and
    nothing would train them.
    """

    def __init__(self, name: str, pretrained: bool) -> None:
        super().__init__()
        import timm

        try:
            with torch.inference_mode(False), torch.enable_grad():  # the caller may be in either mode
                self.body: Any = timm.create_model(name, pretrained=pretrained, features_only=True)
                for layer in self.examine(name):
                    self.body.set_submodule(layer, nn.Identity())
        except OSError as error:
            raise ConnectionError(
                f"pretrained: the weights of '{name}' cannot be fetched from the Hugging Face Hub and are not in its"
                f" cache; connect once, copy the cache (HF_HOME) of a machine that has them, or train without: {error}"
            ) from error
        except RuntimeError as error:
            if "features_only" not in str(error):
                raise
            raise ValueError(f"backbone must support timm's features_only, and '{name}' does not") from error
        settings = timm.data.resolve_model_data_config(self.body)
        red, green, blue = (255 * value for value in settings["mean"])
        self.mean = (red, green, blue)
        red, green, blue = (255 * value for value in settings["std"])
        self.std = (red, green, blue)

    def examine(self, name: str) -> list[str]:
        """Find the maps; the names of the layers that none of them depends on."""
        body = self.body
        strides, widths = body.feature_info.reduction(), body.feature_info.channels()
        if isinstance(getattr(body, "maxpool", None), nn.MaxPool2d):
            body.maxpool = nn.Identity()
            strides = [stride // 2 if stride > 2 else stride for stride in strides]
        # The last map of a stride is the deepest one there.
        self.taps = {stride: index for index, stride in enumerate(strides) if stride in STRIDES}
        if 16 not in self.taps:
            raise ValueError(f"backbone must have a map at stride 16, and '{name}' has strides {list(strides)}")
        self.channels = {stride: widths[index] for stride, index in self.taps.items()}
        was_training = body.training
        try:
            maps = body.eval()(torch.zeros(1, 3, 65, 65))
        except (AssertionError, RuntimeError) as error:  # what models of a fixed input size raise
            raise ValueError(f"backbone must take images of any size 16n+1, and '{name}' does not: {error}") from error
        self.rounds_down = maps[self.taps[16]].shape[-2] != 5
        torch.stack([maps[index].sum() for index in self.taps.values()]).sum().backward()
        unused: list[str] = []
        for layer, module in body.named_modules():
            parameters = list(module.parameters())
            is_unused = parameters and all(parameter.grad is None for parameter in parameters)
            if is_unused and not any(layer.startswith(f"{above}.") for above in unused):
                unused.append(layer)
        body.train(was_training).zero_grad(set_to_none=True)
        return unused

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        height, width = x.shape[-2:]
        if self.rounds_down:
            x = nn.functional.pad(x, (0, 15, 0, 15), mode="replicate")
        maps: Sequence[Tensor] = self.body(x)
        # ceil(H/s), without the division of a negative number: ONNX rounds that towards zero.
        return {
            stride: maps[index][..., : (height - 1) // stride + 1, : (width - 1) // stride + 1]
            for stride, index in self.taps.items()
        }
