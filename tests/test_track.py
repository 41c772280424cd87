"""Ids of persons: kept where the person is the same, new where it is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from dgcn.predict.track import Tracker, TrackerConfig
from dgcn.records import Pose
from dgcn.skeleton import COCO

FEET_AND_HEAD = {"feet": COCO.upright_pose[:, 1] > 80, "head": COCO.upright_pose[:, 1] < 50}


def person(x: float, *, height: float = 200.0, found: np.ndarray | None = None) -> Pose:
    """A standing person with the middle of its body at `x` px."""
    keypoints = COCO.upright_pose * height / 175 + [x, 20]
    found = np.ones(17, bool) if found is None else found
    return Pose((keypoints * found[:, None]).astype(np.float32), found.astype(np.float32), 1.0)


def follow(frames: Sequence[dict[str, Pose]], rate: float = 25.0) -> dict[str, list[int]]:
    """The ids that the named persons of successive frames get; their order changes from frame to frame."""
    tracker = Tracker(COCO)
    ids: dict[str, list[int]] = {}
    for number, frame in enumerate(frames):
        names = sorted(frame, reverse=number % 2 == 1)
        for name, track_id in zip(names, tracker.update([frame[n] for n in names], number / rate), strict=True):
            ids.setdefault(name, []).append(track_id)
    return ids


def test_two_who_cross_while_one_is_hidden_keep_their_ids() -> None:
    frames = []
    for t in range(60):
        frame = {"near": person(100 + 10 * t), "far": person(690 - 10 * t, height=180)}
        if abs(t - 29.5) < 8:
            del frame["far"]
        frames.append(frame)
    ids = follow(frames)
    assert {name: set(each) for name, each in ids.items()} == {"far": {1}, "near": {2}}


def test_who_runs_faster_and_faster_is_followed_at_few_frames_a_second() -> None:
    """In the end each of two side by side moves further in a frame than they are apart."""
    ids = follow([{"left": person(100 + 4 * t**2), "right": person(160 + 4 * t**2)} for t in range(12)], rate=5.0)
    assert {name: set(each) for name, each in ids.items()} == {"left": {1}, "right": {2}}


def test_joints_that_are_missing_are_remembered() -> None:
    """Every frame shows other joints than the one before."""
    kinds: list[Callable[[float], Pose]] = [
        person,
        *(lambda x, found=found: person(x, found=found) for found in FEET_AND_HEAD.values()),
    ]
    ids = follow([{"one": kinds[0 if t == 0 else 1 + t % 2](100 + 4 * t)} for t in range(20)])
    assert set(ids["one"]) == {1}


@pytest.mark.parametrize(("seconds", "same"), [(1.9, True), (2.1, False)])
def test_who_was_not_seen_for_long_is_another_person(seconds: float, same: bool) -> None:
    tracker = Tracker(COCO)
    (first,) = tracker.update([person(100)], 10.0)
    assert tracker.update([], 10.0 + seconds / 2) == []
    (second,) = tracker.update([person(100)], 10.0 + seconds)
    assert (first == second) is same


def test_who_is_far_away_is_another_person_and_ids_are_never_used_again() -> None:
    tracker = Tracker(COCO)
    assert tracker.update([person(100), person(900)], 0.0) == [1, 2]
    assert tracker.update([person(500), person(905)], 0.04) == [3, 2]
    assert tracker.update([person(100)], 60.0) == [4]


def test_odd_frames_do_no_harm() -> None:
    """A time that repeats or goes back, a person without joints, and one of a single joint."""
    tracker = Tracker(COCO)
    one = np.arange(17) == 0
    for time_s in (1.0, 1.0, 0.5, 1.5):
        ids = tracker.update([person(100), person(100, found=~one & one), person(400, found=one)], time_s)
        assert ids[0] == 1
        assert len(set(ids)) == 3


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("min_similarity", 1.0, r"min_similarity must be in \[0, 1\), got 1.0"),
        ("tolerance", 0.0, "tolerance must be positive, got 0.0"),
        ("max_gap", -1.0, "max_gap must be at least 0, got -1.0"),
    ],
)
def test_bad_constants(field: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrackerConfig(**{field: value})
