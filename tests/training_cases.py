"""What the tests of training share: a tiny run, and how two runs are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dgcn.interrupt import InterruptGuard
from dgcn.model.checkpoint import load_training_state
from dgcn.model.config import ModelConfig
from dgcn.training import loop
from dgcn.training.config import TrainConfig
from dgcn.training.history import TIMES
from dgcn.training.run import Run

TINY = ModelConfig(backbone="mobilenetv1_075", lift_channels=16, non_local=False)


def tiny_run(people: Path, work_dir: Path) -> TrainConfig:
    """Two epochs of four steps on the eight pictures in `people`; the second is evaluated."""
    return TrainConfig(
        train_images=people,
        train_annotations=people / "people.json",
        val_images=people,
        val_annotations=people / "people.json",
        work_dir=work_dir,
        model=TINY,
        size=65,
        epochs=2,
        batch_size=2,
        optimizer="adamw",
        warmup_steps=2,
        workers=0,
        eval_every=2,
    )


def train_epoch(run: Run) -> None:
    """Train an epoch."""
    with run.open_batches() as batches:
        loop.train_epoch(run, batches, InterruptGuard(run.state.last_saved))


def states_equal(a: Path, b: Path) -> bool:
    """Whether two training states agree to the last bit, except for how long the training took."""
    return equal(load_training_state(a), load_training_state(b))


def equal(x: Any, y: Any) -> bool:
    if isinstance(x, torch.Tensor):
        return torch.equal(x, y)
    if isinstance(x, dict):
        return x.keys() == y.keys() and all(key in TIMES or equal(x[key], y[key]) for key in x)
    if isinstance(x, (list, tuple)):
        return len(x) == len(y) and all(map(equal, x, y))
    return x == y
