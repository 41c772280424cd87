"""Loads the compiled operators and puts each one's fake (shape) function, gradient and vmap rule side by side.

The schemas are in ``csrc/registration.cpp``. The compiled operators check their arguments, the fake functions of
graph_conv's forward too; the others rely on :mod:`dgcn_ext.functional`.
"""

from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.autograd import forward_ad

from dgcn_ext.checks import check_graph_conv, check_has_no_gradient
from dgcn_ext.dispatch import (
    Function,
    below_autograd,
    call_in_backward,
    call_in_forward,
    is_transformed,
    map_as_one_batch,
    map_one_by_one,
    needs_gradient,
    new_library,
    refuse_gradient,
    register_gradient,
)
from dgcn_ext.lazy import load_compiled

load_compiled("_C")  # registers torch.ops.dgcn

graph_conv_forward = torch.ops.dgcn.graph_conv_forward.default
graph_conv_forward_gate = torch.ops.dgcn.graph_conv_forward_gate.default  # on CUDA only, with ReLU
graph_conv_backward = torch.ops.dgcn.graph_conv_backward.default
sample_adjacency = torch.ops.dgcn.sample_adjacency.default
relu_affinity_forward = torch.ops.dgcn.relu_affinity_forward.default
relu_affinity_forward_saving = torch.ops.dgcn.relu_affinity_forward_saving.default
relu_affinity_backward = torch.ops.dgcn.relu_affinity_backward.default

_library = new_library()
HAS_CUDA: bool = torch._C._dispatch_has_kernel_for_dispatch_key("dgcn::graph_conv_forward", "CUDA")


@torch.library.register_fake("dgcn::sample_adjacency", lib=_library)
def _(adjacency: Tensor, seed: Tensor, batch: int | None = None, first_sample: int = 0) -> Tensor:
    return adjacency.new_empty(adjacency.shape if batch is None else (batch, *adjacency.shape))


class _SampleAdjacency(Function):
    @staticmethod
    def forward(ctx: Any, adjacency: Tensor, *rest: Any) -> Tensor:
        check_has_no_gradient("adjacency", adjacency)
        return call_in_forward(sample_adjacency, adjacency, *rest)


register_gradient(sample_adjacency, _SampleAdjacency, lib=_library)


