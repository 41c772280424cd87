"""What a network consists of: output, parameters and multiplications of each layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .network import DGCN


@dataclass(frozen=True)
class Layer:
    """A part of a network.

    name, kind: of the module and of its class.
    output: shape; None of a module that is not used.
    parameters: how many.
    macs: multiply-accumulates; modules that are neither convolutions nor graph operators count nothing.
    """

    name: str
    kind: str
    output: tuple[int, ...] | None
    parameters: int
    macs: int


def summarise(model: DGCN, height: int, width: int) -> list[Layer]:
    """The layers of `model` in `eval()`, for one image of `height` × `width` pixels, both of the form 16n+1.

    A module that returns one tensor is a layer; others, such as the backbone and a DGCM, are taken apart. `model` is
    moved to the meta device, so that nothing is computed but shapes.
    """
    outputs: dict[nn.Module, tuple[int, ...]] = {}

    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            outputs[module] = tuple(output.shape)

    model = model.eval().to("meta")
    hooks = [module.register_forward_hook(record) for module in model.modules()]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, height, width, dtype=torch.uint8, device="meta"))
    for hook in hooks:
        hook.remove()
    flops = counter.get_flop_counts()  # two for a multiply-accumulate

    def layers(name: str, module: nn.Module) -> Iterator[Layer]:
        if module not in outputs and (children := list(module.named_children())):
            for child, part in children:
                yield from layers(f"{name}.{child}", part)
            return
        parameters, macs = sum(map(Tensor.numel, module.parameters())), sum(flops.get(name, {}).values()) // 2
        if parameters or macs:
            yield Layer(name.partition(".")[2], type(module).__name__, outputs.get(module), parameters, macs)

    return list(layers(type(model).__name__, model))
