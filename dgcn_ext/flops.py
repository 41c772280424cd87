"""What ``torch.utils.flop_counter.FlopCounterMode`` counts for the compiled operators.

As torch does for its own operators, a multiplication and an addition count one each, and what is not arithmetic on the
features (the graph's softmax and its K×K products, the draw, sorting the keys) counts nothing.

Not in ops.py, because torch's counter takes 0.15 s to import and ops.py is imported with torch.
"""

from collections.abc import Callable
from math import prod
from typing import Any

from torch._ops import OpOverload
from torch.utils.flop_counter import flop_registry, register_flop_formula

from dgcn_ext import ops

Shape = tuple[int, ...]


def register(*overloads: OpOverload) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """``register_flop_formula``, but for a formula that is there already (importlib.reload) it would raise."""
    packets = [overload.overloadpacket for overload in overloads]
    for packet in packets:
        flop_registry.pop(packet, None)
    return register_flop_formula(packets)


@register(ops.graph_conv_forward)
def graph_conv_forward(x: Shape, *args: Any, **kwargs: Any) -> int:
    """One product with a K×K matrix at each position of each image: 2·B·K²·H·W."""
    return 2 * prod(x) * x[1]


@register(ops.graph_conv_forward_gate)
def graph_conv_forward_gate(x: Shape, *args: Any, **kwargs: Any) -> int:
    """The same: bits are no floating-point operations."""
    return graph_conv_forward(x)


@register(ops.graph_conv_backward)
def graph_conv_backward(grad_y: Shape, x: Shape, gate: Shape | None, *args: Any, **kwargs: Any) -> int:
    """As much as the forward for the gradient of x, for those of the parameters together, and for a missing gate."""
    relu, need_x, need_params, *_ = args[8:]
    return (need_x + need_params + (relu and gate is None)) * graph_conv_forward(x)


@register(ops.relu_affinity_forward, ops.relu_affinity_forward_saving)
def relu_affinity_forward(a: Shape, b: Shape, g: Shape, **kwargs: Any) -> int:
    """6·B·C·N: w += g_j, r += gap·w and y_i = (r + height·w) / N, with the two sums w and r over sorted keys."""
    return 6 * prod(g)


@register(ops.relu_affinity_backward)
def relu_affinity_backward(
    grad_y: Shape, a: Shape, b: Shape, g: Shape, need_keys: bool, need_g: bool, *args: Any, **kwargs: Any
) -> int:
    """As much as the forward for the gradient of g; 3·B·C·N for each of the keys: a sum w and an inner product."""
    return need_g * relu_affinity_forward(a, b, g) + need_keys * 2 * 3 * prod(g)
