"""The graphs of the paper: distances between keypoints (Eq. 5) and the adjacency matrices made of them (Eq. 6, Fig. 3).

Legend: P persons, K keypoints. Every adjacency is a float32 tensor [K, K] with entries in [0, 1] and 1 on the diagonal.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .skeleton import Skeleton

_COCO_DISTANCES = Path(__file__).parent / "assets" / "coco_distances.json"
_MIN_DISTANCE = 1e-6  # in units of the person's scale; keeps gamma / distance finite for keypoints that always coincide


def distance_matrix(keypoints_xy: np.ndarray, visibility: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Eq. 5: mean over persons of the distance between two keypoints, in units of the person's scale.

    Args:
        keypoints_xy: [P, K, 2] pixels.
        visibility: [P, K], annotated where > 0.
        scale: [P] pixels, the square root of the person's area (of its box where no area is known).

    Returns:
        float64 [K, K], symmetric, diagonal 0. The mean is over the persons in whom both keypoints are annotated. For a
        pair that is never annotated together it is infinite, which gives the pair the smallest weight in
        `soft_adjacency`.

    Raises:
        ValueError: a wrong shape, a scale that is not positive, or a keypoint that is not finite.
    """
    xy, seen, size = np.asarray(keypoints_xy), np.asarray(visibility) > 0, np.asarray(scale, dtype=np.float64)
    if xy.ndim != 3 or xy.shape[2] != 2:
        raise ValueError(f"keypoints_xy must have shape [P, K, 2], got {list(xy.shape)}")
    if seen.shape != xy.shape[:2] or size.shape != xy.shape[:1]:
        raise ValueError(
            f"visibility and scale must have shapes {list(xy.shape[:2])} and {list(xy.shape[:1])}, "
            f"got {list(seen.shape)} and {list(size.shape)}"
        )
    if not (np.isfinite(size).all() and (size > 0).all()):
        raise ValueError("scale must be finite and positive for every person")
    if not np.isfinite(xy[seen]).all():
        raise ValueError("keypoints_xy must be finite wherever visibility > 0")

    normalized = np.where(seen[..., None], xy, 0) / size[:, None, None]
    total = np.zeros((xy.shape[1], xy.shape[1]))
    for i in range(xy.shape[1]):  # one row at a time: [P, K, K, 2] for all of COCO would be half a gigabyte
        distance = np.linalg.norm(normalized - normalized[:, i : i + 1], axis=-1)
        total[i] = (distance * (seen & seen[:, i : i + 1])).sum(axis=0)
    together = seen.T.astype(np.float64) @ seen
    mean = np.divide(total, together, out=np.full_like(total, np.inf), where=together > 0)
    np.fill_diagonal(mean, 0)
    return mean


def soft_adjacency(distances: np.ndarray, gamma: float = 0.5) -> Tensor:
    """Eq. 6: A_s, the softmax of `gamma` / `distances` over each row without its diagonal, then 1 on the diagonal.

    Args:
        distances: [K, K] of `distance_matrix`, >= 0, infinity allowed.
        gamma: γ, finite and at least 0; 0 gives all neighbours the same weight.

    Raises:
        ValueError: distances or gamma outside these ranges.
    """
    distances = np.asarray(distances, dtype=np.float64)
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1]:
        raise ValueError(f"distances must be square, got shape {list(distances.shape)}")
    if not (distances >= 0).all():
        raise ValueError("distances must be at least 0 and not NaN")
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma must be finite and at least 0, got {gamma}")
    logits = gamma / np.maximum(distances, _MIN_DISTANCE)
    np.fill_diagonal(logits, -np.inf)
    if len(logits) == 1:
        return identity_adjacency(1)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    adjacency = weights / weights.sum(axis=1, keepdims=True)
    np.fill_diagonal(adjacency, 1)
    return torch.from_numpy(adjacency).float()


def hand_crafted_adjacency(skeleton: Skeleton) -> Tensor:
    """A_h: 1 between the two keypoints of every limb and on the diagonal."""
    adjacency = identity_adjacency(skeleton.num_keypoints)
    for i, j in skeleton.limbs:
        adjacency[i, j] = adjacency[j, i] = 1
    return adjacency


def identity_adjacency(num_keypoints: int) -> Tensor:
    """A_I: every keypoint alone."""
    return torch.eye(num_keypoints)


def ones_adjacency(num_keypoints: int) -> Tensor:
    """Every keypoint joined to every other: what the dynamic graph is at inference."""
    return torch.ones(num_keypoints, num_keypoints)


def strongest_edges(skeleton: Skeleton, distances: np.ndarray, gamma: float = 0.5) -> list[tuple[int, int]]:
    """The pairs of keypoints that no limb joins, by falling weight in A_s (Eq. 6): limbs that a skeleton could gain.

    A pair and its mirror image, of which the weights differ by what chance put into `distances`, have the mean of both
    and follow each other. So the first n of the list are their own mirror image as a whole, save where n cuts a couple.

    Args:
        skeleton: whose limbs are left out.
        distances: M_d of Eq. 5 [K, K].
        gamma: γ of Eq. 6.
    """
    one_way = soft_adjacency(distances, gamma).numpy()
    weights = one_way + one_way.T
    flip = np.array(skeleton.flip)
    weights += weights[flip][:, flip]
    limbs = {frozenset(limb) for limb in skeleton.limbs}
    pairs = [pair for pair in itertools.combinations(range(skeleton.num_keypoints), 2) if frozenset(pair) not in limbs]

    def key(pair: tuple[int, int]) -> tuple[float, tuple[int, int], tuple[int, int]]:
        mirrored = sorted(skeleton.flip[end] for end in pair)
        return -weights[pair], min(pair, (mirrored[0], mirrored[1])), pair

    return sorted(pairs, key=key)


def coco_distances() -> np.ndarray:
    """Eq. 5 for the persons of COCO train2017, float64 [17, 17] in the order of `dgcn.skeleton.COCO`.

    assets/coco_distances.json, which says where it comes from."""
    return np.array(json.loads(_COCO_DISTANCES.read_text(encoding="utf-8"))["distances"])
