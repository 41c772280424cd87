"""Rounding errors of ``graph_conv`` against those of plain PyTorch, by the rule of flash-attention's tests.

For the output and for every gradient::

    ‖ours − exact‖₂ <= 2 max(‖eager − exact‖₂, u ‖exact‖₂)

    exact  the reference in float64, given the same numbers
    eager  the reference given the very tensors that the operator gets
    u      half the spacing of the result's dtype at 1: what a single rounding may cost, where eager is luckier still

over all elements of a case. A case has one K and one choice of options and layout, and so many random shapes that even
the gradient of the bias, K numbers, has enough of them to tell a method's error from luck.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from graph_conv_cases import DRAWS, FORMATS, OPTIONAL, make_grad_y, make_inputs, options_on
from op_contract import differentiate
from torch import Tensor

from dgcn_ext import functional, reference

CASES = 50  # of each dtype: over 100 shapes
LEAST_NUMBERS = 64  # of the bias, in the shapes of a case together
USUAL_NODES = (14, 16, 17, 19, 133)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_error_is_at_most_twice_that_of_eager(device: torch.device, dtype: torch.dtype) -> None:
    generator = random.Random(0)
    failures = []
    for _ in range(CASES):
        nodes = generator.choice(USUAL_NODES) if generator.random() < 0.4 else generator.randint(1, 133)
        optional = tuple(name for name in OPTIONAL if generator.random() < 0.7)
        memory_format = generator.choice(FORMATS)
        options: dict[str, Any] = {
            "semantics": generator.choice(["literal", "mask"]),
            "aggregate": generator.choice(["source", "target"]),
            "activation": generator.choice(["relu", "none"]),
            **generator.choice(list(DRAWS.values())),
        }
        squares: dict[str, Tensor] = {}
        for _ in range(-(-LEAST_NUMBERS // nodes)):
            shape = (generator.randint(1, 4), nodes, generator.randrange(1, 16, 2), generator.randrange(1, 16, 2))
            inputs = make_inputs(shape, dtype, device, memory_format, optional)
            for name, value in squared_errors(inputs, options_on(device, **options)).items():
                squares[name] = squares.get(name, 0) + value
        for name, value in squares.items():
            ours, eager, rounding = value.sqrt().tolist()
            if not ours <= 2 * max(eager, rounding):
                failures.append(f"{name}: {ours:.2e}, eager {eager:.2e}, for K = {nodes}, {optional}, {options}")
    assert not failures, "\n".join(failures)


def squared_errors(inputs: dict[str, Tensor], options: dict[str, Any]) -> dict[str, Tensor]:
    """Of y and of each gradient: the squares of ‖ours − exact‖₂, ‖eager − exact‖₂ and u ‖exact‖₂."""
    grad_y = make_grad_y(inputs, options)
    wide = {name: value.double() for name, value in inputs.items()}
    exact = named_results(reference.graph_conv, wide, options, grad_y.double())
    ours = named_results(functional.graph_conv, inputs, options, grad_y)
    eager = named_results(reference.graph_conv, inputs, options, grad_y)
    return {
        name: torch.stack(
            [
                (ours[name].double() - value).square().sum(),
                (eager[name].double() - value).square().sum(),
                (value * torch.finfo(ours[name].dtype).eps / 2).square().sum(),
            ]
        ).cpu()
        for name, value in exact.items()
    }


def named_results(function: Any, *arguments: Any) -> dict[str, Tensor]:
    y, gradients = differentiate(function, *arguments)
    return {"y": y} | {f"gradient of {name}": gradient for name, gradient in gradients.items()}
