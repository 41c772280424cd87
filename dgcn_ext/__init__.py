"""Operators of DGCN (dynamic graph convolutional network, AAAI 2020) for PyTorch, and PIF/PAF in C++.

    functional   graph_conv, relu_affinity, sample_adjacency: the compiled operators
    modules      DGCM and its layers GraphConv and NonLocal; DGCMFused, ... on the compiled operators
    reference    what they compute, written to be read: their specification
    onnx         their translation for torch.onnx.export; needs onnx and onnxscript
    decoder      PifPafDecoder; works without torch
    encoder      PifPafEncoder; works without torch

Submodules load on first use, so that ``dgcn_ext.decoder`` and ``dgcn_ext.encoder`` never import torch. Where torch is
imported, ``import dgcn_ext`` registers the compiled operators, so that saved programs find them.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from dgcn_ext.loading import register_with_torch

if TYPE_CHECKING:
    from dgcn_ext import decoder, encoder, functional, modules, reference
    from dgcn_ext.decoder import DecoderConfig, PifPafDecoder
    from dgcn_ext.encoder import PifPafEncoder
    from dgcn_ext.modules import DGCM, DGCMFused, GraphConv, GraphConvFused, NonLocal, NonLocalFused

    __version__: str

__all__ = [
    "DGCM",
    "DGCMFused",
    "DecoderConfig",
    "GraphConv",
    "GraphConvFused",
    "NonLocal",
    "NonLocalFused",
    "PifPafDecoder",
    "PifPafEncoder",
    "__version__",
    "decoder",
    "encoder",
    "functional",
    "modules",
    "reference",
]

_HOME = {
    "DGCM": "modules",
    "DGCMFused": "modules",
    "DecoderConfig": "decoder",
    "GraphConv": "modules",
    "GraphConvFused": "modules",
    "NonLocal": "modules",
    "NonLocalFused": "modules",
    "PifPafDecoder": "decoder",
    "PifPafEncoder": "encoder",
}


def __getattr__(name: str) -> Any:
    if name not in __all__ and name != "onnx":  # not in __all__, as `import *` has to work without onnxscript
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "__version__":
        value: Any = import_module("importlib.metadata").version("dgcn")
    elif name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    else:
        value = import_module(f"{__name__}.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if find_spec(f"{__name__}._pifpaf") is None:
    raise ImportError(
        f"{__path__[0]} holds the sources of dgcn_ext, but nothing compiled for this Python: `pip install .` in the "
        "dgcn repository compiles it, and outside of that folder Python finds what is installed"
    )
register_with_torch()
