"""What the compiled code computes, written to be read: slow, obvious, and the specification that it is tested against.

    operators   graph_conv, relu_affinity, sample_adjacency and their parts in plain PyTorch
    decoding    decode: the PIF/PAF decoder in numpy
    encoding    encode: the PIF/PAF encoder in numpy

Names load on first use, as those of ``dgcn_ext`` do.
"""

from typing import TYPE_CHECKING

from dgcn_ext.lazy import lazy_attributes

if TYPE_CHECKING:
    from dgcn_ext.reference.decoding import decode, heads_to_fields
    from dgcn_ext.reference.encoding import encode
    from dgcn_ext.reference.operators import (
        edge_bits,
        edge_softmax,
        graph_conv,
        normalized_adjacency,
        philox4x32,
        relu_affinity,
        sample_adjacency,
    )

__all__ = [
    "decode",
    "edge_bits",
    "edge_softmax",
    "encode",
    "graph_conv",
    "heads_to_fields",
    "normalized_adjacency",
    "philox4x32",
    "relu_affinity",
    "sample_adjacency",
]

__getattr__, __dir__ = lazy_attributes(
    globals(),
    {
        "decoding": ["decode", "heads_to_fields"],
        "encoding": ["encode"],
        "operators": [
            "edge_bits",
            "edge_softmax",
            "graph_conv",
            "normalized_adjacency",
            "philox4x32",
            "relu_affinity",
            "sample_adjacency",
        ],
    },
)
