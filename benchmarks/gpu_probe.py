"""A minute on a GPU: is every kernel right, how near does it come to a copy, and which kernels take how long?

    python -m benchmarks.gpu_probe [--json-output FILE] [--device cpu]

Right: against the operators of the CPU in float64, for every K and dtype that has code of its own, in both layouts and
with all options. An error is told as a part of what is allowed. Fast: the graph convolution against a copy of the bytes
that must move, the non-local layer in copies of g, both replayed from a CUDA graph, and every kernel of a call. Each
part runs in a process of its own, so that an illegal access or an endless loop ends that part alone; each line is
printed, and written to FILE, at once.
With ``--device cpu`` only the first half runs. The exit status is 0 if every result was right and every part came to
its end.
"""

import argparse
import json
import math
import multiprocessing
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle, product
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType

from benchmarks.graph_conv import formulations
from benchmarks.graph_conv.formulations import DIRECTIONS, LARGE_SHAPES, TRAINING_SHAPE, Formulation
from benchmarks.harness import CUDA, Variant, captured, interleave
from benchmarks.non_local import forms
from dgcn_ext import functional

PART_SECONDS = 40.0  # at most without a line; starting CUDA takes some of them
NODES = (1, 14, 16, 17, 19, 21, 24, 25, 64, 133)
MOST_IN_REGISTERS = 24  # nodes
FORMATS = (torch.contiguous_format, torch.channels_last)
OPTIONS: list[dict[str, Any]] = [
    {"seed": 5},
    {"seed": 2**40 + 3, "per_sample": True},
    {"semantics": "mask", "aggregate": "target"},
    {"activation": "none"},
    {"residual": True},
]
# B, C, N: channels that fill no vector, one and several; keys that fit into one block, several and many.
AFFINITY_SHAPES = ((2, 3, 5), (2, 100, 301), (2, 128, 1681), (1, 130, 25_921))
# Largest error, relative to the largest number of the result: rounding to 16 bits costs up to 2⁻⁸ and 2⁻¹¹ of a number.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-3, torch.float16: 5e-4}

Row = dict[str, Any]
Part = Callable[[], Iterator[Row]]


def short(name: torch.dtype | torch.memory_format) -> str:
    return str(name).removeprefix("torch.")


# ---- Right? ----------------------------------------------------------------------------------------------------------


def results(function: Callable[..., Tensor], tensors: dict[str, Tensor], grad_y: Tensor) -> dict[str, Tensor]:
    """y, and the gradient of every tensor that takes one."""
    leaves = {
        name: tensor.detach().requires_grad_(tensor.is_floating_point() and name != "adjacency")
        for name, tensor in tensors.items()
    }
    y = function(**leaves)
    differentiable = [name for name, leaf in leaves.items() if leaf.requires_grad]
    gradients = torch.autograd.grad(y, [leaves[name] for name in differentiable], grad_y)
    return {"y": y.detach()} | dict(zip(differentiable, gradients, strict=True))


