"""What do connections beyond the 19 limbs do for people who are mostly hidden?

    python benchmarks/decoder_occlusion.py      two minutes; writes benchmarks/results/decoder_occlusion_cpu.json
    python benchmarks/decoder_occlusion.py --images 2       only so many; writes nothing

The skeleton of a decoder may be any graph: dense connections are more limbs, with a PAF field each. Here the COCO
skeleton is joined by the pairs of keypoints that A_s (Eq. 6, the soft adjacency of the paper) binds most, and both are
decoded on real layouts of 3 persons (COCO val2017) whose joints are left out at random, painted with the noise of
decoder_scenes.py. A person falls apart where a joint between two others is missing, unless some edge bridges it.

    recall        of the joints that are left, the share that is found in one and the same person: for every true person
                  the detected one that shares most joints with it counts, a joint within half a cell
    persons       detected, to every true one
    mixed         of the joints detected, the share that belongs to another true person than most of their person's

`weight` scales the confidence of the added fields; below 1, the skeleton's own limbs go first. Persons with a mean
confidence of 0.02 are kept (instance_threshold), since so much of them is hidden.
"""

import argparse
import json
import os
import shlex
import sys
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path

import machine
import numpy as np
from decoder_scenes import COCO_LIMBS, STRIDE, Fields, add_noise, data_dir, layouts, paint

from dgcn.graph import coco_distances, soft_adjacency
from dgcn_ext.decoder import DecoderConfig, PifPafDecoder

NUM_IMAGES = 60
HIDDEN = (0.0, 0.3, 0.5, 0.7)  # share of the joints left out
DENSE = ((0, 1.0), (10, 1.0), (20, 1.0), (40, 1.0), (117, 1.0), (40, 0.5), (117, 0.5))  # added edges, their weight


def added_edges() -> list[tuple[int, int]]:
    """All 117 pairs of keypoints that no limb joins, those first that A_s binds most."""
    bond = soft_adjacency(coco_distances()).numpy()
    limbs = {frozenset(limb) for limb in COCO_LIMBS}
    pairs = [(i, j) for i in range(17) for j in range(i + 1, 17) if frozenset((i, j)) not in limbs]
    return sorted(pairs, key=lambda pair: -(bond[pair] + bond[pair[::-1]]))


def scenes(hidden: float, num_images: int) -> list[tuple[np.ndarray, Fields]]:
    """True persons [P, 17, 3] in cells, and fields with 19 + 117 limbs."""
    rng = np.random.default_rng(0)
    result = []
    for persons, scales, height, width in islice(layouts(data_dir(), 3), num_images):
        persons[..., 2] *= rng.random(persons.shape[:2]) >= hidden
        fields = paint(persons, scales, COCO_LIMBS + added_edges(), height, width)
        result.append((persons, add_noise(fields, rng)))
    return result


def score(persons: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Counts: true joints, those recalled, true persons, persons detected, joints of a true person in the detected
    ones, those of another person than most."""
    distance = np.linalg.norm(found[:, None, :, 1:3] - persons[None, :, :, :2] * STRIDE, axis=-1)
    hits = (distance < STRIDE / 2) & (found[:, None, :, 0] > 0) & (persons[None, :, :, 2] > 0)  # [found, true, 17]
    shared = hits.sum(2)
    true_joints = np.count_nonzero(persons[..., 2])
    true_persons = np.count_nonzero(persons[..., 2].any(1))
    known = hits.any(1).sum()
    own = np.array([hits[p, shared[p].argmax()].sum() for p in range(len(found))]).sum()
    return np.array([true_joints, shared.max(0, initial=0).sum(), true_persons, len(found), known, known - own])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=NUM_IMAGES, help="(default: %(default)s)")
    num_images = parser.parse_args().images

    origin = machine.origin()
    rows = []
    print(f"{'hidden':>6} {'edges':>6} {'weight':>6} {'recall':>7} {'persons':>8} {'mixed':>6}")
    for hidden in HIDDEN:
        examples = scenes(hidden, num_images)
        for num_edges, weight in DENSE:
            limbs = COCO_LIMBS + added_edges()[:num_edges]
            decoder = PifPafDecoder(17, limbs, DecoderConfig(instance_threshold=0.02))
            counts = np.zeros(6, int)
            for persons, (pif, paf) in examples:
                paf = paf[: len(limbs)].copy()
                paf[len(COCO_LIMBS) :, 1] *= weight
                counts += score(persons, decoder(pif, paf, STRIDE))
            true_joints, recalled, true_persons, detected, known, mixed = counts.tolist()
            row = {
                "hidden": hidden,
                "added_edges": num_edges,
                "weight": weight,
                "recall": round(recalled / true_joints, 4),
                "persons_per_true_person": round(detected / true_persons, 3),
                "mixed": round(mixed / known, 4),
                "true_joints": true_joints,
            }
            rows.append(row)
            print(
                f"{hidden:6.0%} {num_edges:6} {weight:6} {row['recall']:7.3f} {row['persons_per_true_person']:8.2f} "
                f"{row['mixed']:6.3f}",
                flush=True,
            )
    if num_images != NUM_IMAGES:
        return
    about = {
        "command": shlex.join(["python", os.path.relpath(__file__), *sys.argv[1:]]),
        "datetime": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    path = Path(__file__).with_name("results") / "decoder_occlusion_cpu.json"
    group = "dense connections under occlusion"
    benchmarks = [{"group": group, "claims": [], **row} for row in rows]
    path.write_text(json.dumps({**about, **origin, "images": NUM_IMAGES, "benchmarks": benchmarks}, indent=4) + "\n")


if __name__ == "__main__":
    main()
