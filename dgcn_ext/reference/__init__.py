"""What the compiled code computes, written to be read: slow, obvious, and the specification that it is tested against.

    operators   graph_conv, relu_affinity, sample_adjacency and their parts in plain PyTorch
    decoding    decode: the PIF/PAF decoder in numpy
    encoding    encode: the PIF/PAF encoder in numpy

Names load on first use, as those of ``dgcn_ext`` do.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dgcn_ext.reference.decoding import decode
    from dgcn_ext.reference.encoding import encode
    from dgcn_ext.reference.operators import (
        edge_bits,
        edge_softmax,
        graph_conv,
        philox4x32,
        relu_affinity,
        sample_adjacency,
    )

_HOME = {
    "decode": "decoding",
    "edge_bits": "operators",
    "edge_softmax": "operators",
    "encode": "encoding",
    "graph_conv": "operators",
    "philox4x32": "operators",
    "relu_affinity": "operators",
    "sample_adjacency": "operators",
}

__all__ = [
    "decode",
    "edge_bits",
    "edge_softmax",
    "encode",
    "graph_conv",
    "philox4x32",
    "relu_affinity",
    "sample_adjacency",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
