"""The training loop: one function, `fit`, that can be killed at any time and resumed to the same result."""

from __future__ import annotations

import json
import logging
import math
import random
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from .backbone import MOBILENET, MobileNetV1
from .checkpoint import load_model, load_training_state, save_model, save_training_state, write_json
from .codec import PifPafCodec
from .data import CocoKeypoints, init_worker
from .graph import distance_matrix
from .losses import LossConfig, PifPafLoss
from .model import DGCN, ModelConfig, build_model
from .predictor import Predictor
from .transforms import TrainTransform, normalize_size

log = logging.getLogger(__name__)

STATE_FILE = "training_state.pt"
LAST_FILE = "last.safetensors"
BEST_FILE = "best.safetensors"
HISTORY_FILE = "history.json"
OPTIMIZERS = ("sgd", "adamw")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything a training run depends on; the defaults are the paper's recipe."""

    train_images: Path
    """Folder of training images."""
    train_annotations: Path
    """COCO keypoint JSON of the training images."""
    val_images: Path
    """Folder of validation images."""
    val_annotations: Path
    """COCO keypoint JSON of the validation images."""
    work_dir: Path
    """Where checkpoints, the training state and the history are written."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Weights of Eq. 2 and 3."""
    pretrained: bool = False
    """Ask timm for ImageNet weights of the backbone."""
    init_trunk: Path | None = None
    """.npz of the pose-trained MobileNetV1-0.75 trunk to start from."""
    init_checkpoint: Path | None = None
    """dgcn checkpoint whose weights to start from; its configuration must equal `model`."""
    size: int = 641
    """Edge of the training crops in pixels, 16n+1."""
    scale_range: tuple[float, float] = (0.4, 2.0)
    """Zoom of the augmentation, relative to the long edge fitting into the crop."""
    epochs: int = 100
    batch_size: int = 8
    optimizer: str = "sgd"
    """'sgd' (the paper's) or 'adamw'."""
    learning_rate: float = 1e-3
    """Peak learning rate of everything but the backbone; warmed up, then annealed along a half cosine."""
    backbone_lr_factor: float = 1.0
    """Learning rate of the backbone as a fraction of `learning_rate`."""
    momentum: float = 0.95
    """Momentum of 'sgd'."""
    weight_decay: float = 1e-5
    """On weights of two dimensions and more."""
    warmup_steps: int = 200
    """Optimizer steps over which the learning rate rises from 0."""
    freeze_epochs: int = 1
    """First epochs in which the backbone is frozen, batch norm statistics included."""
    clip_norm: float = 10.0
    """Largest norm of the gradient."""
    ema: float = 0.999
    """Decay of the averaged weights, which are what is evaluated and saved; 0 for none."""
    amp: bool = False
    """Train under bfloat16 autocast."""
    eval_every: int = 1
    """Evaluate on the validation images every so many epochs, and after the last."""
    long_edge: int | None = None
    """Long edge of the validation images in pixels, 16n+1; default `size`."""
    save_seconds: float = 300.0
    """Save the training state at least this often within an epoch."""
    workers: int = 1
    """Processes that load images; 0 loads them in the training process."""
    device: str = "cpu"
    seed: int = 0
    deterministic: bool = False
    """Make torch refuse operations that are not deterministic."""
    resume: str | Path | None = None
    """'auto' continues the run in `work_dir` if there is one; a path continues that training state."""

    def __post_init__(self) -> None:
        normalize_size(self.size)
        if self.long_edge is not None:
            normalize_size(self.long_edge)
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {OPTIMIZERS}, got {self.optimizer!r}")
        for name in ("epochs", "batch_size", "eval_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0.0 <= self.ema < 1.0:
            raise ValueError(f"ema must be in [0, 1), got {self.ema}")
        if self.init_trunk is not None and self.model.backbone != MOBILENET:
            raise ValueError(f"init_trunk needs the backbone '{MOBILENET}', got '{self.model.backbone}'")

    def fingerprint(self) -> str:
        """What must not change when a run is resumed, as JSON; where it runs and how often it saves may."""
        free = ("work_dir", "resume", "workers", "device", "save_seconds", "eval_every")
        values = {name: value for name, value in asdict(self).items() if name not in free}
        return json.dumps({**values, "model": self.model.to_dict()}, default=str, sort_keys=True)


class Interrupted(KeyboardInterrupt):
    """Training was interrupted after its state had been saved; `path` continues it."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"interrupted; the training state is in {path} (continue with --resume auto)")
        self.path = path


class Trainer:
    """The objects of one run and the state that a resumed run needs of each."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.device = torch.device(config.device)
        torch.use_deterministic_algorithms(config.deterministic)
        random.seed(config.seed)
        np.random.seed(config.seed)  # noqa: NPY002 - timm and other libraries may draw from it
        torch.manual_seed(config.seed)

        codec = PifPafCodec(config.model.skeleton, DGCN.stride)
        transform = TrainTransform(size=config.size, skeleton=config.model.skeleton, scale_range=config.scale_range)
        self.dataset = CocoKeypoints(
            config.train_images,
            config.train_annotations,
            config.model.skeleton,
            transform,
            codec,
            node_strides=config.model.levels,
            seed=config.seed,
        )
        self.loss = PifPafLoss(config.loss)
        # Convolutions run fastest in this layout, on the CPU as on a GPU.
        self.model = self.build().to(self.device).to(memory_format=torch.channels_last)
        self.ema = ModelEmaV3(self.model, decay=config.ema, use_warmup=True) if config.ema else None
        self.optimizer = build_optimizer(self.model, config)
        self.steps_per_epoch = len(self.dataset) // config.batch_size
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"batch_size must be at most the {len(self.dataset)} training images, got {config.batch_size}"
            )
        self.step = 0  # optimizer steps done since the start of the run
        self.sums: dict[str, float] = {}  # loss terms summed over the current epoch
        self.history: list[dict[str, Any]] = []

    def build(self) -> DGCN:
        """The network at the start of the run, with the graph of the training persons (Eq. 5)."""
        config = self.config
        if config.init_checkpoint is not None:
            model, _ = load_model(config.init_checkpoint)
            assert isinstance(model, DGCN)
            if model.config != config.model:
                raise ValueError(f"init_checkpoint must hold the configured model {config.model}, got {model.config}")
            return model
        values = {name: getattr(config.model, name) for name in ModelConfig.__dataclass_fields__}
        distances = distance_matrix(*self.dataset.persons()) if config.model.graph in ("dynamic", "soft") else None
        model = build_model(**values, pretrained=config.pretrained, distances=distances)
        if config.init_trunk is not None:
            assert isinstance(model.backbone, MobileNetV1)
            images = torch.stack([self.dataset[i]["image"] for i in range(min(32, len(self.dataset)))])
            model.backbone.load_folded(config.init_trunk, (images - model.mean) / model.std)
        return model

    @property
    def evaluated(self) -> DGCN:
        """The weights that are evaluated and saved."""
        return self.ema.module if self.ema is not None else self.model

    def state(self) -> dict[str, Any]:
        state = {
            "fingerprint": self.config.fingerprint(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "sums": self.sums,
            "history": self.history,
            "generator": torch.get_rng_state(),
        }
        if self.ema is not None:
            state["ema"] = self.ema.module.state_dict()
        if self.device.type == "cuda":
            state["cuda_generator"] = torch.cuda.get_rng_state(self.device)
        return state

    def load(self, path: Path) -> None:
        state = load_training_state(path)
        if state["fingerprint"] != self.config.fingerprint():
            old, new = json.loads(state["fingerprint"]), json.loads(self.config.fingerprint())
            changed = [f"{name}: {old.get(name)} -> {new.get(name)}" for name in new if old.get(name) != new.get(name)]
            raise ValueError(f"resume: {path} belongs to a run with other settings ({'; '.join(changed)})")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.sums, self.history = state["step"], state["sums"], state["history"]
        torch.set_rng_state(state["generator"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        if self.device.type == "cuda" and "cuda_generator" in state:
            torch.cuda.set_rng_state(state["cuda_generator"], self.device)

    def save(self) -> Path:
        path = self.config.work_dir / STATE_FILE
        save_training_state(path, self.state())
        return path

    def batches(self, epoch: int, first: int) -> DataLoader:
        """The batches of an epoch from number `first` on: a permutation that depends on seed and epoch alone."""
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.dataset), generator=generator).tolist()
        size = self.config.batch_size
        chosen = [order[i * size : (i + 1) * size] for i in range(first, self.steps_per_epoch)]
        self.dataset.set_epoch(epoch)
        return DataLoader(
            self.dataset,
            batch_sampler=chosen,
            num_workers=self.config.workers,
            collate_fn=self.dataset.collate,
            worker_init_fn=init_worker,
            pin_memory=self.device.type == "cuda",
            # A loader draws a base seed for its workers; not from the generator that the graphs are drawn from.
            generator=generator,
        )

    def train_step(self, batch: dict[str, Any], epoch: int) -> dict[str, float]:
        config = self.config
        rate = learning_rate(self.step, self.steps_per_epoch * config.epochs, config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        images = batch["image"].to(self.device, non_blocking=True, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.amp):
            output = self.model(images)
        terms = self.loss(output, batch["targets"].to(self.device))
        total = torch.stack(list(terms.values())).sum()
        if not math.isfinite(total.item()):
            shown = {name: value.item() for name, value in terms.items()}
            raise FloatingPointError(f"the loss is not finite at step {self.step} (epoch {epoch}): {shown}")
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.optimizer.step()
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.model, step=self.step)
        return {"loss": total.item(), **{name: value.item() for name, value in terms.items()}}

    def train_epoch(self, epoch: int, check_interrupt: Callable[[], None]) -> dict[str, float]:
        """Train to the end of `epoch` from wherever `self.step` stands; the means of the loss terms."""
        first = self.step - epoch * self.steps_per_epoch
        if first == 0:
            self.sums = {}
        set_training(self.model, frozen_backbone=epoch < self.config.freeze_epochs)
        saved = time.monotonic()
        progress = tqdm(
            self.batches(epoch, first),
            desc=f"epoch {epoch + 1}/{self.config.epochs}",
            total=self.steps_per_epoch,
            initial=first,
            leave=False,
            disable=None,
        )
        for batch in progress:
            for name, value in self.train_step(batch, epoch).items():
                self.sums[name] = self.sums.get(name, 0.0) + value
            done = self.step - epoch * self.steps_per_epoch
            progress.set_postfix(loss=f"{self.sums['loss'] / done:.3f}")
            check_interrupt()
            if time.monotonic() - saved > self.config.save_seconds:
                self.save()
                saved = time.monotonic()
        return {name: value / self.steps_per_epoch for name, value in self.sums.items()}

    def evaluate(self) -> dict[str, float]:
        long_edge = self.config.long_edge or self.config.size
        predictor = Predictor.from_model(self.evaluated, device=self.config.device, long_edge=long_edge)
        return predictor.evaluate(self.config.val_images, self.config.val_annotations)

    def finish_epoch(self, epoch: int, losses: dict[str, float]) -> None:
        """Evaluate if it is time, and save: checkpoints first, the state that counts the epoch as done last."""
        config = self.config
        record: dict[str, Any] = {"epoch": epoch + 1, **losses}
        if (epoch + 1) % config.eval_every == 0 or epoch + 1 == config.epochs:
            record.update(self.evaluate())
        best = max((entry["AP"] for entry in self.history if "AP" in entry), default=-1.0)
        self.history.append(record)
        metadata = {
            "epoch": epoch + 1,
            "long_edge": config.long_edge or config.size,
            "metrics": {name: value for name, value in record.items() if name.startswith("A")},
            "training": json.loads(config.fingerprint()),
        }
        save_model(config.work_dir / LAST_FILE, self.evaluated, metadata)
        if record.get("AP", -1.0) > best:
            save_model(config.work_dir / BEST_FILE, self.evaluated, metadata)
        write_json(config.work_dir / HISTORY_FILE, self.history)
        self.save()
        log.info("%s", " ".join(f"{k}={v:.4g}" for k, v in record.items()))


def build_optimizer(model: DGCN, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over four groups: backbone or not, decayed (weights) or not (biases, norms)."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault((name.startswith("backbone."), parameter.dim() > 1), []).append(parameter)
    options = [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if decayed else 0.0,
            "factor": config.backbone_lr_factor if in_backbone else 1.0,
        }
        for (in_backbone, decayed), parameters in groups.items()
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(options, lr=config.learning_rate)
    return torch.optim.SGD(options, lr=config.learning_rate, momentum=config.momentum)


def learning_rate(step: int, total_steps: int, config: TrainConfig) -> float:
    """Linear warm-up, then a half cosine down to one hundredth of the peak."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    cosine = 0.5 * (1.0 + math.cos(math.pi * step / total_steps))
    return config.learning_rate * warm * (0.01 + 0.99 * cosine)


def set_training(model: DGCN, *, frozen_backbone: bool) -> None:
    """Training mode; a frozen backbone gets no gradients and keeps its batch norm statistics."""
    model.train()
    model.backbone.train(not frozen_backbone)
    model.backbone.requires_grad_(not frozen_backbone)


class InterruptGuard:
    """Turns SIGINT and SIGTERM into a flag, so that a step is never torn and its state can be saved."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> InterruptGuard:
        self.previous = {number: signal.signal(number, self.request) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:  # a second Ctrl-C does not wait for the step to end
            raise KeyboardInterrupt
        self.requested = True


def resume_path(config: TrainConfig) -> Path | None:
    """The training state to continue, or None for a new run; never overwrites a run that was not asked to go on."""
    state = config.work_dir / STATE_FILE
    if config.resume is None:
        if state.exists():
            raise FileExistsError(f"{config.work_dir} holds a run already: pass --resume auto or another --work-dir")
        return None
    if config.resume == "auto":
        return state if state.exists() else None
    return Path(config.resume)


def fit(config: TrainConfig) -> list[dict[str, Any]]:
    """Train, evaluate, save; return the history, a record per epoch.

    Writes into `config.work_dir`: `training_state.pt` (to resume), `last.safetensors`, `best.safetensors` (highest
    AP on the validation images), `history.json`. The run repeats bit for bit on the same machine with the same
    settings, in one go or interrupted and resumed.

    Raises:
        FileExistsError: `work_dir` holds a run and `resume` was not asked for.
        Interrupted: on SIGINT or SIGTERM, after the state was saved.
        FloatingPointError: the loss became NaN or infinite.
        ValueError: data or settings that do not fit; the message names them.
    """
    state = resume_path(config)
    trainer = Trainer(config)
    if state is not None:
        trainer.load(state)
    with InterruptGuard() as guard:

        def check_interrupt() -> None:
            if guard.requested:
                raise Interrupted(trainer.save())

        # The history counts the epochs: a state saved after an epoch's last step still has its evaluation to do.
        for epoch in range(len(trainer.history), config.epochs):
            losses = trainer.train_epoch(epoch, check_interrupt)
            trainer.finish_epoch(epoch, losses)
            check_interrupt()
    return trainer.history
