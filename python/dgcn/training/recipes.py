"""Recipes: how a model is trained, as functions from the data to a `TrainConfig`.

A recipe takes the fields of `TrainConfig` that have no default (images, annotations, `work_dir`) and any others that
are to be different from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..model.config import MOBILENET, MOVENET, ModelConfig
from .config import LossConfig, TrainConfig


def paper(**fields: Any) -> TrainConfig:
    """DGCN-50 as the paper trains it on COCO.

    The paper states: ResNet-50 with ImageNet weights, frozen in the first epoch; SGD with an initial learning rate of
    0.001; 100 epochs; batch size 8; 641 px; α, θ, β, δ = 30, 2, 50, 3; γ = 0.5; a DGCM on F16.

    The paper does not state, and this recipe chooses: momentum 0.95; weight decay 1e-5; 200 steps of warm-up, then a
    half cosine down to a hundredth; gradients clipped to norm 10; the augmentation; averaged weights (EMA 0.999); the
    weight 2 of the scale σ and the threshold 0.5 of Smooth-L1.
    """
    stated = {
        "model": ModelConfig(backbone="resnet50", levels=(16,), graph="dynamic", gamma=0.5),
        "loss": LossConfig(alpha=30.0, theta=2.0, beta=50.0, delta=3.0),
        "pretrained": True,
        "freeze_epochs": 1,
        "optimizer": "sgd",
        "learning_rate": 1e-3,
        "epochs": 100,
        "batch_size": 8,
        "size": 641,
    }
    return TrainConfig(**{**stated, **fields})


def mobilenet_first(**fields: Any) -> TrainConfig:
    """First stage of a small model: from a pose-trained trunk (`init_trunk`), on small crops.

    The model that dgcn shipped first was stopped after 24 of these epochs.
    """
    return _mobilenet(
        {
            "size": 321,
            "scale_range": (0.7, 2.2),
            "epochs": 40,
            "learning_rate": 1e-3,
            "backbone_lr_factor": 0.25,
            "freeze_epochs": 2,
            "ema": 0.9995,
        },
        fields,
    )


def mobilenet_second(**fields: Any) -> TrainConfig:
    """Second stage, from the last checkpoint of `mobilenet_first` (`init_checkpoint`), on larger crops."""
    return _mobilenet(
        {
            "size": 417,
            "long_edge": 641,
            "scale_range": (0.7, 1.6),
            "epochs": 22,
            "learning_rate": 8e-4,
            "backbone_lr_factor": 0.3,
            "freeze_epochs": 0,
            "ema": 0.999,
        },
        fields,
    )


def movenet_heads(**fields: Any) -> TrainConfig:
    """First stage of the model that ships with dgcn: heads on MoveNet's trunk (`init_trunk`), which is frozen."""
    return _movenet({"epochs": 6, "freeze_epochs": 6, "learning_rate": 2e-3}, fields)


def movenet_small(**fields: Any) -> TrainConfig:
    """Second stage, from the last checkpoint of `movenet_heads` (`init_checkpoint`): all but the trunk's first layers.

    It was stopped after 20 of its epochs. A trunk that learns at 3e-4 loses what it has learnt before.
    """
    return _movenet({"epochs": 40, "learning_rate": 6e-4, "backbone_lr_factor": 0.2}, fields)


def movenet_large(**fields: Any) -> TrainConfig:
    """Third stage, from the last checkpoint of `movenet_small` (`init_checkpoint`), on larger crops."""
    return _movenet(
        {
            "size": 417,
            "scale_range": (0.7, 1.6),
            "epochs": 14,
            "learning_rate": 5e-4,
            "backbone_lr_factor": 0.2,
        },
        fields,
    )


def _movenet(stage: dict[str, Any], fields: dict[str, Any]) -> TrainConfig:
    """The settings that the stages share, those of one stage, and the fields that the caller changes."""
    shared = {
        "model": ModelConfig(backbone=MOVENET),
        "loss": LossConfig(theta=3.0, delta=3.0),
        "size": 321,
        "long_edge": 513,
        "scale_range": (0.7, 2.0),
        "optimizer": "adamw",
        "weight_decay": 0.02,
        "batch_size": 8,
        "freeze_epochs": 0,
        "freeze_stem": True,
        "eval_every": 4,
    }
    return TrainConfig(**{**shared, **stage, **fields})


def _mobilenet(stage: dict[str, Any], fields: dict[str, Any]) -> TrainConfig:
    """The settings that both stages share, those of one stage, and the fields that the caller changes."""
    shared = {
        "model": ModelConfig(backbone=MOBILENET),
        "loss": LossConfig(theta=3.0, delta=1.5),
        "optimizer": "adamw",
        "weight_decay": 0.02,
        "batch_size": 8,
        "amp": "bf16",
    }
    return TrainConfig(**{**shared, **stage, **fields})


RECIPES: dict[str, Callable[..., TrainConfig]] = {
    "paper": paper,
    "mobilenet-first": mobilenet_first,
    "mobilenet-second": mobilenet_second,
    "movenet-heads": movenet_heads,
    "movenet-small": movenet_small,
    "movenet-large": movenet_large,
}
"""By the names that `dgcn train --recipe` takes."""
