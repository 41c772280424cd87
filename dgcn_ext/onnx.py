"""The operators in ONNX, for the exporter of PyTorch::

    torch.onnx.export(module.eval(), (x,), "module.onnx", dynamo=True,
                      custom_translation_table=dgcn_ext.onnx.translation_table())

Needs onnx and onnxscript. The file needs neither them nor this package: its operators are those of ONNX, opset 18.
"""

from collections.abc import Callable
from typing import Any

import torch

from dgcn_ext import ops

try:
    from onnxscript import BOOL, DOUBLE, INT64, opset18
except ImportError as error:
    raise ImportError(f"dgcn_ext.onnx needs onnx and onnxscript ({error}): `pip install onnx onnxscript`") from error

op: Any = opset18  # annotated for numpy arrays; here its functions are given values of the graph and numbers


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The argument ``custom_translation_table`` of ``torch.onnx.export``: how each operator is written in ONNX.

    Any dimension may be dynamic. Results equal those of the operators within float tolerance.

    There is no translation for random graphs, neither of ``graph_conv`` with a seed nor of ``sample_adjacency``: export
    modules in ``eval()``. Where a key of ``relu_affinity`` is NaN, the result is what the runtime's TopK makes of it.
    """
    return {ops.graph_conv_forward: _graph_conv, ops.relu_affinity_forward: _relu_affinity}


def _graph_conv(
    x: Any,
    edge_weight: Any,
    adjacency: Any,
    weight: Any | None,
    bias: Any | None,
    residual: Any | None,
    seed: Any | None,
    per_sample: bool,
    mask: bool,
    target: bool,
    relu: bool,
    first_sample: int = 0,
) -> Any:
    """The folded matrix of W and S is computed in the graph, from constants: runtimes do it once, when they load it."""
    if seed is not None:
        raise ValueError("a graph that is drawn at random cannot be exported to ONNX: call eval() on the module first")
    logits = op.Mul(edge_weight, adjacency)
    if mask:
        present = op.Cast(adjacency, to=BOOL.dtype)
        # Not −∞: the softmax of a row without edges would be NaN. This way it is uniform, and zero after the product.
        logits = op.Where(present, logits, op.CastLike(torch.finfo(torch.float32).min, logits))
        mixing = op.Mul(op.Softmax(logits, axis=-1), op.CastLike(present, logits))
    else:
        mixing = op.Softmax(logits, axis=-1)
    folded = mixing if target else op.Transpose(mixing, perm=[1, 0])
    if weight is not None:
        folded = op.MatMul(folded, weight)
    features = op.CastLike(x, edge_weight)  # half precision is accumulated in float32
    y = op.Conv(features, op.Unsqueeze(folded, [2, 3]), bias)
    if relu:
        y = op.Relu(y)
    if residual is not None:
        y = op.Add(y, op.CastLike(residual, y))
    return op.CastLike(y, x)


def _relu_affinity(a: Any, b: Any, g: Any) -> Any:
    """y_i = (1/N) Σ_j relu(a_i + b_j) g_j from prefix sums over the sorted b, in memory linear in N.

    With b_(1) ≥ b_(2) ≥ … and k of them above −a_i, N y_i = Σ_{j ≤ k} b_(j) g_(j) + a_i Σ_{j ≤ k} g_(j). The two sums
    cancel where the keys are large beside a_i + b_j. float64 has the digits for that: a float32 key has half as many.
    """
    n = op.Shape(b, start=1, end=2)
    sorted_b, order = op.TopK(b, n, axis=1)
    # k for all i at once: b and −a are sorted together, the b up to each place are counted, and the counts scattered
    # back to where the −a came from. Where b_j = −a_i the term is 0, so it does not matter which of them sorts first.
    _, places = op.TopK(op.Concat(b, op.Neg(a), axis=1), op.Add(n, n), axis=1)
    count = op.CumSum(op.Cast(op.Less(places, n), to=INT64.dtype), 1)
    k = op.Slice(op.ScatterElements(count, places, count, axis=1), n, op.Add(n, n), [1])

    def rows(table: Any, index: Any) -> Any:
        """table [B, M, C], index [B, N] into its rows -> [B, N, C]."""
        return op.GatherND(table, op.Unsqueeze(index, [2]), batch_dims=1)

    def sum_up_to_k(terms: Any) -> Any:
        first_zero = op.Pad(terms, [0, 1, 0, 0, 0, 0])  # for k = 0
        return rows(op.CumSum(first_zero, 1), k)

    def double(value: Any) -> Any:
        return op.Cast(value, to=DOUBLE.dtype)

    features = double(rows(op.Transpose(g, perm=[0, 2, 1]), order))
    weighted = op.Mul(double(op.Unsqueeze(sorted_b, [2])), features)
    y = op.Add(sum_up_to_k(weighted), op.Mul(double(op.Unsqueeze(a, [2])), sum_up_to_k(features)))
    return op.CastLike(op.Transpose(op.Div(y, double(n)), perm=[0, 2, 1]), g)
