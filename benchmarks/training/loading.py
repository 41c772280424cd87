"""What the benchmarks of training load, and how fast it comes.

Pictures are the real ones of coco512, which are 512 px long, else painted ones of about that size.
"""

import sys
from itertools import islice
from pathlib import Path
from time import perf_counter

from benchmarks.decoder.scenes import data_dir
from benchmarks.machine import ROOT
from dgcn.codec import PifPafCodec
from dgcn.data.dataset import KeypointDataset
from dgcn.data.loader import PREFETCH, blocks, open_batches
from dgcn.data.transforms import TrainTransform
from dgcn.skeleton import COCO

sys.path.append(str(ROOT / "tests"))

from stick_figures import write_set

BATCH = 8
STRIDE = 8  # px
PAINTED = 32  # pictures


def training_set(folder: Path, name: str = "coco512") -> tuple[Path, Path]:
    """The training pictures of `name` and their annotations, else painted ones in `folder`."""
    real = data_dir() / name
    if real.is_dir():
        return real / "images" / "train", real / "annotations" / "person_keypoints_train.json"
    write_set(folder, PAINTED, side=448, suffix=".jpg")
    return folder, folder / "people.json"


def training_data(images: Path, annotations: Path, size: int) -> KeypointDataset:
    """Samples of `size` px with the default augmentation and targets of a model with one head, on F16."""
    transform = TrainTransform(size=size, skeleton=COCO)
    return KeypointDataset(images, annotations, COCO, transform, PifPafCodec(COCO, STRIDE), node_strides=(16,))


def images_per_second(dataset: KeypointDataset, workers: int, batches: int) -> float:
    """How many images a loader with so many processes brings, measured over so many batches.

    Processes have filled their queue before, and nothing is done with the batches.
    """
    endless = blocks(len(dataset), BATCH, epochs=1_000_000, seed=0)
    with open_batches(dataset, endless, workers=workers, prefetch=PREFETCH, pin_memory=False) as loaded:
        for _ in range(PREFETCH * workers + 1):
            next(loaded)
        start = perf_counter()
        for _ in islice(loaded, batches):
            pass
        return batches * BATCH / (perf_counter() - start)
