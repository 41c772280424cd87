"""Measure a checkpoint on a keypoint set: COCO's average precision and recall (OKS), CrowdPose's, or MPII's PCKh or AP.

examples:
  dgcn eval --data coco.yaml
  dgcn eval --checkpoint runs/a/best.safetensors --images val2017 --annotations person_keypoints_val2017.json \\
      --json-output metrics.json --results results.json --bootstrap 1000 --per-keypoint
  dgcn eval --checkpoint runs/a/best.safetensors --images test2017 --annotations image_info_test-dev2017.json \\
      --split test --submit submission.zip
  dgcn eval --checkpoint runs/a/best.safetensors --data coco.yaml --tune tuned.safetensors

metrics:
  coco       AP and AR are means over OKS thresholds 0.50 to 0.95; 50 and 75 are single thresholds, M and L medium and
             large persons (32² to 96² pixels, and above)
  crowdpose  as coco, with CrowdPose's areas; AP of easy, medium and hard images (crowd index below 0.2, below 0.8, and
             from there on)
  pckh       the fraction of MPII's keypoints within half a head size, in all and by the columns of the paper's Table 8
  mpii-ap    MPII's average precision for several persons, mean and the same columns
A number without any ground truth is shown as n/a and written as -1. --json-output writes the numbers by name; those of
coco are {"AP": …, "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL"}.
--per-keypoint adds {"per_keypoint": {name: {"AP": …, "PCK", "error", "swapped"}}}: AP with the OKS of that keypoint
alone; PCK, the fraction found within 0.1 of the person's scale (the square root of its area); the mean error in units
of that scale; and how often a keypoint was found at the place of its mirror image.

With --tune the command chooses the decoder's thresholds and the input size by their AP on training pictures, and does
no more.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import (
    add_batch_argument,
    add_data_arguments,
    add_model_arguments,
    check_outputs,
    describe_data,
    load_predictor,
    make_parser,
    positive,
    warn,
)

if TYPE_CHECKING:
    from ..data.description import Split
    from ..predict.predictor import Predictor
    from ..records import ImageRecord

METRICS = ("coco", "crowdpose", "pckh", "mpii-ap")
"""The names of `dgcn.evaluation.metrics.EVALUATIONS`, which takes long to import; the first is the default."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("eval", __doc__)
    add_model_arguments(parser)
    add_batch_argument(parser)
    add_data_arguments(parser)
    parser.add_argument(
        "--split",
        choices=("train", "val", "test"),
        help="which of --data (default: val, and train with --tune); of a test set the file needs no annotations",
    )
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out pictures that are missing or damaged")
    parser.add_argument("--metric", choices=METRICS, default=METRICS[0], help="what to measure (default: %(default)s)")
    parser.add_argument("--per-keypoint", action="store_true", help="also measure every keypoint by itself")
    parser.add_argument("--json-output", type=Path, metavar="FILE", help="write the numbers as JSON")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write the persons found as COCO keypoint results")
    parser.add_argument(
        "--submit",
        type=Path,
        metavar="FILE.zip",
        help="write the persons found as the servers of COCO and CrowdPose take them",
    )
    parser.add_argument(
        "--no-force-complete",
        dest="force_complete",
        action="store_false",
        help="do not guess the keypoints that the decoder did not find; AP counts a missing keypoint as wrong",
    )
    parser.add_argument(
        "--bootstrap",
        type=positive,
        metavar="N",
        help="also print a 95 %% interval of the first number, from N resamples of the pictures",
    )
    parser.add_argument(
        "--tune",
        type=Path,
        metavar="FILE",
        help="choose thresholds and input size on training pictures, and write the model with them to this .safetensors"
        " file",
    )
    parser.add_argument(
        "--tune-images",
        type=positive,
        default=250,
        metavar="N",
        help="how many pictures, drawn at random, --tune chooses on (default: %(default)s)",
    )
    parser.add_argument("--half", action="store_true", help="--tune writes the weights as float16: half the size")
    args = parser.parse_args(argv)
    refuse_unused_flags(parser, args)
    return evaluate(args) if args.tune is None else tune(args)


def refuse_unused_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Raise ValueError for a flag that was given and would change nothing."""
    unused: tuple[str, ...]
    if args.tune is None:
        unused, reason = ("--tune-images", "--half"), "needs --tune"
    else:
        unused = (
            *("--metric", "--per-keypoint", "--json-output", "--results", "--submit"),
            *("--bootstrap", "--no-force-complete", "--batch-size"),
        )
        reason = "must be given without --tune"
    for flag in unused:
        field = flag.removeprefix("--").removeprefix("no-").replace("-", "_")
        value = getattr(args, field)
        if value != parser.get_default(field):
            raise ValueError(f"{flag} {reason}, got {flag}{'' if isinstance(value, bool) else f' {value}'}")


def read_split(args: argparse.Namespace, predictor: Predictor, default: str) -> tuple[Split, list[ImageRecord]]:
    """The files of the split that the flags name, and what they hold of the model's keypoints."""
    from dataclasses import replace

    from ..data.reader import read_records
    from ..data.rules import SkeletonOptions

    name = args.split or default
    description = describe_data(args, name)
    split = description.split(name)
    reading = replace(description.reading, skip_unreadable=args.skip_unreadable)
    if replace(description.skeleton, source="") != SkeletonOptions():
        warn("eval", f"skeleton, flip_idx and sigmas of {args.data} are not used: those of the checkpoint are")
    has_annotations = name != "test"
    skeleton = predictor.skeleton
    records = read_records(split.images, split.annotations, skeleton, reading, needs_annotations=has_annotations)
    if not has_annotations and not any(record.annotations for record in records):
        category_id = predictor.category.category_id  # pictures alone do not tell which category is to be found
        records = [replace(record, category_id=category_id) for record in records]
    return split, records


