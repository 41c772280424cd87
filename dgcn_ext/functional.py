"""The compiled operators, with their arguments checked.

Legend: B images, K nodes (one per keypoint, the channels of x), H×W positions in cells of the feature map. The
"accumulation dtype" is float64 for float64 features and float32 otherwise.
"""

from contextlib import suppress

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

import dgcn_ext
from dgcn_ext.arguments import check_flag
from dgcn_ext.checks import (
    check_adjacency,
    check_batch,
    check_device_type,
    check_feature_dtype,
    check_first_sample,
    check_graph_conv,
    check_has_no_gradient,
    check_is_tensor,
    check_option,
    check_parameter,
    check_seed,
)
from dgcn_ext.overrides import overridable

__all__ = ["graph_conv", "relu_affinity", "sample_adjacency"]

# This module imports without the compiled operators, too: `dgcn_ext.ops` below then raises ImportError in the call.
with suppress(ImportError):
    import dgcn_ext.flops  # registers its formulas

_AUTOCAST_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# The operators' flags.
_MASK = {"literal": False, "mask": True}
_TARGET = {"source": False, "target": True}
_RELU = {"relu": True, "none": False}


def graph_conv(
    x: Tensor,
    edge_weight: Tensor,
    adjacency: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    seed: Tensor | None = None,
    per_sample: bool = False,
    first_sample: int = 0,
    semantics: str = "literal",
    aggregate: str = "source",
    activation: str = "relu",
) -> Tensor:
    """Graph convolution over keypoint channels (Eq. 4, 7, 8), folded into one K×K product per position::

        y = act(X W' S + b) (+ residual),   S = softmax over each row of W_d ⊙ A

    Equivalent to::

        a = adjacency if seed is None else sample_adjacency(adjacency, seed)
        s = torch.softmax(edge_weight * a, dim=-1)
        y = torch.einsum("bihw,ij->bjhw", torch.nn.functional.conv2d(x, weight[:, :, None, None]), s)
        y = torch.relu(y + bias[:, None, None]) + residual

    :func:`dgcn_ext.reference.graph_conv` is the same in full. Differentiable once, in reverse mode, with respect to
    ``x``, ``edge_weight``, ``weight``, ``bias`` and ``residual``. ``torch.vmap`` maps over any of the tensors; with one
    ``seed`` for all elements it draws the same graphs for each.

    Args:
        x: features X [B, K, H, W], float64, float32, bfloat16 or float16. Contiguous and channels_last tensors are read
            as they are. B, H and W may be 0. Under autocast ``x`` and ``residual`` are cast as ``conv2d`` casts them.
        edge_weight: W_d [K, K].
        adjacency: A [K, K], probabilities or weights in [0, 1]; takes no gradient.
        weight: W [K (out), K (in)] of the 1×1 convolution; None stands for the identity.
        bias: b [K]; None for none.
        residual: [B, K, H, W], dtype of ``x``, added after the activation; None for none.
        seed: int64, 0-dim, on the device of ``x``: draws A_d ~ Bernoulli(A) (Eq. 7) and uses it in the place of A; the
            same seed draws the same graph, on every device. None uses A as it is.
        per_sample: with a ``seed``, one draw per image rather than one for the batch (the paper).
        first_sample: number of the first image, of which each ``per_sample`` draw is a function. A part of a batch that
            starts at image b gets the draws of the whole batch with b. Without ``per_sample`` it has no effect.
        semantics: what an absent edge (A_ij = 0) means. "literal": logit 0, so it still gets weight e⁰ (Eq. 8 as it is
            written); "mask": logit −∞, and a row without edges is zero.
        aggregate: "source": y_j = Σ_i (Wx)_i S_ij, the paper's product X·S; "target": y_i = Σ_j S_ij (Wx)_j.
        activation: "relu" (σ of Eq. 8) or "none".

    Parameters of any floating dtype are cast to the accumulation dtype; so is A, before the draw.

    Returns:
        y [B, K, H, W] in the dtype and memory format of ``x``.

    Raises:
        TypeError: an argument that is not a dense tensor, or of the wrong dtype; a ``per_sample`` that is not a bool; a
            ``first_sample`` that is not an integer.
        ValueError: a wrong shape, device or option, an ``adjacency`` that requires a gradient, or a ``first_sample``
            below 0 or so large that the number of an image does not fit into 32 bits.
        RuntimeError: ``adjacency`` outside [0, 1] or NaN (on the CPU only; looking would make a GPU wait), CUDA tensors
            in an installation without CUDA kernels, or a second derivative.
        NotImplementedError: a derivative in forward mode (``jvp``, ``jacfwd``).
    """
    tensors = (x, edge_weight, adjacency, weight, bias, residual, seed)
    if has_torch_function(tensors):  # what @overridable does, without the 0.5 µs of its wrapper
        return handle_torch_function(
            graph_conv,
            tensors,
            *tensors[:-1],
            seed=seed,
            per_sample=per_sample,
            first_sample=first_sample,
            semantics=semantics,
            aggregate=aggregate,
            activation=activation,
        )
    # The operator checks its arguments itself, and a second check takes longer than the arithmetic of a small call. So
    # check_graph_conv() runs only after a failure, for its better message. Two kinds of checks come before the call: of
    # per_sample, first_sample and the gradient of adjacency, which the operator does not check; and of types under
    # torch.compile, because tracing a value that is not a tensor fails with a message of torch's own.
    if torch.compiler.is_compiling():
        for name, value in (("x", x), ("edge_weight", edge_weight), ("adjacency", adjacency)):
            check_is_tensor(name, value)
        for name, optional in (("weight", weight), ("bias", bias), ("residual", residual)):
            if optional is not None:
                check_is_tensor(name, optional)
        if seed is not None:
            check_seed(seed, x)
    try:
        check_has_no_gradient("adjacency", adjacency)
        check_flag("per_sample", per_sample)
        check_first_sample(first_sample)
        autocast_dtype = _autocast_dtype(x)
        if autocast_dtype is not None:
            x = _autocast(x, autocast_dtype)
            residual = None if residual is None else _autocast(residual, autocast_dtype)
        if residual is x:  # torch.compile refuses the same tensor twice
            residual = x.view_as(x)
        dtype = _accumulation_dtype(x.dtype)
        edge_weight, adjacency = _parameter(edge_weight, dtype), _parameter(adjacency, dtype)
        weight = None if weight is None else _parameter(weight, dtype)
        bias = None if bias is None else _parameter(bias, dtype)
        mask, target, relu = _MASK[semantics], _TARGET[aggregate], _RELU[activation]
        return dgcn_ext.ops.graph_conv(
            x, edge_weight, adjacency, weight, bias, residual, seed, per_sample, mask, target, relu, first_sample
        )
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        try:
            check_option("semantics", semantics, _MASK)
            check_option("aggregate", aggregate, _TARGET)
            check_option("activation", activation, _RELU)
            check_graph_conv(x, edge_weight, adjacency, weight, bias, residual, seed)
            check_first_sample(first_sample, x.shape[0] if per_sample and seed is not None else 1)
        except (TypeError, ValueError, RuntimeError) as error:
            raise error from None
        raise


