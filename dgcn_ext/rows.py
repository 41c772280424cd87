"""1×1 convolutions between contiguous images and rows, as matrix products.

On CUDA ``relu_affinity`` works on rows: all channels of a position side by side in memory. A convolution of
channels_last images takes and makes rows. One of contiguous images does not, so the operator would have to transpose
what it gets and what it returns. A matrix product reads and writes either layout at the same cost.
"""

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from dgcn_ext.dispatch import Function, is_transformed
from dgcn_ext.functional import _autocast, _autocast_dtype


def takes_products(layer: nn.Module, x: Tensor) -> TypeGuard[nn.Conv2d]:
    """Whether :func:`exchange_layout` may stand for ``layer(x)``: nobody sees or changes what the layer does."""
    return (
        type(x) is Tensor  # and no proxy of torch.fx
        and x.is_cuda
        and x.is_contiguous()
        and not is_transformed()
        and type(layer) is nn.Conv2d
        and (layer.kernel_size, layer.stride, layer.padding, layer.groups) == ((1, 1), (1, 1), (0, 0), 1)
        and not has_hooks(layer)
        and _has_precision_of_convolutions(x)
    )


def has_hooks(layer: nn.Module) -> bool:
    kinds = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return any(map(len, kinds))


def _has_precision_of_convolutions(x: Tensor) -> bool:
    """False where convolutions use the tensor cores, in TF32, and matrix products do not, as PyTorch has it by default.

    In float32 proper the products are more work than the transpositions that they save: docs/nonlocal.md counts both.
    """
    if x.dtype != torch.float32 or torch.is_autocast_enabled("cuda"):
        return True
    convolutions = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    return convolutions != "tf32" or torch.backends.cuda.matmul.fp32_precision == "tf32"


def exchange_layout(x: Tensor, layer: nn.Conv2d, *, to_rows: bool) -> Tensor:
    """``layer(x)`` for a 1×1 convolution of x [B, C, N].

    The result has channels side by side with ``to_rows``, else positions. The gradient of x has it the other way round.
    """
    autocast_dtype = _autocast_dtype(x)
    x = x if autocast_dtype is None else _autocast(x, autocast_dtype)
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return _Exchange.apply(x, layer.weight.flatten(1).to(x.dtype), bias, to_rows)


class _Exchange(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, to_rows: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.to_rows = to_rows
        y = _product(weight, x, to_rows)
        return y if bias is None else y.add_(bias[:, None])

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias, _ = ctx.needs_input_grad
        grad_x = _product(weight.T, grad_y, not ctx.to_rows) if need_x else None
        grad_weight = torch.bmm(grad_y, x.mT).sum(0) if need_weight else None
        return grad_x, grad_weight, grad_y.sum((0, 2)) if need_bias else None, None


def _product(weight: Tensor, x: Tensor, to_rows: bool) -> Tensor:
    """weight [C', C] · x [B, C, N] -> [B, C', N]."""
    weights = weight.expand(x.shape[0], *weight.shape)
    return torch.bmm(x.mT, weights.mT).mT if to_rows else torch.bmm(weights, x)
