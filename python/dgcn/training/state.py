"""What a resumed run needs of the one before: weights, the optimizer's moments, counters, random generators."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.utils import ModelEmaV3

from ..model.checkpoint import check_tensors, load_training_state, save_training_state
from ..model.network import DGCN
from .config import TrainConfig, differences
from .history import is_record
from .run_folder import STATE_FILE

log = logging.getLogger(__name__)

_ENTRIES: dict[str, type | tuple[type, ...]] = {
    "job": str,
    "settings": dict,
    "conditions": dict,
    "model": dict,
    "optimizer": dict,
    "scaler": dict,
    "step": int,
    "step_of_epoch": int,
    "sums": dict,
    "seconds": (int, float),
    "history": list,
    "best": (int, float),
    "generator": torch.Tensor,
}
"""What a training state has, and of which type."""
_SAMPLES = ("samples", "batch_size", "seed")
"""Settings that decide which pictures are in which step of an epoch."""


class TrainingState:
    """How far a run is.

    Attributes:
        model: the network that is trained.
        ema: its averaged weights, if the configuration asks for them.
        optimizer: of the model's parameters.
        scaler: of the loss, under float16; else it changes nothing.
        steps_per_epoch: optimizer steps of an epoch.
        job: the call of torchrun to which the run belongs, as in `Group`.
        conditions: what the result depends on beside the configuration; JSON-serialisable.
        step: optimizer steps done since the start of the run.
        step_of_epoch: optimizer steps done in the current epoch.
        sums: loss terms summed over the current epoch.
        seconds: how long the current epoch has been trained for, the time before interruptions included.
        history: a record for each epoch that is done.
        best: AP of the checkpoint with the highest; -1 before there is one.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: DGCN,
        ema: ModelEmaV3 | None,
        optimizer: torch.optim.Optimizer,
        steps_per_epoch: int,
        conditions: Mapping[str, Any],
        job: str = "",
    ) -> None:
        self.config = config
        self.model = model
        self.ema = ema
        self.optimizer = optimizer
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.amp == "fp16")
        self.steps_per_epoch = steps_per_epoch
        self.conditions = conditions
        self.job = job
        self.step = 0
        self.step_of_epoch = 0
        self.sums: dict[str, float] = {}
        self.seconds = 0.0
        self.history: list[dict[str, Any]] = []
        self.best = -1.0
        self._saved: tuple[int, Path] | None = None  # step and file of the last state saved

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def epoch(self) -> int:
        """Number of the current epoch, from 0."""
        return len(self.history)

    @property
    def position(self) -> int:
        """Steps from the start of the run to here, if all its epochs have as many as this one."""
        return self.epoch * self.steps_per_epoch + self.step_of_epoch

    @property
    def averaged(self) -> DGCN:
        """The weights that are evaluated and saved."""
        return self.ema.module if self.ema is not None else self.model

    @property
    def evaluation_is_due(self) -> bool:
        """Whether the last epoch that is done still has to be evaluated."""
        return bool(self.history) and "AP" not in self.history[-1] and self.config.evaluates_after(self.epoch)

    @property
    def is_done(self) -> bool:
        """Whether the run has come to its end, or to that of its patience."""
        if self.epoch >= self.config.epochs:
            return True
        scores = [record["AP"] for record in self.history if "AP" in record]
        return 0 < self.config.patience <= len(scores) - 1 - (scores.index(max(scores)) if scores else 0)

    def check_finite(self) -> None:
        """Raise FloatingPointError where a weight or a statistic is NaN or infinite.

        Statistics of a batch norm may overflow while the loss is finite."""
        averaged = {} if self.ema is None else self.ema.module.state_dict()
        for name, tensor in [*self.model.state_dict().items(), *averaged.items()]:
            if not tensor.isfinite().all():
                raise FloatingPointError(f"{name} of the network is not finite after step {self.step}")

    def save(self) -> None:
        """Write the state into the folder of the run, atomically."""
        path = self.config.work_dir / STATE_FILE
        state = {
            "job": self.job,
            "settings": self.config.absolute().tracked(),
            "conditions": dict(self.conditions),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "step_of_epoch": self.step_of_epoch,
            "sums": self.sums,
            "seconds": self.seconds,
            "history": self.history,
            "best": self.best,
            "generator": torch.get_rng_state(),
        }
        if self.ema is not None:
            state["ema"] = self.ema.module.state_dict()
        if self.device.type == "cuda":
            state["cuda_generator"] = torch.cuda.get_rng_state(self.device)
        save_training_state(path, state)
        self._saved = self.step, path

    def restore(self, path: Path, state: dict[str, Any]) -> None:
        """Go on from a state that `load_state` has read from `path`.

        Raises ValueError where other settings than the saved ones are neither allowed nor possible."""
        try:
            self._restore(path, state)
        except (AttributeError, KeyError, RuntimeError, TypeError) as error:
            raise ValueError(f"resume: {path} is damaged: {type(error).__name__}: {error}") from error
        self._saved = self.step, path

    def _restore(self, path: Path, state: dict[str, Any]) -> None:
        # A setting that did not exist yet had the value that is now its default.
        try:
            settings = TrainConfig.from_dict(state["settings"] | {"work_dir": self.config.work_dir}).tracked()
        except ValueError as error:
            raise ValueError(f"resume: {path} is damaged: {error}") from error
        now = {**self.config.absolute().tracked(), **self.conditions}
        changes = list(differences(settings | state["conditions"], now))
        if changes and not self.config.allow_changes:
            raise ValueError(
                f"resume: {path} belongs to a run with other settings ({'; '.join(changes)}; as saved -> now):"
                " pass --allow-changes to go on with those of now"
            )
        if fixed := [change for change in changes if change.startswith("model.")]:
            raise ValueError(f"resume: {path} holds another model ({'; '.join(fixed)}): init_checkpoint starts from it")
        check_tensors(path, self.model.state_dict(), state["model"])
        self.model.load_state_dict(state["model"])
        self.step, self.step_of_epoch = state["step"], state["step_of_epoch"]
        self.sums, self.seconds = state["sums"], state["seconds"]
        self.history = state["history"]
        # best.safetensors, whose AP this is, lies beside the state: another folder has none yet.
        is_own = os.path.realpath(path.parent) == os.path.realpath(self.config.work_dir)
        self.best = state["best"] if is_own else -1.0
        if self.ema is not None:
            averaged = state.get("ema", state["model"])
            check_tensors(path, self.ema.module.state_dict(), averaged)
            self.ema.module.load_state_dict(averaged)
        changed = {change.partition(":")[0].partition(".")[0] for change in changes}
        if "optimizer" not in changed:
            groups = self.optimizer.param_groups
            options = [{n: value for n, value in group.items() if n not in ("params", "lr")} for group in groups]
            try:
                self.optimizer.load_state_dict(state["optimizer"])
            except ValueError as error:
                raise ValueError(f"resume: {path} is damaged: {error}") from error
            for group, own in zip(self.optimizer.param_groups, options, strict=True):
                group.update(own)  # weight decay and the like, as they are set now
        if "amp" not in changed:
            self.scaler.load_state_dict(state["scaler"])
        if self.step_of_epoch and changed.intersection(_SAMPLES):
            self.step, self.step_of_epoch = self.step - self.step_of_epoch, 0
            changes.append(f"epoch {self.epoch + 1} begins again")
        if self.step_of_epoch >= self.steps_per_epoch:
            steps = f"{self.step_of_epoch} of the {self.steps_per_epoch} steps of an epoch"
            raise ValueError(f"resume: {path} is damaged: it is after {steps}")
        for change in changes:
            log.warning(f"resume with other settings: {change}")
        torch.set_rng_state(state["generator"])
        if self.device.type == "cuda" and "cuda_generator" in state:
            torch.cuda.set_rng_state(state["cuda_generator"], self.device)

    def last_saved(self) -> str:
        """Where the last state is and how to go on from it, for a message."""
        own = self.config.work_dir / STATE_FILE
        step, path = self._saved or (None, own)  # only the process that writes it knows the step
        if not path.exists():
            return "there is no training state to go on from"
        resume = "auto" if path == own else path
        after = "" if step is None else f"after step {step}; "
        return f"the training state is in {path} ({after}continue with --resume {resume})"


def load_state(path: Path) -> dict[str, Any]:
    """The training state at `path`. Raises ValueError unless it is one of dgcn."""
    state = load_training_state(path)
    if missing := sorted(name for name, kind in _ENTRIES.items() if not isinstance(state.get(name), kind)):
        raise ValueError(f"resume: {path} is not a training state of dgcn: it has no {', '.join(missing)}")
    if not all(is_record(record, epoch) for epoch, record in enumerate(state["history"], start=1)):
        raise ValueError(f"resume: {path} is damaged: its history must have a record for each epoch")
    numbers = [state[name] for name in ("step", "step_of_epoch", "seconds")] + list(state["sums"].values())
    if not all(isinstance(number, (int, float)) and 0 <= number < math.inf for number in numbers):
        raise ValueError(f"resume: {path} is damaged: steps, seconds and losses must be finite and not negative")
    return state
