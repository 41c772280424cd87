"""What loads on first use: the names of a package, and the compiled modules."""

import os
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.metadata import version
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
