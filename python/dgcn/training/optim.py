"""The optimizer of the recipe: its parameter groups, its learning rate, and what is frozen."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from ..model.network import DGCN
from .config import TrainConfig


def build_optimizer(model: DGCN, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over four groups: backbone or not, decayed (weights) or not (biases, norms)."""
    backbone = set(model.backbone.parameters())
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        groups.setdefault((parameter in backbone, parameter.dim() > 1), []).append(parameter)
    options = [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if decayed else 0.0,
            "factor": config.backbone_lr_factor if in_backbone else 1.0,
        }
        for (in_backbone, decayed), parameters in groups.items()
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(options, lr=config.learning_rate, fused=True)
    return torch.optim.SGD(options, lr=config.learning_rate, momentum=config.momentum, fused=True)


def learning_rate(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """That of step number `step` (from 0) of the run: linear warm-up, then the schedule."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    factor = 1.0
    if config.schedule == "cosine":
        cosine = 0.5 * (1.0 + math.cos(math.pi * step / (steps_per_epoch * config.epochs)))
        factor = 0.01 + 0.99 * cosine
    elif config.schedule == "step":
        factor = 0.1 ** sum(step >= epoch * steps_per_epoch for epoch in config.step_epochs)
    return config.learning_rate * warm * factor


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group of `build_optimizer` its learning rate, where `rate` is that of all but the backbone."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def set_training(model: DGCN, config: TrainConfig, epoch: int) -> None:
    """Training mode for an epoch (from 0); what is frozen gets no gradients and keeps its batch norm statistics."""
    model.train().requires_grad_(True)
    if config.batch_norm == "frozen":
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
                module.eval()
    if epoch < config.freeze_epochs:
        frozen: Iterable[nn.Module] = (model.backbone,)
    else:
        frozen = model.backbone.stem_modules() if config.freeze_stem else ()
    for module in frozen:
        module.eval().requires_grad_(False)
