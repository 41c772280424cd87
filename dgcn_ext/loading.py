"""What is loaded when: submodules on first use, compiled modules on first use, the operators together with torch."""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from types import ModuleType
from typing import Any


def lazy_attributes(
    namespace: dict[str, Any], exports: Mapping[str, Iterable[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` (PEP 562) of a module whose names load on first use::

        __getattr__, __dir__ = lazy_attributes(globals(), {"modules": ["DGCM"], "functional": []})

    Args:
        namespace: the ``globals()`` of the module.
        exports: by submodule of the module's package, the names that the module takes from it. The submodules are
            attributes too (of "model.network" the part "model"), and so is ``__version__``, that of the distribution.
    """
    home = {name: submodule for submodule, names in exports.items() for name in names}
    submodules = {submodule.partition(".")[0] for submodule in exports}

    def load(name: str) -> Any:
        if name == "__version__":
            value: Any = version("dgcn")
        elif name in home:
            value = getattr(import_module(f"{namespace['__package__']}.{home[name]}"), name)
        elif name in submodules:
            value = import_module(f"{namespace['__package__']}.{name}")
        else:
            raise AttributeError(f"module {namespace['__name__']!r} has no attribute {name!r}")
        namespace[name] = value
        return value

    return load, lambda: sorted({*namespace, *home, *submodules, "__version__"})


def load_compiled(name: str) -> Any:
    """The compiled module ``dgcn_ext.<name>``.

    Raises:
        ImportError: it is missing or does not load; one line that says how to build it.
    """
    try:
        return import_module(f"dgcn_ext.{name}")
    except ImportError as error:
        raise ImportError(
            f"the compiled module dgcn_ext.{name} does not load from {os.path.dirname(__file__)} ({error}). Where it "
            "is missing, or was built for another Python or torch, build it in the root of the dgcn repository: "
            "`pip install .`, or in place `pip install --no-build-isolation -e .`. Outside of that folder Python "
            "imports the package that is installed"
        ) from error


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
