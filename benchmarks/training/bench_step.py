"""How many images a second does training take, alone and with the loader, and which part of a step takes how long?

Two models with batches of 8, on the GPU where there is one, else on the CPU: the one that ships with dgcn (recipe
`movenet-small`) and the paper's, on ResNet-50, on a CPU only at 321 px: at 641 px a step takes more than 24 GB. The
step is that of training in float32, from batches in memory; its parts are timed one after another, so on a GPU they do
not overlap as in training. "Loader" is one process; "together" it loads ahead while the step computes.
"""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import pytest
import torch
from timm.utils import ModelEmaV3

from benchmarks.harness import Record
from benchmarks.training.loading import BATCH, images_per_second, training_data, training_set
from dgcn.data.loader import PREFETCH, blocks, open_batches
from dgcn.model.network import build_from_config
from dgcn.training import recipes
from dgcn.training.config import TrainConfig
from dgcn.training.losses import PifPafLoss
from dgcn.training.optim import build_optimizer, set_training

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIZES = (321, 641)  # px
SMOKE_SIZE = 65
Lap = Callable[[str], None]


class Trainer:
    """A step of training, part by part."""

    def __init__(self, config: TrainConfig) -> None:
        torch.manual_seed(0)
        self.config = config
        self.model = build_from_config(config.model).to(DEVICE, memory_format=torch.channels_last)
        set_training(self.model, config, config.freeze_epochs)
        self.ema = ModelEmaV3(self.model, decay=config.ema, use_warmup=True)
        self.loss = PifPafLoss(config.loss)
        self.optimizer = build_optimizer(self.model, config)
        self.steps = 0

    def step(self, batch: dict[str, Any], lap: Lap = lambda part: None) -> float:
        """The loss. `lap` is called after each part."""
        images = batch["image"].to(DEVICE, non_blocking=True, memory_format=torch.channels_last)
        targets = batch["targets"].to(DEVICE)
        lap("to device")
        output = self.model(images)
        lap("forward")
        loss = torch.stack(list(self.loss(output, targets).values())).sum()
        lap("loss")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        lap("backward")
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        lap("clip")
        self.optimizer.step()
        lap("optimizer")
        self.steps += 1
        self.ema.update(self.model, step=self.steps)
        lap("EMA")
        return loss.item()


class Laps:
    """Seconds of each part, measured when the device has done it."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.start()

    def start(self) -> None:
        self.last = self.now()

    def __call__(self, part: str) -> None:
        now = self.now()
        self.seconds.setdefault(part, []).append(now - self.last)
        self.last = now

    @staticmethod
    def now() -> float:
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        return perf_counter()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("recipe", ["movenet-small", "paper"])
def test_training_step(record: Record, smoke: bool, tmp_path: Path, recipe: str, size: int) -> None:
    if recipe == "paper" and size == 641 and DEVICE.type == "cpu":
        pytest.skip("takes more than 24 GB")
    size = SMOKE_SIZE if smoke else size
    steps = 1 if smoke else 20 if DEVICE.type == "cuda" else 5
    images, annotations = training_set(tmp_path)
    paths = {
        "train_images": images,
        "train_annotations": annotations,
        "val_images": images,
        "val_annotations": annotations,
        "work_dir": tmp_path / "run",
    }
    trainer = Trainer(recipes.RECIPES[recipe](**paths, size=size, pretrained=False))
    dataset = training_data(images, annotations, size)
    batch = dataset.collate([dataset[i] for i in range(BATCH)])
    trainer.step(batch)  # warms up

    laps = Laps()
    for _ in range(steps):
        laps.start()
        trainer.step(batch, laps)
    start = perf_counter()
    for _ in range(steps):
        trainer.step(batch)
    alone = steps * BATCH / (perf_counter() - start)

    loader = images_per_second(dataset, 1, 2 if smoke else 40)
    ahead = blocks(len(dataset), BATCH, epochs=steps + 2, seed=0)
    with open_batches(dataset, ahead, workers=1, prefetch=PREFETCH, pin_memory=DEVICE.type == "cuda") as loaded:
        for _ in range(2):  # the first step copies the memory that it shares with the new process
            trainer.step(next(loaded))
        start = perf_counter()
        for of_loader in islice(loaded, steps):
            trainer.step(of_loader)
        together = steps * BATCH / (perf_counter() - start)

    claim = {"claim": "loader (1 worker) ÷ step, images/s", "target": "≥ 1.50", "measured": round(loader / alone, 2)}
    parts = {part: median(seconds) * 1e3 for part, seconds in laps.seconds.items()}
    shares = ", ".join(f"{part} {ms / sum(parts.values()):.1%}" for part, ms in parts.items())
    record(
        f"training, batches of {BATCH}, images/s on {DEVICE.type}",
        case=f"{recipe}, {size} px",
        direction="train",
        recipe=recipe,
        size=size,
        device=DEVICE.type,
        loader=round(loader, 1),
        step=round(alone, 2),
        together=round(together, 2),
        parts_ms={part: round(ms, 4) for part, ms in parts.items()},
        outcome=f"loader {loader:.1f}, step {alone:.2f}, together {together:.2f}; {shares}",
        claims=[claim | {"met": claim["measured"] >= 1.5}],
    )
