"""Which changes make the shipped model better in three more epochs?

    python -m benchmarks.experiments.model_changes COCO512 START TRUNK WORK     hours; writes results/model_changes.json
    python -m benchmarks.experiments.model_changes COCO512 START TRUNK WORK --images 8      a minute; writes nothing

COCO512 is a folder with images/{train,val} and annotations/person_keypoints_{train,val}.json, START the checkpoint of
the recipe movenet_small, TRUNK the .npz of MoveNet, WORK where checkpoints and detected persons go. Variants whose
persons lie there are not trained again.

Each variant trains START for `EPOCHS` epochs with movenet_small's settings, along a cosine of its own that begins at
half of that recipe's learning rate, and differs from "base" in one thing:

    larger zoom     crops show up to a quarter of a picture's length: close-up faces and half bodies
    PAF offsets x2  δ = 6 in place of 3
    mosaic          half of the samples show parts of four pictures that meet in one point
    distillation    the PIF confidences are also to agree with the heat maps of MoveNet's own head, everywhere
    F8              a second level of DGCMs, on F8. Fresh are these DGCMs, F8's batch norm and the way down to F16,
                    which adds nothing before the first step

AP is that of the validation pictures as `dgcn eval` takes it, at 513 px with the shipped decoder settings and without
the flip test. `gain` is the difference to base, `gain_interval` its 95 % interval over draws of the pictures, the same
for both.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import machine, report
from dgcn.codec import Output
from dgcn.data.dataset import TargetBatch
from dgcn.data.images import read_record
from dgcn.data.reader import read_records
from dgcn.data.transforms import PAD_COLOR, TrainTransform, transform_annotation
from dgcn.evaluation.bootstrap import percentiles
from dgcn.evaluation.evaluate import predict_records
from dgcn.evaluation.oks import KeypointEvaluation
from dgcn.files import write_json
from dgcn.model.backbones.base import read_trunk
from dgcn.model.backbones.movenet import MoveNet
from dgcn.model.checkpoint import save_model
from dgcn.model.config import MOVENET, ModelConfig
from dgcn.model.network import DGCN, Downsample
from dgcn.predict.predictor import Predictor
from dgcn.records import Annotation, ImageRecord
from dgcn.skeleton import COCO
from dgcn.training.config import LossConfig, TrainConfig
from dgcn.training.loop import train_step
from dgcn.training.losses import PifPafLoss
from dgcn.training.optim import set_training
from dgcn.training.recipes import movenet_small
from dgcn.training.run import Run

EPOCHS = 3
LEARNING_RATE = 3e-4
LONG_EDGE = 513  # of the validation pictures
MOSAICS = 0.5  # of the samples
DISTILLATION = 15.0  # weight of the cross-entropy with the heat maps; that of the labels is α = 30


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What differs from base: fields of `TrainConfig`, or samples and targets."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    mosaics: bool = False
    distillation: bool = False


VARIANTS = {
    "base": Variant(),
    "larger zoom": Variant(fields={"scale_range": (0.7, 4.0)}),
    "PAF offsets x2": Variant(fields={"loss": LossConfig(theta=3.0, delta=6.0)}),
    "mosaic": Variant(mosaics=True),
    "distillation": Variant(distillation=True),
    "F8": Variant(fields={"model": ModelConfig(backbone=MOVENET, levels=(8, 16))}),
}


@dataclass(frozen=True, kw_only=True)
class MosaicTransform(TrainTransform):
    """`TrainTransform`, for a share `MOSAICS` of the pictures after three of `records` have covered parts of them."""

    records: Sequence[ImageRecord]

    def __call__(
        self, image: np.ndarray, annotations: Sequence[Annotation], rng: np.random.Generator
    ) -> tuple[np.ndarray, list[Annotation]]:
        if rng.random() < MOSAICS:
            others = [self.records[i] for i in rng.integers(len(self.records), size=3)]
            pictures = [(read_record(record), record.annotations) for record in others]
            image, annotations = mosaic([(image, annotations), *pictures], rng)
        return super().__call__(image, annotations, rng)


def mosaic(
    pictures: Sequence[tuple[np.ndarray, Sequence[Annotation]]], rng: np.random.Generator
) -> tuple[np.ndarray, list[Annotation]]:
    """Four pictures at their own scale, each in a corner of a square as large as the first one's long edge."""
    edge = max(pictures[0][0].shape[:2])
    canvas = np.full((edge, edge, 3), PAD_COLOR, dtype=np.uint8)
    x, y = rng.integers(edge // 4, edge - edge // 4, size=2)
    joined = []
    corners = ((0, 0, x, y), (x, 0, edge, y), (0, y, x, edge), (x, y, edge, edge))
    for (left, top, right, bottom), (image, annotations) in zip(corners, pictures, strict=True):
        # The window of the picture that the corner shows has the middle of a person in it.
        persons = [annotation for annotation in annotations if not annotation.is_ignored]
        joints = persons[rng.integers(len(persons))].keypoints
        size = np.array([right - left, bottom - top])
        free = np.array(image.shape[1::-1]) - size  # below 0 where the picture is smaller than the corner
        middle = joints[joints[:, 2] > 0, :2].mean(axis=0)
        start = np.clip(np.rint(middle - size * rng.uniform(0.25, 0.75, 2)), 0, np.maximum(free, 0)).astype(int)
        window = image[start[1] : start[1] + size[1], start[0] : start[0] + size[0]]
        canvas[top : top + window.shape[0], left : left + window.shape[1]] = window
        for annotation in annotations:
            cut = transform_annotation(annotation, np.column_stack([np.eye(2), -start]), (size[0], size[1]))
            if cut is not None:
                shift = np.array([[1, 0, left], [0, 1, top]])
                joined.append(transform_annotation(cut, shift, (edge, edge)))
    return canvas, [annotation for annotation in joined if annotation is not None]


class HeatMaps(nn.Module):
    """MoveNet as it is: images uint8 [B, 3, S, S] to the highest value [B, 17, h, w] of its heat maps near each cell.

    Near is within 16 px, as far as a joint's 4 × 4 cells reach from it: the label of a cell means the same.
    """

    def __init__(self, trunk: Path) -> None:
        super().__init__()
        self.trunk = MoveNet((4,))
        self.trunk.load_trunk(trunk, torch.zeros(1, 3, 33, 33))
        self.dw = nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False)
        self.pw = nn.Conv2d(24, 96, 1)
        self.out = nn.Conv2d(96, COCO.num_keypoints, 1)
        arrays = read_trunk(trunk)
        for name in ("dw", "pw", "out"):
            layer = getattr(self, name)
            keys = layer.state_dict().keys()
            layer.load_state_dict({key: arrays[f"heads.kpt_heatmap.{name}.{key}"] for key in keys})
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        pyramid = self.trunk.join(images / 127.5 - 1)[4][:, :24]  # the first of the maps that make F4
        heat = self.out(self.pw(self.dw(pyramid)).relu()).sigmoid()
        return nn.functional.max_pool2d(heat, kernel_size=9, stride=2, padding=4)


