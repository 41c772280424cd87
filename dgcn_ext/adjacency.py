"""The graph of a layer as a buffer that also comes through a start on the meta device."""

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor

from dgcn_ext.checks import check_adjacency, check_has_no_gradient


class AdjacencyModule(nn.Module):
    """A module with the buffer ``adjacency``, A [K, K] in [0, 1], a copy of the tensor it is given.

    On the meta device the module keeps the values of ``adjacency`` for ``to_empty``. If ``adjacency`` is itself on the
    meta device, they must come from a ``state_dict`` before the first forward.

    Args:
        adjacency: A.
        device, dtype: of the buffer, as in ``torch.nn``.

    Raises:
        TypeError, ValueError: ``adjacency`` is not such a tensor, or has no values and ``device`` is not meta.
    """

    adjacency: Tensor
    # Defaults, as modules pickled by earlier versions lack these attributes.
    _adjacency_values: Tensor | None = None
    _adjacency_is_unknown = False

    def __init__(
        self,
        adjacency: Tensor,
        *,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_adjacency(adjacency)
        check_has_no_gradient("adjacency", adjacency)
        _check_probabilities(adjacency)
        parameter = torch.empty(0, device=device, dtype=dtype)
        if adjacency.is_meta and not parameter.is_meta:
            raise ValueError(f"adjacency must have values for a module on {parameter.device}, got one on meta")
        self.register_buffer("adjacency", adjacency.to(parameter, copy=True))
        if _has_values(adjacency):
            self._adjacency_values = adjacency.cpu().clone()

    def check_adjacency_is_loaded(self) -> None:
        """Raises ValueError if ``adjacency`` had no values and still has none."""
        if not self._adjacency_is_unknown:
            return
        if self.adjacency.isnan().any():
            raise ValueError(
                "adjacency has no values, as it was given on the meta device: load a state_dict, or give a tensor that "
                "was made outside of torch.device('meta')"
            )
        self._adjacency_is_unknown = False

    def _apply(self, fn: Any, recurse: bool = True) -> "AdjacencyModule":
        """What ``to_empty`` calls: a graph that leaves the meta device gets its values again."""
        was_on_meta = self.adjacency.is_meta
        super()._apply(fn, recurse)
        if was_on_meta and not self.adjacency.is_meta:
            values = self._adjacency_values
            self._adjacency_is_unknown = values is None
            self.adjacency.copy_(torch.tensor(torch.nan) if values is None else values)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._adjacency_is_unknown &= f"{prefix}adjacency" not in state_dict


def _has_values(tensor: Tensor) -> bool:
    return not tensor.is_meta and not isinstance(tensor, FakeTensor)


def _check_probabilities(adjacency: Tensor) -> None:
    if _has_values(adjacency) and not ((adjacency >= 0) & (adjacency <= 1)).all():
        low, high = adjacency.aminmax()
        raise ValueError(f"adjacency must be in [0, 1], got values from {low:g} to {high:g}")
