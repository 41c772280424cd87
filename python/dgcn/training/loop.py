"""The training loop: one function, `fit`, that can be killed at any time and resumed to the same result."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..data.loader import LoadingError
from ..evaluation.evaluate import evaluate
from ..progress import Progress
from .config import TrainConfig
from .interrupt import Interrupted, InterruptGuard
from .log import epoch_record, save_results
from .optim import set_learning_rate, set_training
from .run import Run
from .run_folder import BEST_FILE, LAST_FILE, find_state, locked
from .state import TrainingState, load_state

log = logging.getLogger(__name__)


def fit(config: TrainConfig) -> list[dict[str, Any]]:
    """Train, save, evaluate; return the history, a record per epoch.

    Writes into `config.work_dir`: `training_state.pt` (to resume), `last.safetensors`, `best.safetensors` (highest
    AP on the validation images), `history.jsonl`. The run repeats bit for bit on the same machine with the same
    settings, in one go or interrupted and resumed. An epoch is saved before it is evaluated: where the evaluation
    fails or is interrupted, a resumed run begins with it.

    Raises:
        FileExistsError: `work_dir` holds a run and `resume` is not given.
        BlockingIOError: another run is writing there.
        Interrupted: on a signal such as Ctrl-C, after the state was saved.
        LoadingError: a training image cannot be loaded, or a process that loads them has died; the state was saved.
        FloatingPointError: the loss became NaN or infinite; the last state saved is from before.
        MemoryError: the GPU's memory does not suffice; the last state saved is from before.
        OSError, ValueError: data, files or settings that do not fit; the message names them.
    """
    with locked(config.work_dir):
        path = find_state(config.work_dir, config.resume)
        saved = None if path is None else load_state(path, config)
        run = Run(config, is_resumed=saved is not None)
        state = run.state
        if path is not None and saved is not None:
            state.restore(path, saved)
        with InterruptGuard(state.last_saved) as guard, saved_on_failure(state), run.log:
            if state.evaluation_is_due:  # of the last epoch before the interruption
                evaluate_epoch(run, guard)
            while state.epoch < config.epochs:
                train_epoch(run, guard)
                if state.evaluation_is_due:
                    evaluate_epoch(run, guard)
    return state.history


def train_epoch(run: Run, guard: InterruptGuard) -> None:
    """Train from the current step to the end of its epoch; save the result."""
    config, state = run.config, run.state
    if state.step_of_epoch == 0:
        state.sums, state.seconds = {}, 0.0
    set_training(state.model, config, state.epoch)
    title = f"epoch {state.epoch + 1}/{config.epochs}"
    saved = time.monotonic()
    with run.open_epoch() as batches, Progress(title, state.steps_per_epoch, state.step_of_epoch) as progress:
        for batch in guard.each(batches):
            numbers = train_step(run, batch)
            for name, value in numbers.items():
                state.sums[name] = state.sums.get(name, 0.0) + value
            run.log.after_step(numbers["loss"])
            progress.step(loss=state.sums["loss"] / state.step_of_epoch)
            guard.check()
            if time.monotonic() - saved > config.save_seconds:
                state.save()
                saved = time.monotonic()
    state.history.append(epoch_record(state))
    save_results(state, LAST_FILE)
    run.log.after_training()


def train_step(run: Run, batch: dict[str, Any]) -> dict[str, float]:
    """One step of the optimizer; returns the loss and its terms."""
    config, state = run.config, run.state
    set_learning_rate(state.optimizer, state.step, state.steps_per_epoch * config.epochs, config)
    images = batch["image"].to(run.device, non_blocking=True, memory_format=torch.channels_last)
    with torch.autocast(run.device.type, torch.bfloat16, enabled=config.amp):
        output = state.model(images)
    terms = run.loss(output, batch["targets"].to(run.device))
    loss = torch.stack(list(terms.values())).sum()
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_norm or math.inf)

    # All numbers in one copy, for which a GPU is waited for once. Only then may a step change the weights: with one
    # that is not finite they would be lost, and with the next save the last good state.
    *values, norm_value = torch.stack([loss, *terms.values(), norm]).tolist()
    numbers = dict(zip(["loss", *terms], values, strict=True))
    where = f"at step {state.step} (epoch {state.epoch})"
    if not math.isfinite(numbers["loss"]):
        raise FloatingPointError(f"the loss is not finite {where}: {numbers}")
    if not math.isfinite(norm_value):
        raise FloatingPointError(f"the gradient is not finite {where}")
    state.optimizer.step()
    state.step += 1
    if state.ema is not None:
        state.ema.update(state.model, step=state.step)
    return numbers


def evaluate_epoch(run: Run, guard: InterruptGuard) -> None:
    """Add the numbers of the validation images to the last epoch's record; save the result."""
    state = run.state
    log.info(f"epoch {state.epoch}/{run.config.epochs}: evaluating")
    with guard.at_once():
        metrics = evaluate(run.predictor(), run.validation)
    best = max((record["AP"] for record in state.history if "AP" in record), default=-1.0)
    state.history[-1].update(metrics)
    save_results(state, *([BEST_FILE] if metrics["AP"] > best else []), LAST_FILE)
    run.log.after_evaluation(metrics)


@contextlib.contextmanager
def saved_on_failure(state: TrainingState) -> Iterator[None]:
    """Save the state where the block is interrupted between two steps, and add to errors where the last state is."""
    try:
        yield
    except Interrupted:  # in the middle of a step, which must not be saved
        raise
    except KeyboardInterrupt:
        state.save()
        raise Interrupted(f"interrupted; {state.last_saved()}") from None
    except LoadingError as error:
        state.save()
        raise LoadingError(f"{error}; {state.last_saved()}") from error
    except FloatingPointError as error:
        raise FloatingPointError(f"{error}; {state.last_saved()}") from error
    except torch.OutOfMemoryError as error:
        needed = "batch_size or size must be smaller for the memory of this GPU"
        raise MemoryError(f"{needed}; {state.last_saved()}") from error
