"""Operators of DGCN (dynamic graph convolutional network, AAAI 2020) for PyTorch, and PIF/PAF in C++.

    functional   graph_conv, relu_affinity, sample_adjacency: the compiled operators
    modules      DGCM and its layers GraphConv and NonLocal, in plain PyTorch
    fused        DGCMFused, GraphConvFused, NonLocalFused: the same on the compiled operators
    reference    what the compiled code computes, written to be read: its specification
    onnx         the operators for torch.onnx.export; needs onnx and onnxscript
    decoder      PifPafDecoder; works without torch
    encoder      PifPafEncoder; works without torch

Submodules load on first use, so that ``dgcn_ext.decoder`` and ``dgcn_ext.encoder`` never import torch. Where torch is
imported, ``import dgcn_ext`` registers the compiled operators, so that saved programs find them. Every submodule but
``onnx`` imports without the compiled code; what needs it raises ImportError when it is called.
"""

from typing import TYPE_CHECKING

from dgcn_ext.lazy import lazy_attributes
from dgcn_ext.loading import register_with_torch

if TYPE_CHECKING:
    from dgcn_ext import decoder, encoder, functional, fused, modules, reference
    from dgcn_ext.decoder import DecoderConfig, PifPafDecoder
    from dgcn_ext.encoder import PifPafEncoder
    from dgcn_ext.fused import DGCMFused, GraphConvFused, NonLocalFused
    from dgcn_ext.modules import DGCM, GraphConv, NonLocal

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
    "fused",
    "modules",
    "reference",
]

__getattr__, __dir__ = lazy_attributes(
    globals(),
    {
        "decoder": ["DecoderConfig", "PifPafDecoder"],
        "encoder": ["PifPafEncoder"],
        "functional": [],
        "fused": ["DGCMFused", "GraphConvFused", "NonLocalFused"],
        "modules": ["DGCM", "GraphConv", "NonLocal"],
        "onnx": [],  # not in __all__, because `import *` has to work without onnxscript
        "ops": [],
        "reference": [],
    },
)

register_with_torch()
