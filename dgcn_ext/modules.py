"""The dynamic graph convolution module of Fig. 2 and its layers, in plain PyTorch.

Subclasses put other operators in their place by the class attributes ``graph_conv``, ``relu_affinity``, ``graph_layer``
and ``non_local_layer``; :mod:`dgcn_ext.fused` does.

The paper does not list the module's layers. Those here are consistent with its Table 4: every model size in it follows
from them.

Legend: B images, K nodes (keypoints), H×W positions in cells, N = H·W, C channels of the backbone feature F_s.
"""

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad
from torch.nn.utils import skip_init

from dgcn_ext import reference
from dgcn_ext.adjacency import AdjacencyModule
from dgcn_ext.arguments import check_at_least, check_flag, check_integer
from dgcn_ext.checks import check_is_tensor, check_option, check_seed
from dgcn_ext.folding import computes_the_same, inference_copy, merge_norms, read_convolution
from dgcn_ext.lazy import lazy_attributes
from dgcn_ext.overrides import overridable

# Where the fused modules were before dgcn_ext.fused: modules that were pickled whole are still looked for here.
__getattr__, __dir__ = lazy_attributes(globals(), {"fused": ["DGCMFused", "GraphConvFused", "NonLocalFused"]})

_LARGEST_SEED = 2**63 - 1
_LARGEST_SAMPLE = 2**32 - 1


