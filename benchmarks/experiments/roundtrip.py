"""What is lost between annotated persons, their fields, and the persons decoded from those fields, without any network?

    python -m benchmarks.experiments.roundtrip LAYOUTS      a COCO keypoint file (2,196 images: 5 minutes)
    python -m benchmarks.experiments.roundtrip LAYOUTS --images 100

Every image is scaled to a long edge of 641 px, its persons are encoded at stride 8, the targets become fields
(``PifPafCodec.targets_to_heads``), the decoded persons are scaled back, and pycocotools compares them with the
annotations. There are four settings, each of which takes one more loss away:

    default              OpenPifPaf's 19 limbs and thresholds
    no thresholds        and every person and joint is kept, however few joints or cells it has
    complete graph       and there is a limb between any two keypoints, so that no person falls into pieces
    hidden as visible    and the encoder also paints hidden joints near a visible one

Prints the tables of docs/codec.md, and writes results/roundtrip.json where all images of the file took part.
"""

import argparse
import dataclasses
import gzip
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine, report
from dgcn.codec import PifPafCodec
from dgcn.evaluation.oks import evaluate_keypoints
from dgcn.records import Annotation
from dgcn.skeleton import COCO, Skeleton
from dgcn_ext.decoder import DecoderConfig, PifPafDecoder

STRIDE = 8  # px
LONG_EDGE = 641  # px
FOUND_PX = 1.0  # a joint is back where a decoded one is less than this away, in px of the network input
HIDDEN_PX = 32.0  # the encoder's rule
PATCH = 4  # cells; two joints of one keypoint less than this apart share cells

NO_THRESHOLDS = DecoderConfig(instance_threshold=0.0, keypoint_threshold=0.0, keypoint_threshold_relative=0.0)
COMPLETE = dataclasses.replace(
    COCO,
    name="complete graph",
    limbs=(
        *COCO.limbs,
        *(pair for pair in itertools.combinations(range(17), 2) if not {pair, pair[::-1]} & {*COCO.limbs}),
    ),
)

CROWDS = {"1 person": (1, 1), "2-4": (2, 4), "5-9": (5, 9), "10 or more": (10, math.inf)}
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, math.inf)}  # px² of the original image
CAUSES = {
    "hidden": f"hidden, and less than {HIDDEN_PX:.0f} px from a visible joint of its keypoint: not painted",
    "too few": "in a piece of so few joints that the person stays below the instance threshold",
    "another piece": "decoded, but as another person: no limb leads to the rest of this one",
    "shared cells": f"within {PATCH} cells of another person's joint of its keypoint, which took cells of it",
    "other": "the rest",
}


@dataclasses.dataclass(frozen=True)
class Setting:
    name: str
    skeleton: Skeleton
    config: DecoderConfig
    hidden_as_visible: bool = False


SETTINGS = (
    Setting("default", COCO, DecoderConfig()),
    Setting("no thresholds", COCO, NO_THRESHOLDS),
    Setting("complete graph", COMPLETE, NO_THRESHOLDS),
    Setting("hidden as visible", COMPLETE, NO_THRESHOLDS, hidden_as_visible=True),
)


@dataclasses.dataclass(frozen=True)
class Scene:
    """One image. Annotations are in px of the network input; one px of the file is `scale` of those."""

    image_id: int
    scale: float
    height: int
    width: int
    annotations: list[Annotation]

    @property
    def persons(self) -> list[Annotation]:
        return [annotation for annotation in self.annotations if not annotation.is_ignored]


def scenes(content: Mapping[str, Any], hidden_as_visible: bool) -> Iterator[Scene]:
    entries: dict[int, list[Mapping[str, Any]]] = {}
    for entry in content["annotations"]:
        entries.setdefault(entry["image_id"], []).append(entry)
    for image in content["images"]:
        scale = (LONG_EDGE - 1) / (max(image["width"], image["height"]) - 1)
        height, width = (math.ceil((image[side] - 1) * scale / 16) * 16 + 1 for side in ("height", "width"))
        annotations = []
        for entry in entries.get(image["id"], []):
            keypoints = np.array(entry["keypoints"], np.float32).reshape(17, 3)
            keypoints[:, :2] *= np.float32(scale)
            if hidden_as_visible:
                keypoints[:, 2] = np.where(keypoints[:, 2] > 0, 2, 0)
            box = tuple(value * scale for value in entry["bbox"])
            annotations.append(Annotation(keypoints, box, entry["area"] * scale**2, bool(entry["iscrowd"])))
        yield Scene(image["id"], scale, height, width, annotations)


