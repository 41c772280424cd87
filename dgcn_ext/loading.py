"""The operators are loaded together with torch."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def register_with_torch() -> None:
    """Registers the operators now if torch is imported, else at the end of ``import torch``.

    A saved program (``torch.export.load``, ``torch._inductor.aoti_load_package``) names its operators, and torch looks
    them up without importing anything. So they have to be there as soon as torch is. Without torch they never load.
    """
    if "torch" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _TorchFinder())


def _register() -> None:
    with suppress(ImportError):  # a call of an operator imports dgcn_ext.ops again, and raises the error
        # Not import_module(): it raises where this thread and another wait for each other's imports.
        import dgcn_ext.ops  # noqa: F401


class _TorchFinder(MetaPathFinder):
    """Makes ``import torch`` end with the registration of the operators."""

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
        module.__spec__.loader = module.__loader__ = self.loader  # torch keeps its own loader
        self.loader.exec_module(module)
        _register()
