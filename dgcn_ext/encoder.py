"""The PIF/PAF encoder: annotated persons in, training targets out. Needs numpy, not torch.

    encoder = PifPafEncoder(17, skeleton, sigmas, upright_pose)
    targets = encoder(keypoints, 641, 641, stride=8, ignored=boxes, node_strides=(8, 16))
    targets.pif_confidence                     # float32 [17, 81, 81]

Legend: B pictures, P persons of a picture, K keypoints, M limbs, H x W field cells; px are pixels of the network input,
``stride`` of them to a cell. The cell in row i and column j is centred on pixel (x, y) = (stride j, stride i), so H =
(height - 1) / stride + 1. The fields are PifPaf's (Kreiss et al., 2019), the rules OpenPifPaf 0.13's. What is computed
is written down in ``dgcn_ext.reference.encode``; how is in csrc/pifpaf, one file per stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dgcn_ext.arguments import INT_MAX, check_integer, check_limbs, check_pairs, to_array
from dgcn_ext.lazy import load_compiled

if TYPE_CHECKING:
    from dgcn_ext import _pifpaf

__all__ = ["PifPafEncoder", "Targets"]


@dataclass(frozen=True, eq=False)
class Targets:
    """What the network should predict, float32; NaN where the loss ignores a value; a batch has a leading B."""

    pif_confidence: NDArray[np.float32]
    """[K, H, W]: 1 near a joint, 0 elsewhere, NaN in regions of unannotated people."""
    pif_offset: NDArray[np.float32]
    """[K, 2, H, W]: cell -> joint, (x, y) in cells; NaN where pif_confidence is not 1."""
    pif_scale: NDArray[np.float32]
    """[K, H, W]: size of the joint in cells (the person's size times the OKS sigma); NaN also where it is unknown."""
    paf_confidence: NDArray[np.float32]
    """[M, H, W]: 1 along a limb, 0 elsewhere, NaN in regions of unannotated people."""
    paf_offset: NDArray[np.float32]
    """[M, 4, H, W]: cell -> both ends of the limb, (x1, y1, x2, y2) in cells; NaN where there is no limb."""
    node_confidence: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    """{stride: [K, H', W']}: pif_confidence at other strides, for the intermediate supervision."""


class PifPafEncoder:
    """Encodes annotated persons as the fields that a network should learn.

    Immutable: threads may share one. Encoding releases the GIL. Pickling keeps the four arguments.

    Args:
        num_keypoints: K, 1 to 10,000.
        skeleton: the M limbs as pairs of zero-based keypoints, ``[(i, j), ...]`` or an integer array [M, 2].
        sigmas: [K], each keypoint's OKS sigma: the size of the joint as a fraction of its person's.
        upright_pose: [K, 2], (x, y) of a standing person in any unit: the proportions by which a person's size is
            estimated from the joints that are annotated.

    Raises:
        TypeError, ValueError: naming the argument, what is required and what arrived.
    """

    def __init__(
        self,
        num_keypoints: int,
        skeleton: Iterable[tuple[int, int]] | NDArray[np.integer[Any]],
        sigmas: ArrayLike,
        upright_pose: ArrayLike,
    ) -> None:
        pifpaf = load_compiled("_pifpaf")
        self._num_keypoints = check_integer("num_keypoints", num_keypoints, 1, pifpaf.MAX_KEYPOINTS)
        self._skeleton = check_limbs(skeleton)
        self._sigmas = _float64("sigmas", sigmas, (self._num_keypoints,)).tolist()
        self._upright_pose = _float64("upright_pose", upright_pose, (self._num_keypoints, 2)).tolist()
        self._native: _pifpaf.Encoder = pifpaf.Encoder(
            self._num_keypoints, self._skeleton, self._sigmas, self._upright_pose
        )

    @property
    def num_keypoints(self) -> int:
        """K."""
        return self._num_keypoints

    @property
    def skeleton(self) -> tuple[tuple[int, int], ...]:
        """The M limbs, zero-based."""
        return self._skeleton

    def __call__(
        self,
        keypoints: ArrayLike,
        height: int,
        width: int,
        stride: int,
        *,
        ignored: ArrayLike = (),
        node_strides: Sequence[int] = (),
        out: Targets | None = None,
    ) -> Targets:
        """The targets of one picture.

        PIF: a joint claims the 4x4 cells around it; the nearest joint wins a cell. PAF: a limb claims 3x3 cells at
        every step of about a cell along it; the smallest perpendicular distance wins. Of equally near ones the first
        person wins. A hidden joint less than 32 px from a visible one of the same keypoint is left out, and so is
        everything outside the picture; a keypoint beyond 1e9 px, infinite or NaN counts as not annotated.

        Args:
            keypoints: [P, K, 3]: x px, y px, visibility (0 not annotated, 1 hidden, 2 visible).
            height: of the picture in px, a multiple of every stride plus 1.
            width: the same.
            stride: edge of a cell in px.
            ignored: [R, 4] boxes x, y, width, height in px, of crowds and of persons without keypoints: the confidence
                of the cells that one touches is NaN, unless an annotated person claims them. Boxes beyond 1e9 px,
                infinite or NaN are skipped.
            node_strides: strides at which the PIF confidence is wanted as well.
            out: targets of these shapes to write into and return, such as those of the last batch: allocating memory
                for a batch can take longer than encoding it.

        Raises:
            TypeError, ValueError: naming the argument, what is required and what arrived.
        """
        picture = self._check_picture(keypoints, ignored, "")
        return self._encode([picture], (), height, width, stride, node_strides, 1, out)

    def batch(
        self,
        pictures: Sequence[tuple[ArrayLike, ArrayLike]],
        height: int,
        width: int,
        stride: int,
        *,
        node_strides: Sequence[int] = (),
        threads: int = 0,
        out: Targets | None = None,
    ) -> Targets:
        """The targets of B pictures of one size, stacked, on several threads; each to the bit what it is alone.

        Args:
            pictures: pairs (keypoints, ignored).
            threads: how many to use; 0: as many as the machine has.
            height, width, stride, node_strides, out: as for one picture.

        Raises:
            TypeError, ValueError: as for one picture, naming the picture.
        """
        pairs = check_pairs("pictures", pictures, "(keypoints, ignored)")
        checked = [self._check_picture(*pair, f"pictures[{i}] ") for i, pair in enumerate(pairs)]
        threads = check_integer("threads", threads, 0, INT_MAX)
        return self._encode(checked, (len(checked),), height, width, stride, node_strides, threads, out)

    def __reduce__(self) -> tuple[Any, ...]:
        return PifPafEncoder, (self._num_keypoints, self._skeleton, self._sigmas, self._upright_pose)

    def __repr__(self) -> str:
        arguments = (self._num_keypoints, list(self._skeleton), self._sigmas, self._upright_pose)
        return f"PifPafEncoder({', '.join(map(str, arguments))})"

    def _check_picture(
        self, keypoints: ArrayLike, ignored: ArrayLike, prefix: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return (
            _float64(f"{prefix}keypoints", keypoints, (-1, self._num_keypoints, 3)),
            _float64(f"{prefix}ignored", ignored, (-1, 4)),
        )

    def _encode(
        self,
        pictures: list[tuple[NDArray[np.float64], NDArray[np.float64]]],
        batch: tuple[int, ...],
        height: int,
        width: int,
        stride: int,
        node_strides: Sequence[int],
        threads: int,
        out: Targets | None,
    ) -> Targets:
        """Targets with the leading dimensions ``batch``: () or (B,)."""
        height, width = check_integer("height", height, 1, INT_MAX), check_integer("width", width, 1, INT_MAX)
        stride = _check_stride("stride", stride, height, width)
        if not isinstance(node_strides, Iterable):
            raise TypeError(f"node_strides must be a sequence of strides, got {node_strides!r}")
        checked = (_check_stride(f"node_strides[{i}]", node, height, width) for i, node in enumerate(node_strides))
        nodes = list(dict.fromkeys(checked))
        layout = batch, height, width, stride, nodes
        arrays = None if out is None else _check_out(out, nodes, self._native.shapes(*layout))
        arrays = self._native.encode(pictures, *layout, threads, arrays)
        if out is not None:
            return out
        pif_confidence, pif_offset, pif_scale, paf_confidence, paf_offset, *node_arrays = arrays
        node_confidence = dict(zip(nodes, node_arrays, strict=True))
        return Targets(pif_confidence, pif_offset, pif_scale, paf_confidence, paf_offset, node_confidence)


def _check_stride(name: str, stride: int, height: int, width: int) -> int:
    stride = check_integer(name, stride, 1, INT_MAX)
    for side, pixels in (("height", height), ("width", width)):
        if (pixels - 1) % stride:
            raise ValueError(f"{side} must be a multiple of {name} = {stride} plus 1, got {pixels}")
    return stride


def _float64(name: str, value: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """C-contiguous float64 of `shape`, which begins with -1 for any number of rows: none in an empty list."""
    array = to_array(name, value, "numbers")
    if array.shape == (0,) and shape[0] < 0:
        array = array.reshape(shape)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be numbers, got {array.dtype}")
    if array.shape != (array.shape[:1] + shape[1:] if shape[0] < 0 else shape):
        wanted = ", ".join("N" if size < 0 else str(size) for size in shape)
        raise ValueError(f"{name} must have the shape [{wanted}], got {list(array.shape)}")
    return np.ascontiguousarray(array, dtype=np.float64)


def _check_out(out: Targets, nodes: list[int], shapes: list[list[int]]) -> list[NDArray[np.float32]]:
    """The arrays of `out`, those of the nodes last, if they are of these `shapes`."""
    if not isinstance(out, Targets):
        raise TypeError(f"out must be Targets, got {type(out).__name__}")
    if set(out.node_confidence) != set(nodes):
        raise ValueError(f"out.node_confidence must have the strides {nodes}, got {list(out.node_confidence)}")
    arrays = {name: array for name, array in vars(out).items() if name != "node_confidence"}
    arrays |= {f"node_confidence[{node}]": out.node_confidence[node] for node in nodes}
    for (name, array), shape in zip(arrays.items(), shapes, strict=True):
        if not isinstance(array, np.ndarray) or array.dtype != np.float32:
            raise TypeError(f"out.{name} must be a float32 array, got {getattr(array, 'dtype', type(array).__name__)}")
        if list(array.shape) != shape:
            raise ValueError(f"out.{name} must have the shape {shape}, got {list(array.shape)}")
        if not (array.flags.c_contiguous and array.flags.writeable):
            raise ValueError(f"out.{name} must be C-contiguous and writeable")
    return list(arrays.values())