def results(scene: Scene, persons: np.ndarray, scores: np.ndarray) -> Iterator[dict[str, Any]]:
    """The decoded `persons` [P, 17, 4] as COCO results."""
    for person, score in zip(persons, scores, strict=True):
        found = person[:, 0] > 0
        keypoints = np.column_stack([person[:, 1:3] / scene.scale, np.ones(17)]) * found[:, None]
        yield {
            "image_id": scene.image_id,
            "category_id": 1,
            "keypoints": keypoints.ravel().tolist(),
            "score": float(score),
        }


def is_painted(scene: Scene) -> np.ndarray:
    """Which joints [P, 17] the encoder paints. Those outside of the image do not occur."""
    keypoints = np.array([person.keypoints for person in scene.persons]).reshape(-1, 17, 3)
    visible = keypoints[:, :, 2] == 2
    distance = np.linalg.norm(keypoints[:, None, :, :2] - keypoints[None, :, :, :2], axis=-1)
    near_visible = (visible[None] & (distance < HIDDEN_PX)).any(axis=1)
    return visible | ((keypoints[:, :, 2] == 1) & ~near_visible)


def pieces(joints: Sequence[int], skeleton: Skeleton) -> list[set[int]]:
    """The connected parts of a skeleton that has only these `joints`."""
    parts = [{joint} for joint in joints]
    for a, b in skeleton.limbs:
        joined = [part for part in parts if a in part or b in part]
        if len(joined) == 2:
            parts = [part for part in parts if part not in joined] + [joined[0] | joined[1]]
    return parts


def joint_fates(scene: Scene, decoded: np.ndarray, setting: Setting) -> Iterator[tuple[int, str]]:
    """Yields person and fate of every annotated joint of `scene`.

    The fate is "back" where the joint is found in the decoded person that has most joints of its person, else the first
    of `CAUSES` that applies.
    """
    truth = np.array([person.keypoints for person in scene.persons]).reshape(-1, 17, 3)
    painted = is_painted(scene)
    distance = np.linalg.norm(truth[:, None, :, :2] - decoded[None, :, :, 1:3], axis=-1)
    found = (distance < FOUND_PX) & (decoded[None, :, :, 0] > 0) & (truth[:, None, :, 2] > 0)  # [persons, decoded, 17]
    for n, joints in enumerate(truth[:, :, 2] > 0):
        back = found[n, found[n].sum(axis=1).argmax()] if len(decoded) else np.zeros(17, bool)
        parts = pieces(np.flatnonzero(painted[n]).tolist(), setting.skeleton)
        for k in np.flatnonzero(joints).tolist():
            piece = next((part for part in parts if k in part), set())
            others = np.delete(truth[:, k, :2], n, axis=0)[np.delete(painted[:, k], n)]
            if back[k]:
                fate = "back"
            elif not painted[n, k]:
                fate = "hidden"
            elif len(piece) < setting.config.instance_threshold * 17:
                fate = "too few"
            elif found[n, :, k].any() and not back[list(piece)].any():
                fate = "another piece"
            elif (abs(others - truth[n, k, :2]).max(axis=1, initial=0) < PATCH * STRIDE).any():
                fate = "shared cells"
            else:
                fate = "other"
            yield n, fate


def person_fate(joints: Sequence[str]) -> str:
    """What became of the person whose joints have these fates."""
    back = joints.count("back")
    return "whole" if back == len(joints) else "partly" if back else "gone"


def interval(value: float, bins: Mapping[str, tuple[float, float]]) -> str:
    return next(name for name, (low, high) in reversed(bins.items()) if low <= value)


