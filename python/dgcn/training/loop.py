"""The training loop: one function, `fit`, that can be killed at any time and resumed to the same result."""

from __future__ import annotations

import json
import logging
import math
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import nn

from ..codec import PifPafCodec
from ..data.coco_format import read_coco
from ..data.dataset import CocoKeypoints
from ..data.loader import EpochBatches, LoadingError, open_batches, plan_workers
from ..files import write_json
from ..graph import distance_matrix
from ..model.backbone import MOBILENET, MobileNetV1
from ..model.checkpoint import check_tensors, load_model, load_training_state, save_model, save_training_state
from ..model.network import DGCN, ModelConfig, build_from_config, build_model
from ..predict.predictor import Predictor, check_device
from ..progress import Progress
from .config import TrainConfig, differences
from .interrupt import Interrupted, InterruptGuard
from .losses import PifPafLoss
from .optim import build_optimizer, learning_rate, set_training
from .run_folder import BEST_FILE, HISTORY_FILE, LAST_FILE, STATE_FILE, find_state, locked

__all__ = ["BEST_FILE", "HISTORY_FILE", "LAST_FILE", "STATE_FILE", "Interrupted", "TrainConfig", "Trainer", "fit"]

log = logging.getLogger(__name__)


class Trainer:
    """The objects of one run and the state that a resumed run needs of each."""

    def __init__(self, config: TrainConfig, *, is_resumed: bool = False) -> None:
        """Checks all that the run will need, then builds the network. Raises as `fit`.

        Args:
            config: of the run.
            is_resumed: `restore` will replace every weight: do not look for those that the run began with.
        """
        self.config = config
        self.device = check_device(config.device)
        torch.use_deterministic_algorithms(config.deterministic)
        random.seed(config.seed)
        np.random.seed(config.seed)  # noqa: NPY002 - timm and other libraries may draw from it
        torch.manual_seed(config.seed)

        initial = build_from_config(config.model) if is_resumed else load_initial(config)
        self.dataset = CocoKeypoints(
            config.train_images,
            config.train_annotations,
            config.model.skeleton,
            config.transform(),
            PifPafCodec(config.model.skeleton, DGCN.stride),
            node_strides=config.model.levels,
            seed=config.seed,
        )
        self.steps_per_epoch = len(self.dataset) // config.batch_size
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"batch_size must be at most the {len(self.dataset)} training images, got {config.batch_size}"
            )
        check_validation(config)
        self.workers, self.prefetch = plan_workers(self.dataset, config.batch_size, config.workers)
        self.loss = PifPafLoss(config.loss)
        # Convolutions run fastest in this layout, on the CPU as on a GPU.
        self.model = (initial or self.build()).to(self.device).to(memory_format=torch.channels_last)
        self.ema = ModelEmaV3(self.model, decay=config.ema, use_warmup=True) if config.ema else None
        self.predictor()  # which refuses a long edge that the decoder cannot take: now, not after an epoch
        self.optimizer = build_optimizer(self.model, config)
        self.step = 0  # optimizer steps done since the start of the run
        self.sums: dict[str, float] = {}  # loss terms summed over the current epoch
        self.history: list[dict[str, Any]] = []
        self.saved: tuple[int, Path] | None = None  # step and file of the last state saved

    def build(self) -> DGCN:
        """The network at the start of the run, with the graph of the training persons (Eq. 5)."""
        config = self.config
        values = {name: getattr(config.model, name) for name in ModelConfig.__dataclass_fields__}
        distances = distance_matrix(*self.dataset.persons()) if config.model.graph in ("dynamic", "soft") else None
        if config.freeze_epochs and not config.pretrained and config.init_trunk is None:
            start = (
                "--init-trunk"
                if config.model.backbone == MOBILENET
                else "--pretrained, as the paper starts from ImageNet,"
            )
            log.warning(
                f"the backbone starts from random weights and is frozen for {config.freeze_epochs} epochs: pass {start}"
                " or --freeze-epochs 0"
            )
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

    def predictor(self) -> Predictor:
        """What the validation images are evaluated with."""
        # What is drawn here (folding makes new layers) must not show in the training: it may happen twice or never.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            return Predictor.from_model(self.evaluated, device=self.config.device, long_edge=self.config.val_long_edge)

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

    def restore(self, state: dict[str, Any], path: Path) -> None:
        """Go on from a state that `load_state` has read from `path`."""
        check_tensors(path, self.model.state_dict(), state["model"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.sums, self.history = state["step"], state["sums"], state["history"]
        torch.set_rng_state(state["generator"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        if self.device.type == "cuda" and "cuda_generator" in state:
            torch.cuda.set_rng_state(state["cuda_generator"], self.device)
        self.saved = self.step, path

    def save(self) -> None:
        path = self.config.work_dir / STATE_FILE
        save_training_state(path, self.state())
        self.saved = self.step, path

    def last_saved(self) -> str:
        """Where the last state is and how to go on from it, for a message."""
        if self.saved is None:
            return "no training state was saved yet"
        step, path = self.saved
        resume = "auto" if path == self.config.work_dir / STATE_FILE else path
        return f"the training state is in {path} (after step {step}; continue with --resume {resume})"

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
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm or math.inf)
        if not math.isfinite(norm.item()):  # or the weights would be lost, and with the next save the last good state
            raise FloatingPointError(f"the gradient is not finite at step {self.step} (epoch {epoch})")
        self.optimizer.step()
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.model, step=self.step)
        return {"loss": total.item(), **{name: value.item() for name, value in terms.items()}}

    def batches(self, epoch: int) -> tuple[EpochBatches, torch.Generator]:
        """The batches of an epoch, a permutation that depends on seed and epoch alone, and the generator it is from."""
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.dataset), generator=generator).tolist()
        self.dataset.set_epoch(epoch)
        return EpochBatches(self.dataset, order, self.config.batch_size), generator

    def train_epoch(self, epoch: int, guard: InterruptGuard) -> None:
        """Train to the end of `epoch` from wherever `self.step` stands."""
        first = self.step - epoch * self.steps_per_epoch
        if first == 0:
            self.sums = {}
        set_training(self.model, frozen_backbone=epoch < self.config.freeze_epochs)
        batches, generator = self.batches(epoch)
        loading = open_batches(
            batches,
            range(first, self.steps_per_epoch),
            workers=self.workers,
            prefetch=self.prefetch,
            pin_memory=self.device.type == "cuda",
            # A loader draws a base seed for its workers; not from the generator that the graphs are drawn from.
            generator=generator,
        )
        saved = time.monotonic()
        with (
            loading as loaded,
            Progress(f"epoch {epoch + 1}/{self.config.epochs}", self.steps_per_epoch, first) as progress,
        ):
            while True:
                with guard.at_once():
                    batch = next(loaded, None)
                if batch is None:
                    break
                for name, value in self.train_step(batch, epoch).items():
                    self.sums[name] = self.sums.get(name, 0.0) + value
                progress.step(loss=self.sums["loss"] / (self.step - epoch * self.steps_per_epoch))
                guard.check()
                if time.monotonic() - saved > self.config.save_seconds:
                    self.save()
                    saved = time.monotonic()

    def finish_epoch(self) -> None:
        """Count the epoch as done, and save."""
        losses = {name: value / self.steps_per_epoch for name, value in self.sums.items()}
        self.history.append({"epoch": self.step // self.steps_per_epoch, **losses})
        self.save_results(LAST_FILE)
        log.info(f"epoch {len(self.history)}/{self.config.epochs}: {_shown(losses)}")

    @property
    def evaluation_is_due(self) -> bool:
        """Whether the last epoch that is done still has to be evaluated."""
        return bool(self.history) and "AP" not in self.history[-1] and self.config.evaluates_after(len(self.history))

    def evaluate(self, guard: InterruptGuard) -> None:
        """Add the numbers of the validation images to the last epoch's record, and save."""
        config = self.config
        title = f"epoch {len(self.history)}/{config.epochs}"
        log.info(f"{title}: evaluating")
        with guard.at_once():
            metrics = self.predictor().evaluate(config.val_images, config.val_annotations)
        best = max((record["AP"] for record in self.history if "AP" in record), default=-1.0)
        self.history[-1].update(metrics)
        self.save_results(*([BEST_FILE] if metrics["AP"] > best else []), LAST_FILE)
        log.info(f"{title}: {_shown(metrics)}")

    def save_results(self, *checkpoints: str) -> None:
        """Write the evaluated weights under these names, the history, then the state: a kill in between repeats all."""
        config, record = self.config, self.history[-1]
        metadata = {
            "epoch": record["epoch"],
            "long_edge": config.val_long_edge,
            "metrics": {name: value for name, value in record.items() if name.startswith("A")},
            "training": json.loads(config.fingerprint()),
        }
        for name in checkpoints:
            save_model(config.work_dir / name, self.evaluated, metadata)
        write_json(config.work_dir / HISTORY_FILE, self.history)
        self.save()


def load_initial(config: TrainConfig) -> DGCN | None:
    """The model of `init_checkpoint`. Raises ValueError unless it is the configured one, and the only start."""
    if config.init_checkpoint is None:
        return None
    if config.pretrained or config.init_trunk is not None:
        raise ValueError("init_checkpoint must be given without init_trunk and pretrained: it holds every weight")
    model, _ = load_model(config.init_checkpoint)
    if changes := list(differences(config.model.to_dict(), model.config.to_dict())):
        raise ValueError(
            f"init_checkpoint {config.init_checkpoint} must hold the configured model, but has"
            f" {'; '.join(changes)} (configured -> in the file)"
        )
    return model


def load_state(path: Path, config: TrainConfig) -> dict[str, Any]:
    """The training state at `path`. Raises ValueError unless it is one of a run with these settings."""
    state = load_training_state(path)
    required = {"fingerprint", "model", "optimizer", "step", "sums", "history", "generator"}
    if missing := sorted(required - state.keys()):
        raise ValueError(f"resume: {path} is not a training state of dgcn: it has no {', '.join(missing)}")
    if changes := list(differences(json.loads(state["fingerprint"]), json.loads(config.fingerprint()))):
        raise ValueError(f"resume: {path} belongs to a run with other settings ({'; '.join(changes)})")
    return state


def check_validation(config: TrainConfig) -> None:
    """Look at all that an evaluation needs, by its own means, so that it will not fail when an epoch is done."""
    records = read_coco(config.val_images, config.val_annotations, config.model.skeleton)
    for record in records:
        record.check()
    if not any(record.persons for record in records):
        log.warning(f"{config.val_annotations} has no person to measure AP on: there will be no {BEST_FILE}")


def fit(config: TrainConfig) -> list[dict[str, Any]]:
    """Train, save, evaluate; return the history, a record per epoch.

    Writes into `config.work_dir`: `training_state.pt` (to resume), `last.safetensors`, `best.safetensors` (highest
    AP on the validation images), `history.json`. The run repeats bit for bit on the same machine with the same
    settings, in one go or interrupted and resumed. An epoch is saved before it is evaluated: where the evaluation
    fails or is interrupted, a resumed run begins with it.

    Raises:
        FileExistsError: `work_dir` holds a run and `resume` was not asked for.
        BlockingIOError: another run is writing there.
        Interrupted: on Ctrl-C and its like, after the state was saved.
        LoadingError: a training image cannot be loaded, or a process that loads them is gone; the state was saved.
        FloatingPointError: the loss became NaN or infinite; the last state saved is from before.
        MemoryError: the GPU's memory does not suffice; the last state saved is from before.
        OSError, ValueError: data, files or settings that do not fit; the message names them.
    """
    with locked(config.work_dir):
        path = find_state(config.work_dir, config.resume)
        state = None if path is None else load_state(path, config)
        trainer = Trainer(config, is_resumed=state is not None)
        if path is not None and state is not None:
            trainer.restore(state, path)
        with InterruptGuard(trainer.last_saved) as guard:
            try:
                _run(trainer, guard)
            except Interrupted:  # in the middle of a step, which must not be saved
                raise
            except KeyboardInterrupt:
                trainer.save()
                raise Interrupted(f"interrupted; {trainer.last_saved()}") from None
            except LoadingError as error:
                trainer.save()
                raise LoadingError(f"{error}; {trainer.last_saved()}") from error
            except FloatingPointError as error:
                raise FloatingPointError(f"{error}; {trainer.last_saved()}") from error
            except torch.OutOfMemoryError as error:
                needed = "batch_size or size must be smaller for the memory of this GPU"
                raise MemoryError(f"{needed}; {trainer.last_saved()}") from error
        return trainer.history


def _run(trainer: Trainer, guard: InterruptGuard) -> None:
    while True:
        if trainer.evaluation_is_due:
            trainer.evaluate(guard)
        epoch = len(trainer.history)
        if epoch == trainer.config.epochs:
            return
        trainer.train_epoch(epoch, guard)
        trainer.finish_epoch()


def _shown(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
