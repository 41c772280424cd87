"""The greedy PIF/PAF decoder: fields or raw heads of an image in, persons out. Needs numpy, not torch.

    decoder = PifPafDecoder(17, skeleton)
    persons = decoder(pif, paf, stride=8)      # float32 [P, 17, 4]: confidence, x px, y px, scale px

Legend: K keypoints, M limbs, H x W field cells, P persons; px are pixels of the network input, ``stride`` of them to a
cell; a joint's scale is its size as the fields give it. The algorithm is PifPaf's (Kreiss et al., 2019) with the
constants of OpenPifPaf 0.13; it lives in csrc/pifpaf, one file per stage.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dgcn_ext.arguments import INT_MAX, check_integer, check_limbs, check_pairs, to_array
from dgcn_ext.lazy import load_compiled

if TYPE_CHECKING:
    from dgcn_ext import _pifpaf

__all__ = ["DecoderConfig", "Inspection", "PifPafDecoder"]


_OPTION_TYPES: dict[type, tuple[str, Any]] = {
    bool: ("a bool", bool),
    int: ("an integer", Integral),
    float: ("a number", Real),
}


def _option(default: Any, low: float, high: float) -> Any:
    """A field of :class:`DecoderConfig` that takes the numbers in [low, high]."""
    return field(default=default, metadata={"range": (low, high)})


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Constants of the decoder, in the order in which it uses them. The defaults are OpenPifPaf's.

    Each field is declared as ``name: type = _option(default, lowest, highest)``. A divisor's lowest value is above 0.

    Raises:
        TypeError, ValueError: a value of the wrong type or out of range, naming the field.
    """

    map_threshold: float = _option(0.3, 0, 1)
    """PIF cells with at least this confidence are painted into the confidence map."""
    map_neighbors: float = _option(16.0, 1e-3, 1e6)
    """A cell adds confidence / map_neighbors: so many agreeing cells saturate a pixel of the map."""
    map_sigma: float = _option(0.5, 0, 1e6)
    """Radius of a painted cell, in scales."""
    map_min_sigma: float = _option(1.0, 1e-3, 1e6)
    """Smallest radius of a painted cell, in px."""
    max_map_pixels: int = _option(2**26, 1, 2**30)
    """Inputs of more pixels are refused, which bounds the memory of the map to four times as many bytes."""

    seed_threshold: float = _option(0.2, 0, 1)
    """Smallest confidence of a seed: of the PIF cell, and of its blend with the map."""
    seed_map_weight: float = _option(0.9, 0, 1)
    """Share of the map in a seed's confidence; the rest is the cell's."""

    max_seeds: int = _option(200_000, 1, INT_MAX)
    """How many of an image's seeds are tried, best first; images of a thousand persons have fewer."""

    connection_threshold: float = _option(0.3, 0, 1)
    """A PAF cell needs at least this confidence to be a candidate; a connection's score must exceed it."""
    connection_map_weight: float = _option(0.9, 0, 1)
    """w in the score of a connection: the cell's confidence times (1 - w + w * the map at its target)."""
    connection_window: float = _option(1.0, 0, 1e6)
    """Width of the window around a joint in which connections start, in scales."""
    connection_min_scale: float = _option(0.5, 1e-3, 1e6)
    """Smallest scale with which a joint searches, in px."""
    blend_min_score: float = _option(0.01, 0, 1e6)
    """Smallest score of a second best connection that is blended with the best one."""
    blend_min_ratio: float = _option(0.5, 0, 1e6)
    """Smallest score of that second best one, as a fraction of the best one's."""
    blend_max_distance: float = _option(0.5, 0, 1e6)
    """Largest distance between the targets of the two, in scales of the best one's target."""

    max_persons: int = _option(1000, 1, INT_MAX)
    """Growing stops at this many persons, counting those that suppression will drop. With max_seeds it bounds time and
    memory, whatever the fields hold."""
    keypoint_threshold: float = _option(0.15, 0, 1)
    """Smallest confidence of a joint."""
    keypoint_threshold_relative: float = _option(0.5, 0, 1e6)
    """Smallest confidence of a joint relative to the one it was grown from, a ratio that may exceed 1."""
    reverse_match: bool = True
    """Whether the connections of a new joint must lead back to the joint that it was grown from."""
    reverse_max_distance: float = _option(1.0, 0, 1e6)
    """Largest L1 distance between that joint and the place they lead back to, in scales of that joint."""

    occupancy_reduction: float = _option(2.0, 1, 1e6)
    """Edge of a cell of the bitmaps that record where joints are, in px."""
    occupancy_min_half_side: float = _option(2.0, 0, 1e6)
    """Smallest half side of the square that a joint occupies, in cells of the bitmap."""

    suppression_factor: float = _option(1e-5, 0, 1)
    """A joint in a place that a better person's joint occupies keeps this share of its confidence."""
    instance_threshold: float = _option(0.15, 0, 1)
    """Smallest mean confidence of a person over all keypoints."""

    force_complete: bool = False
    """Give every person every keypoint its skeleton reaches; both keypoint thresholds and the instance threshold then
    count as zero."""
    complete_threshold: float = _option(0.001, 0, 1)
    """Replaces connection_threshold while persons are completed."""
    complete_window: float = _option(4.0, 0, 1e6)
    """Replaces connection_window while persons are completed, in scales."""
    complete_confidence: float = _option(1e-5, 1e-12, 1)
    """Confidence of a joint that is copied from its neighbour for want of any evidence."""

    refine_rounds: int = _option(0, 0, 10)
    """How many times each joint moves to the mean of the PIF cells that point near it; 0 for none, as in OpenPifPaf."""
    refine_threshold: float = _option(0.1, 0, 1)
    """Smallest confidence of a PIF cell that counts there."""
    refine_sigma: float = _option(1.0, 0, 1e6)
    """Standard deviation of a cell's weight over its distance from the joint, in scales; cells beyond three are left
    out."""
    refine_min_sigma: float = _option(1.0, 1e-3, 1e6)
    """Smallest standard deviation of that weight, in cells of the field."""

    score_top: int = _option(3, 0, INT_MAX)
    """How many of a person's most confident joints weigh more in its score."""
    score_top_weight: float = _option(3.0, 0, 1e6)
    """Their weight; the others weigh 1."""

    def __post_init__(self) -> None:
        for option in fields(self):
            _check_option(option.name, getattr(self, option.name), option.default, option.metadata.get("range"))