class Distillation(PifPafLoss):
    """The loss with one more term: the PIF confidences against the heat maps of the pictures that `model` sees."""

    def __init__(self, config: LossConfig, model: DGCN, teacher: HeatMaps) -> None:
        super().__init__(config)
        self.teacher = teacher
        model.register_forward_pre_hook(self.look)

    def look(self, _: nn.Module, inputs: tuple[Tensor]) -> None:
        self.heat = self.teacher(inputs[0])

    def __call__(self, output: Output, target: TargetBatch, counts: Tensor | None = None) -> dict[str, Tensor]:
        difference = F.binary_cross_entropy_with_logits(output.pif_confidence, self.heat)
        return {**super().__call__(output, target, counts), "distillation": DISTILLATION * difference}


def configure(data: Path, start: Path, trunk: Path, work: Path, device: str, variant: Variant) -> TrainConfig:
    fields: dict[str, Any] = {
        f"{split}_{kind}": data / kind / name
        for split in ("train", "val")
        for kind, name in (("images", split), ("annotations", f"person_keypoints_{split}.json"))
    }
    # `reset_heads` takes from START what fits; the trunk's file gives F8's batch norm its first statistics.
    fields |= {"init_checkpoint": start, "reset_heads": True, "init_trunk": trunk, "device": device, "work_dir": work}
    return movenet_small(**{**fields, "epochs": EPOCHS, "learning_rate": LEARNING_RATE, **variant.fields})


def train(config: TrainConfig, variant: Variant, trunk: Path, images: int | None) -> DGCN:
    """Train on all pictures, or on only so many each epoch; the averaged weights."""
    run = Run(config)
    state = run.state
    for module in (*state.model.modules(), *state.averaged.modules()):
        if isinstance(module, Downsample):
            nn.init.zeros_(module.get_parameter("1.weight"))  # γ of its batch norm: F8 adds nothing yet
    if variant.mosaics:
        run.dataset.transform = MosaicTransform(**vars(run.dataset.transform), records=run.dataset.records)
    if variant.distillation:
        run.loss = Distillation(config.loss, state.model, HeatMaps(trunk).to(run.device))
    steps = state.steps_per_epoch if images is None else images // config.batch_size
    with run.open_batches() as batches:
        for epoch in range(config.epochs):
            set_training(state.model, config, epoch)
            losses = [train_step(run, state.model, batch)["loss"] for batch in islice(batches, steps)]
            print(f"epoch {epoch + 1}/{config.epochs}: loss {np.mean(losses):.3f}", flush=True)
    return state.averaged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "start", "trunk", "work"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--images", type=int, help="train on only so many an epoch, and measure on as many")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    origin = machine.origin(["python", "-m", __spec__.name, *(Path(argument).name for argument in sys.argv[1:])])
    val = args.data / "images/val", args.data / "annotations/person_keypoints_val.json"
    records = read_records(*val, COCO)[: args.images]
    is_whole = args.images is None
    decoder = Predictor().config
    rows: list[dict[str, Any]] = []
    base: KeypointEvaluation | None = None
    for name, variant in VARIANTS.items():
        found = args.work / f"{name}.found.json"
        if is_whole and found.exists():
            results = json.loads(found.read_text())
        else:
            config = configure(args.data, args.start, args.trunk, args.work, args.device, variant)
            model = train(config, variant, args.trunk, args.images)
            predictor = Predictor(model, long_edge=LONG_EDGE, config=decoder, device=args.device)
            results = predict_records(predictor, records)
            if is_whole:
                save_model(args.work / f"{name}.safetensors", model, {"long_edge": LONG_EDGE})
                write_json(found, results)
        evaluation = KeypointEvaluation(records, results, sigmas=COCO.sigmas)
        base = base or evaluation
        metrics = evaluation.metrics()
        row = {
            "variant": name,
            **{key: round(metrics[key], 4) for key in ("AP", "APM", "APL", "AR")},
            "gain": round(metrics["AP"] - base.metrics()["AP"], 4),
            "gain_interval": [round(bound, 4) for bound in percentiles(evaluation.resampled() - base.resampled())],
        }
        print(row, flush=True)
        rows.append({"group": "changes of the shipped model", "claims": [], **row})
        if is_whole:
            facts = {"epochs": EPOCHS, "learning_rate": LEARNING_RATE}
            report.save(report.RESULTS / "model_changes.json", origin, **facts, benchmarks=rows)


if __name__ == "__main__":
    main()
