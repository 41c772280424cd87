"""Lets the arguments of a function take a call over by ``__torch_function__``, as with torch's own functions.

torch.fx so records a call with its proxies as one node (of whatever module the function was imported into), and a
subclass of Tensor may define what the call means.
"""

from typing import Any

from torch.overrides import wrap_torch_function


def _all_arguments(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    return (*args, *kwargs.values())


overridable = wrap_torch_function(_all_arguments)
