"""What a run leaves for people to read: log lines, the history, and the checkpoints with their numbers."""

from __future__ import annotations

import logging

from ..evaluation.oks import METRICS
from ..files import write_json
from ..model.checkpoint import save_model
from .run_folder import HISTORY_FILE
from .state import TrainingState

log = logging.getLogger(__name__)


def report(state: TrainingState, values: dict[str, float]) -> None:
    """A line with numbers of the last epoch that is done."""
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    log.info(f"epoch {state.epoch}/{state.config.epochs}: {numbers}")


def save_results(state: TrainingState, *checkpoints: str) -> None:
    """Write the averaged weights under these names, and the history.

    The state is saved after them: after a kill in between, a resumed run writes all of them again.
    """
    config, record = state.config, state.history[-1]
    metadata = {
        "epoch": record["epoch"],
        "long_edge": config.val_long_edge,
        "metrics": {name: record[name] for name in METRICS if name in record},
        "data": dict(config.data_notes),
        "training": state.settings(),
    }
    for name in checkpoints:
        save_model(config.work_dir / name, state.averaged, metadata)
    write_json(config.work_dir / HISTORY_FILE, state.history)