def _check_option(name: str, value: Any, default: Any, limits: tuple[float, float] | None) -> None:
    required, kind = _OPTION_TYPES[type(default)]
    if not isinstance(value, kind) or isinstance(value, bool) != isinstance(default, bool):
        raise TypeError(f"{name} must be {required}, got {value!r}")
    if limits is not None and not limits[0] <= value <= limits[1]:  # NaN is in no range
        low, high = (limit if isinstance(default, int) else f"{limit:g}" for limit in limits)
        raise ValueError(f"{name} must be in [{low}, {high}], got {value}")


@dataclass(frozen=True, eq=False)
class Inspection:
    """The evidence in an image from which persons are grown; see :meth:`PifPafDecoder.inspect`."""

    confidence_maps: NDArray[np.float32]
    """[K, (H - 1) * stride + 1, (W - 1) * stride + 1], one value in [0, 1] a pixel."""
    seeds: NDArray[np.void]
    """Structured array of the joints from which persons are grown, in the order in which they are tried. Those at a
    place that another person occupies by then are skipped. ``keypoint``; ``cell`` of the PIF field, row-major;
    ``confidence``; ``x``, ``y``, ``scale`` in px."""
    connections: NDArray[np.void]
    """Structured array of the candidate connections, by limb, direction and cell. ``limb``, the index in the skeleton;
    the keypoints ``start`` and ``end``, in the order in which the limb is walked; ``cell`` of the PAF field, row-major;
    ``score``, of the cell and of the map at the end, in [0, 1]; ``x1``, ``y1`` of the start and ``x2``, ``y2``,
    ``scale2`` of the end, in px."""


