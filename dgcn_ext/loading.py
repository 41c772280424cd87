"""Registers the compiled operators with torch: once in a process, and only where torch is imported.

A saved program (``torch.export.load``, ``torch._inductor.aoti_load_package``) names its operators, and torch looks them
up without importing anything. So ``import dgcn_ext`` registers them as soon as torch is there: at once where torch is
imported already, else at the end of ``import torch``. Who never imports torch never loads them.
"""

import ctypes
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

OPERATORS = (
    "graph_conv_forward",
    "graph_conv_backward",
    "sample_adjacency",
    "relu_affinity_forward",
    "relu_affinity_backward",
)


def load_operators() -> None:
    """Loads ``dgcn_ext._C``, which registers ``torch.ops.dgcn``.

    Raises:
        ImportError: the library is missing, was built for another torch, or torch has other operators of these names.
    """
    spec = find_spec("dgcn_ext._C")
    if spec is not None and spec.origin is not None and not _is_loaded(spec.origin):
        _check_names_are_free(spec.origin)
    try:
        import dgcn_ext._C  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"the compiled operators of dgcn_ext do not load ({error}). Build them with `pip install .`, or in place "
            "with `pip install --no-build-isolation -e .`, from the root of the dgcn repository"
        ) from error


def _is_loaded(path: str) -> bool:
    """Whether the process has this very library already. Loading it again then registers nothing."""
    try:
        ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    except OSError:
        return False
    return True


def _check_names_are_free(path: str) -> None:
    """Registers the namespace as the library will: what raises an exception here would end the process there."""
    import torch

    try:
        torch.library.Library("dgcn", "DEF")  # given up again at once
    except RuntimeError as error:
        origin = str(error).partition("Previous registration of TORCH_LIBRARY was ")[2].partition(";")[0]
        taken = f"the namespace ({origin})" if origin else "the namespace"
    else:
        taken = ", ".join(f"dgcn::{name}" for name in OPERATORS if hasattr(torch.ops.dgcn, name))
    if taken:
        raise ImportError(
            f"{path} cannot register its operators as torch.ops.dgcn: another library, or another copy of this one, "
            f"has registered {taken}. Load only one of them in a process"
        )


def register_with_torch() -> None:
    """Registers the operators now if torch is imported, else as soon as it is."""
    if "torch" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _TorchFinder())


def _register() -> None:
    with suppress(ImportError):  # whoever calls an operator imports dgcn_ext.ops again, and gets the error
        # Not import_module(): it raises where this thread and another wait for each other's imports.
        import dgcn_ext.ops  # noqa: F401


class _TorchFinder(MetaPathFinder):
    """Has the import of torch end with the registration of the operators."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "torch":
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _TorchLoader(spec.loader)
                return spec
        return None


class _TorchLoader(Loader):
    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.loader  # torch sees nothing of this class
        self.loader.exec_module(module)
        _register()