def of_allowed(
    function: Callable[..., Tensor], tensors: dict[str, Tensor], grad_y: Tensor, device: str
) -> dict[str, float]:
    """The error of y and of each gradient, divided by the largest that is allowed; NaN where a result has one.

    What is allowed is a part of the largest number. Where a gradient is a single number (K = 1), it is a part of √n at
    least, for the n pixels that it sums: the number may come out small by chance, and its error does not.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills new memory with NaN
    got = results(function, {name: tensor.to(device) for name, tensor in tensors.items()}, grad_y.to(device))
    errors = {}
    for name, wanted in results(function, doubled(tensors), grad_y.double()).items():
        least = (grad_y.numel() / grad_y.shape[1]) ** 0.5 if wanted.numel() == 1 else 1e-3
        error = (got[name].cpu().double() - wanted).abs().max() / wanted.abs().max().clamp(min=least)
        errors[name] = round(error.item() / TOLERANCE[got[name].dtype], 4)
    return errors


def doubled(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def graph_conv_rows(nodes: int, device: str) -> Iterator[Row]:
    torch.manual_seed(nodes)
    # Small, and with so many pixels that a thread has several of them.
    shapes = [(3, nodes, 23, 29), *([(44, nodes, 83, 85)] if device == "cuda" and nodes <= MOST_IN_REGISTERS else [])]
    for (dtype, memory_format, shape), options in zip(
        product(TOLERANCE, FORMATS, shapes), cycle(OPTIONS), strict=False
    ):
        x, residual, grad_y = (torch.randn(shape).to(dtype, memory_format=memory_format) for _ in range(3))
        parameter = partial(torch.randn, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        tensors = {
            "x": x,
            "edge_weight": parameter(nodes, nodes),
            "adjacency": parameter(nodes, nodes).sigmoid(),
            "weight": parameter(nodes, nodes) / nodes**0.5,
            "bias": parameter(nodes),
        }
        flags = dict(options)
        if "seed" in flags:
            tensors["seed"] = torch.tensor(flags.pop("seed"))
        with_residual = {"residual": residual} if flags.pop("residual", False) else {}
        function = partial(functional.graph_conv, **flags)
        # No gradient where rounding decides whether ReLU lets it through.
        grad_y *= partial(function, activation="none")(**doubled(tensors)).abs() > 1e-3
        case = f"{short(dtype)} {list(shape)}, {short(memory_format)}, {options}"
        yield {"case": case, "of allowed": of_allowed(function, tensors | with_residual, grad_y, device)}


def relu_affinity_rows(device: str) -> Iterator[Row]:
    torch.manual_seed(0)
    for shape, dtype, layout in product(AFFINITY_SHAPES, (torch.float32, torch.bfloat16), ("contiguous", "adjacent")):
        a, b = torch.randn(2, shape[0], shape[2])
        g, grad_y = torch.randn(2, *shape).to(dtype)
        if layout == "adjacent":
            g, grad_y = (features.mT.contiguous().mT for features in (g, grad_y))
        errors = of_allowed(functional.relu_affinity, {"a": a, "b": b, "g": g}, grad_y, device)
        yield {"case": f"{short(dtype)} {list(shape)}, channels {layout}", "of allowed": errors}


def sample_adjacency_rows(device: str) -> Iterator[Row]:
    for nodes, seed, batch in product((1, 17, 133), (7, -1), (None, 300)):
        adjacency, seeds = torch.rand(nodes, nodes), torch.tensor([0, seed])
        wanted = functional.sample_adjacency(adjacency, seeds[1], batch)
        got = functional.sample_adjacency(adjacency.to(device), seeds.to(device)[1], batch)
        error = 0.0 if torch.equal(got.cpu(), wanted) else math.inf
        yield {"case": f"K = {nodes}, seed {seed}, batch {batch}", "of allowed": {"draws": error}}


# ---- Fast? -----------------------------------------------------------------------------------------------------------


def medians(calls: dict[str, Callable[..., Any]]) -> dict[str, float]:
    """Microseconds of each call; they take turns."""
    variants = {name: Variant(call, timer=CUDA) for name, call in calls.items()}
    timed = interleave(variants, min_rounds=5, seconds=0.2)["variants"]
    return {f"{name} us": round(1e3 * timed[name]["median_ms"], 1) for name in calls}


def graph_conv_call(
    shape: formulations.Shape, dtype: torch.dtype, memory_format: torch.memory_format, direction: str, **how: bool
) -> Callable[[], Any]:
    inputs = formulations.Inputs.random(shape, direction, device="cuda", dtype=dtype, memory_format=memory_format)
    return Formulation(formulations.dgcn, **how).bind(inputs)


def bandwidth_rows() -> Iterator[Row]:
    for (dtype, shape), memory_format, direction in product(LARGE_SHAPES.items(), FORMATS, DIRECTIONS):
        bytes_moved = formulations.bytes_moved(shape, direction, dtype)
        source = torch.empty(bytes_moved // 2, dtype=torch.uint8, device="cuda").random_()
        copy = partial(torch.empty_like(source).copy_, source)
        dgcn = graph_conv_call(shape, dtype, memory_format, direction, cuda_graph=True)
        times = medians({"dgcn": dgcn, "copy": copy})
        yield {
            "case": f"{direction}, {short(dtype)} {list(shape)}, {short(memory_format)}",
            **times,
            "of a copy": round(times["copy us"] / times["dgcn us"], 2),
            "copy TB/s": round(bytes_moved / times["copy us"] * 1e-6, 2),
        }


def launch_rows() -> Iterator[Row]:
    for direction in DIRECTIONS:
        case = (TRAINING_SHAPE, torch.float32, torch.contiguous_format, direction)
        calls = {"called": graph_conv_call(*case), "replayed": graph_conv_call(*case, cuda_graph=True)}
        yield {"case": f"{direction}, float32 {list(TRAINING_SHAPE)}", **medians(calls)}


def affinity_call(positions: int, dtype: torch.dtype, layout: str, direction: str) -> tuple[Callable[[], Any], Tensor]:
    """The call for eight images, and g."""
    torch.manual_seed(0)
    a, b = torch.randn(2, 8, positions, device="cuda")
    g, h = torch.randn(2, 8, forms.CHANNELS, positions, device="cuda").to(dtype)
    if layout == "adjacent":
        g, h = (features.mT.contiguous().mT for features in (g, h))
    return forms.bind(functional.relu_affinity, [a, b, g], None if direction == "forward" else h), g


def affinity_rows() -> Iterator[Row]:
    cases = [(torch.float32, "contiguous"), (torch.float32, "adjacent"), (torch.bfloat16, "adjacent")]
    for (dtype, layout), direction in product(cases, DIRECTIONS):
        call, g = affinity_call(forms.POSITIONS, dtype, layout, direction)
        times = medians({"dgcn": captured(call), "copy": partial(torch.empty_like(g).copy_, g)})
        yield {
            "case": f"{direction}, {short(dtype)} {list(g.shape)}, channels {layout}",
            **times,
            "copies of g": round(times["dgcn us"] / times["copy us"], 1),
        }


# ---- Which kernels? --------------------------------------------------------------------------------------------------


def kernel_rows() -> Iterator[Row]:
    training = [((torch.float32, TRAINING_SHAPE), torch.contiguous_format)]
    for (dtype, shape), memory_format in [*product(LARGE_SHAPES.items(), FORMATS), *training]:
        call = graph_conv_call(shape, dtype, memory_format, "forward+backward")
        case = f"graph_conv, {short(dtype)} {list(shape)}, {short(memory_format)}"
        yield {"case": case, "us": kernel_times(call)}
    for positions, layout in ((forms.POSITIONS, "contiguous"), (forms.POSITIONS, "adjacent"), (41**2, "adjacent")):
        call, g = affinity_call(positions, torch.float32, layout, "forward+backward")
        yield {"case": f"relu_affinity, float32 {list(g.shape)}, channels {layout}", "us": kernel_times(call)}


def kernel_times(call: Callable[[], Any]) -> dict[str, float]:
    """Microseconds in each kernel, copy and fill of a call, in the order of their first launches."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    events = [event for event in profile.events() if event.device_type == DeviceType.CUDA]
    times: dict[str, float] = {}
    for event in sorted(events, key=lambda event: event.time_range.start):
        name = plain(event.name)
        times[name] = round(times.get(name, 0.0) + event.time_range.elapsed_us(), 1)
    return times


