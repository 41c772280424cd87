"""From what an annotation file says of its keypoints to a `Skeleton`: what is not given follows the rules below.

Each is the first that applies:

- limbs: given, the category's `skeleton`, those of a known skeleton with the same keypoints, the minimum spanning tree
  of the mean distances M_d (Eq. 5)
- mirror images: given, of a known skeleton, by the names: left and right, or l and r
- sigmas: given, the category's `sigmas`, of a known skeleton, COCO's for joints of the same names, else assumed
- upright pose: of a known skeleton, the median of the persons in units of their scale
"""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse.csgraph import minimum_spanning_tree

from ..checks import check_types
from ..graph import distance_matrix, measurements
from ..records import Annotation, Category, KeypointFile, Rule
from ..skeleton import COCO, PRESETS, Skeleton, mirrored_words, same_names, side_of, words_of

log = logging.getLogger(__name__)

LARGEST_SIGMA = 1e6
"""Far beyond any; larger ones overflow in OKS."""

ASSUMED_SIGMA = 0.067
"""The mean of COCO's: what stands for an OKS sigma that nobody has measured."""


@dataclass(frozen=True, kw_only=True)
class SkeletonOptions:
    """What is given of a skeleton, in place of what the annotation file or a rule says."""

    skeleton: tuple[tuple[int, int], ...] | None = None
    """Limbs, as pairs of keypoints counted from 1, as COCO's."""
    flip_idx: tuple[int, ...] | None = None
    """For each keypoint the index, from 0, of its mirror image, as Ultralytics'."""
    sigmas: tuple[float, ...] | None = None
    """OKS sigma of each keypoint."""
    source: str = ""
    """The file that gives them, for messages."""

    def __post_init__(self) -> None:
        check_types(self)


def make_skeleton(file: KeypointFile, source: str, options: SkeletonOptions) -> tuple[Skeleton, tuple[Rule, ...]]:
    """The skeleton of the keypoints of a file, and the rules that led to it.

    Args:
        file: with the names of its keypoints.
        source: what to call it in messages.
        options: what is given.

    Raises:
        ValueError: no names, or limbs, mirror images or sigmas that do not fit them.
    """
    names = file.category.keypoints
    if names is None:
        raise ValueError(f"{source}: keypoints must be named, by its category or by `keypoints`, got no names")
    preset = next((skeleton for skeleton in PRESETS if same_names(skeleton.keypoints, names)), None)
    persons = [person for record in file.records for person in record.persons]
    maker = _Maker(names, file.category, preset, persons, source, f"{options.source}: " if options.source else "")
    flip = maker.flip(options.flip_idx)
    limbs = maker.limbs(options.skeleton, flip)
    if not limbs:
        raise ValueError(f"{source}: skeleton must have at least one limb for the keypoints {list(names)}, got none")
    sigmas = maker.sigmas(options.sigmas)
    skeleton = Skeleton(
        name=preset.name if preset is not None else file.category.name,
        keypoints=names,
        limbs=limbs,
        sigmas=sigmas,
        flip=flip,
        upright_pose=maker.upright_pose(),
    )
    try:
        skeleton.mirror_limbs()
    except ValueError as error:
        maker.note("--flip-test", "not possible", str(error))
    return skeleton, tuple(maker.rules)


def log_rules(rules: Iterable[Rule]) -> None:
    """A line for each rule; a warning where something was assumed."""
    for rule in rules:
        log.log(logging.WARNING if rule.is_assumed else logging.INFO, str(rule))


