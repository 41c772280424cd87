"""What the operators require of their arguments. Errors name the argument, what is required and what arrived.

Legend: functional.py.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

import dgcn_ext
from dgcn_ext.arguments import describe

_FEATURE_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_INTEGERS = (int, torch.SymInt, np.integer)  # of Python, torch.compile and NumPy


def check_graph_conv(
    x: Tensor,
    edge_weight: Tensor,
    adjacency: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    seed: Tensor | None,
) -> None:
    """The tensors of :func:`dgcn_ext.functional.graph_conv`, with parameters of any floating dtype."""
    check_is_tensor("x", x)
    if x.dim() != 4 or x.shape[1] == 0:
        raise ValueError(f"x must have shape [B, K, H, W] with K >= 1, got {list(x.shape)}")
    check_device_type("x", x)
    check_feature_dtype("x", x)
    if residual is not None:
        check_is_tensor("residual", residual)
        if residual.dtype != x.dtype:
            raise TypeError(f"residual must have the dtype of x, {x.dtype}, got {residual.dtype}")
        check_fits("residual", residual, x.shape, "x", x)
    if seed is not None:
        check_seed(seed, x)
    num_nodes = x.shape[1]
    check_parameter("edge_weight", edge_weight, (num_nodes, num_nodes), "x", x)
    check_parameter("adjacency", adjacency, (num_nodes, num_nodes), "x", x)
    check_has_no_gradient("adjacency", adjacency)
    if weight is not None:
        check_parameter("weight", weight, (num_nodes, num_nodes), "x", x)
    if bias is not None:
        check_parameter("bias", bias, (num_nodes,), "x", x)


def check_adjacency(adjacency: Tensor) -> None:
    """A floating tensor [K, K]."""
    check_is_floating("adjacency", adjacency)
    if adjacency.dim() != 2 or adjacency.shape[0] != adjacency.shape[1] or adjacency.shape[0] == 0:
        raise ValueError(f"adjacency must have shape [K, K] with K >= 1, got {list(adjacency.shape)}")


def check_option(name: str, value: str, allowed: Iterable[str]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r}")


def check_batch(batch: int) -> None:
    if not _is_integer(batch):
        raise TypeError(f"batch must be an integer or None, got {describe(batch)}")
    if not 0 <= batch < 2**32:  # the number of an image is a 32-bit word of Philox's counter
        raise ValueError(f"batch must be None or in [0, 2**32), got {batch}")


def check_first_sample(first_sample: int, samples: int = 1) -> None:
    """An integer from which ``samples`` images are numbered, with a 32-bit word as in :func:`check_batch`."""
    if not _is_integer(first_sample):
        raise TypeError(f"first_sample must be an integer, got {describe(first_sample)}")
    if not 0 <= first_sample <= 2**32 - samples:
        raise ValueError(f"first_sample must be in [0, 2**32 - {samples}], got {first_sample}")


def _is_integer(value: object) -> bool:
    return isinstance(value, _INTEGERS) and not isinstance(value, bool)


def check_is_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got one with the layout {value.layout}")


def check_is_floating(name: str, value: Tensor) -> None:
    check_is_tensor(name, value)
    if not value.is_floating_point():
        raise TypeError(f"{name} must have a floating dtype, got {value.dtype}")


def check_feature_dtype(name: str, features: Tensor) -> None:
    if features.dtype not in _FEATURE_DTYPES:
        raise TypeError(f"{name} must be float64, float32, bfloat16 or float16, got {features.dtype}")


def check_fits(name: str, value: Tensor, shape: Sequence[int], features_name: str, features: Tensor) -> None:
    """The shape, and the device: that of the features."""
    if value.shape != shape:
        raise ValueError(f"{name} must have shape {list(shape)}, got {list(value.shape)}")
    if value.device != features.device:
        raise ValueError(
            f"{name} must be on {features.device}, where {features_name} is, got a tensor on {value.device}"
        )


def check_parameter(name: str, value: Tensor, shape: Sequence[int], features_name: str, features: Tensor) -> None:
    check_is_floating(name, value)
    check_fits(name, value, shape, features_name, features)


def check_device_type(name: str, value: Tensor) -> None:
    if value.device.type not in ("cpu", "cuda", "meta"):
        raise ValueError(f"{name} must be on a CPU or CUDA device, got one on {value.device.type}")
    if value.is_cuda and not dgcn_ext.ops.HAS_CUDA:
        raise RuntimeError(
            f"{name} is a CUDA tensor, but dgcn_ext was built without CUDA kernels: install it again where an nvcc is "
            "found (CUDA_HOME, PATH or /usr/local/cuda)"
        )


def check_has_no_gradient(name: str, value: Tensor) -> None:
    if value.requires_grad:
        raise ValueError(f"{name} must not require a gradient (it is not differentiable), got requires_grad=True")


def check_seed(seed: Tensor, tensor: Tensor) -> None:
    """An int64 0-dim tensor, where ``tensor`` is."""
    if not isinstance(seed, Tensor):
        raise TypeError(f"seed must be a 0-dim int64 tensor, as torch.tensor(0) is, got {type(seed).__name__}")
    if seed.dtype != torch.int64:
        raise TypeError(f"seed must be int64, got {seed.dtype}")
    if seed.dim() != 0:
        raise ValueError(f"seed must be 0-dim, got shape {list(seed.shape)}")
    if seed.device != tensor.device:
        raise ValueError(f"seed must be on {tensor.device}, where the other tensors are, got a tensor on {seed.device}")
