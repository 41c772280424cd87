"""What a resumed run needs of the one before: weights, the optimizer's moments, counters, random generators."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from timm.utils import ModelEmaV3

from ..model.checkpoint import check_tensors, load_training_state, save_training_state
from ..model.config import ModelConfig
from ..model.network import DGCN
from .config import TrainConfig, differences
from .run_folder import STATE_FILE


class TrainingState:
    """How far a run is.

    Attributes:
        model: the network that is trained.
        ema: its averaged weights, if the configuration asks for them.
        optimizer: of the model's parameters.
        steps_per_epoch: optimizer steps of an epoch.
        step: optimizer steps done since the start of the run.
        sums: loss terms summed over the current epoch.
        seconds: how long the current epoch has been trained for, the time before interruptions included.
        history: a record for each epoch that is done.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: DGCN,
        ema: ModelEmaV3 | None,
        optimizer: torch.optim.Optimizer,
        steps_per_epoch: int,
    ) -> None:
        self.config = config
        self.model = model
        self.ema = ema
        self.optimizer = optimizer
        self.steps_per_epoch = steps_per_epoch
        self.step = 0
        self.sums: dict[str, float] = {}
        self.seconds = 0.0
        self.history: list[dict[str, Any]] = []
        self._saved: tuple[int, Path] | None = None  # step and file of the last state saved

    @property
    def epoch(self) -> int:
        """Number of the current epoch, from 0."""
        return len(self.history)

    @property
    def step_of_epoch(self) -> int:
        """Optimizer steps done in the current epoch."""
        return self.step - self.epoch * self.steps_per_epoch

    @property
    def averaged(self) -> DGCN:
        """The weights that are evaluated and saved."""
        return self.ema.module if self.ema is not None else self.model

    @property
    def evaluation_is_due(self) -> bool:
        """Whether the last epoch that is done still has to be evaluated."""
        return bool(self.history) and "AP" not in self.history[-1] and self.config.evaluates_after(self.epoch)

    def save(self) -> None:
        """Write the state into the folder of the run, atomically."""
        path = self.config.work_dir / STATE_FILE
        state = {
            "fingerprint": self.config.fingerprint(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "sums": self.sums,
            "seconds": self.seconds,
            "history": self.history,
            "generator": torch.get_rng_state(),
        }
        if self.ema is not None:
            state["ema"] = self.ema.module.state_dict()
        device = next(self.model.parameters()).device
        if device.type == "cuda":
            state["cuda_generator"] = torch.cuda.get_rng_state(device)
        save_training_state(path, state)
        self._saved = self.step, path

    def restore(self, path: Path, state: dict[str, Any]) -> None:
        """Go on from a state that `load_state` has read from `path`."""
        check_tensors(path, self.model.state_dict(), state["model"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.sums, self.history = state["step"], state["sums"], state["history"]
        self.seconds = state.get("seconds", 0.0)  # not in states from before it was measured
        torch.set_rng_state(state["generator"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        device = next(self.model.parameters()).device
        if device.type == "cuda" and "cuda_generator" in state:
            torch.cuda.set_rng_state(state["cuda_generator"], device)
        self._saved = self.step, path

    def last_saved(self) -> str:
        """Where the last state is and how to go on from it, for a message."""
        if self._saved is None:
            return "no training state was saved yet"
        step, path = self._saved
        resume = "auto" if path == self.config.work_dir / STATE_FILE else path
        return f"the training state is in {path} (after step {step}; continue with --resume {resume})"


def load_state(path: Path, config: TrainConfig) -> dict[str, Any]:
    """The training state at `path`. Raises ValueError unless it is one of a run with these settings."""
    state = load_training_state(path)
    required = {"fingerprint", "model", "optimizer", "step", "sums", "history", "generator"}
    if missing := sorted(required - state.keys()):
        raise ValueError(f"resume: {path} is not a training state of dgcn: it has no {', '.join(missing)}")
    # A setting that did not exist yet had the value that is now its default.
    defaults = {field.name: field.default for field in fields(TrainConfig) if field.name in config.tracked()}
    old = {**defaults, **json.loads(state["fingerprint"])}
    old["model"] = ModelConfig.from_dict(old["model"]).to_dict()
    if changes := list(differences(old, json.loads(config.fingerprint()))):
        raise ValueError(f"resume: {path} belongs to a run with other settings ({'; '.join(changes)}; as saved -> now)")
    return state
