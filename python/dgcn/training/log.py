"""What a run leaves for people to read: console lines, the history, and the checkpoints with their numbers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from tqdm import tqdm

from ..evaluation.oks import METRICS
from ..extras import extra
from ..model.checkpoint import save_model
from .config import TrainConfig
from .history import Record, write_csv, write_history
from .state import TrainingState

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)

STEPS_PER_POINT = 10
"""Of the curve of the loss in TensorBoard."""


def check_log(config: TrainConfig) -> None:
    """Raise ImportError where TensorBoard is to be written and not installed."""
    if "tensorboard" in config.log:
        with extra("tensorboard", "log 'tensorboard' needs the package tensorboard"):
            import torch.utils.tensorboard  # noqa: F401


def epoch_record(state: TrainingState) -> Record:
    """What the history says of the epoch whose last step is done: means of the losses, learning rate, speed."""
    return {
        "epoch": state.epoch + 1,
        "step": state.step,
        **{name: value / state.steps_per_epoch for name, value in state.sums.items()},
        "learning_rate": next(group["lr"] for group in state.optimizer.param_groups if group["factor"] == 1),
        "seconds": state.seconds,
        "images_per_second": state.steps_per_epoch * state.config.batch_size / max(state.seconds, 1e-9),
    }


class RunLog:
    """Tells how a run goes on: on the console, in history.jsonl, and where `TrainConfig.log` says.

    The training loop calls `start`, and then `after_step`, `after_training` and `after_evaluation`, within the block of
    this context manager. They raise OSError, which names the file or folder, where there is no room; a later call tries
    again.

    The files follow the state. At the start they get what an interrupted run had no time to write, and TensorBoard
    drops the points of steps that will be done again.
    """

    def __init__(
        self, state: TrainingState, *, writes: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Open no file yet.

        Args:
            state: of the run.
            writes: whether this process writes the files.
            clock: seconds since some moment.
        """
        self.config, self.state, self.writes, self.clock = state.config, state, writes, clock
        self.lap_start = clock()
        self.evaluation_seconds = 0.0  # of the last one
        self.purge_step: int | None = None
        self.events: SummaryWriter | None = None

    def __enter__(self) -> RunLog:
        return self

    def start(self) -> None:
        """Bring the files to where the state is."""
        state = self.state
        self.purge_step = state.step
        if state.history:
            # TensorBoard drops what it has from this step on, with the record of an epoch that has just ended.
            self._write(state.history[-1] if state.step_of_epoch == 0 else {})
        self._lap()

    def __exit__(self, *exception: object) -> None:
        if self.events is not None:
            self.events.close()

    def after_step(self, loss: float) -> None:
        """Count the time of an optimizer step; its `loss` may become a point in TensorBoard."""
        self.state.seconds += self._lap()
        if self.state.step % STEPS_PER_POINT == 0:
            self._add_scalars({"step/loss": loss}, self.state.step - 1)

    def after_training(self) -> None:
        """Tell of the last epoch, whose record has just been added to the history."""
        record = self.state.history[-1]
        self._write(record)
        losses = {name: record[name] for name in self.state.sums}
        left = tqdm.format_interval(self.seconds_left())
        self._report(losses, f"{record['images_per_second']:.1f} images/s", f"ETA {left}")

    def after_evaluation(self, metrics: Mapping[str, float]) -> None:
        """Tell of the last epoch's `metrics`, which have just been added to its record."""
        self.evaluation_seconds = self._lap()
        self._write(metrics)
        self._report(metrics)

    def seconds_left(self) -> float:
        """How long the run will go on if each epoch and each evaluation takes as long as the last one."""
        state, config = self.state, self.config
        epochs = range(state.epoch + 1, config.epochs + 1)
        evaluations = state.evaluation_is_due + sum(config.evaluates_after(epoch) for epoch in epochs)
        return len(epochs) * state.history[-1]["seconds"] + evaluations * self.evaluation_seconds

    def _lap(self) -> float:
        """Seconds since the call before."""
        start, self.lap_start = self.lap_start, self.clock()
        return self.lap_start - start

    def _report(self, values: Mapping[str, float], *more: str) -> None:
        numbers = [f"{name} {value:.4g}" for name, value in values.items()]
        log.info(f"epoch {self.state.epoch}/{self.config.epochs}: {', '.join([*numbers, *more])}")

    def _write(self, values: Mapping[str, float]) -> None:
        """Write the history; `values` are what TensorBoard has not got of the last record."""
        if not self.writes:
            return
        write_history(self.config.work_dir, self.state.history)
        if "csv" in self.config.log:
            write_csv(self.config.work_dir, self.state.history)
        scalars = {
            f"{'validation' if name in METRICS else 'training'}/{name}": value
            for name, value in values.items()
            if name not in ("epoch", "step")
        }
        self._add_scalars(scalars, self.state.step)

    def _add_scalars(self, values: Mapping[str, float], step: int) -> None:
        if "tensorboard" not in self.config.log or not self.writes:
            return
        from torch.utils.tensorboard import SummaryWriter

        folder = str(self.config.work_dir)
        try:
            if self.events is None:
                self.events = SummaryWriter(folder, purge_step=self.purge_step)
                self.purge_step = None
            for name, value in values.items():
                self.events.add_scalar(name, value, step)
            self.events.flush()  # a kill would lose the points of steps that are not done again
        except OSError as error:
            self.events = None  # its thread has ended; the next call opens another file
            raise OSError(error.errno, error.strerror, folder) from error


def save_checkpoints(state: TrainingState, *names: str) -> None:
    """Write the averaged weights under these names, with the numbers of the last epoch."""
    if not names:
        return
    config, record = state.config, state.history[-1]
    metadata = {
        "epoch": record["epoch"],
        "long_edge": config.val_long_edge,
        "metrics": {name: record[name] for name in METRICS if name in record},
        "data": dict(config.data_notes),
        "training": config.tracked(),
    }
    for name in names:
        save_model(config.work_dir / name, state.averaged, metadata)
