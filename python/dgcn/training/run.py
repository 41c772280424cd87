"""The objects of one training run, made and checked before the first step."""

from __future__ import annotations

import contextlib
import copy
import logging
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from timm.utils import ModelEmaV3

from ..codec import PifPafCodec
from ..data.dataset import KeypointDataset
from ..data.loader import EpochBatches, open_batches, plan_workers
from ..data.reader import read_records
from ..graph import distance_matrix, measurements, read_distances
from ..model.backbones import check_backbone
from ..model.checkpoint import load_model
from ..model.config import OWN_BACKBONES, ModelConfig
from ..model.network import DGCN, build_from_config, build_model
from ..predict.predictor import Predictor, check_device
from ..records import ImageRecord
from .config import TrainConfig, differences
from .log import RunLog, check_log
from .losses import PifPafLoss
from .optim import build_optimizer
from .run_folder import BEST_FILE
from .state import TrainingState

log = logging.getLogger(__name__)

CALIBRATION_IMAGES = 32  # from which the batch norms of a folded trunk get their first statistics


class Run:
    """What `fit` works with: data, network, loss, and the state that a resumed run goes on from."""

    def __init__(self, config: TrainConfig, *, is_resumed: bool = False) -> None:
        """Checks all that the run will need, then builds the network. Raises as `fit`.

        Args:
            config: of the run.
            is_resumed: `state.restore` will replace every weight: do not look for those that the run began with.
        """
        self.config = config
        self.device = check_device(config.device)
        check_log(config)
        torch.use_deterministic_algorithms(config.deterministic)
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
        )
        steps_per_epoch = len(self.dataset) // config.batch_size
        if steps_per_epoch == 0:
            raise ValueError(
                f"batch_size must be at most the {len(self.dataset)} training images, got {config.batch_size}"
            )
        self.validation = read_validation(config)
        self.workers, self.prefetch = plan_workers(self.dataset, config.batch_size, config.workers)
        self.loss = PifPafLoss(config.loss)
        # Convolutions run fastest in this layout, on the CPU as on a GPU.
        model = (initial or build_initial(config, self.dataset)).to(self.device).to(memory_format=torch.channels_last)
        ema = ModelEmaV3(model, decay=config.ema, use_warmup=True) if config.ema else None
        self.state = TrainingState(config, model, ema, build_optimizer(model, config), steps_per_epoch)
        self.log = RunLog(self.state)
        if config.amp and self.device.type == "cpu":
            warn_of_slow_amp(model, config.size)
        self.predictor()  # which refuses a long edge that the decoder cannot take: now, not after an epoch

    def predictor(self) -> Predictor:
        """What the validation images are evaluated with."""
        # Folding makes new layers, which draw from torch's generator. The training must not depend on these draws: a
        # resumed run may evaluate an epoch again, and another `eval_every` evaluates fewer.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            return Predictor(self.state.averaged, device=self.device, long_edge=self.config.val_long_edge)

    @contextlib.contextmanager
    def open_epoch(self) -> Iterator[Iterator[dict[str, Any]]]:
        """The batches of the current epoch from the current step on: a permutation that seed and epoch alone decide."""
        state = self.state
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + state.epoch)
        order = torch.randperm(len(self.dataset), generator=generator).tolist()
        self.dataset.set_epoch(state.epoch)
        with open_batches(
            EpochBatches(self.dataset, order, self.config.batch_size),
            range(state.step_of_epoch, state.steps_per_epoch),
            workers=self.workers,
            prefetch=self.prefetch,
            pin_memory=self.device.type == "cuda",
            # A loader draws a base seed for its workers; not from the generator that the graphs are drawn from.
            generator=generator,
        ) as batches:
            yield batches


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
    if config.init_checkpoint is None:
        return None
    if config.pretrained or config.init_trunk is not None or config.graph_file is not None:
        raise ValueError(
            "init_checkpoint must be given without init_trunk, pretrained and graph_file: it holds every weight and A"
        )
    model, _ = load_model(config.init_checkpoint)
    if changes := list(differences(config.model.to_dict(), model.config.to_dict())):
        raise ValueError(
            f"init_checkpoint {config.init_checkpoint} must hold the configured model, but has"
            f" {'; '.join(changes)} (configured -> in the file)"
        )
    return model


def build_initial(config: TrainConfig, dataset: KeypointDataset) -> DGCN:
    """The network at the start of a run, with the graph of the training persons (Eq. 5)."""
    if config.freeze_epochs and not config.pretrained and config.init_trunk is None:
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