def plain(name: str) -> str:
    """A kernel's name without return type, namespaces and parameters, and with its first template arguments."""
    return re.sub(r"^void |\w+::|\(anonymous namespace\)::|\(.*", "", name)[:70]


# ---- All parts -------------------------------------------------------------------------------------------------------


def parts(device: str) -> dict[str, Part]:
    right: dict[str, Part] = {f"graph_conv, K = {nodes}": partial(graph_conv_rows, nodes, device) for nodes in NODES}
    right |= {
        "relu_affinity": partial(relu_affinity_rows, device),
        "sample_adjacency": partial(sample_adjacency_rows, device),
    }
    fast: dict[str, Part] = {
        "graph_conv against a copy": bandwidth_rows,
        "graph_conv in a step of training": launch_rows,
        "relu_affinity against a copy": affinity_rows,
        "kernels": kernel_rows,
    }
    return right | fast if device == "cuda" else right


def send(part: Part, sender: Connection) -> None:
    for row in part():
        sender.send(row)


def apart(part: Part) -> Iterator[Row]:
    """The rows of a part from a process of its own, and one with an error if that did not come to its end."""
    fork = multiprocessing.get_context("fork")  # all is imported; this process must not start CUDA itself
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=send, args=(part, sender))
    process.start()
    sender.close()
    try:
        while receiver.poll(PART_SECONDS):
            yield receiver.recv()
        process.kill()
        yield {"error": f"no line for {PART_SECONDS:.0f} s"}
    except EOFError:
        process.join()
        if process.exitcode != 0:
            yield {"error": f"ended with exit code {process.exitcode}"}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--json-output", type=Path, metavar="FILE", help="where every line goes as well")
    arguments = parser.parse_args(argv)
    start = monotonic()
    rows: list[Row] = []
    right, wrong = 0, Counter[str]()

    def say(line: str) -> None:
        print(f"[{monotonic() - start:5.1f} s] {line}", flush=True)

    for name, part in parts(arguments.device).items():
        worst = None
        for row in apart(part):
            rows.append({"part": name} | row)
            if arguments.json_output:
                arguments.json_output.write_text(json.dumps(rows, indent=1) + "\n")
            facts = ", ".join(value if key == "case" else f"{key} {value}" for key, value in row.items())
            if "of allowed" not in row and "error" not in row:
                say(f"{name}: {facts}")
            elif "error" not in row and all(error <= 1 for error in row["of allowed"].values()):  # NaN is not
                right += 1
                worst = max(worst or 0.0, *row["of allowed"].values())
            else:
                wrong[name] += 1
                say(f"WRONG {name}: {facts}")
        if worst is not None and name not in wrong:
            say(f"{name}: right, with errors up to {worst:.2f} of what is allowed")
    details = "".join(f"; {name}: {count}" for name, count in wrong.items())
    say(f"{right} results right, {wrong.total()} wrong{details}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