def run(content: Mapping[str, Any], setting: Setting) -> dict[str, Any]:
    """AP and AR of all images and by crowding, and where the joints went."""
    codec = PifPafCodec(setting.skeleton, STRIDE)
    decoder = PifPafDecoder(setting.skeleton.num_keypoints, setting.skeleton.limbs, setting.config)
    found: list[dict[str, Any]] = []
    crowds: dict[str, list[int]] = {name: [] for name in CROWDS}
    joints: dict[str, Counter[str]] = {name: Counter() for name in ("all", *SIZES, *CROWDS)}
    persons: dict[str, Counter[str]] = {name: Counter() for name in joints}
    for scene in scenes(content, setting.hidden_as_visible):
        targets = codec.encode(scene.annotations, scene.height, scene.width)
        decoded = decoder(*codec.targets_to_heads(targets), STRIDE)
        found.extend(results(scene, decoded, decoder.person_scores(decoded)))
        if not scene.persons:
            continue
        crowd = interval(len(scene.persons), CROWDS)
        crowds[crowd].append(scene.image_id)
        fates: list[list[str]] = [[] for _ in scene.persons]
        for n, fate in joint_fates(scene, decoded, setting):
            fates[n].append(fate)
        for person, own in zip(scene.persons, fates, strict=True):
            for group in ("all", interval(person.area / scene.scale**2, SIZES), crowd):
                joints[group].update(own)
                persons[group][person_fate(own)] += 1
    metrics = {"all": evaluate_keypoints(content, found)}
    for name, image_ids in crowds.items():
        if image_ids:
            metrics[name] = evaluate_keypoints(content, found, image_ids)
    return {
        "setting": setting.name,
        "limbs": setting.skeleton.num_limbs,
        "images": {name: len(image_ids) for name, image_ids in crowds.items()},
        "metrics": {group: {key: round(value, 4) for key, value in one.items()} for group, one in metrics.items()},
        "joints": {group: dict(counts) for group, counts in joints.items()},
        "persons": {group: dict(counts) for group, counts in persons.items()},
    }


def accuracy_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """AP / AR, a setting a row."""
    columns = ["all", "medium", "large", *CROWDS]
    lines = [f"| AP / AR | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for one in runs:
        every = one["metrics"]["all"]
        cells = [f"{every['AP' + suffix]:.3f} / {every['AR' + suffix]:.3f}" for suffix in ("", "M", "L")]
        for name in CROWDS:
            crowd = one["metrics"].get(name)
            cells.append(f"{crowd['AP']:.3f} / {crowd['AR']:.3f}" if crowd else "-")
        lines.append(f"| {one['setting']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def loss_table(run: Mapping[str, Any]) -> str:
    """What became of persons and joints, in percent."""
    groups = ["all", *SIZES, *CROWDS]
    lines = [f"| {run['setting']} | {' | '.join(groups)} |", f"|---|{'---:|' * len(groups)}"]
    for what, fates in (("persons", ("whole", "partly", "gone")), ("joints", ("back", *CAUSES))):
        totals = [sum(run[what][group].values()) for group in groups]
        lines.append(f"| {what} | {' | '.join(f'{total:,}' for total in totals)} |")
        for fate in fates:
            shares = (
                100 * run[what][group].get(fate, 0) / max(total, 1) for group, total in zip(groups, totals, strict=True)
            )
            lines.append(f"| {fate} | {' | '.join(f'{share:.2f} %' for share in shares)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layouts", type=Path, help="a COCO keypoint file, .json or .json.gz")
    parser.add_argument("--images", type=int, help="only so many")
    arguments = parser.parse_args()

    with (gzip.open if arguments.layouts.suffix == ".gz" else open)(arguments.layouts, "rt") as file:
        content = json.load(file)
    content["images"] = content["images"][: arguments.images]
    listed = {image["id"] for image in content["images"]}
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in listed]

    origin = machine.origin(["python", "-m", __spec__.name, arguments.layouts.name])
    runs = []
    for setting in SETTINGS:
        runs.append(run(content, setting))
        print(f"\n{loss_table(runs[-1])}", flush=True)
    print(f"\n{accuracy_table(runs)}")
    if arguments.images is None:
        report.save(report.RESULTS / "roundtrip.json", origin, causes=CAUSES, runs=runs)


if __name__ == "__main__":
    main()
