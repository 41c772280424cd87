"""Builds, tests, sanitizes and measures the CUDA kernels on a machine with a GPU, without a network: ``make gpu``.

    python .ci/gpu.py [--results build/gpu] [--minutes 9.5]

Needs the packages of the Python that runs it (torch, numpy, ninja, pybind11, setuptools >= 77, pytest, ...) and a CUDA
toolkit; installs nothing, and builds in the source tree. A step that fails, or for which something is missing, does not
keep the others from running. The results folder gets a log of each step, JUnit files of the tests, the JSON of the
benchmarks, and a summary (summary.txt, summary.json). The exit status is 0 only if every step ran and passed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
# Warnings of other versions' torch or pytest than the project is developed with are not errors here.
PYTEST = [PYTHON, "-m", "pytest", "-W", "default", "-p", "no:cacheprovider"]
OPERATOR_TESTS = ["tests/test_graph_conv_cuda.py", "tests/test_relu_affinity_cuda.py"]
TOOLKITS = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda")
SEARCH_PATH = os.pathsep.join([os.environ["PATH"], *(f"{home}/bin" for home in TOOLKITS if home)])
PYTHON_PATH = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "python"), os.environ.get("PYTHONPATH")]))
SUMMARY_LINE = "{:<18} {:<26} {:>6}  {}"


@dataclass
class Step:
    name: str
    command: list[str]
    seconds: float  # at most
    modules: tuple[str, ...] = ()  # without which it cannot run, nor without the program
    environment: dict[str, str] = field(default_factory=dict)
    status: str = "not run"
    took: float = 0.0


def steps(results: Path) -> tuple[Step, list[Step], list[Step], list[Step]]:
    """The build; then two lists that run side by side, for the GPU and for the CPU; and what must run alone, last."""

    def pytest(name: str, seconds: float, *arguments: str) -> Step:
        return Step(name, [*PYTEST, *arguments, f"--junit-xml={results / name}.xml"], seconds, ("pytest",))

    def sanitize(tool: str) -> Step:
        # Every tensor an allocation of its own, or what lies beyond it is only another part of torch's cache.
        environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        sanitizer = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "99", *PYTEST, *OPERATOR_TESTS]
        return Step(tool, [*sanitizer, "-k", "agrees_with_the_cpu"], 120, ("pytest",), environment)

    def measure(subject: str, seconds: float) -> Step:
        command = [*PYTEST, f"benchmarks/{subject}/bench_cuda.py", f"--results={results}"]
        return Step(f"bench-{subject}", command, seconds, ("pytest", "cpuinfo"))

    build = [PYTHON, "setup.py", "--quiet", "egg_info", "build_ext", "--inplace"]  # egg_info: the version of dgcn
    cpp = "cmake -S . -B build/gpu-cpp -DCMAKE_BUILD_TYPE=Release -DDGCN_WERROR=OFF && cmake --build build/gpu-cpp -j 8"
    cpp = f"{cpp} && ctest --test-dir build/gpu-cpp --output-on-failure"
    own_steps = "repeats_are_bit_equal or million_draws"
    parallel = ["-n", "8", "--dist", "loadfile"] if find_spec("xdist") else []
    return (
        # Warnings of another compiler must not stop it.
        Step("build", build, 240, ("torch", "numpy", "ninja", "pybind11"), {"DGCN_CUDA": "1", "DGCN_WERROR": "0"}),
        [
            pytest("tests-gpu", 180, "-m", "gpu", "-k", f"not ({own_steps})"),
            pytest("determinism", 60, *OPERATOR_TESTS, "-k", "repeats_are_bit_equal"),
            pytest("masks", 30, *OPERATOR_TESTS, "-k", "million_draws"),
            *(sanitize(tool) for tool in ("memcheck", "racecheck", "initcheck")),
        ],
        [pytest("tests-cpu", 240, "-m", "not gpu", *parallel), Step("tests-cpp", ["bash", "-c", cpp], 120)],
        [measure("graph_conv", 180), measure("non_local", 120)],
    )


def run(step: Step, results: Path, deadline: float) -> Step:
    """Runs the step until it ends or its time is over, its output in a log of its own."""
    environment = os.environ | {"PATH": SEARCH_PATH, "PYTHONPATH": PYTHON_PATH, "PYTHONUNBUFFERED": "1"}
    environment |= {"DGCN_REQUIRE_GPU": "1"} | step.environment
    program = shutil.which(step.command[0], path=SEARCH_PATH)
    missing = [name for name in step.modules if find_spec(name) is None] + ([] if program else [step.command[0]])
    seconds = min(step.seconds, deadline - monotonic())
    if missing:
        step.status = f"missing {', '.join(missing)}"
    elif seconds < 5:
        step.status = "no time left"
    else:
        start = monotonic()
        with (results / f"{step.name}.log").open("w") as log:
            print(f"$ {shlex.join(step.command)}", file=log, flush=True)
            process = subprocess.Popen(
                step.command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                step.status = "passed" if process.wait(seconds) == 0 else f"failed ({process.returncode})"
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # with all that it started
                process.wait()
                step.status = f"over {seconds:.0f} s"
        step.took = round(monotonic() - start, 1)
    print(SUMMARY_LINE.format(step.name, step.status, f"{step.took:.0f} s", ""), flush=True)
    return step


def output_of(*command: str) -> str:
    """What the command prints, or why it does not."""
    try:
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown ({error})"


def machine() -> dict[str, str]:
    """Where the results come from; $DGCN_COMMIT tells the commit of a tree that has lost its git folder."""
    nvcc = output_of(shutil.which("nvcc", path=SEARCH_PATH) or "nvcc", "--version").splitlines()[-2:]
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": os.environ.get("DGCN_COMMIT") or output_of("git", "describe", "--always", "--abbrev=40", "--dirty"),
        "gpu": output_of("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"),
        "torch": output_of(PYTHON, "-c", "import torch; print(torch.__version__, 'CUDA', torch.version.cuda)"),
        "python": sys.version.split()[0],
        "nvcc": " ".join(nvcc),
        "cpu_cores": str(os.cpu_count()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "gpu", help="folder for the results")
    parser.add_argument("--minutes", type=float, default=9.5, help="for all of it")
    arguments = parser.parse_args()
    deadline = monotonic() + 60 * arguments.minutes
    has_gpu = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    if subprocess.run([PYTHON, "-c", has_gpu], stderr=subprocess.DEVNULL).returncode != 0:
        print(f"no GPU: {PYTHON} has no torch that finds a CUDA device, so nothing was run", file=sys.stderr)
        return 2

    results = arguments.results.resolve()
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    origin = machine()
    build, on_gpu, on_cpu, alone = steps(results)
    if run(build, results, deadline).status == "passed":
        with ThreadPoolExecutor(2) as lanes:
            for _ in lanes.map(lambda lane: [run(step, results, deadline) for step in lane], (on_gpu, on_cpu)):
                pass
        for step in alone:
            run(step, results, deadline)

    done = [build, *on_gpu, *on_cpu, *alone]
    lines = [f"{name}: {value}" for name, value in origin.items()]
    lines += [SUMMARY_LINE.format(s.name, s.status, f"{s.took:.0f} s", shlex.join(s.command)) for s in done]
    (results / "summary.txt").write_text("\n".join(lines) + "\n")
    (results / "summary.json").write_text(json.dumps(origin | {"steps": [asdict(step) for step in done]}, indent=1))
    print(f"\n{(results / 'summary.txt').read_text()}\nin {results}")
    return 0 if all(step.status == "passed" for step in done) else 1


if __name__ == "__main__":
    sys.exit(main())