class GraphConv(AdjacencyModule):
    """Graph convolution over keypoint channels, ReLU(X W' S + b), with its parameters and its graph (Eq. 4, 7, 8).

    Args:
        adjacency: A [K, K] in [0, 1]; kept as a buffer, in the ``state_dict``.
        dynamic: draw a new graph A_d ~ Bernoulli(A) in each training forward (Eq. 7); False uses A as it is, always.
        propagation: "eq8": S is the softmax over each row of W_d ⊙ A; "eq4": S is Ã = D^-½ A D^-½, D the sums of A's
            rows. Eq. 4 is of static graphs: it needs ``dynamic=False``, and has no W_d (``edge_weight`` is None). A is
            taken as it is: an edge from a node to itself is its 1 on the diagonal.
        semantics: of "eq8", as in :func:`dgcn_ext.functional.graph_conv`.
        aggregate: as there.
        eval_graph: what a dynamic graph is frozen to in ``eval()``: "ones" (the paper) or "soft", A itself.
        per_sample: draw one graph per image rather than one for the batch.
        device, dtype: of the parameters and the buffer, as in ``torch.nn``.

    The attribute ``first_sample``, 0 at the start, is the number of the first image of x. The draws of ``per_sample``
    are functions of the seed and the number of the image. So where processes or steps of gradient accumulation have
    parts of one batch, each sets it before a forward, and every image gets the graph that it has in the whole batch.

    :class:`dgcn_ext.adjacency.AdjacencyModule` says how the graph comes through a start on the meta device.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of range.
    """

    graph_conv = staticmethod(reference.graph_conv)
    edge_weight: nn.Parameter | None  # None: Eq. 4
    first_sample = 0

    def __init__(
        self,
        adjacency: Tensor,
        *,
        dynamic: bool = True,
        propagation: str = "eq8",
        semantics: str = "literal",
        aggregate: str = "source",
        eval_graph: str = "ones",
        per_sample: bool = False,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(adjacency, device=device, dtype=dtype)
        check_flag("dynamic", dynamic)
        check_option("propagation", propagation, ("eq8", "eq4"))
        if propagation == "eq4" and dynamic:
            raise ValueError("dynamic must be False with propagation='eq4', which is of static graphs, got True")
        check_option("semantics", semantics, ("literal", "mask"))
        check_option("aggregate", aggregate, ("source", "target"))
        check_option("eval_graph", eval_graph, ("ones", "soft"))
        check_flag("per_sample", per_sample)
        self.dynamic = dynamic
        self.semantics = semantics
        self.aggregate = aggregate
        self.eval_graph = eval_graph
        self.per_sample = per_sample
        num_nodes = len(adjacency)
        self.weight = nn.Parameter(torch.empty(num_nodes, num_nodes, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(num_nodes, device=device, dtype=dtype))
        edge_weight = nn.Parameter(torch.empty(num_nodes, num_nodes, device=device, dtype=dtype))
        self.register_parameter("edge_weight", edge_weight if propagation == "eq8" else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """W and b as ``nn.Conv2d`` starts them, W_d = ln(K−1)·I.

        The softmax then gives a node half of its own row. Under the literal semantics that holds whichever edges are
        drawn, so training starts without a gap to the all-ones graph of inference. A constant W_d would make all K
        outputs of inference the same.
        """
        num_nodes = len(self.adjacency)
        bound = 1 / math.sqrt(num_nodes)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:  # users may take it away, as from nn.Conv2d
            nn.init.uniform_(self.bias, -bound, bound)
        if self.edge_weight is None:
            return
        with torch.no_grad():  # with functions that DTensor implements
            diagonal = torch.full_like(self.edge_weight[0], math.log(num_nodes - 1) if num_nodes > 1 else 0.0)
            self.edge_weight.copy_(torch.diag_embed(diagonal))

    def forward(self, x: Tensor, seed: Tensor | int | None = None) -> Tensor:
        """Features of the nodes [B, K, H, W] -> the same after the graph convolution.

        Args:
            x: the features.
            seed: of the graph that is drawn, 0-dim int64 on the device of x, or a number; None takes it from torch's
                default generator for the device of x. Where no graph is drawn it changes nothing.
        """
        _check_features(x, "K", len(self.adjacency))
        self.check_adjacency_is_loaded()
        if self.edge_weight is None:
            bias = None if self.bias is None else self.bias.to(x.dtype)
            return conv2d(x, self._matrix().to(x.dtype)[:, :, None, None], bias).relu()
        drawn = self.dynamic and self.training
        return self.graph_conv(
            x,
            self.edge_weight,
            self.adjacency if drawn else self.frozen_adjacency(),
            self.weight,
            self.bias,
            seed=_as_seed(seed, x) if drawn else None,
            per_sample=self.per_sample,
            first_sample=self._checked_first_sample() if drawn and self.per_sample else 0,
            semantics=self.semantics,
            aggregate=self.aggregate,
        )

    def _checked_first_sample(self) -> int:
        compiling = torch.compiler.is_compiling()
        # By default the integers of a module are constants to torch.compile: it would compile for each number. The
        # check is inside, since torch.compile reads the attribute where its value is used.
        with torch._dynamo.patch_dynamo_config(allow_unspec_int_on_nn_module=True) if compiling else nullcontext():
            return check_integer("first_sample", self.first_sample, 0, _LARGEST_SAMPLE)

    def frozen_adjacency(self) -> Tensor:
        """The graph [K, K] where none is drawn: A of a static graph, and what ``eval_graph`` names of a dynamic one."""
        return torch.ones_like(self.adjacency) if self.dynamic and self.eval_graph == "ones" else self.adjacency

    def mixing(self) -> Tensor:
        """S [K, K] where no graph is drawn: β(W_d ⊙ A) of Eq. 8 over ``frozen_adjacency()``, or Ã of Eq. 4."""
        if self.edge_weight is None:
            return reference.normalized_adjacency(self.adjacency)
        return reference.edge_softmax(self.edge_weight, self.frozen_adjacency(), self.semantics)

    def _matrix(self) -> Tensor:
        """W and S as the one matrix of a 1×1 convolution."""
        mixing = self.mixing()
        return (mixing.T if self.aggregate == "source" else mixing) @ self.weight

    @torch.no_grad()
    def fold(self) -> nn.Sequential:
        """The 1×1 convolution and ReLU that this layer is while its graph is frozen: W and S in one matrix.

        It takes a ``seed`` as this layer does. Its parameters require no gradient.

        Raises:
            ValueError: a hook of this layer changes what it computes.
        """
        exact = inference_copy(self).double()
        exact.graph_conv = reference.graph_conv
        num_nodes = len(self.adjacency)
        x = torch.arange(num_nodes * 4, dtype=torch.float64, device=self.adjacency.device).sin().view(1, -1, 2, 2)
        expected = exact(x)  # before the parameters are read: pruning and weight norm recompute them in the call
        weight = exact._matrix()
        if not computes_the_same(expected, conv2d(x, weight[:, :, None, None], exact.bias).relu()):
            raise ValueError("a hook of the graph convolution changes its output: remove it before fold()")
        like: dict[str, Any] = {"device": self.weight.device, "dtype": self.weight.dtype}
        conv = skip_init(nn.Conv2d, num_nodes, num_nodes, 1, bias=exact.bias is not None, **like)
        conv.weight.copy_(weight[:, :, None, None])
        if conv.bias is not None:
            conv.bias.copy_(exact.bias)
        return _FoldedGraphConv(conv.requires_grad_(False), nn.ReLU()).eval()

    def extra_repr(self) -> str:
        graph = f"eval_graph={self.eval_graph!r}, per_sample={self.per_sample}" if self.dynamic else "dynamic=False"
        rule = "propagation='eq4'" if self.edge_weight is None else f"semantics={self.semantics!r}"
        return f"{len(self.adjacency)}, {rule}, aggregate={self.aggregate!r}, {graph}"


class _FoldedGraphConv(nn.Sequential):
    """Takes the ``seed`` argument of :class:`GraphConv`, and ignores it."""

    def forward(self, input: Tensor, seed: Tensor | int | None = None) -> Tensor:
        return super().forward(input)


class ZeroGammaBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that starts at γ = 0, also where ``reset_parameters`` starts it after the meta device."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.zeros_(self.weight)

    def _check_input_dim(self, input: Tensor) -> None:
        """Checks nothing: :class:`NonLocal` checks x. torch.fx traces into this class, and cannot trace the check."""


class NonLocal(nn.Module):
    """SemGCN's non-local layer (Zhao et al. 2019): z = x + BN(conv(y)), y_i = Σ_j ReLU(w_θ·θ_i + w_φ·φ_j) g_j / N.

    θ, φ and g are 1×1 convolutions to half the channels. BN starts at γ = 0, so the layer starts as the identity.

    Args:
        channels: of x, at least 2.
        device, dtype: of the parameters, as in ``torch.nn``.
    """

    relu_affinity = staticmethod(reference.relu_affinity)

    def __init__(
        self, channels: int, *, device: torch.device | str | int | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        channels = check_at_least("channels", channels, 2)
        hidden = channels // 2
        like: dict[str, Any] = {"device": device, "dtype": dtype}
        self.channels = channels
        self.theta = nn.Conv2d(channels, hidden, 1, **like)
        self.phi = nn.Conv2d(channels, hidden, 1, **like)
        self.g = nn.Conv2d(channels, hidden, 1, **like)
        self.affinity = nn.Conv2d(2 * hidden, 1, 1, bias=False, **like)  # (w_θ, w_φ), over θ and φ concatenated
        self.out = nn.Sequential(nn.Conv2d(hidden, channels, 1, **like), ZeroGammaBatchNorm2d(channels, **like))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape. Here the affinity matrix takes N² floats an image."""
        _check_features(x, "C = channels", self.channels)
        a, b = self.keys(x)
        y = self.relu_affinity(a.flatten(1), b.flatten(1), self.values(x))
        return x + self.output(y, x)

    def values(self, x: Tensor) -> Tensor:
        """g_j, [B, C', N]."""
        return self.g(x).flatten(2)

    def output(self, y: Tensor, x: Tensor) -> Tensor:
        """BN(conv(y)) of y [B, C', N], in the shape of x."""
        return self.out(y.unflatten(2, x.shape[2:]))

    def keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """a_i = w_θ·θ_i and b_j = w_φ·φ_j, each [B, 1, H, W].

        The affinity layer is not called with θ and φ, because that takes all N² pairs. It is called with the unit
        vectors instead: the responses are its weights, after pruning, parametrizations, wrappers and hooks.
        """
        theta, phi = self.theta(x), self.phi(x)
        units = theta.new_ones(2 * theta.shape[1]).diag()
        responses = self.affinity(pad(units, (0, 0, 0, 1))[:, :, None, None]).flatten(1)  # [2C' + 1, 1]
        bias = responses[-1]  # to zero: 0, unless the layer was replaced by one with a bias
        w_theta, w_phi = (responses[:-1] - bias).T[:, :, None, None].chunk(2, dim=1)
        return conv2d(theta, w_theta, bias), conv2d(phi, w_phi)

    def fold(self) -> "NonLocal":
        """A copy for inference, without batch norm, in which one convolution each takes x to w_θ·θ and to w_φ·φ."""
        folded = inference_copy(self)
        merge_norms(folded)
        exact = inference_copy(self).double()
        like = next(self.parameters())
        theta = read_convolution(lambda x: exact.keys(x)[0], like, self.channels, 1, 1)
        phi = read_convolution(lambda x: exact.keys(x)[1], like, self.channels, 1, 1)
        if theta is not None and phi is not None:
            folded.theta, folded.phi = theta, phi
            sum_of_both = skip_init(nn.Conv2d, 2, 1, 1, bias=False, device=like.device, dtype=like.dtype)
            nn.init.ones_(sum_of_both.weight)
            folded.affinity = sum_of_both.requires_grad_(False)
        return folded


class DGCM(nn.Module):
    """Dynamic graph convolution module (Fig. 2) in plain PyTorch: C channels to K nodes, their graph, and back.

        h = NonLocal(ReLU(BN(conv(x))))        lift to ``lift_channels``
        node_logits = conv(h)                  kmap: one keypoint confidence map a node
        features = x + BN(conv(ReLU(node_logits W' S + b)))

    Args:
        in_channels: C.
        adjacency: A [K, K] in [0, 1], as in :class:`GraphConv`.
        lift_channels: width of the lifted features; at least 2 with ``non_local``.
        non_local: whether the non-local layer is there.
        dynamic, propagation, semantics, aggregate, eval_graph, per_sample: as in :class:`GraphConv`.
        device, dtype: of the parameters and buffers, as in ``torch.nn``.

    In training the seed of each graph comes from torch's default generator for the device of x, so
    ``torch.manual_seed`` makes runs repeat, unless it is given: ``module(x, seed=seed)``.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of range.
    """

    graph_layer: type[GraphConv] = GraphConv
    non_local_layer: type[NonLocal] = NonLocal

    def __init__(
        self,
        in_channels: int,
        adjacency: Tensor,
        *,
        lift_channels: int = 256,
        non_local: bool = True,
        dynamic: bool = True,
        propagation: str = "eq8",
        semantics: str = "literal",
        aggregate: str = "source",
        eval_graph: str = "ones",
        per_sample: bool = False,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_flag("non_local", non_local)
        in_channels = check_at_least("in_channels", in_channels, 1)
        lift_channels = check_at_least("lift_channels", lift_channels, 2 if non_local else 1)
        like: dict[str, Any] = {"device": device, "dtype": dtype}
        graph_conv = self.graph_layer(
            adjacency,
            dynamic=dynamic,
            propagation=propagation,
            semantics=semantics,
            aggregate=aggregate,
            eval_graph=eval_graph,
            per_sample=per_sample,
            **like,
        )
        num_nodes = len(adjacency)
        self.in_channels = in_channels
        self.lift = nn.Sequential(
            nn.Conv2d(in_channels, lift_channels, 1, bias=False, **like),
            nn.BatchNorm2d(lift_channels, **like),
            nn.ReLU(inplace=True),
        )
        self.non_local = self.non_local_layer(lift_channels, **like) if non_local else nn.Identity()
        self.kmap = nn.Conv2d(lift_channels, num_nodes, 1, **like)
        self.graph_conv = graph_conv
        self.expand = nn.Sequential(
            nn.Conv2d(num_nodes, in_channels, 1, bias=False, **like), nn.BatchNorm2d(in_channels, **like)
        )

    def forward(self, x: Tensor, seed: Tensor | int | None = None) -> tuple[Tensor, Tensor]:
        """x [B, C, H, W] -> (features [B, C, H, W], node_logits [B, K, H, W]); ``seed`` as in :class:`GraphConv`."""
        _check_features(x, "C = in_channels", self.in_channels)
        node_logits = self.kmap(self.non_local(self.lift(x)))
        nodes = self.graph_conv(node_logits) if seed is None else self.graph_conv(node_logits, seed=seed)
        return x + self.expand(nodes), node_logits

    def fold(self) -> "DGCM":
        """A copy for inference that computes what this module does in ``eval()``, without graph or batch norm.

        The frozen graph's S is folded with W into one 1×1 convolution, each batch norm into the convolution before it.
        Pruning, parametrizations and hooks of these layers are folded with them; what is no convolution followed by a
        batch norm with running statistics stays as it is. No parameter of the copy requires a gradient.

        Raises:
            ValueError: a hook of the graph convolution changes what it computes.
        """
        folded = inference_copy(self)
        merge_norms(folded)
        for name, layer in self.named_children():
            if isinstance(layer, (GraphConv, NonLocal)):
                folded.add_module(name, layer.fold())
        return folded


@overridable
def _as_seed(seed: Tensor | int | None, x: Tensor) -> Tensor:
    """``seed`` as the operators take it, 0-dim int64 on the device of x; drawn where it is None."""
    if seed is None:
        return torch.randint(_LARGEST_SEED, (), device=x.device)
    if isinstance(seed, Tensor):
        check_seed(seed, x)
        return seed
    return torch.full((), check_integer("seed", seed, -(2**63), _LARGEST_SEED), dtype=torch.int64, device=x.device)


@overridable
def _check_features(x: Tensor, name: str, channels: int) -> None:
    check_is_tensor("x", x)
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(f"x must have shape [B, {name[0]}, H, W] with {name} = {channels}, got {list(x.shape)}")
