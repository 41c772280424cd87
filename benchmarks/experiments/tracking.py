"""Does a motion model keep people's identities in videos, and which one?

    python -m benchmarks.experiments.tracking              ten minutes; writes results/tracking.json
    python -m benchmarks.experiments.tracking --clips 1    only so many clips of each kind; writes nothing

All trackers compare persons by the same OKS and assign them the same way; only what they expect of motion differs:

    none        a person is looked for where it was last seen
    damped      a velocity of the body, of which each frame corrects a share, and which decays while nothing is seen
    Kalman      a Kalman filter of the body's place and velocity: `dgcn.predict.track.Tracker`

The constants were chosen on walkers of other seeds (1000 to 1005), with a look at other photographs.

Walkers: eight persons of several sizes walk through a scene of 1280 × 720 px for 10 s. Some stop, turn or begin to run.
A nearer person and a pillar hide joints or whole persons. Every joint is off by Gaussian noise, a fraction of the
person's height, or missing; there are false persons; frames come at 25 or at 5 a second.

Photographs: a window moves over a photograph of coco512, half of them mirrored, as a camera that pans, shakes and
zooms slowly or fast, at 12.5 frames a second, and the shipped model finds the persons in it. For a second a bar hides a
part of the window. A person that was found is the annotated one with which it has an OKS of at least 0.5.

    switches     how often the id of a true person is another one than when it was last found, for 100 true persons
    ids          number of ids of a true person, mean
    gaps kept    share of the gaps in which a true person was not found, though in the scene before and after, that it
                 left with the id that it had before
    IDF1         F1 of the best one-to-one assignment of ids to true persons (Ristani et al. 2016); true persons that
                 were not found count as missed
"""

import argparse
import itertools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from benchmarks import machine, report
from benchmarks.decoder.scenes import data_dir
from dgcn.data.images import read_record
from dgcn.data.reader import read_records
from dgcn.data.transforms import transform_annotation
from dgcn.predict.predictor import Predictor
from dgcn.predict.track import Track, Tracker, TrackerConfig
from dgcn.records import Annotation, ImageRecord, Pose
from dgcn.skeleton import COCO

NUM_CLIPS = 24  # of each kind of walkers; of photographs half as many
NOISE = (0.01, 0.02, 0.04)  # standard deviation of a joint, in heights of its person
MISSING = (0.1, 0.4)  # share of the joints that are not found
RATES = (25.0, 5.0)  # frames per second

WIDTH, HEIGHT, SECONDS = 1280, 720, 10.0
NUM_WALKERS = 8
PILLAR = (600.0, 720.0)  # px
FALSE_PERSONS = 0.1  # a frame
MIN_JOINTS = 4  # fewer are no person to a decoder

WINDOW = 321  # px, both edges
PHOTO_RATE, PHOTO_SECONDS = 12.5, 4.0
SPEEDS = (0.1, 0.4)  # of the camera, in swings from one edge of the picture to the other and back per second
MIN_OKS = 0.5


@dataclass(frozen=True)
class Found:
    """A frame: which true persons are in it, who was found, and which true person each of these is (-1: none)."""

    time_s: float
    visible: list[int]
    poses: list[Pose]
    owners: list[int]


Clip = list[Found]


# ---- Walkers ---------------------------------------------------------------------------------------------------------


