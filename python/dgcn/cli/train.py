"""Train a model on a keypoint data set.

examples:
  dgcn train --data coco.yaml --work-dir runs/r50 --recipe paper
  dgcn train --train-images train2017 --train-annotations person_keypoints_train2017.json \\
      --val-images val2017 --val-annotations person_keypoints_val2017.json --work-dir runs/r50
  dgcn train ... --work-dir runs/r50 --resume auto      continue after a crash, a kill or Ctrl-C: same result
  dgcn train ... --backbone mobilenetv1_075 --size 385  a small model, trained on small crops
  dgcn train --config runs/r50/config.json --work-dir runs/again --seed 1   the same run with another seed
  torchrun --standalone --nproc-per-node 8 -m dgcn train ...                on eight GPUs, the batch shared among them

--data takes the description of a data set, which `dgcn data --help` shows. Keypoints, limbs, flip pairs and OKS sigmas
are those of the training annotations; what these leave out follows rules, and each that was used is printed.

The work folder receives best.safetensors (highest AP on the validation pictures), last.safetensors, history.jsonl and
training_state.pt, from which --resume goes on. Ctrl-C finishes the step, saves the state and stops. An epoch is saved
before it is evaluated; an evaluation that failed or was interrupted is the first thing that --resume does.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import add_data_argument, add_device_argument, choose_device, make_parser
from .flags import add_flags, field_docs, replace_given

if TYPE_CHECKING:
    from ..data.description import Description
    from ..training.config import TrainConfig

DATA_FLAGS = ("train_images", "train_annotations", "val_images", "val_annotations")


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)

    from tqdm.contrib.logging import logging_redirect_tqdm

    from ..model.checkpoint import load_model
    from ..training.distributed import LostProcess, StoppedElsewhere, joined
    from ..training.loop import fit
    from ..training.run_folder import BEST_FILE, LAST_FILE

    try:
        with logging_redirect_tqdm(), errors_name_flags(args), joined(choose_device(args.device)) as group:
            if not group.is_first:
                logging.getLogger("dgcn").setLevel(logging.WARNING)
            with group.together():
                config = read_request(args)
            history = fit(config)
    except StoppedElsewhere:
        return 1
    except (FloatingPointError, MemoryError, LostProcess) as error:
        print(f"dgcn train: error: {error}", file=sys.stderr)
        return 1
    if not group.is_first:
        return 0
    if (best := config.work_dir / BEST_FILE).exists():
        _, metadata = load_model(best)
        print(f"AP {metadata['metrics']['AP']:.4f} after epoch {metadata['epoch']}: {best}")
    else:
        scores = [record["AP"] for record in history if record.get("AP", -1) >= 0]
        ap = "no AP: nobody to find in the validation pictures"
        if scores:
            ap = f"AP {max(scores):.4f}, whose checkpoint is in another folder"
        print(f"{ap}; the last epoch: {config.work_dir / LAST_FILE}")
    return 0


def read_request(args: argparse.Namespace) -> TrainConfig:
    """The configuration that the flags describe, with the keypoints of the training annotations; checked."""
    config = build_config(args)
    check_start(config)
    if args.config is None or args.data is not None:
        config = with_skeleton(config, describe_data(args))
    return config


def build_parser() -> argparse.ArgumentParser:
    from ..data.reader import ReadOptions
    from ..model.config import ModelConfig
    from ..training.config import LossConfig, TrainConfig
    from ..training.recipes import RECIPES

    parser = make_parser("train", __doc__)
    parser.add_argument(
        "--recipe",
        choices=RECIPES,
        help="settings to start from; what else is given changes them (default: the defaults below)",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="config.json of a run: start from its settings, data included, in place of a recipe's",
    )
    run = parser.add_argument_group("run")
    add_data_argument(run)
    add_flags(run, TrainConfig, skip=("resume", "device", "data_notes"), optional=(*DATA_FLAGS, "work_dir"))
    add_flags(run, ReadOptions, skip=("format", "category", "keypoints"))
    run.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        default=argparse.SUPPRESS,
        metavar="auto|PATH",
        help=field_docs(TrainConfig)["resume"].rstrip("."),
    )
    add_device_argument(run)
    add_flags(parser.add_argument_group("model"), ModelConfig, skip=("skeleton",), parse={"levels": level})
    add_flags(parser.add_argument_group("loss (Eq. 1 to 3)"), LossConfig)
    return parser


def level(text: str) -> int:
    """The stride of a feature map, F4, F8 or F16, written with or without the F."""
    try:
        return int(text.removeprefix("F"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be F4, F8 or F16, got {text}") from None


def build_config(args: argparse.Namespace) -> TrainConfig:
    """The configuration that the flags describe; a flag has the name of its field.

    Its keypoints are COCO's, or those of --config."""
    from dataclasses import replace

    from ..training.config import TrainConfig, read_config
    from ..training.recipes import RECIPES

    values = dict(vars(args))
    if args.config is None:
        if "work_dir" not in args:
            raise ValueError("--work-dir must be given, got none")
        make = RECIPES.get(args.recipe, TrainConfig)
        config = make(**data_fields(describe_data(args)), work_dir=args.work_dir)
        values["device"] = choose_device(args.device)
        return replace_given(config, values)
    if args.recipe is not None:
        raise ValueError("--recipe must be given without --config, which has every setting, got both")
    config = replace(read_config(args.config), resume=None, allow_changes=False)
    if args.data is not None:
        config = replace(config, **data_fields(describe_data(args)))
    if args.device is None:
        del values["device"]
    return replace_given(config, values)