@overridable
def sample_adjacency(adjacency: Tensor, seed: Tensor, batch: int | None = None, *, first_sample: int = 0) -> Tensor:
    """Draw A_d ~ Bernoulli(A) (Eq. 7): the graph that :func:`graph_conv` uses for the same ``seed``.

    The bits are those of Philox4x32-10 keyed by ``seed`` (low word first): edge e = i·K + j of image n takes word
    e mod 4 at counter (e div 4, 0, n, 0), and is present iff (word >> 8)·2⁻²⁴ < A_ij. Probability 1 is thus always
    present, probability 0 never, and every device draws the same graph.

    Equivalent to: ``torch.bernoulli(adjacency)``, with a generator that is only a function of ``seed``.

    Args:
        adjacency: A [K, K] of any floating dtype, probabilities in [0, 1]. ``graph_conv`` draws after the cast to its
            accumulation dtype; float64 probabilities with float32 features are the only case where that can matter.
        seed: int64, 0-dim, on the device of ``adjacency``.
        batch: None for the one draw that ``graph_conv`` shares over the batch; B for those of ``per_sample=True``.
        first_sample: n of the first of B images, as in ``graph_conv``. Without ``batch`` n is 0.

    Returns:
        0/1 [K, K], or [B, K, K] with ``batch``, in the dtype of ``adjacency``.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: a wrong shape or device, a ``batch`` or ``first_sample`` out of range, or an ``adjacency`` that
            requires a gradient.
        RuntimeError: as for :func:`graph_conv`.
    """
    check_adjacency(adjacency)
    check_device_type("adjacency", adjacency)
    check_has_no_gradient("adjacency", adjacency)
    check_seed(seed, adjacency)
    if batch is not None:
        check_batch(batch)
    check_first_sample(first_sample, 1 if batch is None else batch)
    probability = adjacency.to(_accumulation_dtype(adjacency.dtype)).contiguous()
    return dgcn_ext.ops.sample_adjacency(probability, seed, batch, first_sample).to(adjacency.dtype)


