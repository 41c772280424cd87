"""Does a training that is killed again and again end with the weights of one that is not?

    python -m benchmarks.experiments.kills COCO320 WORK [--kills 50]      ten minutes; writes results/kills.json

COCO320 is a folder with images/{train,val} and annotations/person_keypoints_{train,val}.json, WORK where the runs go.
A small network is trained twice over: once undisturbed, and then again and again with SIGKILL to all processes of the
run, every second time while a file is being written, else at a random time. After each kill every file in the folder
must load. A run that has come to its end must have the bits of the undisturbed one in its training state.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine, report
from dgcn.files import TEMPORARY_FILES, write_json
from dgcn.model.checkpoint import load_model, load_training_state
from dgcn.model.config import ModelConfig
from dgcn.training.config import TrainConfig
from dgcn.training.history import TIMES, read_history
from dgcn.training.run_folder import HISTORY_FILE, STATE_FILE

LONGEST_LIFE = 6.0  # seconds after the first step


def configuration(data: Path, folder: Path) -> TrainConfig:
    files: dict[str, Any] = {
        f"{split}_{kind}": data / kind / name
        for split in ("train", "val")
        for kind, name in (("images", split), ("annotations", f"person_keypoints_{split}.json"))
    }
    return TrainConfig(
        **files,
        work_dir=folder,
        model=ModelConfig(backbone="mobilenetv1_075", lift_channels=16),
        size=65,
        epochs=3,
        optimizer="adamw",
        freeze_epochs=0,
        eval_every=2,
        save_seconds=0.5,
    )


def start(config: TrainConfig) -> subprocess.Popen[bytes]:
    path = config.work_dir.with_suffix(".json")
    write_json(path, config.to_dict())
    command = [sys.executable, "-m", "dgcn", "train", "--config", str(path), "--resume", "auto"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment, start_new_session=True
    )


def is_writing(folder: Path) -> bool:
    return any(folder.glob(TEMPORARY_FILES))


def kill(process: subprocess.Popen[bytes], config: TrainConfig, *, in_save: bool) -> bool | None:
    """Kill the run; whether a file was being written, or None where it had come to its end before."""
    folder, state = config.work_dir, config.work_dir / STATE_FILE
    before = state.stat().st_mtime_ns if state.exists() else 0
    while process.poll() is None and (state.stat().st_mtime_ns if state.exists() else 0) == before:
        time.sleep(0.01)  # until it has gone on from where it was
    end = time.monotonic() + random.uniform(0, LONGEST_LIFE)
    while process.poll() is None and (time.monotonic() < end or (in_save and not is_writing(folder))):
        time.sleep(0.0005)
    if process.poll() is not None:
        return None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return is_writing(folder)


def check_files(folder: Path) -> int:
    """How many files there are that a reader could load; raises where one cannot be loaded."""
    checkpoints = list(folder.glob("*.safetensors"))
    for path in checkpoints:
        load_model(path)
    load_training_state(folder / STATE_FILE)
    has_history = (folder / HISTORY_FILE).exists()
    if has_history:
        read_history(folder)
    return len(checkpoints) + 1 + has_history


def equal(a: Any, b: Any) -> bool:
    """Whether two training states agree to the last bit, but for the times in the history."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(key in TIMES or equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "work"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--kills", type=int, default=50)
    args = parser.parse_args()

    origin = machine.origin(["python", "-m", __spec__.name, *(Path(argument).name for argument in sys.argv[1:])])
    random.seed(0)
    undisturbed = configuration(args.data, args.work / "undisturbed")
    assert start(undisturbed).wait() == 0
    wanted = load_training_state(undisturbed.work_dir / STATE_FILE)
    kills = in_save = loaded = runs = 0
    while kills < args.kills:
        config = configuration(args.data, args.work / f"killed{runs}")
        while True:
            was_writing = kill(process := start(config), config, in_save=kills % 2 == 0)
            if was_writing is None:
                break
            kills, in_save = kills + 1, in_save + was_writing
            loaded += check_files(config.work_dir)
            print(f"{kills} kills, {in_save} of them while a file was written", flush=True)
            if kills >= args.kills:
                process = start(config)
                break
        assert process.wait() == 0, f"the run in {config.work_dir} has failed"
        assert equal(load_training_state(config.work_dir / STATE_FILE), wanted), f"{config.work_dir} ended otherwise"
        runs += 1
    row = {"kills": kills, "while_writing": in_save, "files_loaded": loaded, "runs": runs, "runs_with_other_bits": 0}
    report.save(report.RESULTS / "kills.json", origin, benchmarks=[{"group": "SIGKILL", "claims": [], **row}])


if __name__ == "__main__":
    main()
