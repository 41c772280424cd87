"""The graphs of the paper: distances between keypoints (Eq. 5) and the adjacency matrices made of them (Eq. 6, Fig. 3).

M_d is measured in one way everywhere: `measurements` takes the persons of a data set and their scale s_n, and
`distance_matrix` averages. Training, `dgcn graph` and the matrices that ship in assets/ all come from these two.

Legend: P persons, K keypoints. Every adjacency is a float32 tensor [K, K] with entries in [0, 1] and 1 on the diagonal.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .records import Annotation
from .skeleton import COCO, Skeleton, same_names

_ASSETS = Path(__file__).parent / "assets"
_MIN_DISTANCE = 1e-6  # in units of the person's scale; keeps gamma / distance finite for keypoints that always coincide


SCALE = "square root of the person's area (MPII: 200 times its scale), or of 0.53 times width times height of its box"
"""s_n of Eq. 5, `Annotation.scale`, in words."""


def measurements(persons: Iterable[Annotation], source: object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `distance_matrix` takes of a data set: everybody who has a size.

    Args:
        persons: with keypoints, such as `ImageRecord.persons`.
        source: what the data set is called in the message of an error.

    Returns:
        keypoints [P, K, 2] px, visibility [P, K] and `Annotation.scale` [P] px.

    Raises:
        ValueError: there is nobody.
    """
    measured = [person for person in persons if person.scale > 0]
    if not measured:
        raise ValueError(
            f"{source} must have a person with keypoints and with an area or a box above 0: distances of keypoints are"
            " measured in units of it (Eq. 5), got none"
        )
    keypoints = np.array([person.keypoints for person in measured])
    return keypoints[..., :2], keypoints[..., 2], np.array([person.scale for person in measured])


def persons_per_pair(visibility: np.ndarray) -> np.ndarray:
    """Of `visibility` [P, K], int64 [K, K]: in how many persons both keypoints are annotated."""
    seen = (np.asarray(visibility) > 0).astype(np.int64)
    return seen.T @ seen


def distance_matrix(keypoints_xy: np.ndarray, visibility: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Eq. 5: mean over persons of the distance between two keypoints, in units of the person's scale.

    Args:
        keypoints_xy: [P, K, 2] pixels.
        visibility: [P, K], annotated where > 0.
        scale: s_n [P], pixels.

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
    together = persons_per_pair(seen)
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


def read_distances(path: str | Path, skeleton: Skeleton) -> np.ndarray:
    """M_d of Eq. 5 from a `graph.json` of `dgcn graph`, float64 [K, K].

    Args:
        path: the file.
        skeleton: whose K keypoints the file must have, in the same order.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not such a file, or of other keypoints.
    """
    try:
        document = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(document, dict) or not {"keypoints", "distances"} <= document.keys():
        found = list(document) if isinstance(document, dict) else type(document).__name__
        raise ValueError(f"{path} must have the entries 'keypoints' and 'distances' of a graph.json, got {found}")
    names = document["keypoints"]
    is_of_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not is_of_names or not same_names(names, skeleton.keypoints):
        raise ValueError(
            f"{path} must be of the keypoints of the skeleton '{skeleton.name}', {list(skeleton.keypoints)}, got"
            f" {names}"
        )
    count = skeleton.num_keypoints
    try:  # null, which has no order, stands for a pair that is never annotated together
        rows = [[math.inf if value is None else float(value) for value in row] for row in document["distances"]]
        distances = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError):
        distances = np.zeros(0)
    if distances.shape != (count, count) or not (distances >= 0).all():
        raise ValueError(f"{path}: distances must be {count} rows of {count} numbers of at least 0, or null")
    return distances


def known_distances(skeleton: Skeleton) -> np.ndarray | None:
    """M_d of Eq. 5, float64 [K, K], where it ships with dgcn for keypoints of these names; else None.

    The files assets/*_distances.json say where each comes from."""
    for path in sorted(_ASSETS.glob("*_distances.json")):
        if same_names(json.loads(path.read_bytes())["keypoints"], skeleton.keypoints):
            return read_distances(path, skeleton)
    return None


def coco_distances() -> np.ndarray:
    """Eq. 5 for the persons of COCO train2017, float64 [17, 17] in the order of `dgcn.skeleton.COCO`."""
    distances = known_distances(COCO)
    assert distances is not None
    return distances
