"""DGCN (Dynamic Graph Convolutional Network, AAAI 2020): bottom-up multi-person pose estimation.

    build_model   the network of the paper, for training or as a part of one's own
    Predictor     people in pictures, with the model that ships with the package or one's own

The operators it is built on are in `dgcn_ext`. What is heavy loads on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .model.config import ModelConfig
    from .model.network import DGCN, build_model
    from .predict.predictor import Predictor
    from .records import Pose
    from .skeleton import COCO, Skeleton

    __version__: str

__all__ = ["COCO", "DGCN", "ModelConfig", "Pose", "Predictor", "Skeleton", "__version__", "build_model"]

_HOME = {
    "COCO": "skeleton",
    "DGCN": "model.network",
    "ModelConfig": "model.config",
    "Pose": "records",
    "Predictor": "predict.predictor",
    "Skeleton": "skeleton",
    "build_model": "model.network",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "__version__":
        value: Any = import_module("importlib.metadata").version("dgcn")
    else:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
