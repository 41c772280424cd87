"""``fold()``: it keeps what pruned, parametrized, wrapped and hooked layers compute, and leaves the original alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from dgcn_ext import DGCM, DGCMFused, GraphConv, NonLocal
from dgcn_ext.folding import merge_norm


class LowRank(nn.Module):
    """A convolution with an addition of rank 1, in the manner of LoRA."""

    def __init__(self, base_layer: nn.Conv2d) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.down = nn.Conv2d(base_layer.in_channels, 1, 1, bias=False, dtype=torch.float64)
        self.up = nn.Conv2d(1, base_layer.out_channels, 1, bias=False, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.up(self.down(x))


class Symmetric(nn.Module):
    def forward(self, matrix: Tensor) -> Tensor:
        return (matrix + matrix.T) / 2


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


def prune_everything(module: DGCM) -> None:
    for layer in [*convolutions(module), module.graph_conv]:
        prune.l1_unstructured(layer, "weight", 0.5)


def norm_weights(module: DGCM) -> None:
    for layer in convolutions(module):
        parametrizations.weight_norm(layer)


def norm_weights_by_hooks(module: DGCM) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        for layer in convolutions(module):
            nn.utils.weight_norm(layer)


def parametrize_the_graph(module: DGCM) -> None:
    for name in ("weight", "edge_weight"):
        parametrize.register_parametrization(module.graph_conv, name, Symmetric())


def wrap_layers(module: DGCM) -> None:
    for name in ("theta", "phi", "g", "affinity"):
        setattr(module.non_local, name, LowRank(getattr(module.non_local, name)))
    module.kmap = LowRank(module.kmap)


def hook_layers(module: DGCM) -> None:
    for layer in convolutions(module):
        layer.register_forward_hook(lambda layer, inputs, output: 2 * output)


def exchange_biases(module: DGCM) -> None:
    module.non_local.theta = nn.Conv2d(8, 4, 1, bias=False, dtype=torch.float64)
    module.non_local.affinity = nn.Conv2d(8, 1, 1, dtype=torch.float64)
    module.graph_conv.bias = None


@pytest.mark.parametrize(
    "prepare",
    [
        prune_everything,
        norm_weights,
        norm_weights_by_hooks,
        parametrize_the_graph,
        wrap_layers,
        hook_layers,
        exchange_biases,
    ],
)
def test_fold_keeps_what_the_layers_compute(prepare: Callable[[DGCM], None]) -> None:
    torch.manual_seed(0)
    module = DGCM(6, torch.rand(5, 5), lift_channels=8, dtype=torch.float64)
    nn.init.ones_(module.non_local.out[1].weight)
    prepare(module)
    x = torch.randn(2, 6, 4, 3, dtype=torch.float64)
    # A training step: batch norm moves, and the weights that pruned layers computed are out of date afterwards.
    sum(output.sum() for output in module(x)).backward()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1)
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    generator = torch.get_rng_state()

    folded = module.fold()

    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert not any(isinstance(layer, (GraphConv, nn.BatchNorm2d)) for layer in folded.modules())
    for ours, theirs in zip(folded(x), module.eval()(x), strict=True):
        torch.testing.assert_close(ours, theirs)


def frozen_batch_norm(channels: int) -> nn.Module:
    return pytest.importorskip("torchvision").ops.FrozenBatchNorm2d(channels)


@pytest.mark.parametrize(
    ("norm", "merges"),
    [
        (nn.BatchNorm2d, True),
        (nn.SyncBatchNorm, True),
        (frozen_batch_norm, True),
        (lambda channels: nn.BatchNorm2d(channels, affine=False), True),
        (lambda channels: nn.BatchNorm2d(channels, track_running_stats=False), False),
        (lambda channels: nn.GroupNorm(2, channels), False),
        (nn.InstanceNorm2d, False),
    ],
)
@pytest.mark.parametrize(
    "geometry",
    [
        {"kernel_size": 1, "bias": False},
        {"kernel_size": 3, "stride": 2, "padding": 1, "groups": 2},
        {"kernel_size": (3, 2), "stride": 2, "padding": (3, 0), "dilation": 2, "padding_mode": "circular"},
    ],
)
def test_merged_norms_are_right_and_others_stay(
    norm: Callable[[int], nn.Module], merges: bool, geometry: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    conv, norm_layer = nn.Conv2d(4, 6, **geometry), norm(6)
    for tensor in norm_layer.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 2)
    merged = merge_norm(conv, norm_layer)
    assert (merged is not None) == merges
    if merged is not None:
        x = torch.randn(2, 4, 9, 8)
        torch.testing.assert_close(merged(x), norm_layer.eval()(conv(x)))


def test_a_norm_over_the_batch_stays_in_the_folded_module() -> None:
    module = DGCM(6, torch.rand(5, 5), lift_channels=8).eval()
    module.lift[1] = nn.BatchNorm2d(8, track_running_stats=False)
    x = torch.randn(2, 6, 4, 3)
    for ours, theirs in zip(module.fold()(x), module(x), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_fold_of_a_graph_convolution_that_holds_nan() -> None:
    layer = GraphConv(torch.ones(3, 3))
    nn.init.constant_(layer.weight, torch.nan)
    assert layer.fold()(torch.ones(1, 3, 2, 2)).isnan().all()  # and no complaint about a hook


def test_fold_refuses_a_hook_that_changes_the_graph_convolution() -> None:
    module = DGCM(6, torch.rand(5, 5), lift_channels=8)
    module.graph_conv.register_forward_hook(lambda layer, inputs, output: 2 * output)
    with pytest.raises(ValueError, match="a hook of the graph convolution changes its output"):
        module.fold()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_folded_modules_keep_dtype_and_arguments(dtype: torch.dtype) -> None:
    folded = DGCMFused(6, torch.rand(5, 5), lift_channels=8, dtype=dtype).fold()
    assert {parameter.dtype for parameter in folded.parameters()} == {dtype}
    features, _ = folded(torch.randn(1, 6, 4, 3, dtype=dtype), seed=1)
    assert features.dtype == dtype


def test_fold_needs_no_values() -> None:
    folded = DGCMFused(6, torch.rand(5, 5), lift_channels=8, device="meta").fold()
    assert folded(torch.empty(2, 6, 4, 3, device="meta"))[0].shape == (2, 6, 4, 3)


def test_folded_keys_are_single_convolutions() -> None:
    folded = NonLocal(8).fold()
    assert (folded.theta.out_channels, folded.phi.out_channels) == (1, 1)
