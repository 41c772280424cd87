"""The operators in plain PyTorch: slow, obvious, and the specification that the kernels are tested against.

Legend: B images, K nodes (one per keypoint), H×W positions in cells, N = H·W, C channels. "Accumulation dtype" is
float64 for float64 input and float32 otherwise. Autocast does not reach into these functions: they compute in the
accumulation dtype and return the dtype of their input.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from dgcn_ext.overrides import overridable

_WORD = 0xFFFFFFFF
_PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_PHILOX_KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)  # the golden ratio and √3 − 1, as fractions of 2³²
_PHILOX_ROUNDS = 10


def philox4x32(counter: Tensor, key: Tensor) -> Tensor:
    """Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).

    Args:
        counter: int64 [..., 4], each entry an unsigned 32-bit word.
        key: int64 [..., 2], likewise; its leading dimensions broadcast against those of ``counter``.

    Returns:
        Random bits, int64 [..., 4], each entry an unsigned 32-bit word.
    """
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = key.unbind(-1)
    for _ in range(_PHILOX_ROUNDS):
        # The 64-bit products wrap to negative numbers; masking after the arithmetic shift restores the high word.
        product0, product1 = _PHILOX_MULTIPLIERS[0] * c0, _PHILOX_MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (product1 >> 32 & _WORD) ^ c1 ^ k0,
            product1 & _WORD,
            (product0 >> 32 & _WORD) ^ c3 ^ k1,
            product0 & _WORD,
        )
        k0, k1 = k0 + _PHILOX_KEY_INCREMENTS[0] & _WORD, k1 + _PHILOX_KEY_INCREMENTS[1] & _WORD
    return torch.stack((c0, c1, c2, c3), dim=-1)


def edge_bits(seed: Tensor, num_nodes: int, batch: int = 1, first_sample: int = 0) -> Tensor:
    """The random bits behind each edge of each sample's graph.

    Edge (i, j) of sample n has index e = i·K + j and takes word e mod 4 of Philox at counter (e div 4, 0, n, 0); the
    key is ``seed``, low word first.

    Args:
        seed: int64, 0-dim.
        num_nodes: K.
        batch: number of samples.
        first_sample: n of the first sample; the others follow it.

    Returns:
        int64 [batch, K, K], each entry an unsigned 32-bit word.
    """
    num_edges = num_nodes * num_nodes
    block = torch.arange((num_edges + 3) // 4, device=seed.device)
    sample = first_sample + torch.arange(batch, device=seed.device)
    zero = torch.zeros((), dtype=torch.int64, device=seed.device)
    counter = torch.stack(torch.broadcast_tensors(block, zero, sample[:, None], zero), dim=-1)
    bits = philox4x32(counter, torch.stack((seed & _WORD, seed >> 32 & _WORD)))
    return bits.flatten(1)[:, :num_edges].unflatten(1, (num_nodes, num_nodes))


@overridable
def sample_adjacency(adjacency: Tensor, seed: Tensor, batch: int | None = None, *, first_sample: int = 0) -> Tensor:
    """Draw A_d ~ Bernoulli(A) (Eq. 7); see :func:`dgcn_ext.functional.sample_adjacency`."""
    if batch is None:
        return sample_adjacency(adjacency, seed, 1)[0]
    uniform = (edge_bits(seed, adjacency.shape[0], batch, first_sample) >> 8).double() * 2.0**-24
    return (uniform < adjacency).to(adjacency.dtype)


@overridable
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
    """Graph convolution (Eq. 4, 7, 8) as the paper writes it; see :func:`dgcn_ext.functional.graph_conv`."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    with _without_autocast(x.device.type):
        nodes = x.to(dtype)
        if weight is not None:  # a 1×1 convolution, spelled so that H·W = 0 works too
            nodes = torch.einsum("oi,bihw->bohw", weight.to(dtype), nodes)

        adjacency = adjacency.to(dtype)
        if seed is not None:
            batch = x.shape[0] if per_sample else None
            adjacency = sample_adjacency(adjacency, seed, batch, first_sample=first_sample)
        mixing = edge_softmax(edge_weight.to(dtype), adjacency, semantics)
        mixing = mixing.expand(x.shape[0], *mixing.shape[-2:])
        y = torch.einsum("bihw,bij->bjhw" if aggregate == "source" else "bjhw,bij->bihw", nodes, mixing)

        if bias is not None:
            y = y + bias.to(dtype)[:, None, None]
        if activation == "relu":
            y = y.relu()
        if residual is not None:
            y = y + residual.to(dtype)
        return y.to(x.dtype)


def edge_softmax(edge_weight: Tensor, adjacency: Tensor, semantics: str = "literal") -> Tensor:
    """S = softmax over each row of W_d ⊙ A (Eq. 8).

    Args:
        edge_weight: W_d [K, K].
        adjacency: A [K, K] or [B, K, K].
        semantics: "literal", an absent edge has logit 0; "mask", it has logit −∞, and a row without edges is zero.

    Returns:
        S, the shape of ``adjacency``.
    """
    logits = edge_weight * adjacency
    if semantics == "literal":
        return logits.softmax(-1)
    present = adjacency != 0
    # A row without edges goes through the softmax whole and is cleared after it: no NaN, in the gradient neither.
    isolated = ~present.any(-1, keepdim=True)
    return logits.masked_fill(~(present | isolated), -torch.inf).softmax(-1) * present


def normalized_adjacency(adjacency: Tensor) -> Tensor:
    """Ã = D^-½ A D^-½ (Eq. 4), D the diagonal matrix of the sums of A's rows.

    A is taken as it is: no edge from a node to itself is added. Where a row of A is zero, row and column of Ã are, too.

    Args:
        adjacency: A [K, K], entries at least 0.

    Returns:
        Ã [K, K].
    """
    degree = adjacency.sum(-1)
    scale = torch.where(degree > 0, degree, torch.inf).rsqrt()
    return scale[:, None] * adjacency * scale


@overridable
def relu_affinity(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
    """The non-local layer's aggregation y_i = Σ_j ReLU(a_i + b_j) g_j / N (Zhao et al. 2019), with its N×N matrix.

    Args:
        a: w_θ·θ_i, [B, N].
        b: w_φ·φ_j, [B, N].
        g: [B, C, N].

    Returns:
        y [B, C, N] in the dtype of ``g``.
    """
    dtype = torch.float64 if g.dtype == torch.float64 else torch.float32
    with _without_autocast(g.device.type):
        affinity = (b.to(dtype)[:, :, None] + a.to(dtype)[:, None, :]).relu()  # [B, N (j), N (i)]
        return (g.to(dtype) @ affinity / g.shape[-1]).to(g.dtype)


def _without_autocast(device_type: str) -> AbstractContextManager[object]:
    return nullcontext() if device_type == "meta" else torch.autocast(device_type, enabled=False)
