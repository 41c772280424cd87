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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks import machine, report
from dgcn.codec import PifPafCodec
from dgcn.data.dataset import KeypointDataset
from dgcn.data.images import read_record
from dgcn.data.loader import init_worker
from dgcn.data.reader import read_records
from dgcn.data.transforms import PAD_COLOR, TrainTransform, transform_annotation
from dgcn.evaluation.bootstrap import Matches, resample
from dgcn.evaluation.evaluate import predict_records
from dgcn.evaluation.oks import evaluate_keypoints, match, person_truths
from dgcn.evaluation.results import by_id, check_results
from dgcn.files import write_json
from dgcn.model.backbones.base import read_trunk
from dgcn.model.backbones.movenet import MoveNet
from dgcn.model.checkpoint import load_model, save_model
from dgcn.model.config import MOVENET, ModelConfig
from dgcn.model.network import DGCN, build_from_config
from dgcn.predict.predictor import Predictor
from dgcn.records import Annotation, ImageRecord
from dgcn.skeleton import COCO
from dgcn.training.config import LossConfig, TrainConfig
from dgcn.training.losses import PifPafLoss, confidence_loss
from dgcn.training.optim import build_optimizer, set_learning_rate, set_training
from dgcn.training.recipes import movenet_small

EPOCHS = 3
LEARNING_RATE = 3e-4
LONG_EDGE = 513  # of the validation pictures
MOSAICS = 0.5  # of the samples
DISTILLATION = 15.0  # weight of the cross-entropy with the heat maps; that of the labels is α = 30
CALIBRATION_IMAGES = 32  # for the batch norm of F8


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


def configure(data: Path, start: Path, work: Path, variant: Variant, device: str) -> TrainConfig:
    files: dict[str, Any] = {
        f"{split}_{kind}": data / kind / name
        for split in ("train", "val")
        for kind, name in (("images", split), ("annotations", f"person_keypoints_{split}.json"))
    }
    settings = {"epochs": EPOCHS, "learning_rate": LEARNING_RATE, "init_checkpoint": start, "device": device}
    return movenet_small(**files, work_dir=work, **settings, **variant.fields)


def make_dataset(config: TrainConfig, variant: Variant, images: int | None) -> KeypointDataset:
    codec = PifPafCodec(COCO, DGCN.stride)
    files = config.train_images, config.train_annotations
    dataset = KeypointDataset(*files, COCO, config.transform(), codec, node_strides=config.model.levels)
    dataset.records = dataset.records[:images]
    if variant.mosaics:
        dataset.transform = MosaicTransform(**vars(dataset.transform), records=dataset.records)
    return dataset


def make_model(config: TrainConfig, trunk: Path, dataset: KeypointDataset) -> DGCN:
    """The network with START's weights. A level that START lacks begins with no effect on the others."""
    assert config.init_checkpoint is not None
    start, _ = load_model(config.init_checkpoint)
    model = build_from_config(config.model)
    images = torch.stack([dataset[i]["image"] for i in range(min(CALIBRATION_IMAGES, len(dataset)))])
    model.backbone.load_trunk(trunk, (images - model.mean) / model.std)  # for the batch norm of F8
    model.load_state_dict(start.state_dict(), strict=False)
    for stream in (model.pif_stream, model.paf_stream):
        assert stream is not None
        for down in stream.downs.values():
            nn.init.zeros_(down[1].weight)  # γ of its batch norm
        for dgcm in stream.dgcms.values():
            dgcm.graph_conv.adjacency.copy_(stream.dgcms["16"].graph_conv.adjacency)
    return model


