"""What the network is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ..checks import check_at_least, check_types
from ..skeleton import COCO, Skeleton

Graph = Literal["dynamic", "soft", "hand", "identity", "ones"]
MOBILENET = "mobilenetv1_075"
MOVENET = "movenet_multipose"
OWN_BACKBONES = (MOBILENET, MOVENET)
"""The backbones that are not timm's, and that may start from the file of a trained trunk."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What the network is made of, and how its graphs work; stored with every checkpoint."""

    backbone: str = "resnet50"
    """mobilenetv1_075, movenet_multipose, or any timm model with features_only."""
    levels: tuple[int, ...] = (16,)
    """Strides of the feature maps that get a DGCN head (two DGCMs); none is the PifPaf baseline without graphs."""
    graph: Graph = "dynamic"
    """Adjacency: A_d, drawn from A_s at every step, A_s itself, the skeleton's A_h, the identity A_I, or all ones."""
    gamma: float = 0.5
    """γ of the soft adjacency A_s, Eq. 6."""
    propagation: Literal["eq8", "eq4"] = "eq8"
    """The softmax of Eq. 8 with learnable W_d, or the normalised adjacency of Eq. 4 for graphs that are not dynamic."""
    semantics: Literal["literal", "mask"] = "literal"
    """An absent edge has logit 0, as Eq. 8 is written, or -inf."""
    aggregate: Literal["source", "target"] = "source"
    """The paper's product X·S, or SemGCN's."""
    eval_graph: Literal["ones", "soft"] = "ones"
    """Adjacency of a dynamic graph at inference: all ones (the paper), or A_s."""
    per_sample: bool = False
    """Draw a dynamic graph for every image, instead of one for the batch (the paper)."""
    non_local: bool = True
    """Whether a DGCM has the non-local layer."""
    lift_channels: int = 256
    """Channels of a DGCM between its lift and its keypoint map."""
    skeleton: Skeleton = field(default=COCO)
    """Keypoints and limbs."""

    def __post_init__(self) -> None:
        check_types(self)
        check_at_least(self, 0, "gamma")
        check_at_least(self, 2 if self.non_local else 1, "lift_channels")  # the non-local layer works on half of them
        if self.propagation == "eq4" and self.graph == "dynamic":
            raise ValueError("propagation must be 'eq8' with the graph 'dynamic', got 'eq4', which is of static graphs")
        if not isinstance(self.levels, tuple):
            raise TypeError(f"levels must be a tuple of strides, got {self.levels!r}")
        if not isinstance(self.skeleton, Skeleton):
            raise TypeError(f"skeleton must be a Skeleton, got {self.skeleton!r}")
        if any(level not in (4, 8, 16) for level in self.levels) or len(set(self.levels)) != len(self.levels):
            raise ValueError(f"levels must be distinct strides among 4, 8 and 16, got {self.levels}")
        if self.levels and 16 not in self.levels:
            raise ValueError(f"levels must include 16, at which the heads read, got {self.levels}")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-serialisable dictionary; `from_dict` is its inverse."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "skeleton"}
        return {**values, "levels": list(self.levels), "skeleton": self.skeleton.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Raises ValueError on entries this version does not know or misses, TypeError or ValueError on bad values."""
        values = {"per_sample": False, "propagation": "eq8", **values}  # older checkpoints lack these
        names = set(cls.__dataclass_fields__)
        if unknown := set(values) - names:
            raise ValueError(f"model configuration has unknown entries {sorted(unknown)}; a newer dgcn wrote it")
        if missing := names - set(values):
            raise ValueError(f"model configuration has no entries {sorted(missing)}")
        skeleton = Skeleton.from_dict(values["skeleton"])
        return cls(**{**values, "levels": tuple(values["levels"]), "skeleton": skeleton})
