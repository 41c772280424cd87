"""DGCN (Dynamic Graph Convolutional Network, AAAI 2020): bottom-up multi-person pose estimation.

    build_model   the network of the paper, for training or as a part of one's own
    Predictor     people in pictures, with the model that ships with the package or one's own

The operators it is built on are in `dgcn_ext`. What is heavy loads on first use.
"""

from typing import TYPE_CHECKING

from dgcn_ext.lazy import lazy_attributes

if TYPE_CHECKING:
    from .model.config import ModelConfig
    from .model.network import DGCN, build_model
    from .predict.predictor import Predictor
    from .records import Pose
    from .skeleton import COCO, Skeleton

    __version__: str

__all__ = ["COCO", "DGCN", "ModelConfig", "Pose", "Predictor", "Skeleton", "__version__", "build_model"]

__getattr__, __dir__ = lazy_attributes(
    globals(),
    {
        "model.config": ["ModelConfig"],
        "model.network": ["DGCN", "build_model"],
        "predict.predictor": ["Predictor"],
        "records": ["Pose"],
        "skeleton": ["COCO", "Skeleton"],
    },
)
