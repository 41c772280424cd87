"""Check a data set: print the rules that fill its gaps, count what it holds, read every picture, draw samples.

examples:
  dgcn data --data hand.yaml                   everything, and samples.jpg in the current folder
  dgcn data --data hand.yaml -o report --samples 24
  dgcn data --images train --annotations train.json

The file that --data takes, of which only one split is needed:
  path: data/hand                       # relative to this file; default: where this file is
  format: coco                          # coco, crowdpose or mpii; default: told from the content
  train: {images: train, annotations: train.json}
  val:   {images: val,   annotations: val.json}
  test:  {images: test,  annotations: image_info.json}   # needs no annotations
  category: hand                        # only where the file has several with keypoints
  keypoints: [wrist, thumb1, thumb2]    # default: the category's
  skeleton: [[1, 2], [2, 3]]            # limbs, counted from 1; default: the category's, else by rule
  flip_idx: [0, 1, 2]                   # mirror images, counted from 0; default: by the names
  sigmas: [0.03, 0.03, 0.03]            # of OKS; default: the category's, else by rule

On samples.jpg the left side of persons is orange and the right side blue; every sample has its mirror image beside it,
with the flipped keypoints. Exit status: 0; 1 if pictures are missing or damaged; 2 if annotations cannot be used.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .common import (
    add_data_arguments,
    check_outputs,
    describe,
    describe_data,
    make_parser,
    positive,
    write_jpeg,
)

if TYPE_CHECKING:
    from ..records import ImageRecord
    from ..skeleton import Skeleton

SHEET = "samples.jpg"


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("data", __doc__)
    add_data_arguments(parser)
    parser.add_argument("-o", "--output", type=Path, default=Path(), metavar="DIR", help="folder of samples.jpg")
    parser.add_argument(
        "--samples", type=positive, default=11, metavar="N", help="pictures on samples.jpg (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the choice of the samples (default: 0)")
    args = parser.parse_args(argv)

    from ..data.reader import read_errors
    from ..data.rules import log_rules, make_skeleton
    from ..predict.sheet import draw_sheet
    from ..skeleton import same_names

    description = describe_data(args, "train")
    sheet = args.output / SHEET
    files = {name: description.read(name) for name in description.splits}
    pictures = [record.path for file in files.values() for record in file.records]
    check_outputs([sheet], [args.data, *(split.annotations for split in description.splits.values()), *pictures])
    first = "train" if "train" in files else next(iter(files))
    source = str(description.split(first).annotations)
    skeleton, rules = make_skeleton(files[first], source, description.skeleton)
    log_rules(dict.fromkeys([*(rule for file in files.values() for rule in file.rules), *rules]))
    bad = 0
    samples: list[ImageRecord] = []
    for name, file in files.items():
        annotations = description.split(name).annotations
        if file.category.keypoints is not None and not same_names(file.category.keypoints, skeleton.keypoints):
            raise ValueError(f"{annotations} must have the keypoints of {source}, got {list(file.category.keypoints)}")
        print(summary(name, file.records, skeleton))
        for record, error in zip(file.records, read_errors(file.records, annotations), strict=True):
            if error is None:
                samples.append(record)
            else:
                print(describe(error))
                bad += 1
    annotated = [record for record in samples if record.annotations] or samples
    if annotated:
        chosen = random.Random(args.seed).sample(annotated, min(args.samples, len(annotated)))
        write_jpeg(sheet, draw_sheet(chosen, skeleton))
        print(f"samples  {sheet}")
    if bad:
        print(f"{bad} pictures are missing or damaged")
    return 1 if bad else 0


def summary(name: str, records: Sequence[ImageRecord], skeleton: Skeleton) -> str:
    """What a split holds, as lines of text."""
    import numpy as np

    persons = [person for record in records for person in record.persons]
    ignored = sum(annotation.is_ignored for record in records for annotation in record.annotations)
    lines = [f"{name}: {len(records)} pictures, {len(persons)} persons with keypoints, {ignored} ignored regions"]
    if persons:
        visibility = np.array([person.keypoints[:, 2] for person in persons])
        width = max(map(len, skeleton.keypoints))
        for index, keypoint in enumerate(skeleton.keypoints):
            visible, hidden = (np.count_nonzero(visibility[:, index] == v) for v in (2, 1))
            lines.append(f"  {keypoint:<{width}} {visible:>7} visible {hidden:>7} hidden")
        outside = sum(count_outside(record) for record in records)
        if outside:
            lines.append(f"  {outside} annotated keypoints lie outside of their pictures, and will not be learned")
    return "\n".join(lines)


def count_outside(record: ImageRecord) -> int:
    """How many annotated keypoints lie outside of a picture whose size the file gives."""
    if record.size is None:
        return 0
    width, height = record.size
    points = [point for person in record.persons for point in person.keypoints.tolist()]
    return sum(v > 0 and not (-0.5 <= x <= width and -0.5 <= y <= height) for x, y, v in points)
