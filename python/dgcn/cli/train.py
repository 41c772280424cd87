"""Train a model on a COCO keypoint set. The defaults are the paper's recipe.

examples:
  dgcn train --train-images train2017 --train-annotations person_keypoints_train2017.json \\
      --val-images val2017 --val-annotations person_keypoints_val2017.json --work-dir runs/r50 --pretrained
  dgcn train ... --work-dir runs/r50 --resume auto      continue after a crash, a kill or Ctrl-C: same result
  dgcn train ... --backbone mobilenetv1_075 --size 385  a small model, trained on small crops

The work folder receives best.safetensors (highest AP on the validation pictures), last.safetensors, history.json and
training_state.pt, from which --resume goes on. Ctrl-C finishes the step, saves the state and stops. An epoch is saved
before it is evaluated; an evaluation that failed or was interrupted is the first thing that --resume does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .common import add_device_argument, choose_device, input_size, make_parser, positive

if TYPE_CHECKING:
    from ..training.loop import TrainConfig


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)

    from tqdm.contrib.logging import logging_redirect_tqdm

    from ..training.loop import BEST_FILE, LAST_FILE, fit

    config = build_config(args)
    with logging_redirect_tqdm():
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
    parser = make_parser("train", __doc__)

    data = parser.add_argument_group("data")
    for split, role in (("train", "training"), ("val", "validation")):
        data.add_argument(f"--{split}-images", required=True, metavar="DIR", help=f"{role} pictures")
        data.add_argument(
            f"--{split}-annotations", required=True, metavar="JSON", help="their COCO keypoint annotations"
        )
    data.add_argument("--work-dir", required=True, metavar="DIR", help="where everything is written")
    data.add_argument("--workers", type=int, default=1, help="processes that load pictures (default: %(default)s)")

    model = parser.add_argument_group("model")
    model.add_argument(
        "--backbone",
        default="resnet50",
        help="mobilenetv1_075, or a timm model with features_only (default: %(default)s)",
    )
    model.add_argument(
        "--levels",
        nargs="*",
        choices=("F4", "F8", "F16"),
        default=["F16"],
        help="feature maps with a DGCN head; none is the PifPaf baseline (default: F16)",
    )
    model.add_argument(
        "--graph",
        choices=("dynamic", "soft", "hand", "identity", "ones"),
        default="dynamic",
        help="adjacency: drawn from A_s at every step, A_s itself, the skeleton, I or all ones (default: %(default)s)",
    )
    model.add_argument("--gamma", type=float, default=0.5, help="γ of the soft adjacency, Eq. 6 (default: %(default)s)")
    model.add_argument(
        "--semantics",
        choices=("literal", "mask"),
        default="literal",
        help="an absent edge has logit 0, as Eq. 8 is written, or -inf (default: %(default)s)",
    )
    model.add_argument(
        "--aggregate",
        choices=("source", "target"),
        default="source",
        help="the paper's product X·S, or SemGCN's (default: %(default)s)",
    )
    model.add_argument(
        "--eval-graph",
        choices=("ones", "soft"),
        default="ones",
        help="adjacency of a dynamic graph at inference (default: %(default)s)",
    )
    model.add_argument(
        "--no-non-local", dest="non_local", action="store_false", help="DGCMs without the non-local layer"
    )
    model.add_argument("--lift-channels", type=positive, default=256, help="width of a DGCM (default: %(default)s)")

    start = parser.add_argument_group("start")
    start.add_argument("--pretrained", action="store_true", help="ImageNet weights of the backbone, from timm")
    start.add_argument("--init-trunk", metavar="NPZ", help="weights of the mobilenetv1_075 trunk")
    start.add_argument("--init-checkpoint", metavar="FILE", help="weights of a dgcn checkpoint of this model")
    start.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="auto|PATH",
        help="continue the run in --work-dir if there is one, or a given training state",
    )

    recipe = parser.add_argument_group("recipe")
    recipe.add_argument(
        "--size",
        type=input_size,
        default=641,
        metavar="N",
        help="edge of the crops, 16n+1 pixels (default: %(default)s)",
    )
    recipe.add_argument(
        "--scale-range",
        type=float,
        nargs=2,
        default=(0.4, 2.0),
        metavar=("LOW", "HIGH"),
        help="random zoom, where 1 fits the picture's long edge into the crop (default: 0.4 2.0)",
    )
    recipe.add_argument("--epochs", type=positive, default=100, help="(default: %(default)s)")
    recipe.add_argument("--batch-size", type=positive, default=8, help="(default: %(default)s)")
    recipe.add_argument("--optimizer", choices=("sgd", "adamw"), default="sgd", help="(default: %(default)s)")
    recipe.add_argument("--learning-rate", type=float, default=1e-3, help="at its peak (default: %(default)s)")
    recipe.add_argument(
        "--backbone-lr-factor",
        type=float,
        default=1.0,
        help="of the backbone, as a fraction of that (default: %(default)s)",
    )
    recipe.add_argument("--momentum", type=float, default=0.95, help="of sgd (default: %(default)s)")
    recipe.add_argument("--weight-decay", type=float, default=1e-5, help="(default: %(default)s)")
    recipe.add_argument("--warmup-steps", type=int, default=200, help="(default: %(default)s)")
    recipe.add_argument(
        "--freeze-epochs", type=int, default=1, help="first epochs with a frozen backbone (default: %(default)s)"
    )
    recipe.add_argument(
        "--clip-norm", type=float, default=10.0, help="largest gradient norm; 0: no limit (default: %(default)s)"
    )
    recipe.add_argument(
        "--ema",
        type=float,
        default=0.999,
        help="decay of the averaged weights that are saved; 0: none (default: %(default)s)",
    )
    recipe.add_argument("--amp", action="store_true", help="train under bfloat16 autocast")

    loss = parser.add_argument_group("loss (Eq. 1 to 3)")
    loss.add_argument("--alpha", type=float, default=30.0, help="PIF and node confidence (default: %(default)s)")
    loss.add_argument("--theta", type=float, default=2.0, help="PIF offset (default: %(default)s)")
    loss.add_argument("--beta", type=float, default=50.0, help="PAF confidence (default: %(default)s)")
    loss.add_argument("--delta", type=float, default=3.0, help="PAF offset (default: %(default)s)")
    loss.add_argument("--scale", type=float, default=2.0, help="PIF scale (default: %(default)s)")
    loss.add_argument(
        "--regression",
        choices=("smooth_l1", "laplace"),
        default="smooth_l1",
        help="the paper's, or PifPaf's own (default: %(default)s)",
    )
    loss.add_argument(
        "--smooth-l1-beta", type=float, default=0.5, help="where it turns linear, in cells (default: %(default)s)"
    )

    run = parser.add_argument_group("run")
    run.add_argument("--eval-every", type=positive, default=1, help="epochs between evaluations (default: %(default)s)")
    run.add_argument(
        "--long-edge", type=input_size, metavar="N", help="of the validation pictures, 16n+1 pixels (default: --size)"
    )
    run.add_argument(
        "--save-seconds", type=float, default=300.0, help="longest time between saved states (default: %(default)s)"
    )
    add_device_argument(run)
    run.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    run.add_argument("--deterministic", action="store_true", help="refuse operations that do not repeat bit for bit")
    return parser


def build_config(args: argparse.Namespace) -> TrainConfig:
    """The configuration that the flags spell; every flag carries the name of its field."""
    from dataclasses import fields

    from ..model.network import ModelConfig
    from ..training.loop import TrainConfig
    from ..training.losses import LossConfig

    values = vars(args) | {
        "device": choose_device(args.device),
        "levels": tuple(int(level.removeprefix("F")) for level in args.levels),
        "scale_range": tuple(args.scale_range),
    }

    def pick(kind: type) -> dict:
        return {field.name: values[field.name] for field in fields(kind) if field.name in values}

    try:
        return TrainConfig(
            **pick(TrainConfig), model=ModelConfig(**pick(ModelConfig)), loss=LossConfig(**pick(LossConfig))
        )
    except ValueError as error:
        name, _, requirement = str(error).partition(" ")  # every message begins with the name of the field
        if name not in values:
            raise
        raise ValueError(f"--{name.replace('_', '-')} {requirement}") from error
