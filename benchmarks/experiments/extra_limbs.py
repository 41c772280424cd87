"""Does a network with PAF fields beyond COCO's 19 limbs find people better, above all those who are partly hidden?

    python -m benchmarks.experiments.extra_limbs COCO512 WORK        an hour; writes results/extra_limbs.json

COCO512 is a folder with images/{train,val} and annotations/person_keypoints_{train,val}.json, WORK where the
checkpoints go. Interrupted, the command goes on where it was.

The outlook of the paper proposes more edges. Here the 8 and the 16 strongest edges of A_s (Eq. 6) that are no limbs
become PAF fields like the others. The three networks differ in nothing else. Each begins as the model that ships with
dgcn, but for the PAF head, which is new, and is trained for `EPOCHS` epochs on the same pictures in the same order.
Each is measured twice on the validation pictures with the same thresholds: as they are, and with a third of every
person's visible joints hidden under patches of other pictures, the same for all.

    AP, AR        as `dgcn eval`, with force-complete
    recall        share of the annotated joints that are found, without force-complete, at a keypoint similarity of 0.5
                  or more (Eq. of OKS for one joint), in the person found with the highest OKS
    hidden        the same, of those joints alone that a patch hides
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import machine, report
from dgcn.data.images import read_record
from dgcn.data.reader import read_records
from dgcn.evaluation.oks import KeypointEvaluation
from dgcn.graph import coco_distances, strongest_edges
from dgcn.model.checkpoint import DEFAULT_CHECKPOINT, load_model, save_model
from dgcn.model.network import DGCN, build_from_config
from dgcn.predict.predictor import Predictor
from dgcn.records import ImageRecord, Pose
from dgcn.skeleton import COCO, Skeleton
from dgcn.training.loop import fit
from dgcn.training.recipes import movenet_small
from dgcn.training.run_folder import LAST_FILE
from dgcn_ext.decoder import DecoderConfig

ADDED = (0, 8, 16)
EPOCHS = 4  # the trunk is frozen in the first
LONG_EDGE = 513
HIDDEN = 1 / 3  # of a person's visible joints
PATCH = 0.35  # edge of a patch, as a fraction of the person's scale
THRESHOLDS = DecoderConfig(
    connection_threshold=0.02, keypoint_threshold=0.05, seed_threshold=0.1, instance_threshold=0.1
)


def skeleton_with(added: int) -> Skeleton:
    limbs = strongest_edges(COCO, coco_distances())[:added]
    return replace(COCO, name=f"coco+{added}", limbs=(*COCO.limbs, *limbs)) if added else COCO


def starting_model(skeleton: Skeleton) -> DGCN:
    """The shipped model with a new PAF head."""
    shipped, _ = load_model(DEFAULT_CHECKPOINT)
    torch.manual_seed(0)
    model = build_from_config(replace(shipped.config, skeleton=skeleton))
    weights = {name: value for name, value in shipped.state_dict().items() if not name.startswith("paf_head.")}
    model.load_state_dict(weights, strict=False)
    return model


def train(data: Path, work: Path, added: int, device: str) -> Path:
    """The checkpoint after the last epoch."""
    common: dict[str, Any] = {
        f"{split}_{kind}": data / kind / name
        for split in ("train", "val")
        for kind, name in (("images", split), ("annotations", f"person_keypoints_{split}.json"))
    }
    start, folder = work / f"start{added}.safetensors", work / f"limbs{added}"
    model = starting_model(skeleton_with(added))
    save_model(start, model, {})
    common |= {"model": model.config, "init_checkpoint": start, "device": device, "resume": "auto"}
    fit(movenet_small(**common, work_dir=folder, epochs=EPOCHS, freeze_epochs=1, eval_every=100))
    return folder / LAST_FILE


def hide(image: np.ndarray, record: ImageRecord, other: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Paste patches of the picture `other` on joints of `image`, in place; bool [K] of each person: joint hidden."""
    height, width = image.shape[:2]
    corners = []
    for person in record.persons:
        seen = np.flatnonzero(person.keypoints[:, 2] == 2)
        edge = max(4, round(PATCH * person.scale))
        for joint in rng.permutation(seen)[: round(HIDDEN * len(seen))]:
            x, y = np.rint(person.keypoints[joint, :2] - edge / 2).astype(int)
            left, top, right, bottom = max(x, 0), max(y, 0), min(x + edge, width), min(y + edge, height)
            patch_height, patch_width = min(bottom - top, other.shape[0]), min(right - left, other.shape[1])
            from_y = rng.integers(other.shape[0] - patch_height + 1)
            from_x = rng.integers(other.shape[1] - patch_width + 1)
            image[top : top + patch_height, left : left + patch_width] = other[
                from_y : from_y + patch_height, from_x : from_x + patch_width
            ]
            corners.append((left, top, left + patch_width, top + patch_height))
    boxes = np.array(corners, dtype=float).reshape(-1, 4)
    hidden = []
    for person in record.persons:
        xy = person.keypoints[:, None, :2]
        inside = ((xy >= boxes[:, :2]) & (xy < boxes[:, 2:])).all(axis=2).any(axis=1)
        hidden.append(inside & (person.keypoints[:, 2] > 0))
    return hidden


