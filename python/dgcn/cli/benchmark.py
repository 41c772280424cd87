"""Measure how long each stage from a file to persons takes on this machine, and how many pictures a second come out.

examples:
  dgcn benchmark                                               the shipped model on the picture of dgcn demo
  dgcn benchmark --source photos --checkpoint model.onnx runs/a/best.safetensors --threads 1 0 --json-output speed.json

Every stage alone, of one picture after the other (of a batch its share): read opens and decodes the file, scale brings
the picture to the network's size, network includes the way to the device and back, decode goes from the network's heads
to persons, draw draws and encodes the overlay. "pictures/s" is what they bring when they work at the same time, as in
dgcn predict; beside it what the network alone would. Memory is the largest that the process has taken so far.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shlex
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .common import (
    add_device_argument,
    allow_large_pictures,
    check_outputs,
    choose_device,
    input_size,
    make_parser,
    positive,
    warn,
    write_overlay,
)
from .demo import PICTURE
from .sources import list_sources

if TYPE_CHECKING:
    from ..predict.predictor import Predictor

TURN = 50
"""Pictures that are measured stage by stage, and then all stages at the same time, before the next ones are."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("benchmark", __doc__)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        nargs="+",
        default=[None],
        metavar="FILE",
        help="models, .safetensors or .onnx files, to measure one after the other (default: the one shipped with dgcn)",
    )
    parser.add_argument(
        "--source", nargs="+", default=[str(PICTURE)], metavar="PATH", help="pictures, folders or patterns"
    )
    parser.add_argument("--images", type=positive, default=30, metavar="N", help="how many to measure (default: 30)")
    parser.add_argument("--long-edge", type=input_size, metavar="N", help="as of dgcn predict")
    parser.add_argument("--batch-size", type=positive, nargs="+", default=[1], metavar="N", help="(default: 1)")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[0], metavar="N", help="of the network; 0: all cores (default: 0)"
    )
    parser.add_argument("--json-output", type=Path, metavar="FILE", help="also write everything as JSON")
    add_device_argument(parser)
    args = parser.parse_args(argv)
    if wrong := [threads for threads in args.threads if threads < 0]:
        raise ValueError(f"--threads must be at least 0, got {wrong[0]}")

    from ..files import write_json

    allow_large_pictures()
    sources = list_sources(args.source, warn=partial(warn, "benchmark"))
    if others := [source.path for source in sources if source.is_stdin or source.is_video]:
        raise ValueError(f"--source must name pictures, got {others[0]}")
    pictures = [source.path for source in sources]
    check_outputs([args.json_output], [*pictures, *args.checkpoint])
    document: dict[str, Any] = {
        "command": shlex.join(["dgcn", "benchmark", *(sys.argv[1:] if argv is None else argv)]),
        "datetime": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "runs": [],
    }
    print(", ".join(f"{name} {value}" for name, value in (document["machine"] | document["versions"]).items()))
    for checkpoint in args.checkpoint:
        for threads in args.threads:
            for batch_size in args.batch_size:
                predictor = load(args, checkpoint, threads, batch_size)
                run = {
                    "checkpoint": checkpoint.name if checkpoint else "shipped",
                    "hardware": predictor.hardware,
                    "long_edge": predictor.long_edge,
                    "batch_size": batch_size,
                    **measure(predictor, pictures, args.images),
                }
                show(run)
                document["runs"].append(run)
                if args.json_output:
                    write_json(args.json_output, document)
    return 0


def load(args: argparse.Namespace, checkpoint: Path | None, threads: int, batch_size: int) -> Predictor:
    from ..predict.network import load_network
    from ..predict.predictor import Predictor

    device = choose_device(args.device, checkpoint)
    network = load_network(checkpoint, device, threads=threads or usable_cores())
    return Predictor(network, device=device, long_edge=args.long_edge, batch_size=batch_size)


