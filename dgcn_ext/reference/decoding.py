"""The whole PIF/PAF decoder in numpy, one function a stage: the specification of csrc/pifpaf. Needs numpy, not torch.

    persons = decode(pif, paf, 8, 17, skeleton, DecoderConfig())    # as PifPafDecoder(17, skeleton)(pif, paf, 8)

K keypoints, M limbs, H x W field cells; everything past :func:`read_cells` is in px of the network input. The algorithm
is PifPaf's (Kreiss et al., 2019) with OpenPifPaf's options; ``config`` is a :class:`dgcn_ext.decoder.DecoderConfig` and
names each of its constants. Arithmetic is float32 throughout, so that what lies on a threshold falls on the same side
here as there (numpy >= 2 keeps float32 beside Python's numbers; 1.x may round differently).

Where the algorithm leaves a choice, it is this one: cells that are not finite are skipped, of equal seeds, connections,
limbs and persons the first in the order of the fields wins, and coordinates are clamped before they become indices.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import fields
from itertools import count
from math import ceil
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from dgcn_ext.decoder import DecoderConfig

MAX_COORDINATE = 1e9  # px; a cell with a component beyond it is skipped


class Joint(NamedTuple):
    """One keypoint of one person; all zero where it was not found."""

    confidence: np.float32
    x: np.float32  # px
    y: np.float32  # px
    scale: np.float32  # px

    @property
    def found(self) -> bool:
        return bool(self.confidence > 0)


MISSING = Joint(*np.zeros(4, np.float32))
Person = list[Joint]  # [K]


class Seed(NamedTuple):
    """A joint from which a person may be grown, and the PIF cell it comes from."""

    joint: Joint
    keypoint: int
    cell: int


class Connections(NamedTuple):
    """The n candidate connections from one keypoint to another: PAF cells read in one direction."""

    score: NDArray[np.float32]  # [n]
    start: NDArray[np.float32]  # [n, 2]: x, y
    target: NDArray[np.float32]  # [n, 3]: x, y, scale
    cell: NDArray[np.intp]  # [n]


class Evidence(NamedTuple):
    """What the fields of an image say before persons are grown. Connections are by (start, end) keypoint."""

    maps: list[NDArray[np.float32]]  # [K] of [height, width]
    seeds: list[Seed]  # best first
    connections: dict[tuple[int, int], Connections]  # that persons grow along
    permissive: dict[tuple[int, int], Connections]  # that force-complete completes them along


def decode(
    pif: ArrayLike,
    paf: ArrayLike,
    stride: int,
    num_keypoints: int,
    skeleton: Sequence[tuple[int, int]],
    config: DecoderConfig,
) -> NDArray[np.float32]:
    """The persons of one image, float32 [P, K, 4]: confidence, x px, y px, scale px; best first, missing joints zero.

    Args:
        pif: [K, 5, H, W], per keypoint (unused, confidence, x, y, scale).
        paf: [M, 8, H, W], per limb (unused, confidence, x1, y1, x2, y2, scale1, scale2).
            Confidences are in [0, 1] (above 1 counts as 1); coordinates are absolute, they and scales in cells.
            Heads become such fields by :func:`heads_to_fields`.
        stride: edge of a cell in px.
        num_keypoints: K.
        skeleton: the M limbs as pairs of zero-based keypoints, none of them twice.
        config: constants of the algorithm.
    """
    pif, paf = (np.asarray(field, np.float32) for field in (pif, paf))
    if pif[0, 0].size == 0:
        return np.empty((0, num_keypoints, 4), np.float32)
    options = effective_options(config)
    evidence = gather(pif, paf, stride, skeleton, options)
    size = evidence.maps[0].shape
    neighbors: list[list[int]] = [[] for _ in range(num_keypoints)]
    for a, b in skeleton:
        neighbors[a].append(b)
        neighbors[b].append(a)

    persons: list[Person] = []
    occupancy = Occupancy(num_keypoints, size, options)
    for seed in evidence.seeds:
        if len(persons) == options.max_persons:
            break
        if occupancy.occupied(seed.keypoint, seed.joint):
            continue
        person = [MISSING] * num_keypoints
        person[seed.keypoint] = seed.joint
        grow(person, neighbors, evidence.connections, options.connection_window, options.reverse_match, options)
        for keypoint, joint in enumerate(person):
            if joint.found:
                occupancy.mark(keypoint, joint)
        persons.append(person)

    if options.force_complete:
        for person in persons:
            grow(person, neighbors, evidence.permissive, options.complete_window, False, options)
            fill_missing(person, neighbors, options)
    persons = suppress(persons, Occupancy(num_keypoints, size, options), options)
    refine(persons, [read_cells(field, stride)[1] for field in pif], stride, options)
    return np.array(persons, np.float32).reshape(-1, num_keypoints, 4)


def gather(
    pif: NDArray[np.float32],
    paf: NDArray[np.float32],
    stride: int,
    skeleton: Sequence[tuple[int, int]],
    options: Any,
) -> Evidence:
    """Stages 1 to 3, from fields that are not empty."""
    size = tuple((cells - 1) * stride + 1 for cells in pif.shape[2:])
    pif_cells = [read_cells(field, stride) for field in pif]
    paf_cells = [read_cells(field, stride) for field in paf]
    maps = [confidence_map(cells, size, options) for _, cells in pif_cells]
    connections, permissive = (
        find_connections(paf_cells, maps, skeleton, threshold, options)
        for threshold in (options.connection_threshold, options.complete_threshold)
    )
    return Evidence(maps, find_seeds(pif_cells, maps, options), connections, permissive)


def heads_to_fields(
    pif: ArrayLike, paf: ArrayLike, skeleton: Sequence[tuple[int, int]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The fields pif [K, 5, H, W] and paf [M, 8, H, W] that a network's heads stand for.

    Args:
        pif: [K, 5, H, W], per keypoint (c, x, y, unused, s).
        paf: [M, 7, H, W], per limb (c, x1, y1, x2, y2, unused, unused).
            A confidence is sigmoid(c). Coordinates are relative to the cell, in cells. A joint's scale is softplus(s)
            cells; those of a limb's ends are the scales of the PIF cells nearest to them, or 0 if they are not finite.
        skeleton: the M limbs.
    """
    pif, paf = (np.asarray(head, np.float32) for head in (pif, paf))
    height, width = pif.shape[2:]
    cell = np.indices((height, width), dtype=np.float32)[::-1]  # x, y
    with np.errstate(over="ignore", invalid="ignore"):
        pif_confidence, paf_confidence = (
            (1 / (1 + np.exp(-head[:, :1].astype(np.float64)))).astype(np.float32) for head in (pif, paf)
        )
        scale = np.logaddexp(0, pif[:, 4:].astype(np.float64)).astype(np.float32)
    ends = paf[:, 1:5].reshape(-1, 2, 2, height, width) + cell  # [M, end, (x, y), H, W]
    last = np.array([width - 1, height - 1])[:, None, None]
    columns, rows = np.clip(np.rint(np.nan_to_num(ends)), 0, last).astype(np.intp).transpose(2, 0, 1, 3, 4)
    limbs = np.array(skeleton, np.intp).reshape(-1, 2)
    end_scales = scale[limbs[..., None, None], 0, rows, columns]  # [M, end, H, W]
    end_scales = np.where(np.abs(end_scales) <= MAX_COORDINATE, end_scales, np.float32(0))
    return (
        np.concatenate([np.zeros_like(scale), pif_confidence, pif[:, 1:3] + cell, scale], axis=1),
        np.concatenate(
            [np.zeros_like(paf_confidence), paf_confidence, ends.reshape(-1, 4, height, width), end_scales], axis=1
        ),
    )


