"""Tries the CUDA kernels on a machine with a GPU, without a network: ``make gpu``.

    python .ci/gpu.py [--minutes 5] [--steps STEP ...] [--results build/gpu]

Needs the packages of the Python that runs it, installs nothing, and skips and names what needs others. Kernels that are
built (dgcn_ext/_C.abi3.so) and load are used; else they are compiled here. The steps go from what tells most to what
takes longest. None is kept from running by one that fails, needs what is missing or runs out of time. After each step
its log and its results, a summary (summary.txt, summary.json) and an archive of all that (build/gpu.tar.gz; in $OUT
where that names a folder) are there, whatever ends the run. A run of named steps adds to results of the same commit.
The exit status is 0 only if every step of the run passed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
TOOLKITS = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda")
ENVIRONMENT = os.environ | {
    "PATH": os.pathsep.join([os.environ["PATH"], *(f"{home}/bin" for home in TOOLKITS if home)]),
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "python"), os.environ.get("PYTHONPATH")])),
    "PYTHONUNBUFFERED": "1",
    "DGCN_REQUIRE_GPU": "1",
    "DGCN_SKIP_MISSING": "1",
}
GPU = (
    "import torch; print(torch.cuda.get_device_name(), 'with torch', torch.__version__, 'and CUDA', torch.version.cuda)"
)
KERNELS_LOAD = "import torch; from dgcn_ext import ops; assert ops.HAS_CUDA"
GRACE_SECONDS = 10.0  # in which a step that must stop writes what it has
ROW = "{:<18} {:<18} {:>6}  {}"


@dataclass
class Step:
    name: str
    command: list[str]
    seconds: float  # at most
    modules: tuple[str, ...] = ("pytest",)  # without which it cannot run, nor without the program
    environment: dict[str, str] = field(default_factory=dict)
    status: str = "not run"
    took: float = 0.0
    last_line: str = ""  # of its log

    @property
    def row(self) -> str:
        return ROW.format(self.name, self.status, f"{self.took:.0f} s", self.last_line)


def build() -> Step:
    command = [PYTHON, "setup.py", "--quiet", "build_ext", "--inplace"]
    # Warnings of another compiler must not stop it.
    return Step("build", command, 300, ("torch", "numpy", "ninja", "pybind11"), {"DGCN_CUDA": "1", "DGCN_WERROR": "0"})


def steps(results: Path) -> list[Step]:
    """What can be run, in this order."""
    # Warnings of other versions' torch or pytest than the project is developed with are not errors here.
    pytest = [PYTHON, "-m", "pytest", "-q", "--tb=short", "-W", "default", "-p", "no:cacheprovider"]
    parallel = ["-n", "8", "--dist", "worksteal"] if find_spec("xdist") else []
    operators = ["tests/test_graph_conv_cuda.py", "tests/test_relu_affinity_cuda.py"]

    def run_tests(name: str, seconds: float, *arguments: str) -> Step:
        return Step(name, [*pytest, f"--junit-xml={results / name}.xml", *arguments], seconds)

    def measure(subject: str, seconds: float) -> Step:
        command = [*pytest, f"benchmarks/{subject}/bench_cuda.py", f"--results={results}"]
        return Step(f"bench-{subject}", command, seconds, ("pytest", "cpuinfo"))

    def sanitize(tool: str) -> Step:
        # initcheck must see torch's kernels as well: they write what ours read.
        ours = [] if tool == "initcheck" else ["--kernel-name", "kns=dgcn"]
        command = ["compute-sanitizer", "--tool", tool, *ours, "--error-exitcode", "99", *pytest, *operators]
        # Every tensor an allocation of its own, or what lies beyond it is only another part of torch's cache.
        environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        return Step(tool, [*command, "-k", "agrees_with_the_cpu"], 120, environment=environment)

    # What the tests on the CPU need of the compiled code beside the kernels.
    build_others = shlex.join([PYTHON, "setup.py", "--quiet", "egg_info", "build_ext", "--inplace"])
    on_cpu = run_tests("tests-cpu", 240, "-m", "not gpu", *parallel, "tests")
    on_cpu.command = ["bash", "-c", f"DGCN_TORCH=0 DGCN_WERROR=0 {build_others}; {shlex.join(on_cpu.command)}"]
    return [
        Step("probe", [PYTHON, "-m", "benchmarks.gpu_probe", f"--json-output={results / 'probe.json'}"], 100),
        measure("graph_conv", 120),
        measure("non_local", 90),
        run_tests("tests-gpu", 150, "-m", "gpu", "-k", "not than_an_int", *parallel, *files_with_gpu_tests()),
        # Beside each other these would not fit into the memory of the GPU.
        run_tests("tests-large", 60, *operators, "-k", "than_an_int"),
        on_cpu,
        *(sanitize(tool) for tool in ("memcheck", "racecheck", "synccheck", "initcheck")),
    ]


def files_with_gpu_tests() -> list[str]:
    """Those with the mark, or with the fixture that brings it; the others take long to collect."""
    files = sorted((ROOT / "tests").glob("test_*.py"))
    return [f"tests/{file.name}" for file in files if re.search(r"mark\.gpu\b|device: torch\.device", file.read_text())]


def run(step: Step, results: Path, deadline: float) -> None:
    """Runs the step until it ends or its time is over, its output in a log of its own."""
    program = shutil.which(step.command[0], path=ENVIRONMENT["PATH"])
    missing = [name for name in step.modules if find_spec(name) is None] + ([] if program else [step.command[0]])
    seconds = min(step.seconds, deadline - monotonic())
    if missing:
        step.status = f"missing {', '.join(missing)}"
    elif seconds < step.seconds / 2:
        step.status = "no time left"
    else:
        start, log = monotonic(), results / f"{step.name}.log"
        try:
            step.status = execute(step, seconds, log)
        except KeyboardInterrupt:
            step.status = "interrupted"
        step.took = round(monotonic() - start, 1)
        lines = log.read_text(errors="replace").rstrip().splitlines()
        step.last_line = lines[-1].strip(" =")
        print("\n".join(["", *lines[-40:]]))
    print(step.row, flush=True)


def execute(step: Step, seconds: float, log: Path) -> str:
    """What became of the command of a step."""
    with log.open("w") as file:
        print(f"$ {shlex.join(step.command)}", file=file, flush=True)
        process = subprocess.Popen(
            step.command,
            cwd=ROOT,
            env=ENVIRONMENT | step.environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return "passed" if process.wait(seconds) == 0 else f"failed ({process.returncode})"
        except subprocess.TimeoutExpired:
            return f"over {seconds:.0f} s"
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the process with all that it started; pytest, interrupted, still reports what it has."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)


def output_of(*command: str) -> str | None:
    """What the command prints; None if it fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def machine(gpu: str) -> dict[str, str | None]:
    """Where the results come from; $DGCN_COMMIT tells the commit of a tree that has lost its git folder."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": os.environ.get("DGCN_COMMIT") or output_of("git", "describe", "--always", "--abbrev=40", "--dirty"),
        "gpu": gpu,
        "driver": output_of("nvidia-smi", "--query-gpu=memory.total,driver_version,clocks.max.sm", "--format=csv"),
        "system": f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores",
        "nvcc": output_of("nvcc", "--version"),
    }


def steps_before(results: Path, commit: str | None) -> list[Step]:
    """Those of earlier runs of the same commit; the results of another one are removed."""
    with suppress(FileNotFoundError):
        summary = json.loads((results / "summary.json").read_text())
        if summary["commit"] == commit:
            return [Step(**step) for step in summary["steps"]]
    shutil.rmtree(results, ignore_errors=True)
    return []


def write_summary(results: Path, origin: dict[str, str | None], done: list[Step]) -> None:
    """Writes the summary and, in place of the last one, the archive."""
    lines = [f"{name}: {' '.join((value or 'unknown').split())}" for name, value in origin.items()]
    (results / "summary.txt").write_text("\n".join([*lines, *(step.row for step in done)]) + "\n")
    (results / "summary.json").write_text(json.dumps(origin | {"steps": [asdict(step) for step in done]}, indent=1))
    out = os.environ.get("OUT", "")
    base = Path(out if os.path.isdir(out) else results.parent, results.name)
    os.replace(shutil.make_archive(f"{base}.new", "gztar", results), f"{base}.tar.gz")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "gpu", help="folder for the results")
    parser.add_argument("--minutes", type=float, default=5.0, help="for all of it")
    names = [step.name for step in steps(Path())]
    parser.add_argument("--steps", nargs="+", choices=names, metavar="STEP", help=f"of {', '.join(names)} (all)")
    arguments = parser.parse_args(argv)
    deadline = monotonic() + 60 * arguments.minutes
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    gpu = output_of(PYTHON, "-c", GPU)
    if gpu is None:
        print(f"no GPU: {PYTHON} has no torch that finds a CUDA device, so nothing was run", file=sys.stderr)
        return 2

    results = arguments.results.resolve()
    origin = machine(gpu)
    chosen = [step for step in steps(results) if step.name in (arguments.steps or names)]
    if output_of(PYTHON, "-c", KERNELS_LOAD) is None:
        chosen.insert(0, build())
    now = {step.name for step in chosen}
    kept = [step for step in steps_before(results, origin["commit"]) if step.name not in now]
    results.mkdir(parents=True, exist_ok=True)
    for step in chosen:
        run(step, results, deadline)
        write_summary(results, origin, kept + chosen)
        if step.status == "interrupted" or (step.name == "build" and output_of(PYTHON, "-c", KERNELS_LOAD) is None):
            break

    print(f"\n{(results / 'summary.txt').read_text()}\nin {results}")
    left = [step.name for step in chosen if step.status in ("not run", "no time left")]
    if left:
        print(f'left over: make gpu STEPS="{" ".join(left)}"')
    return 0 if all(step.status == "passed" for step in chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
