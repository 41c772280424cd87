"""From a picture of any size to the network's square, and back.

One convention everywhere: a coordinate is a pixel index, so pixel i is centred on x = i, the first pixel on 0. COCO's
keypoints are taken as such. Every change of size is x_net = x * scale about that centre of the first pixel, in
`resize_pad`, in `TrainTransform` and back in `Preprocess.to_original`; and cell i of a field of stride s is centred on
network pixel s * i. (cv2.resize keeps the outer edges of the pixels in place instead, which is off by half a pixel.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from ..records import Annotation
from ..sizes import check_size, padded_size
from ..skeleton import Skeleton

PAD_COLOR = (124, 116, 104)
"""RGB of every pixel outside the picture: the mean of ImageNet, near zero once the network has normalised it."""

LUMA = np.array([0.299, 0.587, 0.114])
"""What red, green and blue add to the grey of a pixel (ITU-R BT.601)."""


@dataclass(frozen=True)
class Preprocess:
    """How `resize_pad` brought a picture to the network, and the way back.

    scale: network pixels per original pixel.
    original_size: (width, height) of the picture, in its own pixels.
    """

    scale: float
    original_size: tuple[int, int]

    def to_original(self, xy: np.ndarray) -> np.ndarray:
        """Network pixels [..., 2] to pixels of the original picture."""
        return np.asarray(xy) / self.scale


def resize_pad(image: np.ndarray, long_edge: int) -> tuple[np.ndarray, Preprocess]:
    """Scale `image` (uint8 [H, W, 3]) until its long edge is `long_edge` pixels (16 n + 1), pad it at the right and
    at the bottom with `PAD_COLOR` to sizes of the same form."""
    scale = _scale_to_fit(image, long_edge, long_edge)
    height, width = (padded_size(round((edge - 1) * scale) + 1) for edge in image.shape[:2])
    return _scale_pad(image, scale, height, width)


def fit_pad(image: np.ndarray, height: int, width: int) -> tuple[np.ndarray, Preprocess]:
    """Scale `image` (uint8 [H, W, 3]) until it just fits `height` × `width` pixels (16 n + 1 each), pad it to that as
    `resize_pad` does."""
    return _scale_pad(image, _scale_to_fit(image, height, width), height, width)


@dataclass(frozen=True, kw_only=True)
class TrainTransform:
    """Random augmentation: one affine warp of picture and annotations to a square, then photometric jitter.

    size: edge of the square, in pixels, 16 n + 1.
    skeleton: whose left and right keypoints change places in a mirrored picture.
    scale_range: zoom, relative to the one that fits the long edge into the square; drawn log-uniformly.
    rotation: largest angle, in degrees, either way.
    flip_probability, grayscale_probability: of mirroring the picture, and of dropping its colours.
    brightness, contrast, saturation: largest relative change, each drawn uniformly; 0 for none.
    """

    size: int
    skeleton: Skeleton
    scale_range: tuple[float, float] = (0.4, 2.0)
    rotation: float = 25.0
    flip_probability: float = 0.5
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.4
    grayscale_probability: float = 0.05

    def __post_init__(self) -> None:
        check_size(self.size, "size")
        try:
            low, high = map(float, self.scale_range)
        except (TypeError, ValueError):
            raise ValueError(f"scale_range must be two numbers, low and high, got {self.scale_range!r}") from None
        if not 0 < low <= high < math.inf:
            raise ValueError(f"scale_range must be 0 < low <= high, got {self.scale_range}")
        if not 0 <= self.rotation <= 180:
            raise ValueError(f"rotation must be in 0..180 degrees, got {self.rotation}")
        for name in ("flip_probability", "grayscale_probability", "brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")

    def __call__(
        self, image: np.ndarray, annotations: Sequence[Annotation], rng: np.random.Generator
    ) -> tuple[np.ndarray, list[Annotation]]:
        """uint8 [H, W, 3] and its annotations -> uint8 [size, size, 3] and the annotations still in view.

        A keypoint that leaves the square becomes v = 0, boxes are clipped, and an annotation whose box is gone is
        dropped. The same generator state gives the same result."""
        _check_image(image)
        flip = rng.random() < self.flip_probability
        matrix = self._draw_matrix(image, annotations, flip, rng)
        warped = _warp(image, matrix, (self.size, self.size))
        mirror = self.skeleton.flip if flip else None
        moved = [transform_annotation(a, matrix, (self.size, self.size), mirror) for a in annotations]
        return self._jitter(warped, rng), [a for a in moved if a is not None]

    def _draw_matrix(
        self, image: np.ndarray, annotations: Sequence[Annotation], flip: bool, rng: np.random.Generator
    ) -> np.ndarray:
        """float64 [2, 3] from image pixels to those of the square."""
        height, width = image.shape[:2]
        fit = (self.size - 1) / max(1, max(height, width) - 1)
        scale = fit * math.exp(rng.uniform(*np.log(self.scale_range)))
        angle = math.radians(rng.uniform(-self.rotation, self.rotation))
        linear = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        if flip:
            linear[:, 0] *= -1

        # A picture smaller than the square may lie anywhere in it, a larger one is cropped anywhere.
        corners = linear @ np.array([[0, width - 1, 0, width - 1], [0, 0, height - 1, height - 1]])
        ends = np.sort([-corners.min(axis=1), self.size - 1 - corners.max(axis=1)], axis=0)
        persons = [a for a in annotations if not a.is_ignored]
        if persons:
            # ... but the middle of one person, drawn at random, stays away from the border by an eighth of the square.
            joints = persons[rng.integers(len(persons))].keypoints
            joints = joints[joints[:, 2] > 0, :2]
            middle = linear @ (joints.min(axis=0) + joints.max(axis=0)) / 2
            ends = np.clip(ends, self.size / 8 - middle, self.size * 7 / 8 - middle)
        return np.column_stack([linear, rng.uniform(*ends)])

    def _jitter(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        saturation = 1 + rng.uniform(-self.saturation, self.saturation)
        if rng.random() < self.grayscale_probability:
            saturation = 0.0
        contrast = 1 + rng.uniform(-self.contrast, self.contrast)
        brightness = 1 + rng.uniform(-self.brightness, self.brightness)
        # All in one pass: away from the pixel's grey, then from the picture's mean grey, then from black.
        mean = LUMA @ cv2.mean(image)[:3]
        linear = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * LUMA)
        shift = brightness * (1 - contrast) * mean
        return cv2.transform(image, np.column_stack([linear, np.full(3, shift)]))


def transform_annotation(
    annotation: Annotation, matrix: np.ndarray, size: tuple[int, int], mirror: Sequence[int] | None = None
) -> Annotation | None:
    """`annotation` under the affine `matrix` [2, 3] on a canvas of `size` (width, height) pixels; None once its box
    is out of view. `mirror`: the skeleton's `flip` where the matrix mirrors."""
    linear, shift = matrix[:, :2], matrix[:, 2]
    keypoints = annotation.keypoints if mirror is None else annotation.keypoints[list(mirror)]
    xy = keypoints[:, :2] @ linear.T + shift
    edge = np.array(size) - 1
    seen = (keypoints[:, 2] > 0) & ((xy >= 0) & (xy <= edge)).all(axis=1)
    moved = np.where(seen[:, None], np.column_stack([xy, keypoints[:, 2]]), 0).astype(np.float32)

    x, y, w, h = annotation.box
    corners = np.array([[x, y], [x + w, y], [x, y + h], [x + w, y + h]]) @ linear.T + shift
    low, high = np.clip(corners.min(axis=0), 0, edge), np.clip(corners.max(axis=0), 0, edge)
    if not seen.any() and (high <= low).any():
        return None
    return replace(
        annotation,
        keypoints=moved,
        box=(float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])),
        area=annotation.area * abs(float(np.linalg.det(linear))),
        head_size=None,  # nobody measures PCKh on augmented pictures
    )