def effective_options(config: DecoderConfig) -> Any:
    """The constants in float32. Force-complete treats both keypoint thresholds and the instance threshold as zero."""
    options = SimpleNamespace()
    for field in fields(config):
        value = getattr(config, field.name)
        setattr(options, field.name, np.float32(value) if isinstance(field.default, float) else value)
    if options.force_complete:
        options.keypoint_threshold = options.keypoint_threshold_relative = options.instance_threshold = np.float32(0)
    return options


def read_cells(field: NDArray[np.float32], stride: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The usable cells of one field [C, H, W]: row-major indices [n] and components [n, C - 1], lengths in px.

    A cell is skipped where a component (but the unused first) is NaN, infinite or beyond 1e9 px. A confidence above 1
    counts as 1.
    """
    cells = field[1:].reshape(len(field) - 1, -1).T
    confidence, lengths = cells[:, :1], cells[:, 1:]
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = lengths * np.float32(stride)
        usable = np.isfinite(confidence[:, 0]) & (np.abs(lengths) <= MAX_COORDINATE).all(1)
    return np.flatnonzero(usable), np.concatenate([np.minimum(confidence, 1), lengths], 1)[usable]


def to_index(value: np.float32, low: int, high: int) -> int:
    """A coordinate truncated to an index and clamped to [low, high]."""
    return min(max(int(value), low), high)


# Stage 1: the confidence map of a keypoint ----------------------------------------------------------------------------


def confidence_map(cells: NDArray[np.float32], size: tuple[int, ...], options: Any) -> NDArray[np.float32]:
    """The confidence map [height, width] of one keypoint, in [0, 1], from its cells (confidence, x, y, scale).

    Each cell with at least the threshold adds confidence/16 · (1 − d²/16σ²)⁸ to the pixels at most σ away, and
    confidence/16 in full to the one it falls on. (The eighth power is close to a Gaussian.)
    """
    height, width = size
    pixels = np.zeros(size, np.float32)
    columns, rows = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    confidences, xs, ys, scales = cells[cells[:, 0] >= options.map_threshold].T
    peaks = confidences / options.map_neighbors
    sigmas = np.maximum(options.map_min_sigma, options.map_sigma * scales)
    lefts, rights = (np.clip(edge.astype(int), 0, width) for edge in (xs - sigmas, xs + sigmas + 1))
    tops, bottoms = (np.clip(edge.astype(int), 0, height) for edge in (ys - sigmas, ys + sigmas + 1))
    boxes = zip(lefts, rights, tops, bottoms, strict=True)
    for peak, x, y, sigma, (left, right, top, bottom) in zip(peaks, xs, ys, sigmas, boxes, strict=True):
        dx, dy = columns[left:right] - x, rows[top:bottom] - y
        distance2 = dx * dx + dy * dy
        base = np.where(distance2 <= sigma * sigma, 1 - distance2 * (1 / (16 * (sigma * sigma))), 0)
        weight = np.square(np.square(np.square(base)))
        weight[(np.abs(dx) < 0.5) & (np.abs(dy) < 0.5)] = 1
        pixels[top:bottom, left:right] += peak * weight
    return np.minimum(pixels, 1)


def look_up(pixels: NDArray[np.float32], points: NDArray[np.float32], missing: float) -> NDArray[np.float32]:
    """The map's values [n] at the pixels nearest to points [n, 2] (x, y): ``missing`` outside and where nothing is."""
    size = np.array(pixels.shape[::-1])
    inside = ((points >= -0.49) & (points <= size.astype(np.float32) - np.float32(0.51))).all(1)
    column, row = np.clip((points + np.float32(0.5)).astype(np.int64), 0, size - 1).T
    values = pixels[row, column]
    return np.where(inside & (values > 0), values, np.float32(missing))


# Stage 2: seeds -------------------------------------------------------------------------------------------------------


def find_seeds(
    pif_cells: Sequence[tuple[NDArray[np.intp], NDArray[np.float32]]],
    maps: Sequence[NDArray[np.float32]],
    options: Any,
) -> list[Seed]:
    """The best ``max_seeds`` seeds of all keypoints, best first; of equal ones the lower keypoint, then the lower cell.

    A seed is a PIF cell with at least the threshold whose confidence, blended with the map's where it points (−1 if
    that is empty), reaches the threshold too.
    """
    seeds = []
    map_weight = options.seed_map_weight
    for keypoint, ((indices, cells), pixels) in enumerate(zip(pif_cells, maps, strict=True)):
        blends = map_weight * look_up(pixels, cells[:, 1:3], -1) + (1 - map_weight) * cells[:, 0]
        threshold = options.seed_threshold
        for i in np.flatnonzero((cells[:, 0] >= threshold) & (blends >= threshold) & (blends > 0)):
            seeds.append(Seed(Joint(blends[i], *cells[i, 1:]), keypoint, int(indices[i])))
    seeds.sort(key=lambda seed: (-seed.joint.confidence, seed.keypoint, seed.cell))
    return seeds[: options.max_seeds]


# Stage 3: connections -------------------------------------------------------------------------------------------------


def find_connections(
    paf_cells: Sequence[tuple[NDArray[np.intp], NDArray[np.float32]]],
    maps: Sequence[NDArray[np.float32]],
    skeleton: Sequence[tuple[int, int]],
    threshold: np.float32,
    options: Any,
) -> dict[tuple[int, int], Connections]:
    """The candidate connections from each keypoint to each neighbour, each limb in both directions.

    A cell with at least the threshold is a candidate if its score, confidence · (0.1 + 0.9·map at the target), exceeds
    the threshold.
    """
    connections = {}
    map_weight = options.connection_map_weight
    for (a, b), (indices, cells) in zip(skeleton, paf_cells, strict=True):
        confidence, first, second, scale1, scale2 = np.split(cells, [1, 3, 5, 6], axis=1)
        for start, end, start_point, end_point, end_scale in (
            (a, b, first, second, scale2),
            (b, a, second, first, scale1),
        ):
            support = look_up(maps[end], end_point, 0)
            score = confidence[:, 0] * (1 - map_weight + map_weight * support)
            kept = (confidence[:, 0] >= threshold) & (score > threshold)
            target = np.concatenate([end_point, end_scale], 1)
            connections[start, end] = Connections(score[kept], start_point[kept], target[kept], indices[kept])
    return connections


def follow(connections: Connections, start: Joint, window: np.float32, options: Any) -> Joint:
    """Where connections lead from a joint of scale s: a joint, its confidence the connection's value, 0 for nowhere.

    Those starting at most window·s/2 away along both axes count, with score · exp(−½ d²/(s/2)²). The best two (of equal
    ones the lower cell) are averaged by their scores; but if the second is weak or leads elsewhere the best one stands
    alone, for half its score.
    """
    half_scale = np.float32(0.5) * max(start.scale, options.connection_min_scale)
    reach = window * half_scale
    center = np.array([start.x, start.y])
    near = ((connections.start >= center - reach) & (connections.start <= center + reach)).all(1)
    if not near.any():
        return MISSING
    offset = connections.start[near] - center
    distance2 = offset[:, 0] * offset[:, 0] + offset[:, 1] * offset[:, 1]
    exponent = np.float32(-0.5) * distance2 / (half_scale * half_scale)
    # Through float64, because numpy's own float32 exponential is off by more than a rounding.
    scores = connections.score[near] * np.exp(exponent, dtype=np.float64).astype(np.float32)
    best = np.lexsort((connections.cell[near], -scores))[:2]
    return blend(scores[best], connections.target[near][best], options)


def blend(scores: NDArray[np.float32], targets: NDArray[np.float32], options: Any) -> Joint:
    """One target from the best one or two: scores [1 or 2], descending, and targets [1 or 2, 3]."""
    alone = Joint(np.float32(0.5) * scores[0], *targets[0])
    if len(scores) < 2 or scores[1] < options.blend_min_score or scores[1] < options.blend_min_ratio * scores[0]:
        return alone
    (x1, y1, scale1), (x2, y2, _) = targets
    limit = options.blend_max_distance * scale1
    if (x1 - x2) * (x1 - x2) + (y1 - y2) * (y1 - y2) > limit * limit:
        return alone
    total = scores[0] + scores[1]
    if not total > 0:
        return alone
    return Joint(np.float32(0.5) * total, *(scores[0] * targets[0] + scores[1] * targets[1]) / total)


# Stages 4 and 6: occupancy --------------------------------------------------------------------------------------------


class Occupancy:
    """Which places already belong to a joint: one bitmap per keypoint, its cells ``occupancy_reduction`` px wide."""

    def __init__(self, num_keypoints: int, size: tuple[int, ...], options: Any) -> None:
        self.rows, self.columns = (ceil(np.float32(edge) / options.occupancy_reduction) for edge in size)
        self.cells = np.zeros((num_keypoints, self.rows, self.columns), bool)
        self.reduction = options.occupancy_reduction
        self.min_half_side = options.occupancy_min_half_side

    def mark(self, keypoint: int, joint: Joint) -> None:
        """Marks the square [int(x − h), int(x + h)) around a joint, h its scale, in cells; at least one cell."""
        x, y = joint.x / self.reduction, joint.y / self.reduction
        half_side = max(self.min_half_side, joint.scale / self.reduction)
        left, top = to_index(x - half_side, 0, self.columns - 1), to_index(y - half_side, 0, self.rows - 1)
        right = to_index(x + half_side, left + 1, self.columns)
        bottom = to_index(y + half_side, top + 1, self.rows)
        self.cells[keypoint, top:bottom, left:right] = True

    def occupied(self, keypoint: int, joint: Joint) -> bool:
        row = to_index(joint.y / self.reduction, 0, self.rows - 1)
        column = to_index(joint.x / self.reduction, 0, self.columns - 1)
        return bool(self.cells[keypoint, row, column])


# Stages 4 and 5: growing and completing -------------------------------------------------------------------------------


def grow(
    person: Person,
    neighbors: Sequence[Sequence[int]],
    connections: dict[tuple[int, int], Connections],
    window: np.float32,
    reverse_match: bool,
    options: Any,
) -> None:
    """Fills the joints that can be reached from those a person has, along the most certain limb first.

    A heap holds limbs from a filled joint to an unfilled one; of equal keys the one that entered first comes up first.
    A limb enters with √confidence of its start, an upper bound of what it can reach. When that comes up, its connection
    is computed and put back under the confidence found; when this comes up, the joint is accepted.
    """
    heap: list[tuple[np.float32, int, int, int, Joint]] = []
    entered = count()

    def push_limbs(start: int) -> None:
        for end in neighbors[start]:
            if not person[end].found:
                heapq.heappush(heap, (-np.sqrt(person[start].confidence), next(entered), start, end, MISSING))

    for keypoint, joint in enumerate(person):
        if joint.found:
            push_limbs(keypoint)
    while heap:
        _, _, start, end, joint = heapq.heappop(heap)
        if person[end].found:
            continue
        if joint.found:
            person[end] = joint
            push_limbs(end)
            continue
        forward, backward = connections[start, end], connections[end, start]
        joint = connect(forward, backward if reverse_match else None, person[start], window, options)
        if joint.found:
            heapq.heappush(heap, (-joint.confidence, next(entered), start, end, joint))


def connect(
    forward: Connections, backward: Connections | None, start: Joint, window: np.float32, options: Any
) -> Joint:
    """The joint to which a limb leads, missing where it is too weak or, given ``backward``, does not lead back."""
    target = follow(forward, start, window, options)
    confidence = np.sqrt(target.confidence * start.confidence)
    weakest = max(options.keypoint_threshold, options.keypoint_threshold_relative * start.confidence)
    if confidence < weakest or not confidence > 0:
        return MISSING
    joint = target._replace(confidence=confidence)
    if backward is not None:
        back = follow(backward, joint, window, options)
        distance = np.abs(back.x - start.x) + np.abs(back.y - start.y)
        if not back.found or distance > options.reverse_max_distance * start.scale:
            return MISSING
    return joint


def fill_missing(person: Person, neighbors: Sequence[Sequence[int]], options: Any) -> None:
    """Copies into each missing joint the nearest found one along the limbs, the most confident of several."""
    reached = sorted(
        (keypoint for keypoint, joint in enumerate(person) if joint.found), key=lambda k: -person[k].confidence
    )
    for start in reached:  # breadth first: `reached` grows while it is walked
        for end in neighbors[start]:
            if not person[end].found:
                person[end] = person[start]._replace(confidence=options.complete_confidence)
                reached.append(end)


# Stage 6: suppression -------------------------------------------------------------------------------------------------


def mean_confidence(person: Person) -> np.float32:
    """Over all K joints, summed in their order: what persons are ranked and dropped by."""
    return np.add.accumulate([joint.confidence for joint in person])[-1] / np.float32(len(person))


def suppress(persons: Sequence[Person], occupancy: Occupancy, options: Any) -> list[Person]:
    """Weakens joints where a better person's is, removes weak joints, then weak and empty persons; the best first.

    ``occupancy`` is clear, and is used up. Persons of equal means keep their order.
    """
    ranked = sorted(persons, key=mean_confidence, reverse=True)
    for person in ranked:
        for keypoint, joint in enumerate(person):
            if not joint.found:
                continue
            if occupancy.occupied(keypoint, joint):
                joint = joint._replace(confidence=joint.confidence * options.suppression_factor)
            else:
                occupancy.mark(keypoint, joint)
            person[keypoint] = joint if joint.confidence > options.keypoint_threshold else MISSING
    kept = [person for person in ranked if 0 < mean_confidence(person) >= options.instance_threshold]
    return sorted(kept, key=mean_confidence, reverse=True)


# Stage 7: refinement --------------------------------------------------------------------------------------------------


def refine(persons: Sequence[Person], pif_cells: Sequence[NDArray[np.float32]], stride: int, options: Any) -> None:
    """Moves each joint, ``refine_rounds`` times, to the mean of where the PIF cells of its keypoint point.

    A cell (confidence, x, y, scale) with at least ``refine_threshold`` has the weight confidence · exp(−½ d²/σ²) for
    the distance d of (x, y) from the joint, if that is at most 3σ; σ is the larger of ``refine_min_sigma`` cells and
    ``refine_sigma`` scales of the joint. A joint without such cells stays.
    """
    for keypoint, cells in enumerate(pif_cells):
        confidence, position, _ = np.split(cells[cells[:, 0] >= options.refine_threshold], [1, 3], axis=1)
        for person in persons:
            sigma = max(options.refine_min_sigma * np.float32(stride), options.refine_sigma * person[keypoint].scale)
            for _ in range(options.refine_rounds if person[keypoint].found else 0):
                offset = position - np.array(person[keypoint][1:3])
                distance2 = offset[:, :1] * offset[:, :1] + offset[:, 1:] * offset[:, 1:]
                near = (distance2 <= (3 * sigma) * (3 * sigma))[:, 0]
                exponent = np.float32(-0.5) * distance2[near] / (sigma * sigma)
                weight = confidence[near] * np.exp(exponent, dtype=np.float64).astype(np.float32)
                total = weight.sum(dtype=np.float64)
                if total > 0:
                    x, y = ((weight * position[near]).sum(axis=0, dtype=np.float64) / total).astype(np.float32)
                    person[keypoint] = person[keypoint]._replace(x=x, y=y)
