"""Backbones: timm's feature extractors, and two small trunks that were trained for poses.

A backbone maps normalised images [B, 3, H, W] to one feature map per stride, {4: F4, 8: F8, 16: F16} with F_s
[B, channels[s], ceil(H/s), ceil(W/s)], and states the `mean` and `std` (0..255 RGB) of its normalisation.
"""

from __future__ import annotations

from collections.abc import Collection

from ..config import MOBILENET, MOVENET, OWN_BACKBONES
from .base import Backbone
from .mobilenet import MobileNetV1
from .movenet import MoveNet
from .timm import TimmBackbone, check_timm_model

__all__ = ["Backbone", "build_backbone", "check_backbone"]


def check_backbone(name: str, *, pretrained: bool = False) -> None:
    """Raise ValueError unless there is such a backbone and, if `pretrained`, timm has weights for it."""
    if name not in OWN_BACKBONES:
        check_timm_model(name, pretrained)
    elif pretrained:
        raise ValueError(f"pretrained must be False for '{name}': timm has no weights for it; load a checkpoint")


def build_backbone(name: str, strides: Collection[int] = (16,), *, pretrained: bool = False) -> Backbone:
    """The backbone called `name`: 'mobilenetv1_075', 'movenet_multipose' or any timm model.

    Args:
        name: of the backbone.
        strides: of the feature maps that the network will use; the backbone may leave out others.
        pretrained: ask timm for ImageNet weights.

    Raises:
        ValueError: no such backbone, or none with these strides.
    """
    check_backbone(name, pretrained=pretrained)
    if name == MOBILENET:
        backbone: Backbone = MobileNetV1()
    elif name == MOVENET:
        backbone = MoveNet(strides)
    else:
        backbone = TimmBackbone(name, pretrained)
    if missing := [stride for stride in strides if stride not in backbone.channels]:
        known, got = (", ".join(f"F{stride}" for stride in sorted(each)) for each in (backbone.channels, missing))
        raise ValueError(f"levels must be among {known} for the backbone '{name}', got {got}")
    return backbone