def _scale_to_fit(image: np.ndarray, height: int, width: int) -> float:
    """Pixels of a canvas of `height` × `width` per pixel of the largest `image` on it: corners are put on corners."""
    _check_image(image)
    edges = zip(image.shape[:2], (height, width), strict=False)
    # A picture of one pixel has no length to scale.
    return min((check_size(canvas) - 1) / max(1, edge - 1) for edge, canvas in edges)


def _scale_pad(image: np.ndarray, scale: float, height: int, width: int) -> tuple[np.ndarray, Preprocess]:
    matrix = np.array([[scale, 0, 0], [0, scale, 0]])
    return _warp(image, matrix, (width, height)), Preprocess(scale, (image.shape[1], image.shape[0]))


def _warp(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`image` under `matrix` [2, 3] (pixel centres to pixel centres) on a canvas of `size` (width, height) pixels."""
    scale = math.sqrt(abs(np.linalg.det(matrix[:, :2])))
    if scale < 1:
        # Bilinear sampling alone skips pixels here. Average them away first; INTER_AREA keeps pixel edges, not
        # centres, in place, and the matrix takes up the difference.
        height, width = image.shape[:2]
        small = max(1, round(width * scale)), max(1, round(height * scale))
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        ratio = np.array([width / small[0], height / small[1]])
        shift = matrix[:, :2] @ ((ratio - 1) / 2) + matrix[:, 2]
        matrix = np.column_stack([matrix[:, :2] * ratio, shift])
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderValue=PAD_COLOR)


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"image must be non-empty uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