class _Maker:
    """The rules for one file; each method adds those that it used to `rules`."""

    def __init__(
        self,
        names: tuple[str, ...],
        category: Category,
        preset: Skeleton | None,
        persons: Sequence[Annotation],
        source: str,
        options: str,
    ) -> None:
        self.names = names
        self.category = category
        self.preset = preset
        self.persons = persons
        self.source = source
        self.options = options
        self.rules: list[Rule] = []

    def note(self, name: str, value: str, source: str, *, is_assumed: bool = False) -> None:
        self.rules.append(Rule(name, value, source, is_assumed))

    def limbs(self, given: Any, flip: Sequence[int]) -> tuple[tuple[int, int], ...]:
        if given is not None:
            limbs = self.checked_limbs(given, f"{self.options}skeleton")
            self.note("limbs", self.named(limbs), "given as skeleton")
            return limbs
        if self.category.skeleton not in (None, [], ()):
            try:
                limbs = self.checked_limbs(self.category.skeleton, f"{self.source}: skeleton of its category")
                self.note("limbs", self.named(limbs), f"skeleton of the category in {self.source}")
                return limbs
            except ValueError as error:
                if self.preset is None:
                    raise
                reason = f"of {self.preset.name}, by the names of the keypoints; {error}"
        elif self.preset is not None:
            reason = f"of {self.preset.name}, by the names of the keypoints"
        if self.preset is not None:
            self.note("limbs", self.named(self.preset.limbs), reason)
            return self.preset.limbs
        limbs = self.spanning_tree(flip)
        self.note(
            "limbs",
            self.named(limbs),
            f"minimum spanning tree of the mean distances in {self.source}, and its mirror image",
        )
        return limbs

    def checked_limbs(self, limbs: Any, what: str) -> tuple[tuple[int, int], ...]:
        """Limbs counted from 0, each once, from those counted from 1."""
        count = len(self.names)
        checked: list[tuple[int, int]] = []
        if not isinstance(limbs, list | tuple):
            raise ValueError(f"{what} must be a list of pairs, got {limbs!r}")
        for limb in limbs:
            whole = isinstance(limb, list | tuple) and len(limb) == 2 and all(is_whole(end) for end in limb)
            if not whole or not all(1 <= end <= count for end in limb) or limb[0] == limb[1]:
                raise ValueError(f"{what} must be pairs of different keypoints in 1..{count}, got {limb!r}")
            pair = int(limb[0]) - 1, int(limb[1]) - 1
            if pair not in checked and pair[::-1] not in checked:
                checked.append(pair)
        return tuple(checked)

    def spanning_tree(self, flip: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """The edges of the minimum spanning tree of M_d over the persons, and the mirror images that it lacks; of
        several trees where some keypoints are never annotated together."""
        try:
            distances = distance_matrix(*measurements(self.persons, self.source))
        except ValueError as error:
            raise ValueError(f"{error}, and no skeleton is given") from error
        mirror = list(flip)
        distances = distances + distances[mirror][:, mirror]  # so that left and right get the same limbs, by and large
        # 0 is no edge to SciPy, and joints may coincide.
        graph = np.where(np.isfinite(distances), distances + 1e-9, 0)
        tree = minimum_spanning_tree(np.triu(graph, 1)).tocoo()
        edges = list(zip(tree.row.tolist(), tree.col.tolist(), strict=True))
        mirrored = [(min(flip[i], flip[j]), max(flip[i], flip[j])) for i, j in edges]
        return tuple(sorted({*edges, *mirrored}))

    def flip(self, given: Any) -> tuple[int, ...]:
        count = len(self.names)
        if given is not None:
            whole = isinstance(given, list | tuple) and all(is_whole(end) and 0 <= end < count for end in given)
            if not whole or len(given) != count or any(given[given[i]] != i for i in range(count)):
                raise ValueError(
                    f"{self.options}flip_idx must pair up the {count} keypoints, counted from 0"
                    f" (flip_idx[flip_idx[i]] == i), got {list(given) if isinstance(given, list | tuple) else given!r}"
                )
            flip = tuple(int(end) for end in given)
            self.note("flip pairs", self.paired(flip), "given as flip_idx")
            return flip
        if self.preset is not None:
            self.note("flip pairs", self.paired(self.preset.flip), f"of {self.preset.name}")
            return self.preset.flip
        return self.flip_by_names()

    def flip_by_names(self) -> tuple[int, ...]:
        words = [words_of(name) for name in self.names]
        index_of = {each: index for index, each in enumerate(words) if words.count(each) == 1}
        flip, odd = list(range(len(words))), []
        for index, each in enumerate(words):
            partners = [index_of[other] for other in mirrored_words(each) if other in index_of and each in index_of]
            # The partner must lead back, as it does not where a name tells two sides.
            back = [p for p in partners if index in [index_of.get(other) for other in mirrored_words(words[p])]]
            if back:
                flip[index] = back[0]
            elif side_of(each) is not None:
                odd.append(self.names[index])
        for index, partner in enumerate(flip):
            if flip[partner] != index:
                flip[index] = index
                odd.append(self.names[index])
        pairs = self.paired(flip)
        is_bare = pairs == "none" and len(words) > 1
        reason = (
            "left and right by the names" if not is_bare else "no names of left and right: a mirrored one is the same"
        )
        self.note("flip pairs", pairs, reason, is_assumed=is_bare)
        if odd:
            reason = "no keypoint has the name of the other side"
            self.note("flip pairs", f"none for {', '.join(odd)}", reason, is_assumed=True)
        return tuple(flip)

    def sigmas(self, given: Any) -> tuple[float, ...]:
        for sigmas, what, source in (
            (given, f"{self.options}sigmas", "given as sigmas"),
            (self.category.sigmas, f"{self.source}: sigmas of its category", f"of the category in {self.source}"),
        ):
            if sigmas is not None:
                checked = self.checked_sigmas(sigmas, what)
                self.note("sigmas", _listed(checked), source)
                return checked
        if self.preset is not None:
            self.note("sigmas", _listed(self.preset.sigmas), f"of {self.preset.name}")
            return self.preset.sigmas
        known = {words_of(name): sigma for name, sigma in zip(COCO.keypoints, COCO.sigmas, strict=True)}
        sigma_list = [known.get(words_of(name)) for name in self.names]
        unknown = [name for name, sigma in zip(self.names, sigma_list, strict=True) if sigma is None]
        if len(unknown) < len(self.names):
            self.note("sigmas", f"COCO's for {len(self.names) - len(unknown)} keypoints", "joints of the same names")
        if unknown:
            which = "all keypoints" if len(unknown) == len(self.names) else ", ".join(unknown)
            self.note("sigmas", f"{ASSUMED_SIGMA} for {which}", "assumed: no sigmas are known", is_assumed=True)
        return tuple(ASSUMED_SIGMA if sigma is None else sigma for sigma in sigma_list)

    def checked_sigmas(self, sigmas: Any, what: str) -> tuple[float, ...]:
        count = len(self.names)
        good = isinstance(sigmas, list | tuple) and len(sigmas) == count
        if not good or not all(is_number(sigma) and 0 < sigma < LARGEST_SIGMA for sigma in sigmas):
            raise ValueError(
                f"{what} must be {count} positive numbers below {LARGEST_SIGMA:g}, got {reprlib.repr(sigmas)}"
            )
        return tuple(float(sigma) for sigma in sigmas)

    def upright_pose(self) -> np.ndarray:
        if self.preset is not None:
            return self.preset.upright_pose
        poses = []
        for person in self.persons:
            seen = person.keypoints[:, 2] > 0
            if seen.sum() >= 2 and person.scale > 0:
                xy = np.where(seen[:, None], person.keypoints[:, :2], np.nan)
                middle = (np.nanmin(xy, axis=0) + np.nanmax(xy, axis=0)) / 2
                poses.append((xy - middle) / person.scale)
        stacked = np.array(poses).reshape(-1, len(self.names), 2)
        median = np.zeros(stacked.shape[1:])
        for joint in range(len(self.names)):
            seen = stacked[~np.isnan(stacked[:, joint, 0]), joint]
            if len(seen):
                median[joint] = np.median(seen, axis=0)
        self.note("upright pose", f"the median of {len(poses)} persons, in units of their scale", self.source)
        return median

    def named(self, limbs: Sequence[tuple[int, int]]) -> str:
        return ", ".join(f"{self.names[i]}-{self.names[j]}" for i, j in limbs) or "none"

    def paired(self, flip: Sequence[int]) -> str:
        return ", ".join(f"{self.names[i]}/{self.names[j]}" for i, j in enumerate(flip) if i < j) or "none"


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