def train(config: TrainConfig, model: DGCN, dataset: KeypointDataset, teacher: nn.Module | None, title: str) -> DGCN:
    """Train `model`; the averaged weights."""
    model = model.to(config.device, memory_format=torch.channels_last)
    average = ModelEmaV3(model, decay=config.ema, use_warmup=True)
    optimizer, loss_of = build_optimizer(model, config), PifPafLoss(config.loss)
    batches = DataLoader(
        dataset,
        config.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=config.workers,
        collate_fn=dataset.collate,
        worker_init_fn=init_worker,
        generator=torch.Generator().manual_seed(config.seed),
    )
    step, num_steps = 0, config.epochs * len(batches)
    for epoch in range(config.epochs):
        set_training(model, config, epoch)
        dataset.set_epoch(epoch)
        total = 0.0
        for batch in batches:
            set_learning_rate(optimizer, step, num_steps, config)
            images = batch["image"].to(config.device, memory_format=torch.channels_last)
            output = model(images)
            terms = loss_of(output, batch["targets"].to(torch.device(config.device)))
            if teacher is not None:
                terms["distillation"] = DISTILLATION * confidence_loss(output.pif_confidence, teacher(images))
            loss = torch.stack(list(terms.values())).sum()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm, error_if_nonfinite=True)
            optimizer.step()
            step += 1
            average.update(model, step=step)
            total += loss.item()
        print(f"{title}: epoch {epoch + 1}, loss {total / len(batches):.3f}", flush=True)
    return average.module


def detect(model: DGCN | Path, records: Sequence[ImageRecord], device: str) -> list[dict[str, Any]]:
    predictor = Predictor(model, long_edge=LONG_EDGE, config=Predictor().config, device=device)
    return predict_records(predictor, records)


def matches(records: Sequence[ImageRecord], results: Sequence[Mapping[str, Any]]) -> Matches:
    count = COCO.num_keypoints
    detections = check_results(results, by_id(records), count)
    return Matches(match([r.image_id for r in records], person_truths(records, count), detections, COCO.sigmas))


def gain(records: Sequence[ImageRecord], results: Sequence[Mapping[str, Any]], base: Matches) -> dict[str, Any]:
    """Difference of AP to `base`, and its interval."""
    own = matches(records, results)

    def difference(counts: np.ndarray) -> float:
        return own.average_precision(counts) - base.average_precision(counts)

    # `resample` leaves numbers below 0 out, which no difference is once 1 is added.
    interval = resample(lambda counts: 1 + difference(counts), len(records))
    return {
        "gain": round(difference(np.ones(len(records), dtype=np.int64)), 4),
        "gain_interval": [round(bound - 1, 4) for bound in interval],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "start", "trunk", "work"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--images", type=int, help="train and evaluate on only so many, for one epoch")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    origin = machine.origin(["python", "-m", __spec__.name, *map(str, sys.argv[1:])])
    args.work.mkdir(parents=True, exist_ok=True)
    val = args.data / "images/val", args.data / "annotations/person_keypoints_val.json"
    records = read_records(*val, COCO)[: args.images]
    rows: list[dict[str, Any]] = []
    base: Matches | None = None
    for name, variant in VARIANTS.items():
        persons = args.work / f"{name}.persons.json"
        if not persons.exists():
            torch.manual_seed(0)
            config = configure(args.data, args.start, args.work, variant, args.device)
            if args.images is not None:
                config = replace(config, epochs=1)
            dataset = make_dataset(config, variant, args.images)
            teacher = HeatMaps(args.trunk).to(args.device) if variant.distillation else None
            model = train(config, make_model(config, args.trunk, dataset), dataset, teacher, name)
            save_model(args.work / f"{name}.safetensors", model, {"long_edge": LONG_EDGE})
            write_json(persons, detect(model, records, args.device))
        results = json.loads(persons.read_text())
        metrics = evaluate_keypoints(records, results, sigmas=COCO.sigmas)
        row = {"variant": name, **{key: round(metrics[key], 4) for key in ("AP", "APM", "APL", "AR")}}
        if base is None:
            base = matches(records, results)
        else:
            row |= gain(records, results, base)
        print(row, flush=True)
        rows.append({"group": "changes of the shipped model", "claims": [], **row})
        if args.images is None:
            facts = {"epochs": EPOCHS, "learning_rate": LEARNING_RATE}
            report.save(report.RESULTS / "model_changes.json", origin, **facts, benchmarks=rows)


if __name__ == "__main__":
    main()