class PifPafDecoder:
    """Decodes PIF and PAF fields into persons.

    Immutable: threads may share one, and the same fields give the same bits whatever was decoded before. Decoding
    releases the GIL. Pickling keeps the three arguments.

    Time and memory are bounded whatever the fields hold: a decode grows at most max_persons, each of which looks at
    most at every cell of the PAF fields. Of the fields tried, 17 x 81 x 81 cells at stride 8 with every cell certain or
    random and joints up to as large as the image, none took more than two seconds on one core, nor more than 3.3 times
    the memory of the fields. Images of people take milliseconds.

    Args:
        num_keypoints: K, 1 to 10,000.
        skeleton: the M limbs as pairs of zero-based keypoints, in the order of the PAF fields: ``[(i, j), ...]`` or an
            integer array [M, 2]. Any graph without loops and repeated limbs, connected or not, also without any limb.
            Limbs beyond those of the body ("dense connections") keep a person together whose joints in between are
            hidden: each takes a PAF field.
        config: constants of the algorithm.

    Raises:
        TypeError, ValueError: naming the argument, what is required and what arrived.
    """

    def __init__(
        self,
        num_keypoints: int,
        skeleton: Iterable[tuple[int, int]] | NDArray[np.integer[Any]],
        config: DecoderConfig | None = None,
    ) -> None:
        if config is not None and not isinstance(config, DecoderConfig):
            raise TypeError(f"config must be a DecoderConfig, got {type(config).__name__}")
        pifpaf = load_compiled("_pifpaf")
        self._num_keypoints = check_integer("num_keypoints", num_keypoints, 1, pifpaf.MAX_KEYPOINTS)
        self._skeleton = check_limbs(skeleton)
        self._config = DecoderConfig() if config is None else config
        constants = pifpaf.DecoderConfig()
        for option in fields(self._config):
            setattr(constants, option.name, getattr(self._config, option.name))
        self._native: _pifpaf.Decoder = pifpaf.Decoder(self._num_keypoints, self._skeleton, constants)

    @property
    def num_keypoints(self) -> int:
        """K."""
        return self._num_keypoints

    @property
    def skeleton(self) -> tuple[tuple[int, int], ...]:
        """The M limbs, zero-based."""
        return self._skeleton

    @property
    def config(self) -> DecoderConfig:
        return self._config

    def __call__(self, pif: ArrayLike, paf: ArrayLike, stride: int) -> NDArray[np.float32]:
        """The persons in one image, float32 [P, K, 4]: confidence, x px, y px, scale px; best first.

        Persons are ordered by mean confidence over all K; joints that were not found are zero in all four.

        Both arrays are float32, float16, bfloat16 (of torch or ml_dtypes) or float64 in any memory layout. All but
        float64 is read in place, most of it only where the confidence is high enough. The number of PAF components
        tells fields from heads.

        Args:
            pif, paf: fields, [K, 5, H, W] (unused, confidence, x, y, scale) and [M, 8, H, W] (unused, confidence, x1,
                y1, x2, y2, scale1, scale2). Confidences are in [0, 1] (above 1 counts as 1); coordinates are absolute,
                and they and scales in cells.
                Or the heads as a network leaves them, [K, 5, H, W] (c, x, y, unused, s) and [M, 7, H, W] (c, x1, y1,
                x2, y2, unused, unused). The confidence is sigmoid(c); coordinates are relative to the cell, in cells; a
                joint's scale is softplus(s) cells, and those of a limb's ends are the scales of the PIF cells nearest
                to them, or 0 if they are NaN, infinite or beyond 10⁹ px.
            stride: edge of a cell in px.

        A cell with a component that is NaN, infinite or beyond 1e9 px is skipped; H = 0 or W = 0 gives P = 0.

        Raises:
            TypeError, ValueError: naming the argument, what is required and what arrived. Also for more than
                ``config.max_map_pixels`` pixels.
        """
        return self._native.decode(*self._check_fields(pif, paf, ""), check_integer("stride", stride, 1, INT_MAX))

    def batch(
        self, images: Iterable[tuple[ArrayLike, ArrayLike]], stride: int, threads: int = 0
    ) -> list[NDArray[np.float32]]:
        """``[self(pif, paf, stride) for pif, paf in images]`` to the bit, on several threads without the GIL.

        All images are checked in the calling thread before the first one is decoded. Signals, Ctrl-C among them, wait
        for the whole batch.

        Args:
            images: pairs (pif, paf); sizes may differ from image to image. For the heads [B, K, 5, H, W] and [B, M, 7,
                H, W] of a batch: ``zip(pif, paf)``.
            stride: edge of a cell in px.
            threads: how many to use; 0: as many as the machine has.

        Raises:
            TypeError, ValueError: as for one image, naming the image.
        """
        pairs = check_pairs("images", images, "(pif, paf)")
        checked = [self._check_fields(*pair, f"images[{i}] ") for i, pair in enumerate(pairs)]
        stride = check_integer("stride", stride, 1, INT_MAX)
        return self._native.decode_batch(checked, stride, check_integer("threads", threads, 0, INT_MAX))

    def inspect(self, pif: ArrayLike, paf: ArrayLike, stride: int) -> Inspection:
        """The evidence from which ``self(pif, paf, stride)`` grows persons, for plots and debugging.

            c = decoder.inspect(pif, paf, stride).connections
            from_5_to_7 = c[(c["start"] == 5) & (c["end"] == 7)]

        With ``config.force_complete`` the connections are those that complete persons, a superset as a rule. Arguments
        and errors are those of decoding. The maps take 4 bytes a pixel and keypoint.
        """
        fields = self._check_fields(pif, paf, "")
        return Inspection(*self._native.inspect(*fields, check_integer("stride", stride, 1, INT_MAX)))

    def stage_times(self, pif: ArrayLike, paf: ArrayLike, stride: int) -> dict[str, float]:
        """Seconds that each stage of ``self(pif, paf, stride)`` takes, by name.

        ``reading``: the confidences are copied, unless they lie there as C-contiguous float32; ``maps``: PIF cells are
        read and indexed for look-ups in the confidence maps; ``seeds``: cells are scored by the maps and sorted;
        ``growing``: PAF cells are read, connections scored, persons grown; ``completing``: the same for force-complete;
        ``suppressing``; ``refining``. Work that is deferred counts in the stage that needs it. Arguments and errors are
        those of decoding.
        """
        fields = self._check_fields(pif, paf, "")
        return self._native.stage_times(*fields, check_integer("stride", stride, 1, INT_MAX))

    def person_scores(self, persons: ArrayLike) -> NDArray[np.float32]:
        """Scores to report for persons [P, K, 4], float32 [P]: the joint confidences' mean, weighted by rank.

        The ``config.score_top`` most confident joints weigh ``config.score_top_weight``, the others 1; for 17 keypoints
        that is (3, 3, 3, 1 x 14) / 23.
        """
        array = to_array("persons", persons, "an array of floats")
        if array.dtype.kind != "f":
            raise TypeError(f"persons must be an array of floats, got {array.dtype}")
        if array.ndim != 3 or array.shape[1:] != (self._num_keypoints, 4):
            raise ValueError(f"persons must have the shape [P, {self._num_keypoints}, 4], got {list(array.shape)}")
        return self._native.person_scores(np.ascontiguousarray(array, np.float32))

    def __reduce__(self) -> tuple[Any, ...]:
        return PifPafDecoder, (self._num_keypoints, self._skeleton, self._config)

    def __repr__(self) -> str:
        return f"PifPafDecoder({self._num_keypoints}, {list(self._skeleton)}, {self._config})"

    def _check_fields(self, pif: ArrayLike, paf: ArrayLike, prefix: str) -> tuple[NDArray[Any], NDArray[Any]]:
        arrays = []
        for name, value, count, components in (
            (f"{prefix}pif", pif, self._num_keypoints, (5,)),
            (f"{prefix}paf", paf, len(self._skeleton), (8, 7)),
        ):
            array = _numbers(name, value)
            if array.ndim != 4 or array.shape[0] != count or array.shape[1] not in components:
                required = " or ".join(f"[{count}, {c}, H, W]" for c in components)
                raise ValueError(f"{name} must have the shape {required}, got {list(array.shape)}")
            arrays.append(array)
        if arrays[0].shape[2:] != arrays[1].shape[2:]:
            sizes = [list(array.shape[2:]) for array in arrays]
            raise ValueError(f"{prefix}paf must have pif's field size {sizes[0]}, got {sizes[1]}")
        if max(arrays[0].shape) > INT_MAX:
            raise ValueError(f"{prefix}pif must have sizes of at most {INT_MAX}, got {list(arrays[0].shape)}")
        return arrays[0], arrays[1]