def count_found(record: ImageRecord, hidden: Sequence[np.ndarray], poses: Sequence[Pose]) -> np.ndarray:
    """Annotated joints, found ones, hidden joints, found ones, over the persons of one picture."""
    counts = np.zeros(4, dtype=int)
    variance = (2 * np.array(COCO.sigmas)) ** 2
    for person, is_hidden in zip(record.persons, hidden, strict=True):
        annotated = person.keypoints[:, 2] > 0
        found = np.zeros(len(annotated), dtype=bool)
        best = 0.0
        for pose in poses:
            squared = ((pose.keypoints - person.keypoints[:, :2]) ** 2).sum(axis=1)
            similarity = np.exp(-squared / (2 * variance * max(person.scale, 1) ** 2)) * (pose.scores > 0) * annotated
            if similarity.sum() > best:
                best, found = similarity.sum(), similarity >= 0.5
        counts += [annotated.sum(), found.sum(), is_hidden.sum(), (found & is_hidden).sum()]
    return counts


def measure(predictor: Predictor, records: Sequence[ImageRecord], *, occluded: bool) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    images = [read_record(record) for record in records]
    originals = [image.copy() for image in images]
    hidden = [[np.zeros(COCO.num_keypoints, dtype=bool) for _ in record.persons] for record in records]
    if occluded:
        pairs = zip(images, records, [originals[-1], *originals[:-1]], strict=True)
        hidden = [hide(image, record, other, rng) for image, record, other in pairs]
    fields = [predictor.fields([image])[0] for image in images]
    results = [
        pose.to_coco(record.image_id, record.category_id)
        for record, poses in zip(records, predictor.decode(fields, force_complete=True), strict=True)
        for pose in poses
    ]
    evaluation = KeypointEvaluation(records, results, sigmas=COCO.sigmas)
    metrics, interval = evaluation.metrics(), evaluation.interval()
    counts = sum(map(count_found, records, hidden, predictor.decode(fields)), start=np.zeros(4, dtype=int))
    row = {
        "AP": round(metrics["AP"], 4),
        "AP_interval": [round(bound, 4) for bound in interval],
        "AR": round(metrics["AR"], 4),
        "recall": round(counts[1] / counts[0], 4),
    }
    return row | ({"recall_hidden": round(counts[3] / counts[2], 4), "hidden": int(counts[2])} if occluded else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "work"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    origin = machine.origin(["python", "-m", __spec__.name, *(Path(argument).name for argument in sys.argv[1:])])
    records = read_records(args.data / "images/val", args.data / "annotations/person_keypoints_val.json", COCO)
    rows = []
    for added in ADDED:
        checkpoint = train(args.data, args.work, added, args.device)
        predictor = Predictor(checkpoint, long_edge=LONG_EDGE, config=THRESHOLDS, device=args.device)
        for occluded in (False, True):
            row = {"added": added, "occluded": occluded, **measure(predictor, records, occluded=occluded)}
            print(row, flush=True)
            rows.append({"group": "PAF fields beyond the limbs", "claims": [], **row})
    report.save(report.RESULTS / "extra_limbs.json", origin, epochs=EPOCHS, benchmarks=rows)


if __name__ == "__main__":
    main()
