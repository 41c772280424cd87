"""The machine that a benchmark runs on: what it is, which of its cores are used, and what one core does at most."""

import ctypes
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.harness import Variant, warm_up

ROOT = Path(__file__).resolve().parent.parent

_SIMD_FLAGS = ("avx", "fma", "f16c", "amx", "asimd", "sve")  # prefixes
_MULTIPLY_ADD_FLOPS = 2**24  # in one call: 0.15 ms at 100 Gflop/s
_COPY_BYTES = 2**20  # in one call, at least


# ---- What it is ------------------------------------------------------------------------------------------------------


def origin(command: Sequence[str]) -> dict[str, Any]:
    """Where the numbers come from that ``command`` measures from now on."""
    return {
        "command": shlex.join(command),
        "datetime": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": {
            "cpu": _cpu().get("brand_raw", platform.processor()),
            "instruction_sets": sorted({flag.replace("_", "") for flag in _flags() if flag.startswith(_SIMD_FLAGS)}),
            "cores": os.cpu_count(),
            "usable_cores": len(usable_cores()),
            "gpu": _gpu(),
            "system": f"{platform.system()} {platform.machine()}",
            "load_average_before": round(os.getloadavg()[0], 2),  # processes at work in the last minute
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{name: number for name in ("dgcn", "numpy", "onnxruntime") if (number := _version(name))},
            **({"cuda": torch.version.cuda} if torch.cuda.is_available() else {}),
        },
    }


def describe(origin: Mapping[str, Any]) -> str:
    """``origin()`` in one line."""
    machine, commit = origin["machine"], origin["commit"]
    facts = [machine["gpu"]["name"]] if machine["gpu"] else []
    facts += [f"{machine['cpu']}, {machine['usable_cores']} core(s)", f"load {machine['load_average_before']} before"]
    facts += [f"{name} {number}" for name, number in origin["versions"].items()]
    if commit:
        facts.append(f"commit {commit['id'][:10]}{' and changes' if commit['dirty'] else ''}")
    return ", ".join(facts)


@cache
def _cpu() -> dict[str, Any]:
    import cpuinfo  # type: ignore[import-untyped]  # the probe of a GPU runs without it

    return cpuinfo.get_cpu_info()


def _flags() -> frozenset[str]:
    return frozenset(_cpu().get("flags", ()))


def _gpu() -> dict[str, Any] | None:
    if not torch.cuda.is_available():
        return None
    gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "name": gpu.name,
        "compute_capability": f"{gpu.major}.{gpu.minor}",
        "multiprocessors": gpu.multi_processor_count,
        "memory_bytes": gpu.total_memory,
        "l2_bytes": gpu.L2_cache_size,
    }


def _version(package: str) -> str | None:
    """None where it is not installed, as dgcn in a checkout to which the compiled modules were copied."""
    with suppress(PackageNotFoundError):
        return version(package)
    return None


def _commit() -> dict[str, Any]:
    """The commit of the checkout, and whether files have changed since; {} where there is no git checkout."""
    try:
        changes = _git("status", "--porcelain", "--", ".", ":!benchmarks/results", ":!docs/*.svg")  # what runs leave
        return {"id": _git("rev-parse", "HEAD"), "dirty": changes != ""}
    except (OSError, subprocess.CalledProcessError):
        return {}


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def why_not_compiled(device: str) -> str | None:
    """Why ``torch.compile`` cannot work for this machine's "cpu" or "cuda"; None if it can."""
    if device == "cuda":
        return None if find_spec("triton") else "torch.compile needs Triton for CUDA, and it is not installed"
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # as Inductor chooses
    return None if shutil.which(compiler) else f"torch.compile needs a C++ compiler, and there is no {compiler}"


# ---- Its cores -------------------------------------------------------------------------------------------------------


def usable_cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


@contextmanager
def cores(count: int) -> Iterator[None]:
    """This process runs on ``count`` cores, and torch on as many threads. On Linux the cores are always the same.

    Skips the test where there are fewer.
    """
    usable = usable_cores()
    if count > len(usable):
        pytest.skip(f"needs {count} cores, this process may use {len(usable)}")
    threads = torch.get_num_threads()
    _pin(usable[-count:])  # the first one often serves the interrupts
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _pin(usable)


def _pin(to: list[int]) -> None:
    """Pins every thread of this process: those of a pool that torch has started do not follow the main thread."""
    if sys.platform == "linux":
        for thread in os.listdir("/proc/self/task"):
            with suppress(ProcessLookupError):  # the thread has ended since
                os.sched_setaffinity(int(thread), to)


# ---- What one core does at most --------------------------------------------------------------------------------------


def multiply_add(flops: float) -> Variant:
    """``flops`` floating-point operations, done as float32 multiply-adds as fast as one core can."""
    library = _machine_peak()
    done = library.multiply_add(_MULTIPLY_ADD_FLOPS)
    return Variant(partial(library.multiply_add, _MULTIPLY_ADD_FLOPS), done / flops, flops, "flop")


def copy(bytes_moved: int) -> Variant:
    """One core reads half of ``bytes_moved`` and writes the other half, past the caches where that is faster."""
    size = max(64, bytes_moved // 2 // 64 * 64)
    source, target = (torch.full((size,), fill, dtype=torch.uint8) for fill in (1, 2))
    times = max(1, _COPY_BYTES // size)

    def call(function: Callable[..., None]) -> None:
        function(target.data_ptr(), source.data_ptr(), size, times)

    library = _machine_peak()
    faster = min((library.copy, library.stream), key=lambda function: warm_up(partial(call, function)))
    return Variant(partial(call, faster), times * 2 * size / bytes_moved, bytes_moved, "B")


@cache
def _machine_peak() -> ctypes.CDLL:
    """machine_peak.cpp for the best instruction set that this machine has."""
    flags = _flags()
    isa = "avx512" if {"avx512f", "fma"} <= flags else "avx2" if {"avx2", "fma"} <= flags else "portable"
    path = ROOT / "build" / "cpp" / f"libmachine_peak_{isa}.so"
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path.relative_to(ROOT)}: `make machine-peak` builds it")
    library = ctypes.CDLL(str(path))
    library.multiply_add.argtypes, library.multiply_add.restype = [ctypes.c_int64], ctypes.c_int64
    for function in (library.copy, library.stream):
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64]
        function.restype = None
    return library
