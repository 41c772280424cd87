"""How a compiled operator joins autograd and torch.func: what the gradients and the vmap rules of ``ops`` share.

A gradient is a :class:`Function`. Autograd records it in two ways:

- As the operator's kernel for the dispatch key "Autograd" (:func:`register_gradient`): in exported programs, under
  torch.func, vmap and torch.compile, and where ``torch.ops.dgcn`` is called directly.
  ``torch.library.register_autograd`` registers such a kernel too, but its kernel refuses torch.func.grad and drops the
  tangents of forward mode without an error.
- Directly, by ``Function.apply``, where none of these is active: that saves the way through the dispatcher to a kernel
  in Python, 16 to 22 µs a call.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch._ops import OpOverload
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction


def new_library() -> torch.library.Library:
    """The library of what Python registers with the operators. It replaces that of an earlier import."""
    registered = vars(torch.ops.dgcn)  # outlives importlib.reload()
    if "python_library" in registered:
        registered["python_library"]._destroy()
    registered["python_library"] = library = torch.library.Library("dgcn", "FRAGMENT")
    return library


class Function(torch.autograd.Function):
    """The gradient of an operator.

    Subclasses have ``forward(ctx, ...)`` rather than ``setup_context``, which costs 16 µs more a call.
    """

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError(
            "the operators of dgcn_ext do not support forward mode AD (jvp, jacfwd, hessian): use reverse mode (grad, "
            "vjp, jacrev), or dgcn_ext.reference"
        )


def register_gradient(op: OpOverload, function: type[Function], *, lib: torch.library.Library) -> None:
    """Makes ``function`` what autograd records where ``op`` is called with a tensor that requires a gradient."""
    # torch.autograd.Function passes a call on to the transforms of torch.func. The dispatcher has done so already: it
    # calls the kernel below once for each transform.
    methods = {name: staticmethod(getattr(function, name)) for name in ("forward", "backward", "jvp")}
    single_level: Any = type(function.__name__, (_SingleLevelFunction,), methods)

    def kernel(*args: Any) -> Any:
        if not needs_gradient(*args):
            return below_autograd(op, *args)
        if not torch._C._are_functorch_transforms_active():
            return function.apply(*args)
        with enable_single_level_autograd_function():
            return single_level.apply(*args)

    lib.impl(op, kernel, "Autograd")


def refuse_gradient(op: OpOverload, message: str, *, lib: torch.library.Library) -> None:
    """Makes the backward of ``op`` raise RuntimeError."""

    class Refuse(Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            return call_in_forward(op, *args)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            raise RuntimeError(message)

    register_gradient(op, Refuse, lib=lib)


def is_transformed() -> bool:
    """Whether a call has to go through the dispatcher: under torch.compile, export, torch.func, vmap or jit.trace."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or torch.jit.is_tracing()


def needs_gradient(*args: Any) -> bool:
    """Whether autograd has to record a call. In forward mode it has to as well, so that ``Function.jvp`` raises."""
    return forward_ad._current_level >= 0 or (
        torch.is_grad_enabled() and any(isinstance(arg, Tensor) and arg.requires_grad for arg in args)
    )


def below_autograd(op: OpOverload, *args: Any) -> Any:
    """Calls the compiled kernel or, under torch.func, passes the call on to the next transform."""
    with torch._C._AutoDispatchBelowAutograd():
        return op(*args)


def call_in_forward(op: OpOverload, *args: Any) -> Any:
    """:func:`below_autograd` in ``Function.forward``. Gradients are off there, but the next transform may need them."""
    if not torch._C._are_functorch_transforms_active():
        return below_autograd(op, *args)
    with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
        return below_autograd(op, *args)


def call_in_backward(op: OpOverload, *args: Any) -> Any:
    """Calls ``op`` in ``Function.backward``, where gradients are enabled only if they will be differentiated again."""
    return op(*args) if torch.is_grad_enabled() or is_transformed() else below_autograd(op, *args)


# ---- vmap rules: `dims` has a dimension for each argument that is mapped over, and None for the others --------------


def map_as_one_batch(
    op: OpOverload, images: Sequence[int], size: int, dims: Sequence[int | None], args: Sequence[Any]
) -> Any:
    """Calls ``op`` once, on all images of the ``size`` elements.

    The arguments at the positions ``images``, and the results, start with the dimension B of the images.
    """

    def fold(value: Tensor, dim: int | None) -> Tensor:  # [B, ...] of each element -> [size·B, ...]
        elements = value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)
        return elements.flatten(0, 1).contiguous()  # with B = 1 flatten() returns a view of any strides

    def unfold(value: Tensor) -> Tensor:
        return value.unflatten(0, (size, value.shape[0] // size))

    _check_size(op, size)
    folded = list(args)
    for index in images:
        if args[index] is not None:
            folded[index] = fold(args[index], dims[index])
    result = op(*folded)
    if isinstance(result, Tensor):
        return unfold(result), 0
    return tuple(map(unfold, result)), (0,) * len(result)


def map_one_by_one(op: OpOverload, size: int, dims: Sequence[int | None], args: Sequence[Any]) -> Any:
    """Calls ``op`` for each of the ``size`` elements and stacks the results."""
    _check_size(op, size)
    elements = [
        [arg] * size if dim is None else arg.movedim(dim, 0).contiguous().unbind()
        for arg, dim in zip(args, dims, strict=True)
    ]
    results = [op(*element) for element in zip(*elements, strict=True)]
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    return tuple(map(torch.stack, zip(*results, strict=True))), (0,) * len(results[0])


def _check_size(op: OpOverload, size: int) -> None:
    if size == 0:
        raise ValueError(f"vmap over {op.name()} needs a dimension of at least one element, got 0")