def walk(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """Keypoints [T, 17, 2] px of a person that walks through the scene, with swinging arms and legs."""
    pose = COCO.upright_pose / 175.0  # in heights
    height = rng.uniform(150, 380)  # px
    direction = rng.choice([-1.0, 1.0])
    speed = direction * rng.uniform(0.4, 1.2) * np.ones(len(times))  # heights per second
    match rng.integers(4):
        case 0:  # stops for a while
            speed[abs(times - rng.uniform(2, 8)) < 1] = 0
        case 1:  # turns
            speed[times > rng.uniform(3, 7)] *= -1
        case 2:  # begins to run
            speed[times > rng.uniform(2, 6)] *= 2
    steps = np.diff(times, prepend=times[0])
    start = rng.uniform(-0.3, 0.6) * WIDTH
    x = (start if direction > 0 else WIDTH - start) + np.cumsum(speed * steps) * height
    top = HEIGHT - 30 - height + (380 - height) * -0.4
    phase = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.cumsum(np.abs(speed) * steps) / 0.8
    swing = np.zeros((len(times), 17))
    for name, amount in (("knee", 0.10), ("ankle", 0.20), ("elbow", -0.05), ("wrist", -0.12)):
        for side, sign in (("left", 1), ("right", -1)):
            swing[:, COCO.keypoints.index(f"{side}_{name}")] = amount * sign * np.sin(phase)
    narrow = 0.4  # seen from the side
    xs = x[:, None] + height * (pose[None, :, 0] * narrow + swing)
    ys = np.broadcast_to(top + height * pose[None, :, 1], xs.shape)
    return np.stack([xs, ys + 0.01 * height * np.sin(2 * phase)[:, None]], axis=-1)


def walkers(seed: int, noise: float, missing: float, rate: float) -> Clip:
    rng = np.random.default_rng(seed)
    times = np.arange(0, SECONDS, 1 / rate)
    people = np.stack([walk(rng, times) for _ in range(NUM_WALKERS)])  # [P, T, 17, 2]
    heights = np.ptp(people[..., 1], axis=2).mean(axis=1)
    nearest = np.argsort(-heights)
    clip = []
    for t, time_s in enumerate(times.tolist()):
        visible, poses, owners = [], [], []
        for rank, person in enumerate(nearest.tolist()):
            joints = people[person, t]
            seen = (joints >= 0).all(axis=1) & (joints < [WIDTH, HEIGHT]).all(axis=1)
            if not seen.any():
                continue
            seen &= (joints[:, 0] < PILLAR[0]) | (joints[:, 0] > PILLAR[1])
            for nearer in nearest[:rank].tolist():
                low, high = people[nearer, t].min(axis=0), people[nearer, t].max(axis=0)
                seen &= ~((joints > low) & (joints < high)).all(axis=1)
            if np.count_nonzero(seen) < MIN_JOINTS:
                continue
            visible.append(person)
            seen &= rng.random(17) >= missing
            if np.count_nonzero(seen) < MIN_JOINTS:
                continue
            poses.append(to_pose(joints + rng.normal(0, noise * heights[person], (17, 2)), seen))
            owners.append(person)
        for _ in range(rng.poisson(FALSE_PERSONS)):
            size = rng.uniform(100, 300)
            place = rng.uniform([0, 0], [WIDTH, HEIGHT - size / 2])
            poses.append(to_pose(COCO.upright_pose / 175 * size + place, rng.random(17) < 0.5))
            owners.append(-1)
        order = rng.permutation(len(poses)).tolist()
        clip.append(Found(time_s, visible, [poses[i] for i in order], [owners[i] for i in order]))
    return clip


def to_pose(keypoints: np.ndarray, seen: np.ndarray) -> Pose:
    return Pose(np.where(seen[:, None], keypoints, 0).astype(np.float32), seen.astype(np.float32), 1.0)


# ---- Photographs -----------------------------------------------------------------------------------------------------


def photographs(count: int, speed: float) -> Iterator[Clip]:
    """Clips of the first `count` pictures of the validation set with two to five large, well annotated persons."""
    folder = data_dir() / "coco512"
    records = read_records(
        folder / "images" / "val", folder / "annotations" / "person_keypoints_val.json", skeleton=COCO
    )
    predictor = Predictor(long_edge=WINDOW)
    several = (r for r in records if 2 <= sum(p.num_keypoints >= 8 and p.scale >= 60 for p in r.persons) <= 5)
    for seed, record in enumerate(itertools.islice(several, count)):
        yield photograph(record, predictor, np.random.default_rng(seed), speed, mirrored=seed % 2 == 1)


def photograph(
    record: ImageRecord, predictor: Predictor, rng: np.random.Generator, speed: float, *, mirrored: bool
) -> Clip:
    image = read_record(record)
    height, width = image.shape[:2]
    times = np.arange(0, PHOTO_SECONDS, 1 / PHOTO_RATE)
    zoom = WINDOW / min(height, width) * (1.25 + 0.15 * np.sin(2 * np.pi * times * speed))
    turn = rng.uniform(0, 2 * np.pi, 2)[:, None]
    place = 0.5 + 0.5 * np.sin(2 * np.pi * times * speed * np.array([[1.0], [0.7]]) + turn)  # of the window, in 0..1
    shake = rng.normal(0, 2, (2, len(times)))  # px of the window
    bar_start, bar_left = rng.uniform(1, 2), rng.uniform(0.2, 0.5) * WINDOW
    clip = []
    for t, time_s in enumerate(times.tolist()):
        matrix = np.diag([zoom[t], zoom[t]]) @ np.array([[-1, 0, width - 1], [0, 1, 0]] if mirrored else np.eye(2, 3))
        room = np.array([width, height]) * zoom[t] - WINDOW
        matrix[:, 2] -= np.clip(room * place[:, t] + shake[:, t], 0, room)
        frame = cv2.warpAffine(image, matrix, (WINDOW, WINDOW), flags=cv2.INTER_AREA)
        has_bar = bar_start <= time_s < bar_start + 1
        left, right = (int(bar_left), int(bar_left + WINDOW / 4)) if has_bar else (0, 0)
        frame[:, left:right] = 90
        truths = {}
        for number, person in enumerate(record.persons):
            moved = transform_annotation(person, matrix, (WINDOW, WINDOW), COCO.flip if mirrored else None)
            if moved is not None:
                moved.keypoints[(moved.keypoints[:, 0] >= left) & (moved.keypoints[:, 0] < right), 2] = 0
                if moved.num_keypoints >= MIN_JOINTS:
                    truths[number] = moved
        poses = predictor(frame)
        clip.append(Found(time_s, list(truths), poses, owners(truths, poses)))
    return clip


def owners(truths: Mapping[int, Annotation], poses: Sequence[Pose]) -> list[int]:
    """The true person that each of the poses is; -1 where it is none."""
    result = [-1] * len(poses)
    if truths and poses:
        table = np.array([[oks(truth, pose) for pose in poses] for truth in truths.values()])
        numbers = list(truths)
        for row, column in zip(*linear_sum_assignment(table, maximize=True), strict=True):
            if table[row, column] >= MIN_OKS:
                result[column] = numbers[row]
    return result


def oks(truth: Annotation, pose: Pose) -> float:
    annotated = truth.keypoints[:, 2] > 0
    squared = ((truth.keypoints[:, :2] - pose.keypoints) ** 2).sum(axis=1)[annotated]
    variances = (2 * np.array(COCO.sigmas)[annotated]) ** 2
    return float(np.exp(-squared / (2 * truth.area * variances)).mean())


# ---- Trackers --------------------------------------------------------------------------------------------------------


class Damped(Tracker):
    """A velocity instead of the Kalman filter; its uncertainty is not known and widens no search."""

    gain = 0.3  # share of the velocity's error that a frame corrects
    decay = 10.0  # s, in which a velocity falls to 1/e

    def _start(self, pose: Pose) -> Track:
        track = super()._start(pose)
        track.covariance = np.zeros((2, 2))
        return track

    def _predict(self, track: Track, elapsed: float) -> None:
        self._elapsed = elapsed
        remaining = math.exp(-elapsed / self.decay)
        track.keypoints = track.keypoints + track.velocity * self.decay * (1 - remaining)
        track.velocity = track.velocity * remaining

    def _correct(self, track: Track, pose: Pose) -> None:
        found = pose.scores > 0
        common = found & track.known
        error = (pose.keypoints[common] - track.keypoints[common]).mean(axis=0)
        track.velocity = track.velocity + self.gain * error / self._elapsed
        track.keypoints = np.where(found[:, None], pose.keypoints, track.keypoints + error)
        track.known = track.known | found


class Still(Damped):
    """No motion."""

    gain = 0.0


TRACKERS = {
    "none": (Still, TrackerConfig(tolerance=5.0)),
    "damped": (Damped, TrackerConfig(tolerance=3.0)),
    "Kalman": (Tracker, TrackerConfig()),
}


# ---- Scores----------------------------------------------------------------------------------------------------------


def score(clips: Sequence[Clip], kind: type[Tracker], config: TrackerConfig) -> dict[str, float]:
    """The numbers that the docstring explains."""
    persons = switches = ids = gaps = kept = shared = true = found = 0
    for clip in clips:
        tracker = kind(COCO, config)
        last: dict[int, tuple[int, int]] = {}  # by true person: number of the frame, id
        pairs: dict[tuple[int, int], int] = {}
        for number, frame in enumerate(clip):
            track_ids = tracker.update(frame.poses, frame.time_s)
            true += len(frame.visible)
            found += len(frame.poses)
            for owner, track_id in zip(frame.owners, track_ids, strict=True):
                if owner < 0:
                    continue
                before, last_id = last.get(owner, (number - 1, track_id))
                switches += last_id != track_id
                gaps += before < number - 1
                kept += before < number - 1 and last_id == track_id
                last[owner] = number, track_id
                pairs[owner, track_id] = pairs.get((owner, track_id), 0) + 1
        persons += len(last)
        ids += len(pairs)
        rows, columns = sorted(last), sorted({track_id for _, track_id in pairs})
        table = np.array([[pairs.get((owner, track_id), 0) for track_id in columns] for owner in rows])
        shared += int(table[linear_sum_assignment(table, maximize=True)].sum()) if table.size else 0
    return {
        "switches": round(100 * switches / persons, 1),
        "ids": round(ids / persons, 2),
        "gaps": gaps,
        "gaps_kept": round(kept / max(gaps, 1), 3),
        "idf1": round(2 * shared / (true + found), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=NUM_CLIPS, help="of each kind of walkers (default: %(default)s)")
    num_clips = parser.parse_args().clips

    origin = machine.origin(["python", "-m", __spec__.name, *sys.argv[1:]])
    cases: dict[str, list[Clip]] = {
        f"walkers, noise {noise}, {missing:.0%} missing, {rate:.0f}/s": [
            walkers(seed, noise, missing, rate) for seed in range(num_clips)
        ]
        for noise, missing, rate in itertools.product(NOISE, MISSING, RATES)
    }
    cases |= {f"photographs, {speed} swings/s": list(photographs(math.ceil(num_clips / 2), speed)) for speed in SPEEDS}
    rows: list[dict[str, Any]] = []
    print(f"{'':42} {'motion':7} {'switches':>8} {'ids':>6} {'gaps kept':>9} {'IDF1':>6}")
    for case, clips in cases.items():
        for name, (kind, config) in TRACKERS.items():
            numbers = score(clips, kind, config)
            rows.append({"group": "identities in videos", "claims": [], "case": case, "motion": name, **numbers})
            print(
                f"{case:42} {name:7} {numbers['switches']:8.1f} {numbers['ids']:6.2f} {numbers['gaps_kept']:9.1%}"
                f" {numbers['idf1']:6.3f}",
                flush=True,
            )
    if num_clips == NUM_CLIPS:
        report.save(report.RESULTS / "tracking.json", origin, clips=NUM_CLIPS, benchmarks=rows)


if __name__ == "__main__":
    main()