def measure(predictor: Predictor, pictures: Sequence[Path], count: int) -> dict[str, Any]:
    """Time `count` pictures, at least two batches, from `pictures` again and again.

    Returns:
        "stages": the "median_ms" and "p95_ms" of each, for a picture; "decoder": the median milliseconds of each stage
        of the decoder; "pictures_per_second": of "all" at the same time, and of the "network" alone; "memory_mib".
    """
    from ..data.images import read_image

    size = predictor.batch_size
    chosen = list(islice(cycle(pictures), max(count, 2 * size)))
    turn = size * max(2, TURN // size)
    rows: list[dict[str, float]] = []
    decoding: list[dict[str, float]] = []
    seconds = 0.0
    with tempfile.TemporaryDirectory() as folder:
        overlay = Path(folder, "overlay.jpg")

        def draw(image: np.ndarray, poses: Any) -> float:
            start = time.perf_counter()
            write_overlay(overlay, image, poses, predictor.skeleton)
            return 1000 * (time.perf_counter() - start)

        def one_by_one(part: Sequence[Path]) -> None:
            predictor.decode(predictor.fields(part[:size]))  # the first pass also allocates and picks algorithms
            for begin in range(0, len(part) - size + 1, size):
                batch = part[begin : begin + size]
                fields = predictor.fields(batch)
                for path, one, poses in zip(batch, fields, predictor.decode(fields), strict=True):
                    rows.append({**asdict(poses.timings), "draw_ms": draw(read_image(path, upright=True), poses)})
                    decoding.append(predictor.decoder.stage_times(one.pif, one.paf, predictor.stride))

        def at_the_same_time(part: Sequence[Path]) -> float:
            images: deque[np.ndarray] = deque()  # on their way through the network

            def read() -> Iterator[np.ndarray]:
                for path in part:
                    images.append(read_image(path, upright=True))
                    yield images[-1]

            start = time.perf_counter()
            for poses in predictor.batch(read()):
                draw(images.popleft(), poses)
            return time.perf_counter() - start

        for begin in range(0, len(chosen), turn):  # in turns, as machines are faster at one time than at another
            part = chosen[begin : begin + turn]
            # In a thread of its own. OpenMP's threads for it end with it; beside those of the pipeline they would slow
            # that down (see _one_thread in torch_network.py).
            with ThreadPoolExecutor(1) as stages:
                stages.submit(one_by_one, part).result()
            seconds += at_the_same_time(part)
    times = {name.removesuffix("_ms"): [row[name] for row in rows] for name in rows[0]}
    return {
        "stages": {
            name: {"median_ms": float(np.median(values)), "p95_ms": float(np.percentile(values, 95))}
            for name, values in times.items()
        },
        "decoder": {name: 1000 * float(np.median([each[name] for each in decoding])) for name in decoding[0]},
        "pictures_per_second": {"all": len(chosen) / seconds, "network": 1000 / float(np.mean(times["network"]))},
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        / (2**20 if sys.platform == "darwin" else 2**10),
    }


def show(run: dict[str, Any]) -> None:
    print(f"\n{run['checkpoint']} at {run['long_edge']} px, batch size {run['batch_size']}, on {run['hardware']}")
    print(f"{'':<10}{'median':>10}{'95 %':>10}   ms a picture")
    for name, times in run["stages"].items():
        print(f"{name:<10}{times['median_ms']:>10.2f}{times['p95_ms']:>10.2f}")
    print("decoder: " + ", ".join(f"{name} {value:.2f}" for name, value in run["decoder"].items()) + " ms")
    speed = run["pictures_per_second"]
    share = speed["all"] / speed["network"]
    beside = f"{share:.2f} of the network's {speed['network']:.1f}"
    print(f"{speed['all']:.1f} pictures/s, {beside}; {run['memory_mib']:.0f} MiB")


def machine() -> dict[str, str]:
    return {"CPU": processor(), "cores": str(usable_cores()), "system": platform.platform()}


def processor() -> str:
    """Its name; of an unknown one the architecture."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError

    found = {"python": platform.python_version()}
    for name in ("dgcn", "torch", "onnxruntime", "numpy", "opencv-python-headless"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # not needed by every model
            continue
    return found


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
