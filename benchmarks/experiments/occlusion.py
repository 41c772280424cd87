"""Do limbs beyond the 19 of COCO's skeleton help to decode people who are mostly hidden?

    python -m benchmarks.experiments.occlusion              two minutes; writes results/decoder_occlusion_cpu.json
    python -m benchmarks.experiments.occlusion --images 2   only so many pictures; writes nothing

A decoder takes any graph as its skeleton, with a PAF field for each limb. Here the pairs of keypoints with the largest
weight in A_s (Eq. 6, the paper's soft adjacency) are added to COCO's limbs. Both skeletons are decoded on real layouts
of 3 persons (COCO val2017) whose joints are left out at random, painted with the noise of decoder/scenes.py. A person
falls apart where the joint between two others is missing, unless another limb bridges it.

    recall        share of the remaining joints that are found in one and the same person. Of each true person, the
                  detected person counts that has most of its joints; a joint is found within half a cell
    persons       number of detected persons to one true person
    mixed         share of the detected joints whose true person is not that of most joints of their detected person

`weight` scales the confidence of the added fields; below 1, the decoder prefers COCO's own limbs. The instance
threshold is a mean confidence of 0.02, because so many joints are hidden.
"""

import argparse
import sys
from itertools import islice

import numpy as np

from benchmarks import machine, report
from benchmarks.decoder.scenes import COCO_LIMBS, STRIDE, Fields, add_noise, data_dir, layouts, paint
from dgcn.graph import coco_distances, strongest_edges
from dgcn.skeleton import COCO
from dgcn_ext.decoder import DecoderConfig, PifPafDecoder

NUM_IMAGES = 60
HIDDEN = (0.0, 0.3, 0.5, 0.7)  # share of the joints left out
ADDED = ((0, 1.0), (10, 1.0), (20, 1.0), (40, 1.0), (117, 1.0), (40, 0.5), (117, 0.5))  # number of limbs, weight
ADDED_LIMBS = strongest_edges(COCO, coco_distances())  # all 117 pairs that no limb joins


def scenes(hidden: float, num_images: int) -> list[tuple[np.ndarray, Fields]]:
    """True persons [P, 17, 3] in cells, and fields with 19 + 117 limbs, for each picture."""
    rng = np.random.default_rng(0)
    result = []
    for persons, scales, height, width in islice(layouts(data_dir(), 3), num_images):
        persons[..., 2] *= rng.random(persons.shape[:2]) >= hidden
        fields = paint(persons, scales, COCO_LIMBS + ADDED_LIMBS, height, width)
        result.append((persons, add_noise(fields, rng)))
    return result


def score(persons: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Six counts: true joints, recalled ones, true persons, detected persons; detected joints that belong to a true
    person, and those of them whose true person is not that of most joints of their detected person."""
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

    origin = machine.origin(["python", "-m", __spec__.name, *sys.argv[1:]])
    rows = []
    print(f"{'hidden':>6} {'added':>6} {'weight':>6} {'recall':>7} {'persons':>8} {'mixed':>6}")
    for hidden in HIDDEN:
        examples = scenes(hidden, num_images)
        for num_added, weight in ADDED:
            limbs = COCO_LIMBS + ADDED_LIMBS[:num_added]
            decoder = PifPafDecoder(17, limbs, DecoderConfig(instance_threshold=0.02))
            counts = np.zeros(6, int)
            for persons, (pif, paf) in examples:
                paf = paf[: len(limbs)].copy()
                paf[len(COCO_LIMBS) :, 1] *= weight
                counts += score(persons, decoder(pif, paf, STRIDE))
            true_joints, recalled, true_persons, detected, known, mixed = counts.tolist()
            row = {
                "hidden": hidden,
                "added_edges": num_added,
                "weight": weight,
                "recall": round(recalled / true_joints, 4),
                "persons_per_true_person": round(detected / true_persons, 3),
                "mixed": round(mixed / known, 4),
                "true_joints": true_joints,
            }
            rows.append(row)
            print(
                f"{hidden:6.0%} {num_added:6} {weight:6} {row['recall']:7.3f} {row['persons_per_true_person']:8.2f} "
                f"{row['mixed']:6.3f}",
                flush=True,
            )
    if num_images == NUM_IMAGES:
        group = "more limbs under occlusion"
        benchmarks = [{"group": group, "claims": [], **row} for row in rows]
        report.save(report.RESULTS / "decoder_occlusion_cpu.json", origin, images=NUM_IMAGES, benchmarks=benchmarks)


if __name__ == "__main__":
    main()
