"""The training loop: one function, `fit`, that can be killed at any time and resumed to the same result."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.dataset import describe_error
from ..data.loader import LoadingError
from ..evaluation.evaluate import predict_records
from ..evaluation.oks import evaluate_keypoints
from ..files import write_json
from ..interrupt import Interrupted, InterruptGuard
from ..progress import Progress
from .config import TrainConfig
from .distributed import Group, LostProcess, StoppedElsewhere, joined, lost_processes
from .log import epoch_record, save_checkpoints
from .losses import count_targets
from .optim import learning_rate, set_learning_rate, set_training
from .run import Run
from .run_folder import BEST_FILE, CONFIG_FILE, LAST_FILE, STATE_FILE, check_held, find_state, locked
from .state import load_state

log = logging.getLogger(__name__)

AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def fit(config: TrainConfig) -> list[dict[str, Any]]:
    """Train, save, evaluate; return the history, a record per epoch.

    Writes into `config.work_dir`: `config.json`, `training_state.pt` (to resume), `last.safetensors`,
    `best.safetensors` (highest AP on the validation images), `history.jsonl`. The run repeats bit for bit on the same
    machine with the same settings, in one go or interrupted and resumed. An epoch is saved before it is evaluated:
    where the evaluation fails or is interrupted, a resumed run begins with it.

    In a process that torchrun has started, the run is that of all its processes. One that torchrun starts again after a
    failure goes on from the last state saved.

    Raises:
        FileExistsError: `work_dir` holds a run and `resume` is not given.
        BlockingIOError: another run is writing there.
        Interrupted: on a signal such as Ctrl-C, after the state was saved.
        LoadingError: an image cannot be loaded, or a process that loads them has died; the state was saved.
        FloatingPointError: the loss or a weight became NaN or infinite; the last state saved is from before.
        MemoryError: the GPU's memory does not suffice; the last state saved is from before.
        OSError, ValueError: data, files or settings that do not fit; the message names them.
        StoppedElsewhere: another process of the run raises one of these, or has saved after an interrupt.
        LostProcess: another process of the run was killed.
    """
    with joined(config.device) as group, contextlib.ExitStack() as stack:
        lock = None
        with group.together():
            if group.is_first:
                lock = stack.enter_context(locked(config.work_dir))
        with group.together(), group.first_speaks():
            run = start_or_resume(config, group)
        run.lock = lock
        state = run.state
        with group.together():
            if len(steps := set(group.gather((state.step, state.step_of_epoch)))) > 1:
                raise ValueError(f"work_dir must be one folder for all processes, which have gone on from {steps}")
        with InterruptGuard(state.last_saved) as guard, saved_on_failure(run), run.log, run.open_batches() as batches:
            with group.together():
                write(run, run.log.start)
            if state.evaluation_is_due:  # of the last epoch before the interruption
                evaluate_epoch(run, guard)
            while not state.is_done:
                train_epoch(run, batches, guard)
                if state.evaluation_is_due:
                    evaluate_epoch(run, guard)
            if state.epoch < config.epochs:
                log.info(f"epoch {state.epoch} is the last: {config.patience} evaluations without a new highest AP")
            with group.together():
                finish(run)
    return state.history


def start_or_resume(config: TrainConfig, group: Group) -> Run:
    """A run at its first step, or where the state that is to be resumed ends."""
    own = config.work_dir / STATE_FILE
    path: Path | None = own
    saved = load_state(own) if group.restarts and own.exists() else None
    if saved is None or saved["job"] != group.job:  # else it is of this run, which torchrun has started again
        path = find_state(config.work_dir, config.resume)
        saved = None if path is None else load_state(path)
    run = Run(config, group, is_resumed=saved is not None)
    if path is not None and saved is not None:
        run.state.restore(path, saved)
    if group.is_first:
        write_json(config.work_dir / CONFIG_FILE, config.absolute().to_dict())
        if path not in (None, own) and run.state.step_of_epoch == 0 and run.state.history:
            save_checkpoints(run.state, LAST_FILE)  # which is in the folder of the other run
        run.state.save()  # so that a run can be resumed whenever it is killed, and a full disk is found now
    return run


def train_epoch(run: Run, batches: Iterator[dict[str, Any]], guard: InterruptGuard) -> None:
    """Train from the current step to the end of its epoch; save the result."""
    config, state, group = run.config, run.state, run.group
    if state.step_of_epoch == 0:
        state.sums, state.seconds = {}, 0.0
    set_training(state.model, config, state.epoch)
    network = group.parallel(state.model)  # anew, because what is frozen may have changed
    title = f"epoch {state.epoch + 1}/{config.epochs}"
    progress = Progress(title, state.steps_per_epoch, state.step_of_epoch, shown=group.is_first)
    saved = time.monotonic()
    numbers: dict[str, float] = {}

    def between_steps() -> None:
        nonlocal saved
        if numbers:
            write(run, lambda: run.log.after_step(numbers["loss"]))
        if time.monotonic() - saved > config.save_seconds:
            save(run)
            saved = time.monotonic()

    of_epoch = itertools.islice(batches, state.steps_per_epoch - state.step_of_epoch)
    with progress:
        for batch in group.each(guard.each(of_epoch), before=between_steps):
            numbers = train_step(run, network, batch)
            for name, value in numbers.items():
                state.sums[name] = state.sums.get(name, 0.0) + value
            progress.step(loss=state.sums["loss"] / state.step_of_epoch)
    state.history.append(epoch_record(state))
    state.step_of_epoch = 0
    with group.together():
        save(run, LAST_FILE)
        write(run, run.log.after_training)


def train_step(run: Run, network: nn.Module, batch: dict[str, Any]) -> dict[str, float]:
    """One step of the optimizer; returns the loss and its terms."""
    config, state, group = run.config, run.state, run.group
    set_learning_rate(state.optimizer, learning_rate(state.position, state.steps_per_epoch, config))
    state.optimizer.zero_grad(set_to_none=True)
    terms = backward(run, network, batch)
    state.scaler.unscale_(state.optimizer)
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_norm or math.inf)

    # All numbers in one copy, for which a GPU is waited for once. Only then may a step change the weights: with one
    # that is not finite they would be lost, and with the next save the last good state.
    *values, norm_value = group.sum(torch.stack([*terms.values(), norm / group.size])).tolist()
    numbers = {"loss": sum(values), **dict(zip(terms, values, strict=True))}
    if not math.isfinite(numbers["loss"]):
        bad = ", ".join(f"{name} {value}" for name, value in numbers.items() if not math.isfinite(value))
        raise FloatingPointError(f"the loss is not finite {run.describe_step(batch)}: {bad}")
    # Under float16 a gradient may exceed its range: the step is then left out, and the next is on a smaller scale.
    if not math.isfinite(norm_value) and state.scaler.get_scale() <= 1.0:
        raise FloatingPointError(f"the gradient is not finite {run.describe_step(batch)}")
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.step += 1
    state.step_of_epoch += 1
    if state.ema is not None:
        state.ema.update(state.model, step=state.step)
    return numbers


def backward(run: Run, network: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
    """Give the parameters the gradient of the loss of the whole batch; returns this process's share of its terms."""
    config, group = run.config, run.group
    images, targets = batch["image"], batch["targets"].to(run.device)
    counts = group.sum(count_targets(targets))
    terms: dict[str, Tensor] = {}
    bounds = sorted({len(images) * part // config.accumulation_steps for part in range(config.accumulation_steps + 1)})
    for first, last in itertools.pairwise(bounds):
        with contextlib.nullcontext() if last == len(images) else run.more_to_come(network):
            run.set_first_sample(batch["first"] + first)
            inputs = images[first:last].to(run.device, non_blocking=True, memory_format=torch.channels_last)
            with torch.autocast(run.device.type, AMP_TYPES.get(config.amp), enabled=config.amp != "off"):
                output = network(inputs)
            losses = run.loss(output, targets[first:last], counts)
            # The gradients become means over the processes; what is wanted is their sum.
            run.state.scaler.scale(torch.stack(list(losses.values())).sum() * group.size).backward()
        terms = {name: value.detach() + terms.get(name, 0.0) for name, value in losses.items()}
    return terms


def evaluate_epoch(run: Run, guard: InterruptGuard) -> None:
    """Add the numbers of the validation images to the last epoch's record; save the result."""
    state, group = run.state, run.group
    log.info(f"epoch {state.epoch}/{run.config.epochs}: evaluating")
    group.share(state.averaged)  # whose batch norms may have seen other images in each process
    with group.together(), guard.at_once():
        try:
            own = predict_records(run.predictor(), run.validation[group.rank :: group.size])
        except (OSError, ValueError) as error:
            raise LoadingError(describe_error(error, "a validation picture")) from error
    results = [result for part in group.gather(own) for result in part]
    position = {record.image_id: number for number, record in enumerate(run.validation)}
    results.sort(key=lambda result: position[result["image_id"]])  # as one process finds them
    with group.together(), guard.at_once():
        metrics = evaluate_keypoints(run.validation, results, sigmas=run.config.model.skeleton.sigmas)
    state.history[-1].update(metrics)
    with group.together():
        save(run, *([BEST_FILE] if metrics["AP"] > state.best else []), LAST_FILE)
        write(run, lambda: run.log.after_evaluation(metrics))


def save(run: Run, *checkpoints: str) -> None:
    """Write the averaged weights under these names, and then the state.

    The state comes last: after a kill in between, a resumed run writes all of them again. Raises FloatingPointError in
    place of writing weights that are not finite."""
    state = run.state

    def files() -> None:
        save_checkpoints(state, *checkpoints)
        if BEST_FILE in checkpoints:
            state.best = state.history[-1]["AP"]
        state.save()

    if run.group.is_first:
        state.check_finite()
        write(run, files)


def write(run: Run, files: Callable[[], None], *, must: bool = False) -> None:
    """Call `files`, which writes files of the run. Where it cannot, `on_save_error` says what happens, and with `must`
    the error is raised."""
    config, state = run.config, run.state
    try:
        if run.lock is not None:
            check_held(config.work_dir, run.lock)
        files()
    except OSError as error:
        run.is_saved = False
        if must or config.on_save_error == "stop":
            raise OSError(error.errno, f"{error.strerror}; {state.last_saved()}", error.filename) from error
        what = f"not saved at step {state.step}, and tried again at the next save"
        log.warning(f"{error.filename}: {error.strerror}; {what}")


def finish(run: Run) -> None:
    """At the end of the run, write what could not be written before. Raises OSError where it still cannot."""
    if run.is_saved:
        return
    state = run.state

    def files() -> None:
        is_best = state.history[-1].get("AP", -1.0) > state.best
        save_checkpoints(state, *([BEST_FILE] if is_best else []), LAST_FILE)
        state.save()
        run.log.start()

    write(run, files, must=True)


@contextlib.contextmanager
def saved_on_failure(run: Run) -> Iterator[None]:
    """Save the state where the block is interrupted between two steps, and add to errors where the last state is."""
    state = run.state
    try:
        with lost_processes():
            yield
    except Interrupted:  # in the middle of a step, which must not be saved
        raise
    except KeyboardInterrupt:
        save(run)
        raise Interrupted(f"interrupted; {state.last_saved()}") from None
    except StoppedElsewhere:
        save(run)
        raise
    except LoadingError as error:
        save(run)
        raise LoadingError(f"{error}; {state.last_saved()}") from error
    except FloatingPointError as error:
        raise FloatingPointError(f"{error}; {state.last_saved()}") from error
    except LostProcess as error:
        raise LostProcess(f"{error}; {state.last_saved()}" if run.group.is_first else str(error)) from error
    except torch.OutOfMemoryError as error:
        needed = "batch_size or size must be smaller for the memory of this GPU"
        raise MemoryError(f"{needed}; {state.last_saved()}") from error
