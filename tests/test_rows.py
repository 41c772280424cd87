"""1×1 convolutions as matrix products between contiguous images and rows, and the non-local layer on them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dgcn_ext import NonLocal, NonLocalFused, functional, fused
from dgcn_ext.rows import exchange_layout

SHAPE = (3, 6, 20)  # [B, C, N]


def has_rows(features: Tensor) -> bool:
    return features.mT.is_contiguous()


@pytest.mark.parametrize("to_rows", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_computes_the_convolution_and_exchanges_layouts(device: torch.device, bias: bool, to_rows: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 5, 1, bias=bias, device=device, dtype=torch.float64)
    x, grad_y = (torch.randn(3, channels, 20, device=device, dtype=torch.float64) for channels in (6, 5))
    if to_rows:
        grad_y = grad_y.mT.contiguous().mT
    else:
        x = x.mT.contiguous().mT
    x.requires_grad_()
    leaves = [x, *layer.parameters()]
    expected = layer(x[..., None]).squeeze(-1)
    y = exchange_layout(x, layer, to_rows=to_rows)
    gradients = torch.autograd.grad(y, leaves, grad_y)
    torch.testing.assert_close([y, *gradients], [expected, *torch.autograd.grad(expected, leaves, grad_y)])
    assert (has_rows(y), has_rows(gradients[0])) == (to_rows, not to_rows)


def test_autocast(device: torch.device) -> None:
    layer = nn.Conv2d(6, 5, 1, device=device)
    x = torch.randn(SHAPE, device=device, requires_grad=True)
    with torch.autocast(device.type, torch.bfloat16):
        y, expected = exchange_layout(x, layer, to_rows=True), layer(x[..., None]).squeeze(-1)
    assert y.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=1e-2, atol=1e-2)
    y.float().square().sum().backward()
    assert x.grad.dtype == layer.weight.grad.dtype == layer.bias.grad.dtype == torch.float32


@pytest.mark.parametrize("folded", [False, True])
def test_the_layer_on_products(device: torch.device, monkeypatch: pytest.MonkeyPatch, folded: bool) -> None:
    """What the operator gets and returns, values and gradients, are rows; what the layer gets and returns are not."""
    torch.manual_seed(0)
    layer = NonLocal(12, device=device, dtype=torch.float64)
    nn.init.ones_(layer.out[1].weight)
    ours = NonLocalFused(12, device=device, dtype=torch.float64)
    ours.load_state_dict(layer.state_dict())
    if folded:
        layer, ours = layer.eval().fold(), ours.eval().fold()
    seen: list[Tensor] = []

    def relu_affinity(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
        y = functional.relu_affinity(a, b, g)
        seen.extend((g, y))
        for features in (g, y):
            features.register_hook(seen.append)
        return y

    monkeypatch.setattr(ours, "relu_affinity", relu_affinity)
    monkeypatch.setattr(fused, "takes_products", lambda layer, x: True)
    x = torch.randn(2, 12, 5, 7, device=device, dtype=torch.float64, requires_grad=True)
    z, expected = ours(x), layer(x)
    (grad_x,) = torch.autograd.grad(z, x, z.detach())
    torch.testing.assert_close([z, grad_x], [expected, *torch.autograd.grad(expected, x, z.detach())])
    assert len(seen) == 4
    assert all(map(has_rows, seen))
    assert z.is_contiguous()
    assert grad_x.is_contiguous()