def data_fields(description: Description) -> dict[str, Any]:
    """The fields of a `TrainConfig` that a description fills."""
    files = {
        f"{split}_{kind}": getattr(description.split(split), kind)
        for split in ("train", "val")
        for kind in ("images", "annotations")
    }
    return {**files, "reading": description.reading}


def check_start(config: TrainConfig) -> None:
    """Raise the errors of a device or a backbone that does not exist, before annotations are read."""
    from ..device import check_device
    from ..model.backbones import check_backbone
    from ..training.log import check_log

    check_device(config.device)
    check_log(config)
    if config.init_checkpoint is None:
        check_backbone(config.model.backbone, pretrained=config.pretrained)


def describe_data(args: argparse.Namespace) -> Description:
    """What --data describes, or the four flags that name files. Raises ValueError unless it is one of both."""
    from ..data.description import Description, Split, read_description

    flags = [f"--{name.replace('_', '-')}" for name in DATA_FLAGS]
    given = [flag for flag, name in zip(flags, DATA_FLAGS, strict=True) if name in args]
    if args.data is not None:
        if given:
            raise ValueError(f"{given[0]} must be given without --data, which names that already")
        return read_description(args.data)
    if missing := [flag for flag in flags if flag not in given]:
        raise ValueError(f"--data, or else {', '.join(flags)} must be given, got no {missing[0]}")
    splits = {s: Split(getattr(args, f"{s}_images"), getattr(args, f"{s}_annotations")) for s in ("train", "val")}
    return Description(splits=splits)


def with_skeleton(config: TrainConfig, description: Description) -> TrainConfig:
    """`config` with the skeleton of the training annotations, and with the rules that made it, which are logged."""
    from dataclasses import asdict, replace

    from ..data.rules import log_rules, make_skeleton

    file = description.read("train")
    skeleton, rules = make_skeleton(file, str(config.train_annotations), description.skeleton)
    log_rules(rules)
    category = {"id": file.category.category_id, "name": file.category.name}
    notes = {"category": category, "rules": [asdict(rule) for rule in (*file.rules, *rules)]}
    return replace(config, model=replace(config.model, skeleton=skeleton), data_notes=notes)


@contextlib.contextmanager
def errors_name_flags(args: argparse.Namespace) -> Iterator[None]:
    """Within the block, a ValueError that begins with the field of a given flag begins with that flag."""
    try:
        yield
    except ValueError as error:
        name, _, requirement = str(error).partition(" ")
        if name not in args:
            raise
        raise ValueError(f"--{name.replace('_', '-')} {requirement}") from error
