"""The modules of :mod:`dgcn_ext.modules` on the compiled operators: same constructors, ``state_dict`` and results."""

from dgcn_ext import functional
from dgcn_ext.modules import DGCM, GraphConv, NonLocal


class GraphConvFused(GraphConv):
    """:class:`GraphConv` on the compiled operator."""

    graph_conv = staticmethod(functional.graph_conv)


class NonLocalFused(NonLocal):
    """:class:`NonLocal` on the compiled operator, in memory linear in N."""

    relu_affinity = staticmethod(functional.relu_affinity)


class DGCMFused(DGCM):
    """:class:`DGCM` on the compiled operators."""

    graph_layer = GraphConvFused
    non_local_layer = NonLocalFused
