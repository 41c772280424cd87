"""What a skeleton is: keypoints, limbs, OKS sigmas, mirror, reference pose. Those of COCO, CrowdPose and MPII."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

_SIDES = {"left": "right", "right": "left", "l": "r", "r": "l"}


def words_of(name: str) -> tuple[str, ...]:
    """The words of a keypoint's name in lower case: of left_hip, "Left Hip" and leftHip they are left and hip."""
    words: list[str] = []
    for part in re.findall(r"[^\W\d_]+|\d+", name):
        # Only ASCII letters tell where a word begins that follows another without a gap.
        words += re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", part) if part.isascii() and part.isalpha() else [part]
    return tuple(word.lower() for word in words) or (name,)


def same_names(names: Sequence[str], others: Sequence[str]) -> bool:
    """Whether these are the same names in the same order, but for case and what stands between words."""
    return [words_of(name) for name in names] == [words_of(name) for name in others]


def mirrored_words(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """What the keypoint on the other side may be called: with another side for a word, or for a word's end."""
    for index, word in enumerate(words):
        if word in _SIDES:
            yield (*words[:index], _SIDES[word], *words[index + 1 :])
    for index, word in enumerate(words):
        for side in ("left", "right"):
            for bare, other in ((word.removeprefix(side), "{side}{bare}"), (word.removesuffix(side), "{bare}{side}")):
                if bare not in (word, ""):
                    yield (*words[:index], other.format(side=_SIDES[side], bare=bare), *words[index + 1 :])


def side_of(words: tuple[str, ...]) -> Literal["left", "right"] | None:
    """The side that a keypoint's name tells, by a word or by the beginning of one: not by its end, as of "upright"."""
    for word in words:
        if word in _SIDES or word.startswith(("left", "right")):
            return "left" if word.startswith("l") else "right"
    return None


@dataclass(frozen=True, kw_only=True, eq=False)
class Skeleton:
    """K keypoints joined by M limbs; immutable, and checked when made.

    name: for messages.
    keypoints: K names, in the order of every [K, ...] array.
    limbs: M pairs of zero-based keypoint indices; a PAF channel each.
    sigmas: K OKS sigmas, as fractions of the person's scale.
    flip: for every keypoint, the index of its mirror image (its own where it lies on the axis).
    upright_pose: float64 [K, 2], (x, y) of a standing person in any unit, y down; the codec's yardstick for scales.
    """

    name: str
    keypoints: tuple[str, ...]
    limbs: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...]
    flip: tuple[int, ...]
    upright_pose: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.keypoints)
        if count == 0 or len(set(self.keypoints)) != count:
            raise ValueError(f"keypoints must be at least one name, none twice, got {self.keypoints}")
        for i, j in self.limbs:
            if not (0 <= i < count and 0 <= j < count and i != j):
                raise ValueError(f"limbs must join two different keypoints of 0..{count - 1}, got ({i}, {j})")
        if len(self.sigmas) != count or not all(0 < sigma < np.inf for sigma in self.sigmas):
            raise ValueError(f"sigmas must be {count} positive numbers, got {self.sigmas}")
        if len(self.flip) != count or any(not 0 <= j < count or self.flip[j] != i for i, j in enumerate(self.flip)):
            raise ValueError(f"flip must pair up the {count} keypoints (flip[flip[i]] == i), got {self.flip}")
        pose = np.array(self.upright_pose, dtype=np.float64)
        if pose.shape != (count, 2) or not np.isfinite(pose).all():
            raise ValueError(f"upright_pose must be finite and of shape ({count}, 2), got shape {pose.shape}")
        pose.setflags(write=False)
        object.__setattr__(self, "upright_pose", pose)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Skeleton) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.name, self.keypoints, self.limbs))

    @property
    def num_keypoints(self) -> int:
        """K."""
        return len(self.keypoints)

    @property
    def num_limbs(self) -> int:
        """M."""
        return len(self.limbs)

    def side(self, keypoint: int) -> Literal["left", "right"] | None:
        """The side of the body that a keypoint is on: as its name says, else the first of two mirror images is left."""
        mirrored = self.flip[keypoint]
        told = side_of(words_of(self.keypoints[keypoint]))
        return told or (None if mirrored == keypoint else "left" if keypoint < mirrored else "right")

    def mirror_limbs(self) -> list[tuple[int, bool]]:
        """For every limb the index of its mirror image, and whether that runs the other way.

        Raises ValueError where a limb's mirror image is not a limb."""
        mirrored = []
        for i, j in self.limbs:
            ends = self.flip[i], self.flip[j]
            if ends in self.limbs:
                mirrored.append((self.limbs.index(ends), False))
            elif ends[::-1] in self.limbs:
                mirrored.append((self.limbs.index(ends[::-1]), True))
            else:
                missing, limb = ("-".join(self.keypoints[k] for k in pair) for pair in (ends, (i, j)))
                raise ValueError(f"the skeleton '{self.name}' must have the limb {missing}, the mirror image of {limb}")
        return mirrored

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, for a checkpoint's JSON; `from_dict` reads it back."""
        return {
            "name": self.name,
            "keypoints": list(self.keypoints),
            "limbs": [list(limb) for limb in self.limbs],
            "sigmas": list(self.sigmas),
            "flip": list(self.flip),
            "upright_pose": self.upright_pose.tolist(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Skeleton:
        """The skeleton that `to_dict` wrote. Raises ValueError where an entry is missing, unknown or malformed."""
        expected = {"name", "keypoints", "limbs", "sigmas", "flip", "upright_pose"}
        if set(values) != expected:
            raise ValueError(f"a skeleton must have the entries {sorted(expected)}, got {sorted(values)}")
        return cls(
            name=values["name"],
            keypoints=tuple(values["keypoints"]),
            limbs=tuple((int(i), int(j)) for i, j in values["limbs"]),
            sigmas=tuple(float(sigma) for sigma in values["sigmas"]),
            flip=tuple(int(i) for i in values["flip"]),
            upright_pose=np.asarray(values["upright_pose"]),
        )


# A person 175 cm tall facing the camera, arms hanging: centimetres, y measured down from the crown. "left" is the
# person's own left, so it is on the right of the picture.
_COCO_UPRIGHT_CM = {
    "nose": (0, 14),
    "left_eye": (3.2, 11),
    "right_eye": (-3.2, 11),
    "left_ear": (7.5, 13),
    "right_ear": (-7.5, 13),
    "left_shoulder": (18, 31),
    "right_shoulder": (-18, 31),
    "left_elbow": (24, 61),
    "right_elbow": (-24, 61),
    "left_wrist": (27, 86),
    "right_wrist": (-27, 86),
    "left_hip": (11, 83),
    "right_hip": (-11, 83),
    "left_knee": (12, 125),
    "right_knee": (-12, 125),
    "left_ankle": (13, 166),
    "right_ankle": (-13, 166),
}

# fmt: off
COCO = Skeleton(
    name="coco",
    keypoints=tuple(_COCO_UPRIGHT_CM),
    limbs=(
        (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10),
        (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
    ),
    sigmas=(
        0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087,
        0.089, 0.089,
    ),
    flip=(0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15),
    upright_pose=np.array(list(_COCO_UPRIGHT_CM.values())),
)

_CROWDPOSE_UPRIGHT_CM = {
    **{name: _COCO_UPRIGHT_CM[name] for name in COCO.keypoints[5:]},
    "head": (0, 0),  # its top
    "neck": (0, 27),
}

CROWDPOSE = Skeleton(
    name="crowdpose",
    keypoints=tuple(_CROWDPOSE_UPRIGHT_CM),
    limbs=(
        (10, 8), (8, 6), (11, 9), (9, 7), (6, 7), (0, 6), (1, 7), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (12, 13),
        (0, 13), (1, 13),
    ),
    sigmas=(0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079),
    flip=(1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 12, 13),
    upright_pose=np.array(list(_CROWDPOSE_UPRIGHT_CM.values())),
)

# MPII has no OKS. The sigmas are COCO's for the same joints, that of the hips for the pelvis, and CrowdPose's for the
# joints of neck and head.
_MPII_UPRIGHT_CM = {
    **{f"right_{joint}": _COCO_UPRIGHT_CM[f"right_{joint}"] for joint in ("ankle", "knee", "hip")},
    **{f"left_{joint}": _COCO_UPRIGHT_CM[f"left_{joint}"] for joint in ("hip", "knee", "ankle")},
    "pelvis": (0, 83),
    "thorax": (0, 33),
    "upper_neck": (0, 24),
    "head_top": (0, 0),
    **{f"right_{joint}": _COCO_UPRIGHT_CM[f"right_{joint}"] for joint in ("wrist", "elbow", "shoulder")},
    **{f"left_{joint}": _COCO_UPRIGHT_CM[f"left_{joint}"] for joint in ("shoulder", "elbow", "wrist")},
}

MPII = Skeleton(
    name="mpii",
    keypoints=tuple(_MPII_UPRIGHT_CM),
    limbs=(
        (0, 1), (1, 2), (2, 6), (6, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9), (10, 11), (11, 12), (12, 7), (7, 13),
        (13, 14), (14, 15),
    ),
    sigmas=(
        0.089, 0.087, 0.107, 0.107, 0.087, 0.089, 0.107, 0.079, 0.079, 0.079, 0.062, 0.072, 0.079, 0.079, 0.072, 0.062,
    ),
    flip=(5, 4, 3, 2, 1, 0, 6, 7, 8, 9, 15, 14, 13, 12, 11, 10),
    upright_pose=np.array(list(_MPII_UPRIGHT_CM.values())),
)
# fmt: on

PRESETS = (COCO, CROWDPOSE, MPII)
"""The skeletons that are known by the names of their keypoints."""
