"""Report on this installation, and test that its parts work.

examples:
  dgcn check

Every line is ok or failed, and says what was found; the exit status is 1 if any failed. Please add the report to an
issue.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import packages_distributions, version

from .common import make_parser

TOLERANCE = 1e-5  # largest difference of float32 results around 1 between a kernel and its reference


def main(argv: Sequence[str] | None = None) -> int:
    make_parser("check", __doc__).parse_args(argv)
    checks: dict[str, Callable[[], str]] = {
        "python": python,
        "packages": packages,
        "opencv": opencv,
        "torch": torch_itself,
        "cpu": cpu,
        "gpu": gpu,
        "operators": operators,
        "graph convolution, CPU": lambda: graph_convolution("cpu"),
        "graph convolution, CUDA": lambda: graph_convolution("cuda"),
        "decoder": decoder,
        "shipped model": shipped_model,
    }
    failures = 0
    for name, check in checks.items():
        try:
            verdict, finding = "ok", check()
        except Exception as error:  # whatever is broken, the report names it and goes on
            verdict, finding = "failed", f"{type(error).__name__}: {error}".partition("\n")[0]
            failures += 1
        print(f"{verdict:<8}{name:<25}{finding}")
    return 1 if failures else 0


def python() -> str:
    return f"{platform.python_version()} on {platform.platform()}"


def packages() -> str:
    names = ("dgcn", "torch", "torchvision", "timm", "numpy", "pycocotools", "safetensors")
    return ", ".join(f"{name} {version(name)}" for name in names)


def opencv() -> str:
    """OpenCV comes as several distributions with one module; two of them overwrite parts of each other."""
    owners = sorted(set(packages_distributions().get("cv2", ())))
    installed = ", ".join(f"{name} {version(name)}" for name in owners)
    if len(owners) > 1:
        raise RuntimeError(
            f"{installed} all install the module cv2, over each other's files: "
            f"`pip uninstall -y {' '.join(owners)}`, then `pip install` one of them"
        )
    import cv2

    return f"{installed or 'not installed by pip'}, cv2 {cv2.__version__}"


def torch_itself() -> str:
    import torch

    return f"{torch.__version__} in {os.path.dirname(torch.__file__)}"


def cpu() -> str:
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()}, {capability}, {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"


def gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"none (torch is built for {f'CUDA {torch.version.cuda}' if torch.version.cuda else 'the CPU'})"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{', '.join(names)} (torch is built for CUDA {torch.version.cuda})"


def operators() -> str:
    from dgcn_ext import ops

    return f"compiled for the CPU{' and CUDA' if ops.HAS_CUDA else '; without CUDA kernels'}"


def graph_convolution(device: str) -> str:
    """The kernel against the reference, forward, on fixed numbers with a random graph."""
    import torch

    from dgcn_ext import functional, ops, reference

    if device == "cuda" and not (ops.HAS_CUDA and torch.cuda.is_available()):
        return "not tried: no GPU" if ops.HAS_CUDA else "not tried: built without CUDA kernels"
    generator = torch.Generator().manual_seed(0)
    x, edge_weight, adjacency, weight = (
        torch.rand(shape, generator=generator).to(device) for shape in ((2, 5, 7, 9), (5, 5), (5, 5), (5, 5))
    )
    arguments = (x, edge_weight, adjacency, weight)
    seed = torch.tensor(1, device=device)
    error = functional.graph_conv(*arguments, seed=seed) - reference.graph_conv(*arguments, seed=seed)
    largest = error.abs().max().item()
    if not largest <= TOLERANCE:
        raise RuntimeError(f"the kernel differs from the reference by {largest:.2g}")
    return f"differs from the reference by {largest:.2g}"


def decoder() -> str:
    """Fields of two joints and the limb between them hold one person, empty fields none."""
    import numpy as np

    from dgcn_ext.decoder import PifPafDecoder

    find = PifPafDecoder(2, [(0, 1)])
    pif, paf = np.zeros((2, 5, 9, 9), np.float32), np.zeros((1, 8, 9, 9), np.float32)
    if len(find(pif, paf, 8)):
        raise RuntimeError("found a person in empty fields")
    pif[0, 1:, 3:6, 1:4] = np.reshape([1.0, 2.0, 4.0, 1.0], (4, 1, 1))  # confidence, x, y, scale
    pif[1, 1:, 3:6, 5:8] = np.reshape([1.0, 6.0, 4.0, 1.0], (4, 1, 1))
    paf[0, 1:, 3:6, 1:8] = np.reshape([1.0, 2.0, 4.0, 6.0, 4.0, 1.0, 1.0], (7, 1, 1))  # ..., x1, y1, x2, y2, scales
    count = len(find(pif, paf, 8))
    if count != 1:
        raise RuntimeError(f"found {count} persons in the fields of one")
    return "finds the person of a made-up field, and none in an empty one"


def shipped_model() -> str:
    from ..data.images import read_image
    from ..model.checkpoint import DEFAULT_CHECKPOINT
    from ..predict.predictor import Predictor
    from .demo import PICTURE

    found = len(Predictor()(read_image(PICTURE, upright=True)))
    if found == 0:
        raise RuntimeError(f"{DEFAULT_CHECKPOINT.name} finds nobody in {PICTURE.name}")
    return f"{DEFAULT_CHECKPOINT.name} finds {found} in {PICTURE.name}"
