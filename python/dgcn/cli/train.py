"""Train a model on a COCO keypoint set.

examples:
  dgcn train --train-images train2017 --train-annotations person_keypoints_train2017.json \\
      --val-images val2017 --val-annotations person_keypoints_val2017.json --work-dir runs/r50 --recipe paper
  dgcn train ... --work-dir runs/r50 --resume auto      continue after a crash, a kill or Ctrl-C: same result
  dgcn train ... --backbone mobilenetv1_075 --size 385  a small model, trained on small crops

The work folder receives best.safetensors (highest AP on the validation pictures), last.safetensors, history.json and
training_state.pt, from which --resume goes on. Ctrl-C finishes the step, saves the state and stops. An epoch is saved
before it is evaluated; an evaluation that failed or was interrupted is the first thing that --resume does.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .common import add_device_argument, choose_device, make_parser
from .flags import add_flags, field_docs, replace_given

if TYPE_CHECKING:
    from ..training.config import TrainConfig


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)

    from tqdm.contrib.logging import logging_redirect_tqdm

    from ..training.loop import fit
    from ..training.run_folder import BEST_FILE, LAST_FILE

    with logging_redirect_tqdm(), errors_name_flags(args):
        config = build_config(args)
        try:
            history = fit(config)
        except (FloatingPointError, MemoryError) as error:
            print(f"dgcn train: error: {error}", file=sys.stderr)
            return 1
    best = max(history, key=lambda record: record.get("AP", -1.0))
    if best.get("AP", -1.0) >= 0:
        print(f"AP {best['AP']:.4f} after epoch {best['epoch']}: {config.work_dir / BEST_FILE}")
    else:
        print(f"no AP: nobody to find in the validation pictures; the last epoch: {config.work_dir / LAST_FILE}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    from ..model.config import ModelConfig
    from ..training.config import LossConfig, TrainConfig
    from ..training.recipes import RECIPES

    parser = make_parser("train", __doc__)
    parser.add_argument(
        "--recipe",
        choices=RECIPES,
        help="settings to start from; what else is given changes them (default: the defaults below)",
    )
    run = parser.add_argument_group("run")
    add_flags(run, TrainConfig, skip=("resume", "device"))
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
    """The configuration that the flags describe; a flag has the name of its field."""
    from dataclasses import MISSING, fields

    from ..training.config import TrainConfig
    from ..training.recipes import RECIPES

    values = vars(args) | {"device": choose_device(args.device)}
    for name in ("levels", "scale_range"):
        if name in values:
            values[name] = tuple(values[name])
    needed = {
        field.name: values[field.name]
        for field in fields(TrainConfig)
        if field.default is MISSING and field.default_factory is MISSING
    }
    return replace_given(RECIPES.get(args.recipe, TrainConfig)(**needed), values)


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
