"""Backbones: timm's feature extractors, and two small trunks that were trained for poses.

A backbone maps normalised images [B, 3, H, W] to one feature map per stride, {4: F4, 8: F8, 16: F16} with F_s
[B, channels[s], ceil(H/s), ceil(W/s)], and states the `mean` and `std` (0..255 RGB) of its normalisation.
"""

from __future__ import annotations

from collections.abc import Collection

from ..config import MOBILENET, MOVENET
from .base import Backbone
from .mobilenet import MobileNetV1
from .movenet import MoveNet
from .timm import TimmBackbone

__all__ = ["Backbone", "build_backbone"]


def build_backbone(name: str, strides: Collection[int] = (16,), *, pretrained: bool = False) -> Backbone:
    """The backbone called `name`: 'mobilenetv1_075', 'movenet_multipose' or any timm model.

    Args:
        name: of it.
        strides: of the feature maps that will be used. Others may be missing.
        pretrained: ask timm for ImageNet weights.

    Raises:
        ValueError: no such backbone, or none with these strides.
    """
    if name == MOBILENET:
        backbone: Backbone = MobileNetV1()
    elif name == MOVENET:
        backbone = MoveNet(strides)
    else:
        backbone = TimmBackbone(name, pretrained)
    if missing := [stride for stride in strides if stride not in backbone.channels]:
        raise ValueError(f"levels must be among F{sorted(backbone.channels)} for this backbone, got {missing}")
    return backbone
