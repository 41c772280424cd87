"""The modules of :mod:`dgcn_ext.modules` on the compiled operators: same constructors, ``state_dict`` and results."""

from torch import Tensor, nn

from dgcn_ext import functional
from dgcn_ext.modules import DGCM, GraphConv, NonLocal
from dgcn_ext.rows import exchange_layout, has_hooks, takes_products


class GraphConvFused(GraphConv):
    """:class:`GraphConv` on the compiled operator."""

    graph_conv = staticmethod(functional.graph_conv)


class NonLocalFused(NonLocal):
    """:class:`NonLocal` on the compiled operator, in memory linear in N."""

    relu_affinity = staticmethod(functional.relu_affinity)

    def values(self, x: Tensor) -> Tensor:
        return exchange_layout(x.flatten(2), self.g, to_rows=True) if takes_products(self.g, x) else super().values(x)

    def output(self, y: Tensor, x: Tensor) -> Tensor:
        if type(self.out) is nn.Sequential and not has_hooks(self.out) and takes_products(conv := self.out[0], x):
            z = exchange_layout(y, conv, to_rows=False).unflatten(2, x.shape[2:])
            for layer in self.out[1:]:
                z = layer(z)
            return z
        return super().output(y, x)


class DGCMFused(DGCM):
    """:class:`DGCM` on the compiled operators."""

    graph_layer = GraphConvFused
    non_local_layer = NonLocalFused
