"""The objects of one training run, made and checked before the first step."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from timm.layers import convert_sync_batchnorm
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dgcn_ext import GraphConv

from ..codec import PifPafCodec
from ..data.dataset import KeypointDataset, digest
from ..data.loader import blocks, open_batches, plan_workers
from ..data.reader import read_records
from ..device import check_device
from ..graph import distance_matrix, measurements, read_distances
from ..model.backbones import check_backbone
from ..model.checkpoint import load_model
from ..model.config import OWN_BACKBONES, ModelConfig
from ..model.network import DGCN, build_from_config, build_model
from ..predict.predictor import Predictor
from ..records import ImageRecord
from .config import TrainConfig, differences
from .distributed import Group
from .log import RunLog, check_log
from .losses import PifPafLoss
from .optim import build_optimizer
from .run_folder import BEST_FILE
from .state import TrainingState

log = logging.getLogger(__name__)

CALIBRATION_IMAGES = 32  # from which the batch norms of a folded trunk get their first statistics


class Run:
    """What `fit` works with: data, network, loss, and the state that a resumed run goes on from."""

    def __init__(self, config: TrainConfig, group: Group | None = None, *, is_resumed: bool = False) -> None:
        """Checks all that the run will need, then builds the network. Raises as `fit`.

        Args:
            config: of the run.
            group: of the processes that train together; default: this one alone.
            is_resumed: `state.restore` will replace every weight: do not look for those that the run began with.
        """
        self.config = config
        self.lock: TextIO | None = None  # of the folder, in the process that writes there
        self.is_saved = True  # whether every file that was to be written was
        self.group = group or Group(check_device(config.device))
        self.device = self.group.device
        if config.batch_size < self.group.size:
            raise ValueError(
                f"batch_size must be at least the {self.group.size} training processes, got {config.batch_size}"
            )
        if config.batch_norm == "sync" and self.device.type != "cuda":
            raise ValueError(f"batch_norm 'sync' needs GPUs, got the device '{self.device}': 'frozen' works everywhere")
        check_log(config)
        torch.use_deterministic_algorithms(config.deterministic)
        # The same on every process, so that all draw the same graphs.
        random.seed(config.seed)
        np.random.seed(config.seed)  # noqa: NPY002 - timm and other libraries may draw from it
        torch.manual_seed(config.seed)

        initial = build_from_config(config.model) if is_resumed else load_initial(config)
        if initial is None:
            check_backbone(config.model.backbone, pretrained=config.pretrained)
        self.dataset = KeypointDataset(
            config.train_images,
            config.train_annotations,
            config.model.skeleton,
            config.transform(),
            PifPafCodec(config.model.skeleton, DGCN.stride),
            reading=config.reading,
            node_strides=config.model.levels,
            seed=config.seed,
            on_bad_image=config.on_bad_image,
        )
        steps_per_epoch = len(self.dataset) // config.batch_size
        if steps_per_epoch == 0:
            raise ValueError(
                f"batch_size must be at most the {len(self.dataset)} training images, got {config.batch_size}"
            )
        self.validation = read_validation(config)
        self.workers, self.prefetch = plan_workers(
            self.dataset,
            math.ceil(config.batch_size / self.group.size),
            config.workers,
            sharers=self.group.local_size,
        )
        self.loss = PifPafLoss(config.loss)
        # Convolutions run fastest in this layout, on the CPU as on a GPU.
        model = (initial or build_initial(config, self.dataset)).to(self.device).to(memory_format=torch.channels_last)
        if config.batch_norm == "sync":
            model = convert_sync_batchnorm(model)  # timm's; torch's loses the activation of a norm that has one
        ema = ModelEmaV3(model, decay=config.ema, use_warmup=True) if config.ema else None
        optimizer = build_optimizer(model, config)
        conditions: dict[str, Any] = {"samples": digest(self.dataset.records), "validation": digest(self.validation)}
        if config.batch_norm == "local":  # else the number of processes changes no more than rounding
            conditions["processes"] = self.group.size
        self.state = TrainingState(config, model, ema, optimizer, steps_per_epoch, conditions, self.group.job)
        self.log = RunLog(self.state, writes=self.group.is_first)
        if config.amp == "bf16" and self.device.type == "cpu":
            warn_of_slow_amp(model, config.size)
        if config.compile:
            model.compile()
        self.predictor()  # which refuses a long edge that the decoder cannot take: now, not after an epoch

    def predictor(self) -> Predictor:
        """What the validation images are evaluated with."""
        # Folding makes new layers, which draw from torch's generator. The training must not depend on these draws: a
        # resumed run may evaluate an epoch again, and another `eval_every` evaluates fewer.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            return Predictor(self.state.averaged, device=self.device, long_edge=self.config.val_long_edge)

    def open_batches(self) -> AbstractContextManager[Iterator[dict[str, Any]]]:
        """This process's parts of the batches of the run from the current step on; what loads them ends with the `with`
        block."""
        config, state = self.config, self.state
        ahead = blocks(
            len(self.dataset),
            config.batch_size,
            epochs=config.epochs,
            seed=config.seed,
            first_step=state.position,
            rank=self.group.rank,
            world=self.group.size,
        )
        pin_memory = self.device.type == "cuda"
        return open_batches(self.dataset, ahead, workers=self.workers, prefetch=self.prefetch, pin_memory=pin_memory)

    def set_first_sample(self, number: int) -> None:
        """Let graphs that are drawn for each sample be those of the samples from this one of the batch on."""
        for module in self.state.model.modules():
            if isinstance(module, GraphConv):
                module.first_sample = number

    @contextlib.contextmanager
    def more_to_come(self, network: nn.Module) -> Iterator[None]:
        """A block for a part of a batch that is not the last: the next part draws the same graphs, and gradients are
        not exchanged between the processes before it."""
        no_sync = network.no_sync() if isinstance(network, DistributedDataParallel) else contextlib.nullcontext()
        with no_sync, torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            yield

    def describe_step(self, batch: dict[str, Any]) -> str:
        """Where the run is, with the images of the current step, for a message; called by all processes."""
        images = [str(image) for part in self.group.gather(batch["image_id"]) for image in part]
        return f"at step {self.state.step} (epoch {self.state.epoch + 1}; images {', '.join(images)})"


def warn_of_slow_amp(model: DGCN, size: int) -> None:
    """Measure whether bfloat16 trains `model` faster on this CPU: often depthwise convolutions are ten times slower."""
    with_amp, without = step_seconds(model, size, amp=True), step_seconds(model, size, amp=False)
    if with_amp > without:
        log.warning(
            f"amp makes training slower on this CPU: {with_amp:.2f} s a picture in bfloat16, {without:.2f} s in float32"
        )


def step_seconds(model: DGCN, size: int, *, amp: bool) -> float:
    """Seconds of forward and backward for one picture; of two passes the faster. Leaves model and generator alone."""
    model = copy.deepcopy(model).train()
    image = torch.zeros(1, 3, size, size, dtype=torch.uint8)
    seconds = []
    with torch.random.fork_rng(devices=[]):
        for _ in range(2):
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=amp):
                output = model(image)
            (output.pif.float().sum() + output.paf.float().sum()).backward()
            seconds.append(time.perf_counter() - start)
    return min(seconds)


def load_initial(config: TrainConfig) -> DGCN | None:
    """The model of `init_checkpoint`. Raises ValueError unless it is the configured one, and the only start."""
    if config.init_checkpoint is None or config.reset_heads:
        return None
    if config.pretrained or config.init_trunk is not None or config.graph_file is not None:
        raise ValueError(
            "init_checkpoint must be given without init_trunk, pretrained and graph_file: it holds every weight and A"
        )
    model, _ = load_model(config.init_checkpoint)
    if changes := list(differences(config.model.to_dict(), model.config.to_dict())):
        raise ValueError(
            f"init_checkpoint {config.init_checkpoint} must hold the configured model, but has"
            f" {'; '.join(changes)} (configured -> in the file); --reset-heads takes what fits"
        )
    return model


def load_fitting(model: DGCN, checkpoint: Path) -> None:
    """Give `model` the weights of another model that mean the same in both; logs which do not. Adjacencies stay.

    Raises ValueError where the backbones differ."""
    other, _ = load_model(checkpoint)
    if other.config.backbone != model.config.backbone:
        raise ValueError(
            f"init_checkpoint {checkpoint} must have the backbone {model.config.backbone}, got {other.config.backbone}"
        )
    before, now = other.config.skeleton, model.config.skeleton
    other_meaning = ["adjacency"]
    if before.keypoints != now.keypoints:
        other_meaning += ["pif_head", "kmap", "graph_conv", "expand"]
    if (before.keypoints, before.limbs) != (now.keypoints, now.limbs):
        other_meaning += ["paf_head"]
    own, theirs = model.state_dict(), other.state_dict()
    fitting = {
        name: value
        for name, value in theirs.items()
        if name in own and own[name].shape == value.shape and not set(name.split(".")).intersection(other_meaning)
    }
    fresh, left = (sorted(n for n in tensors if n not in fitting and "adjacency" not in n) for tensors in (own, theirs))
    model.load_state_dict(fitting, strict=False)
    num_wanted = sum("adjacency" not in name for name in own)
    log.info(f"{checkpoint}: {len(fitting)} of {num_wanted} tensors of the model are taken from it, but no adjacency")
    for what, names in (("start afresh", fresh), ("of the file are not used", left)):
        if names:
            log.info(f"{len(names)} tensors {what}: {', '.join(names)}")


def build_initial(config: TrainConfig, dataset: KeypointDataset) -> DGCN:
    """The network at the start of a run, with the graph of the training persons (Eq. 5)."""
    if config.freeze_epochs and not (config.pretrained or config.init_trunk or config.init_checkpoint):
        own = config.model.backbone in OWN_BACKBONES
        start = "--init-trunk" if own else "--pretrained, as the paper starts from ImageNet,"
        log.warning(
            f"the backbone starts from random weights and is frozen for {config.freeze_epochs} epochs: pass {start}"
            " or --freeze-epochs 0"
        )
    values = {name: getattr(config.model, name) for name in ModelConfig.__dataclass_fields__}
    distances = load_distances(config, dataset.records) if config.model.graph in ("dynamic", "soft") else None
    model = build_model(**values, pretrained=config.pretrained, distances=distances)
    if config.init_trunk is not None:
        images = torch.stack([dataset[i]["image"] for i in range(min(CALIBRATION_IMAGES, len(dataset)))])
        try:
            model.backbone.load_trunk(config.init_trunk, (images - model.mean) / model.std)
        except ValueError as error:
            raise ValueError(f"init_trunk must hold a trunk of {config.model.backbone}: {error}") from error
    if config.init_checkpoint is not None:
        load_fitting(model, config.init_checkpoint)
    return model


def load_distances(config: TrainConfig, records: Sequence[ImageRecord]) -> np.ndarray:
    """M_d of Eq. 5: that of `graph_file`, else that of the training persons."""
    if config.graph_file is not None:
        return read_distances(config.graph_file, config.model.skeleton)
    persons = [person for record in records for person in record.persons]
    return distance_matrix(*measurements(persons, config.train_annotations))


def read_validation(config: TrainConfig) -> list[ImageRecord]:
    """The validation images."""
    records = read_records(config.val_images, config.val_annotations, config.model.skeleton, config.reading)
    if not any(record.persons for record in records):
        log.warning(f"{config.val_annotations} has no person to measure AP on: there will be no {BEST_FILE}")
    return records