@torch.library.register_vmap("dgcn::sample_adjacency", lib=_library)
def _(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
    return map_one_by_one(sample_adjacency, info.batch_size, in_dims, args)


@torch.library.register_fake("dgcn::graph_conv_forward", lib=_library)
def _(x: Tensor, *rest: Any) -> Tensor:
    check_graph_conv(x, *rest[:6])
    return torch.empty_like(x)


@torch.library.register_fake("dgcn::graph_conv_forward_gate", lib=_library)
def _(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    check_graph_conv(x, *rest[:6])
    batch, num_nodes, height, width = x.shape
    return torch.empty_like(x), x.new_empty(batch, (num_nodes + 31) // 32, height, width, dtype=torch.int32)


@torch.library.register_fake("dgcn::graph_conv_backward", lib=_library)
def _(
    grad_y: Tensor,
    x: Tensor,
    gate: Tensor | None,
    edge_weight: Tensor,
    adjacency: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    seed: Tensor | None,
    per_sample: bool,
    mask: bool,
    target: bool,
    relu: bool,
    need_x: bool,
    need_params: bool,
    first_sample: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def gradient(parameter: Tensor | None) -> Tensor:
        return edge_weight.new_empty(0) if parameter is None or not need_params else torch.empty_like(parameter)

    grad_x = torch.empty_like(x) if need_x else x.new_empty(0)
    return grad_x, gradient(edge_weight), gradient(weight), gradient(bias)


class _GraphConv(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        edge_weight: Tensor,
        adjacency: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        seed: Tensor | None,
        per_sample: bool,
        mask: bool,
        target: bool,
        relu: bool,
        first_sample: int = 0,
    ) -> Tensor:
        check_has_no_gradient("adjacency", adjacency)
        flags = (per_sample, mask, target, relu)
        tensors = (x, edge_weight, adjacency, weight, bias, residual, seed)
        gate = None  # then backward computes X·W'·S + b again
        if relu and x.is_cuda and not torch._C._are_functorch_transforms_active():
            y, gate = below_autograd(graph_conv_forward_gate, *tensors, *flags[:-1], first_sample)
        else:
            y = call_in_forward(graph_conv_forward, *tensors, *flags, first_sample)
            if relu and residual is None and not x.is_cuda:
                gate = y  # on a CPU its sign tells what ReLU passed
        ctx.save_for_backward(x, gate, edge_weight, adjacency, weight, bias, seed)
        ctx.flags, ctx.first_sample = flags, first_sample
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, gate, edge_weight, adjacency, weight, bias, seed = ctx.saved_tensors
        need_x, need_edge_weight, _, need_weight, need_bias, need_residual, *rest = ctx.needs_input_grad
        need_params = need_edge_weight or need_weight or need_bias
        grad_x, grad_edge_weight, grad_weight, grad_bias = call_in_backward(
            graph_conv_backward,
            grad_y,
            x,
            gate,
            edge_weight,
            adjacency,
            weight,
            bias,
            seed,
            *ctx.flags,
            need_x,
            need_params,
            ctx.first_sample,
        )
        return (
            grad_x if need_x else None,
            grad_edge_weight if need_edge_weight else None,
            None,
            grad_weight if need_weight else None,
            grad_bias if need_bias else None,
            grad_y if need_residual else None,
            *(None,) * len(rest),
        )


register_gradient(graph_conv_forward, _GraphConv, lib=_library)
refuse_gradient(
    graph_conv_backward,
    "cannot differentiate twice through graph_conv: its gradient has no derivative (that of "
    "dgcn_ext.reference.graph_conv has)",
    lib=_library,
)


@torch.library.register_vmap("dgcn::graph_conv_forward", lib=_library)
def _(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
    images = (0, 5)  # x and residual
    seed, per_sample, *_ = args[6:]
    return _map_graph_conv(graph_conv_forward, images, seed is not None and per_sample, info, in_dims, args)


@torch.library.register_vmap("dgcn::graph_conv_backward", lib=_library)
def _(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
    images = (0, 1, 2)  # grad_y, x and the gate
    seed, per_sample, _, _, _, _, need_params, *_ = args[7:]
    one_by_one = need_params or (seed is not None and per_sample)  # gradients of parameters are sums over the images
    return _map_graph_conv(graph_conv_backward, images, one_by_one, info, in_dims, args)


def _map_graph_conv(
    op: OpOverload,
    images: tuple[int, ...],
    one_by_one: bool,
    info: Any,
    in_dims: tuple[int | None, ...],
    args: tuple[Any, ...],
) -> Any:
    if one_by_one or any(dim is not None for index, dim in enumerate(in_dims) if index not in images):
        return map_one_by_one(op, info.batch_size, in_dims, args)
    return map_as_one_batch(op, images, info.batch_size, in_dims, args)


def graph_conv(x: Tensor, edge_weight: Tensor, adjacency: Tensor, *rest: Any) -> Tensor:
    """``graph_conv_forward``, recorded by autograd where something requires a gradient."""
    if is_transformed():
        return graph_conv_forward(x, edge_weight, adjacency, *rest)
    weight, bias, residual, *_ = rest
    if forward_ad._current_level >= 0 or (  # needs_gradient() without its any(...), which takes 1 µs
        torch.is_grad_enabled()
        and (
            x.requires_grad
            or edge_weight.requires_grad
            or (weight is not None and weight.requires_grad)
            or (bias is not None and bias.requires_grad)
            or (residual is not None and residual.requires_grad)
        )
    ):
        return _GraphConv.apply(x, edge_weight, adjacency, *rest)
    return below_autograd(graph_conv_forward, x, edge_weight, adjacency, *rest)


@torch.library.register_fake("dgcn::relu_affinity_forward", lib=_library)
def _(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
    return torch.empty_like(g)


_CHUNK = 128  # kChunk of csrc/nonlocal/cuda/scan.cuh


@torch.library.register_fake("dgcn::relu_affinity_forward_saving", lib=_library)
def _(a: Tensor, b: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    images, channels, positions = g.shape
    chunks = (2 * positions + _CHUNK - 1) // _CHUNK
    order = g.new_empty(images, 2 * positions, dtype=torch.int32)
    return torch.empty_like(g), order, g.new_empty(images, chunks + 1, channels, 2, dtype=torch.float64)


@torch.library.register_fake("dgcn::relu_affinity_backward", lib=_library)
def _(
    grad_y: Tensor, a: Tensor, b: Tensor, g: Tensor, need_keys: bool, need_g: bool, *_: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    def gradient(of: Tensor, needed: bool) -> Tensor:
        return torch.empty_like(of) if needed else of.new_empty(0)

    return gradient(a, need_keys), gradient(b, need_keys), gradient(g, need_g)


class _ReluAffinity(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, g: Tensor) -> Tensor:
        order = states = None
        if g.is_cuda and not torch._C._are_functorch_transforms_active():
            y, order, states = below_autograd(relu_affinity_forward_saving, a, b, g)
        else:
            y = call_in_forward(relu_affinity_forward, a, b, g)
        ctx.save_for_backward(a, b, g, order, states)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        need_a, need_b, need_g = ctx.needs_input_grad
        *inputs, order, states = ctx.saved_tensors
        grad_a, grad_b, grad_g = call_in_backward(
            relu_affinity_backward, grad_y, *inputs, need_a or need_b, need_g, order, states
        )
        return grad_a if need_a else None, grad_b if need_b else None, grad_g if need_g else None


register_gradient(relu_affinity_forward, _ReluAffinity, lib=_library)
refuse_gradient(
    relu_affinity_backward,
    "cannot differentiate twice through relu_affinity: its gradient has no derivative (that of "
    "dgcn_ext.reference.relu_affinity has)",
    lib=_library,
)


@torch.library.register_vmap("dgcn::relu_affinity_forward", lib=_library)
def _(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
    return map_as_one_batch(relu_affinity_forward, (0, 1, 2), info.batch_size, in_dims, args)


@torch.library.register_vmap("dgcn::relu_affinity_backward", lib=_library)
def _(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
    tensors = [index for index, arg in enumerate(args) if isinstance(arg, Tensor)]
    return map_as_one_batch(relu_affinity_backward, tensors, info.batch_size, in_dims, args)


def relu_affinity(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
    """``relu_affinity_forward``, recorded by autograd where something requires a gradient."""
    if is_transformed():
        return relu_affinity_forward(a, b, g)
    if needs_gradient(a, b, g):
        return _ReluAffinity.apply(a, b, g)
    return below_autograd(relu_affinity_forward, a, b, g)