@overridable
def relu_affinity(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
    """The non-local layer's aggregation (Zhao et al. 2019), exactly, without its N×N matrix::

        y_i = (1/N) Σ_j relu(a_i + b_j) g_j

    Equivalent to: ``g @ torch.relu(b[:, :, None] + a[:, None, :]) / N``, in O(N log N + N·C) time and O(N·C) memory:
    the positions that ReLU lets through to i are those of the largest b. The sums are held in float64.
    :func:`dgcn_ext.reference.relu_affinity` is the dense form. Differentiable once, in reverse mode, with respect to
    ``a``, ``b`` and ``g``; ReLU's gradient is 0 where a_i + b_j = 0. ``torch.vmap`` maps over any of them.

    Args:
        a: keys w_θ·θ_i [B, N], any floating dtype.
        b: keys w_φ·φ_j [B, N], any floating dtype.
        g: features [B, C, N], float64, float32, bfloat16 or float16, of any strides: contiguous tensors and those with
            neighbouring channels (flattened channels_last) are read as they are. Under autocast ``g`` is cast as
            ``conv2d`` casts its input.

    The keys are cast to the accumulation dtype and never to a narrower one, not even under autocast: the sign of
    a_i + b_j depends on their last digits. B, C and N may be 0.

    NaN is passed on as in the dense form: a_i to y_i, b_j to all of an image, g_j to all of a channel. Infinite input
    gives results that are not finite where the dense form's are not.

    Returns:
        y [B, C, N] in the dtype of ``g``, and in its layout where that is dense.

    Raises:
        TypeError: an argument that is not a dense tensor, or of the wrong dtype.
        ValueError: a wrong shape or device.
        RuntimeError: CUDA tensors in an installation without CUDA kernels, or a second derivative.
        NotImplementedError: a derivative in forward mode (``jvp``, ``jacfwd``).
    """
    check_is_tensor("g", g)
    if g.dim() != 3:
        raise ValueError(f"g must have shape [B, C, N], got {list(g.shape)}")
    check_device_type("g", g)
    autocast_dtype = _autocast_dtype(g)
    g = g if autocast_dtype is None else _autocast(g, autocast_dtype)
    check_feature_dtype("g", g)

    def keys(name: str, value: Tensor) -> Tensor:
        check_parameter(name, value, (g.shape[0], g.shape[2]), "g", g)
        return value.to(_accumulation_dtype(g.dtype)).contiguous()

    a, b = keys("a", a), keys("b", b)
    if b is a:  # torch.compile refuses the same tensor twice
        b = a.view_as(a)
    return dgcn_ext.ops.relu_affinity(a, b, g)


def _parameter(value: Tensor, dtype: torch.dtype) -> Tensor:
    """In the dtype and layout of the operators. What is not floating stays as it is: they refuse it."""
    if value.dtype != dtype and value.is_floating_point():
        value = value.to(dtype)
    return value.contiguous()


def _accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _autocast_dtype(features: Tensor) -> torch.dtype | None:
    """The dtype that autocast casts ``features`` to; None without autocast."""
    device_type = "cuda" if features.is_cuda else "cpu"
    if features.is_meta or not torch.is_autocast_enabled(device_type):
        return None
    return torch.get_autocast_dtype(device_type)


def _autocast(features: Tensor, dtype: torch.dtype) -> Tensor:
    """``features`` as ``conv2d`` takes them under autocast to ``dtype``: float64 and integers are left alone."""
    return features if features.dtype not in _AUTOCAST_DTYPES else features.to(dtype)