def _numbers(name: str, value: ArrayLike) -> NDArray[Any]:
    """``value`` as the compiled decoder reads it: float32, float16, or the bits of bfloat16 as uint16.

    Only numbers of another type, or that do not lie at multiples of their size, are copied."""
    if str(getattr(value, "dtype", "")) == "torch.bfloat16":  # which numpy cannot take
        value = value.view(sys.modules["torch"].uint16)  # type: ignore[union-attr]
        is_bfloat16 = True
        array = to_array(name, value, "an array of floats")
    else:
        array = to_array(name, value, "an array of floats")
        if is_bfloat16 := array.dtype.name == "bfloat16":  # of ml_dtypes
            array = array.view(np.uint16)
    if not is_bfloat16 and (array.dtype.kind != "f" or array.dtype.itemsize > 8):
        raise TypeError(f"{name} must be a float32, float16, bfloat16 or float64 array, got {array.dtype}")
    size = array.dtype.itemsize
    if size == 8:
        with np.errstate(over="ignore", invalid="ignore"):  # beyond float32: becomes infinite, and is then skipped
            return array.astype(np.float32)
    in_place = array.dtype.isnative and array.flags.aligned and all(stride % size == 0 for stride in array.strides)
    return array if in_place else array.astype(array.dtype.newbyteorder("="))  # a copy, which is aligned