def assumes_sigmas(metadata: Mapping[str, Any]) -> bool:
    """Whether a checkpoint says that its OKS sigmas are a guess."""
    rules = metadata.get("data", {}).get("rules", [])
    return any(rule["name"] == "sigmas" and rule["is_assumed"] for rule in rules)


def shown(number: float) -> str:
    return f"{number:.4f}" if number >= 0 else "n/a"


def print_table(rows: Mapping[str, Mapping[str, float]]) -> None:
    """Print numbers by row and column, under the columns' names."""
    width = max(map(len, rows))
    print(" " * width, *(f"{column:>8}" for column in next(iter(rows.values()))))
    for name, numbers in rows.items():
        print(f"{name:<{width}}", *(f"{shown(number):>8}" for number in numbers.values()))


def evaluate(args: argparse.Namespace) -> int:
    from ..evaluation.evaluate import predict_each
    from ..evaluation.metrics import EVALUATIONS
    from ..evaluation.per_keypoint import evaluate_per_keypoint, pck
    from ..evaluation.submit import submission_name, write_submission
    from ..files import write_json
    from ..predict.predictor import Timings

    if args.submit and args.submit.suffix != ".zip":
        raise ValueError(f"--submit must be a .zip file, got {args.submit}")
    predictor = load_predictor(args, args.batch_size)
    skeleton = predictor.skeleton
    split, records = read_split(args, predictor, "val")
    pictures = (record.path for record in records)
    check_outputs(
        (args.json_output, args.results, args.submit), (args.data, split.annotations, args.checkpoint, *pictures)
    )
    measure = EVALUATIONS[args.metric]
    measure(records, [], skeleton)  # raises what the metric refuses before the network runs
    annotated = any(record.persons for record in records)
    if not annotated:
        warn("eval", f"{split.annotations} has no person with keypoints: every number is n/a")
    results, timings = [], Timings()
    for record, poses in predict_each(predictor, records, force_complete=args.force_complete, progress=True):
        results += [pose.to_coco(record.image_id, record.category_id) for pose in poses]
        timings += poses.timings
    comparable = results if annotated else []
    evaluation = measure(records, comparable, skeleton)
    document: dict[str, Any] = {**evaluation.metrics()}
    if annotated:
        width = max(map(len, document))
        for name, number in document.items():
            print(f"{name:<{width}} {shown(number)}")
        if args.metric == METRICS[0] and assumes_sigmas(predictor.metadata):
            guess = "AP rests on assumed OKS sigmas; beside it"
            print(f"{guess} PCK {shown(pck(records, comparable))} (within 0.1 of the person's scale)")
        if args.bootstrap:
            low, high = evaluation.interval(args.bootstrap)
            interval = f"{low:.4f} to {high:.4f}" if low >= 0 else "n/a"
            print(f"95 % interval of {next(iter(document))}: {interval} ({args.bootstrap} resamples of the pictures)")
    if args.per_keypoint:
        document["per_keypoint"] = evaluate_per_keypoint(records, comparable, skeleton)
        if annotated:
            print_table(document["per_keypoint"])
    count = max(1, len(records))
    print(
        f"{len(records)} pictures at {predictor.long_edge} px on {predictor.hardware}, each"
        f" {timings.network_ms / count:.1f} ms in the network and {timings.decoder_ms / count:.1f} ms in the decoder"
    )
    if args.json_output:
        write_json(args.json_output, document)
    if args.results:
        write_json(args.results, results)
    if args.submit:
        write_submission(args.submit, submission_name(split.annotations), results)
    return 0


def tune(args: argparse.Namespace) -> int:
    import torch

    from ..evaluation.tune import tune as choose
    from ..model.checkpoint import DEFAULT_CHECKPOINT, checkpoint_files, load_model, save_model, stored_weights

    outputs = checkpoint_files(args.tune, "--tune")
    checkpoint = args.checkpoint or DEFAULT_CHECKPOINT
    predictor = load_predictor(args)
    split, records = read_split(args, predictor, "train")
    check_outputs(outputs, [args.data, split.annotations, checkpoint, *(record.path for record in records)])
    annotated = [record for record in records if record.persons]
    if not annotated:
        raise ValueError(f"{split.annotations} has no person with keypoints to tune for")
    chosen = random.Random(0).sample(annotated, min(args.tune_images, len(annotated)))
    model, metadata = load_model(checkpoint)
    dtype = torch.float16 if args.half else None
    stored_weights(model, dtype)  # which float16 may be too small for
    tuned = choose(
        model,
        chosen,
        config=predictor.config,
        long_edge=predictor.long_edge,
        flip_test=args.flip_test,
        device=predictor.device,
    )
    metadata.pop("metrics", None)  # which other thresholds have
    metadata |= tuned.metadata()
    metadata["tuned"] = {"pictures": len(chosen), "AP": tuned.ap, "flip_test": args.flip_test}
    save_model(args.tune, model, metadata, dtype=dtype)
    print(f"AP {tuned.ap:.4f} on the {len(chosen)} pictures it was chosen on, at {tuned.long_edge} px with")
    for name, value in metadata["decoder"].items():
        print(f"  {name} {value:g}")
    print(f"model {args.tune}")
    return 0
