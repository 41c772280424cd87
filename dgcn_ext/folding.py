"""Layers merged into convolutions that compute the same, for inference."""

import copy
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def inference_copy(module: ModuleT) -> ModuleT:
    """A copy in ``eval()`` of which no parameter requires a gradient.

    Pruning and weight norm leave tensors that autograd computed as attributes, and ``copy.deepcopy`` refuses those.
    """
    attributes = [value for layer in module.modules() for value in vars(layer).values()]
    computed = [value for value in attributes if isinstance(value, Tensor) and not value.is_leaf]
    copied = copy.deepcopy(module, {id(value): value.detach().clone() for value in computed})
    return copied.eval().requires_grad_(False)


@torch.no_grad()
def read_convolution(
    layer: Callable[[Tensor], Tensor], like: Tensor, *geometry: Any, **options: Any
) -> nn.Conv2d | None:
    """The convolution that computes what ``layer`` does; None if there is none of that geometry.

    Its weights are the layer's responses to unit impulses. So they include what pruning, parametrizations, wrappers,
    hooks and any kind of batch norm do.

    Args:
        layer: takes float64 images [B, C, H, W].
        like: has the device and the dtype of the result.
        geometry, options: channels, kernel size and so on, as ``nn.Conv2d`` takes them; paddings are numbers.
    """
    conv = skip_init(nn.Conv2d, *geometry, device=like.device, dtype=like.dtype, **options).requires_grad_(False)
    kernel = conv.weight.shape[1:]  # [C / groups, k, k]
    num_weights = math.prod(kernel)
    exact: dict[str, Any] = {"device": like.device, "dtype": torch.float64}

    # Along each axis: the first output cell whose window lies inside the image, and the pixels of that window.
    cell, window = [], []
    for size, stride, padding, dilation in zip(conv.kernel_size, conv.stride, conv.padding, conv.dilation, strict=True):
        assert isinstance(padding, int)
        cell.append(-(-padding // stride))
        start = cell[-1] * stride - padding
        window.append(slice(start, start + (size - 1) * dilation + 1, dilation))
    rows, columns = window

    # One image for each weight, and one of zeros, the response to which is the bias.
    images = torch.zeros(num_weights + 1, conv.in_channels, rows.stop, columns.stop, **exact)
    impulses = torch.eye(num_weights + 1, num_weights, **exact).unflatten(1, kernel)
    images[:, :, rows, columns] = impulses.repeat(1, conv.groups, 1, 1)
    responses = layer(images)[:, :, cell[0], cell[1]]
    bias = responses[-1]
    weight = (responses[:-1] - bias).T.unflatten(1, kernel)

    shape = (2, conv.in_channels, rows.stop + 3, columns.stop + 3)
    x = torch.arange(math.prod(shape), **exact).sin().view(shape)
    if not computes_the_same(layer(x), conv._conv_forward(x, weight, bias)):
        return None
    conv.weight.copy_(weight)
    assert conv.bias is not None
    conv.bias.copy_(bias)
    return conv


def computes_the_same(expected: Tensor, result: Tensor) -> bool:
    """Whether two float64 results are equal but for rounding; on the meta device, whether their shapes are."""
    if expected.shape != result.shape:
        return False
    return expected.is_meta or torch.allclose(result, expected, rtol=1e-6, atol=1e-9, equal_nan=True)


def merge_norm(conv: nn.Module, norm: nn.Module) -> nn.Conv2d | None:
    """The convolution that the two make in ``eval()``; None if they make none, as with the statistics of the batch."""
    if not isinstance(conv, nn.Conv2d) or isinstance(conv.padding, str) or getattr(norm, "running_mean", None) is None:
        return None
    return read_convolution(
        inference_copy(nn.Sequential(conv, norm)).double(),
        conv.weight,
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
        padding_mode=conv.padding_mode,
    )


def merge_norms(module: nn.Module) -> None:
    """In every ``nn.Sequential`` of ``module``, merge each convolution with the batch norm after it; in place."""
    for layers in [layer for layer in module.modules() if isinstance(layer, nn.Sequential)]:
        for i in reversed(range(len(layers) - 1)):
            merged = merge_norm(layers[i], layers[i + 1])
            if merged is not None:
                layers[i] = merged
                del layers[i + 1]
