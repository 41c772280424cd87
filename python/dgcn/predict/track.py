"""Identities of persons from frame to frame: OKS between where a person should be and where one was found.

A track is one person over time. A Kalman filter of the body's place and velocity says where it should be now and how
sure that is. benchmarks/experiments/tracking.py measures it beside a damped velocity and no motion at all.

Lengths are in scales of the person, the s of OKS, so that the constants hold for the near and the far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..checks import check_at_least, check_below_one, check_positive, check_types
from ..records import Pose
from ..skeleton import Skeleton


@dataclass(frozen=True, kw_only=True)
class TrackerConfig:
    """Constants of a `Tracker`; times are in seconds, so that they hold at any frame rate."""

    min_similarity: float = 0.02
    """A person continues a track only where they are more similar than this, of at most 1."""

    max_gap: float = 2.0
    """A person that was not seen for longer, in seconds, is another one when seen again."""

    tolerance: float = 2.0
    """By how much the sigmas of OKS are multiplied. They tell how exactly people annotate a still picture; a joint also
    moves against its body from one frame to the next."""

    place_noise: float = 0.07
    """Standard deviation of a body's place as found, in scales."""

    first_speed: float = 2.0
    """Standard deviation of the velocity of a new person, in scales per second."""

    agility: float = 1.0
    """Standard deviation of the change of a velocity within a second, in scales per second."""

    def __post_init__(self) -> None:
        check_types(self)
        check_below_one(self, "min_similarity")
        check_positive(self, "tolerance", "place_noise")
        check_at_least(self, 0, "max_gap", "first_speed", "agility")


@dataclass
class Track:
    """A person as expected at the time of the tracker.

    keypoints: float64 [K, 2] px; a joint that is not found moves with the body.
    known: bool [K], which joints have ever been found.
    velocity: float64 [2], of the body, in px/s.
    covariance: float64 [2, 2], of place and velocity along either axis, in scales and seconds.
    last_seen: time in seconds.
    """

    track_id: int
    keypoints: np.ndarray
    known: np.ndarray
    velocity: np.ndarray
    covariance: np.ndarray
    last_seen: float

    @property
    def scale(self) -> float:
        """Size of the person in px: half the longer edge of the box around its joints, at least 1.

        OKS takes the root of the area, of which the box around a person seen from the side says too little."""
        return max(1.0, float(np.ptp(self.keypoints[self.known], axis=0).max()) / 2) if self.known.any() else 1.0


class Tracker:
    """Gives the persons of successive frames ids: 1, 2, ... in the order of their first appearance."""

    def __init__(self, skeleton: Skeleton, config: TrackerConfig | None = None) -> None:
        """
        Args:
            skeleton: of the poses; its sigmas are those of OKS.
            config: constants; default: those that were measured best.
        """
        self.config = config or TrackerConfig()
        self._sigmas = 2 * self.config.tolerance * np.array(skeleton.sigmas)  # COCO's OKS doubles them, too
        self._tracks: list[Track] = []
        self._num_ids = 0
        self._time = -math.inf

    def update(self, poses: Sequence[Pose], time_s: float) -> list[int]:
        """The ids of the persons of one frame, in the order of `poses`.

        Args:
            poses: keypoints [K, 2] in pixels; a joint with a score of 0 was not found.
            time_s: of the frame, in seconds from any moment. A frame earlier than the last one counts as of its time.
        """
        time_s = max(time_s, self._time)
        for track in self._tracks:
            self._predict(track, time_s - self._time)
        self._time = time_s
        self._tracks = [track for track in self._tracks if time_s - track.last_seen <= self.config.max_gap]

        similarity = self._similarity(poses)
        similarity[similarity <= self.config.min_similarity] = 0.0
        pairs = zip(*linear_sum_assignment(similarity, maximize=True), strict=True)
        continued = {int(pose): self._tracks[track] for track, pose in pairs if similarity[track, pose] > 0}
        ids = []
        for number, pose in enumerate(poses):
            track = continued.get(number) or self._start(pose)
            if number in continued:
                self._correct(track, pose)
            track.last_seen = time_s
            ids.append(track.track_id)
        return ids

    def _similarity(self, poses: Sequence[Pose]) -> np.ndarray:
        """[T, P]: OKS between tracks and poses, over the joints that both have.

        The uncertainty of the track's place widens the Gaussians of OKS and lowers them, by the root of which their
        integral along one axis would stay the same: of two tracks, the one that was seen last gets the person."""
        if not self._tracks or not poses:
            return np.zeros((len(self._tracks), len(poses)))
        expected = np.stack([track.keypoints for track in self._tracks])[:, None]
        known = np.stack([track.known for track in self._tracks])[:, None]
        keypoints = np.stack([pose.keypoints for pose in poses])
        common = known & np.stack([pose.scores > 0 for pose in poses])  # [T, P, K]
        scales = np.array([track.scale for track in self._tracks])[:, None, None]
        squared = ((expected - keypoints) ** 2).sum(axis=-1) / scales**2
        variances = self._sigmas**2 + np.array([track.covariance[0, 0] for track in self._tracks])[:, None, None]
        near = self._sigmas / np.sqrt(variances) * np.exp(-squared / (2 * variances)) * common
        return near.sum(axis=-1) / np.maximum(common.sum(axis=-1), 1)

    def _start(self, pose: Pose) -> Track:
        self._num_ids += 1
        covariance = np.diag([self.config.place_noise**2, self.config.first_speed**2])
        keypoints, known = pose.keypoints.astype(np.float64), pose.scores > 0
        track = Track(self._num_ids, keypoints, known, np.zeros(2), covariance, self._time)
        self._tracks.append(track)
        return track

    def _predict(self, track: Track, elapsed: float) -> None:
        """Move `track` on by `elapsed` seconds, with white noise as its acceleration."""
        track.keypoints = track.keypoints + elapsed * track.velocity
        step = np.array([[1.0, elapsed], [0.0, 1.0]])
        noise = np.array([[elapsed**3 / 3, elapsed**2 / 2], [elapsed**2 / 2, elapsed]])
        track.covariance = step @ track.covariance @ step.T + self.config.agility**2 * noise

    def _correct(self, track: Track, pose: Pose) -> None:
        """Bring `track` up to date with the person that it was found to be.

        Joints that were found are taken as they are; the median of how far they are off is the body's error."""
        found = pose.scores > 0
        common = found & track.known
        error = np.median(pose.keypoints[common] - track.keypoints[common], axis=0)
        place_gain, velocity_gain = gain = track.covariance[0] / (track.covariance[0, 0] + self.config.place_noise**2)
        track.covariance = track.covariance - np.outer(gain, track.covariance[0])
        track.velocity = track.velocity + velocity_gain * error
        track.keypoints = np.where(found[:, None], pose.keypoints, track.keypoints + place_gain * error)
        track.known = track.known | found
