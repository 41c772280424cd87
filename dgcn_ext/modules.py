"""The dynamic graph convolution module of Fig. 2, in plain PyTorch (:class:`DGCM`) and on the compiled operators
(:class:`DGCMFused`): same constructor, ``state_dict``, outputs and random graphs.

The paper does not list the module's layers. Those here are consistent with its Table 4: every model size in it follows
from them.

Legend: B images, K nodes (keypoints), H×W positions in cells, N = H·W, C channels of the backbone feature F_s.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dgcn_ext import functional, reference
from dgcn_ext.checks import check_adjacency, check_option

_LARGEST_SEED = 2**63 - 1


class GraphConv(nn.Module):
    """Graph convolution over keypoint channels, ReLU(X W' S + b), with its parameters and its graph (Eq. 7, 8)."""

    graph_conv = staticmethod(reference.graph_conv)

    adjacency: Tensor

    def __init__(
        self, adjacency: Tensor, *, dynamic: bool, semantics: str, aggregate: str, eval_graph: str, per_sample: bool
    ) -> None:
        super().__init__()
        check_adjacency(adjacency)
        _check_probabilities(adjacency)
        check_option("semantics", semantics, ("literal", "mask"))
        check_option("aggregate", aggregate, ("source", "target"))
        check_option("eval_graph", eval_graph, ("ones", "soft"))
        self.dynamic = dynamic
        self.semantics = semantics
        self.aggregate = aggregate
        self.eval_graph = eval_graph
        self.per_sample = per_sample
        num_nodes = len(adjacency)
        self.weight = nn.Parameter(torch.empty(num_nodes, num_nodes))
        self.bias = nn.Parameter(torch.empty(num_nodes))
        self.edge_weight = nn.Parameter(torch.empty(num_nodes, num_nodes))
        self.register_buffer("adjacency", adjacency.detach().to(self.edge_weight, copy=True))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """W and b as ``nn.Conv2d`` starts them, W_d = ln(K−1)·I.

        The softmax then gives a node half of its own row. Under the literal semantics that holds whichever edges are
        drawn, so training starts without a gap to the all-ones graph of inference. A constant W_d would make all K
        outputs of inference the same.
        """
        num_nodes = len(self.bias)
        bound = 1 / math.sqrt(num_nodes)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)
        with torch.no_grad():
            self.edge_weight.zero_().fill_diagonal_(math.log(num_nodes - 1) if num_nodes > 1 else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the nodes [B, K, H, W] -> the same after the graph convolution."""
        drawn = self.dynamic and self.training
        return self.graph_conv(
            x,
            self.edge_weight,
            self.adjacency if drawn else self.frozen_adjacency(),
            self.weight,
            self.bias,
            seed=torch.randint(_LARGEST_SEED, (), device=x.device) if drawn else None,
            per_sample=self.per_sample,
            semantics=self.semantics,
            aggregate=self.aggregate,
        )

    def frozen_adjacency(self) -> Tensor:
        """The graph [K, K] where none is drawn: A of a static graph, and what ``eval_graph`` names of a dynamic one."""
        return torch.ones_like(self.adjacency) if self.dynamic and self.eval_graph == "ones" else self.adjacency

    @torch.no_grad()
    def fold(self) -> nn.Sequential:
        """The 1×1 convolution and ReLU that this layer is while its graph is frozen: W and S in one matrix."""
        mixing = reference.edge_softmax(self.edge_weight.double(), self.frozen_adjacency().double(), self.semantics)
        folded = (mixing.T if self.aggregate == "source" else mixing) @ self.weight.double()
        conv = nn.Conv2d(len(self.bias), len(self.bias), 1)
        conv.weight = nn.Parameter(folded[:, :, None, None].to(self.weight))
        conv.bias = nn.Parameter(self.bias.clone())
        return nn.Sequential(conv, nn.ReLU())

    def extra_repr(self) -> str:
        graph = f"eval_graph={self.eval_graph!r}, per_sample={self.per_sample}" if self.dynamic else "dynamic=False"
        return f"{len(self.bias)}, semantics={self.semantics!r}, aggregate={self.aggregate!r}, {graph}"


class GraphConvFused(GraphConv):
    """:class:`GraphConv` on the compiled operator."""

    graph_conv = staticmethod(functional.graph_conv)


class NonLocal(nn.Module):
    """SemGCN's non-local layer (Zhao et al. 2019): z = x + BN(conv(y)), y_i = Σ_j ReLU(w_θ·θ_i + w_φ·φ_j) g_j / N.

    θ, φ and g are 1×1 convolutions to half the channels. BN starts at γ = 0, so the layer starts as the identity.

    Args:
        channels: of x, at least 2.
    """

    relu_affinity = staticmethod(reference.relu_affinity)

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // 2
        self.theta = nn.Conv2d(channels, hidden, 1)
        self.phi = nn.Conv2d(channels, hidden, 1)
        self.g = nn.Conv2d(channels, hidden, 1)
        self.affinity = nn.Conv2d(2 * hidden, 1, 1, bias=False)  # (w_θ, w_φ), over θ and φ concatenated
        norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(norm.weight)
        self.out = nn.Sequential(nn.Conv2d(hidden, channels, 1), norm)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape. Here the affinity matrix takes N² floats an image."""
        w_theta, w_phi = self.affinity.weight.flatten(1).chunk(2, dim=1)
        a = _project(x, self.theta, w_theta)
        b = _project(x, self.phi, w_phi)
        y = self.relu_affinity(a.flatten(1), b.flatten(1), self.g(x).flatten(2))
        return x + self.out(y.unflatten(2, x.shape[2:]))


class NonLocalFused(NonLocal):
    """:class:`NonLocal` on the compiled operator, in memory linear in N."""

    relu_affinity = staticmethod(functional.relu_affinity)


class DGCM(nn.Module):
    """Dynamic graph convolution module (Fig. 2) in plain PyTorch: C channels to K nodes, their graph, and back.

        h = NonLocal(ReLU(BN(conv(x))))        lift to ``lift_channels``
        node_logits = conv(h)                  kmap: one keypoint confidence map a node
        features = x + BN(conv(ReLU(node_logits W' S + b)))

    Args:
        in_channels: C.
        adjacency: A [K, K] in [0, 1]; kept as a buffer, in the ``state_dict``.
        lift_channels: width of the lifted features; at least 2 with ``non_local``.
        non_local: whether the non-local layer is there.
        dynamic: draw a new graph A_d ~ Bernoulli(A) in each training forward (Eq. 7); False uses A as it is, always.
        semantics, aggregate: as in :func:`dgcn_ext.functional.graph_conv`.
        eval_graph: what a dynamic graph is frozen to in ``eval()``: "ones" (the paper) or "soft", A itself.
        per_sample: draw one graph per image rather than one for the batch.

    In training the seed of each graph comes from torch's default generator for the device of x, so
    ``torch.manual_seed`` makes runs repeat.

    Raises:
        TypeError, ValueError: an argument out of the above.
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
        semantics: str = "literal",
        aggregate: str = "source",
        eval_graph: str = "ones",
        per_sample: bool = False,
    ) -> None:
        super().__init__()
        _check_at_least("in_channels", in_channels, 1)
        _check_at_least("lift_channels", lift_channels, 2 if non_local else 1)
        graph_conv = self.graph_layer(
            adjacency,
            dynamic=dynamic,
            semantics=semantics,
            aggregate=aggregate,
            eval_graph=eval_graph,
            per_sample=per_sample,
        )
        num_nodes = len(adjacency)
        self.lift = nn.Sequential(
            nn.Conv2d(in_channels, lift_channels, 1, bias=False), nn.BatchNorm2d(lift_channels), nn.ReLU(inplace=True)
        )
        self.non_local = self.non_local_layer(lift_channels) if non_local else nn.Identity()
        self.kmap = nn.Conv2d(lift_channels, num_nodes, 1)
        self.graph_conv = graph_conv
        self.expand = nn.Sequential(nn.Conv2d(num_nodes, in_channels, 1, bias=False), nn.BatchNorm2d(in_channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, C, H, W] -> (features [B, C, H, W], node_logits [B, K, H, W])."""
        node_logits = self.kmap(self.non_local(self.lift(x)))
        return x + self.expand(self.graph_conv(node_logits)), node_logits

    def fold(self) -> "DGCM":
        """A copy for inference that computes what this module does in ``eval()``, without graph or batch norm.

        The frozen graph's S is folded with W into one 1×1 convolution, each batch norm into the convolution before it.
        """
        folded = copy.deepcopy(self).eval()
        _fold_children(folded)
        return folded


class DGCMFused(DGCM):
    """:class:`DGCM` on the compiled operators."""

    graph_layer = GraphConvFused
    non_local_layer = NonLocalFused


def _project(x: Tensor, conv: nn.Conv2d, direction: Tensor) -> Tensor:
    """direction · conv(x) as one convolution to one channel; direction [1, C'], conv C -> C', result [B, 1, H, W]."""
    weight, bias = conv.parameters()
    return conv2d(x, (direction @ weight.flatten(1))[:, :, None, None], direction @ bias)


def _fold_children(module: nn.Module) -> None:
    for name, child in module.named_children():
        match [child, *child.children()]:
            case [GraphConv() as graph]:
                setattr(module, name, graph.fold())
            case [nn.Sequential(), nn.Conv2d() as conv, nn.BatchNorm2d() as norm, *rest]:
                setattr(module, name, nn.Sequential(fuse_conv_bn_eval(conv, norm), *rest))
            case _:
                _fold_children(child)


def _check_probabilities(adjacency: Tensor) -> None:
    if not adjacency.is_meta and not ((adjacency >= 0) & (adjacency <= 1)).all():
        low, high = adjacency.aminmax()
        raise ValueError(f"adjacency must be in [0, 1], got values from {low:g} to {high:g}")


def _check_at_least(name: str, value: int, minimum: int) -> None:
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
