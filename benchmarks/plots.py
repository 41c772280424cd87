"""Draws the figures of the documentation from results.

python -m benchmarks.plots                          from benchmarks/results to docs
python -m benchmarks.plots RESULTS_DIR PICTURES_DIR

graph_conv_sizes_cpu.json   graph_conv_cpu.svg      the graph convolution against its size, with the roofline
relu_affinity_cpu.json      nonlocal.svg            the non-local layer against its size
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.machine import ROOT
from benchmarks.report import RESULTS, Result

# By variant: label, colour (Okabe and Ito's, which the colour-blind tell apart), marker, line width.
GRAPH_CONV_LINES = {
    "eager": ("eager, as the paper writes it", "#E69F00", "s", 1.3),
    "compiled baddbmm": ("torch.compile of baddbmm", "#CC79A7", "^", 1.3),
    "baddbmm": ("baddbmm, W·S folded by hand", "#0072B2", "o", 1.3),
    "dgcn": ("dgcn", "#000000", "D", 2.0),
}
NON_LOCAL_LINES = {
    "attention": ("scaled_dot_product_attention", "#999999", "v", 1.3),
    "dense": ("dense, a slab at a time", "#E69F00", "s", 1.3),
    "composed": ("composed of torch operators", "#0072B2", "o", 1.3),
    "dgcn": ("relu_affinity", "#000000", "D", 2.0),
}
TIMES = {1e-3: "1 µs", 1e-2: "10 µs", 1e-1: "100 µs", 1e0: "1 ms", 1e1: "10 ms", 1e2: "100 ms", 1e3: "1 s", 1e4: "10 s"}
POSITIONS = {1e2: "100", 1e3: "1,000", 1e4: "10,000", 1e5: "100,000", 1e6: "1 million"}


def draw_lines(axes: Axes, results: Sequence[Result], lines: Mapping[str, tuple[str, str, str, float]]) -> list[float]:
    """Median times [ms] against the number of positions; returns all of them."""
    every = []
    for name, (label, colour, marker, width) in lines.items():
        measured = [result for result in results if name in result["variants"]]
        medians = [result["variants"][name]["median_ms"] for result in measured]
        if medians:
            positions = [result["positions"] for result in measured]
            axes.loglog(positions, medians, color=colour, marker=marker, markersize=4, linewidth=width, label=label)
        every += medians
    return every


def draw_roofline(axes: Axes, results: Sequence[Result]) -> None:
    positions = [result["positions"] for result in results]
    limits = [[result["variants"][name]["median_ms"] for name in ("FMA peak", "copy")] for result in results]
    roofline = [max(both) for both in limits]
    axes.plot(positions, roofline, color="0.45", linewidth=1, linestyle="--", label="roofline: the FMA peak, or a copy")
    axes.fill_between(positions, roofline, 1e-5, color="0.93", linewidth=0)


def finish(axes: Axes, positions: tuple[float, float], times: tuple[float, float]) -> None:
    axes.set(xlim=positions, ylim=times)
    for axis, (low, high), ticks in ((axes.xaxis, positions, POSITIONS), (axes.yaxis, times, TIMES)):
        shown = {value: label for value, label in ticks.items() if low <= value <= high}
        axis.set_ticks(list(shown), list(shown.values()))
    axes.minorticks_off()
    axes.grid(color="0.85", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.set_xlabel("positions, B·H·W")


def where(run: Mapping[str, Any]) -> str:
    cpu, torch = run["machine"]["cpu"], run["versions"]["torch"].split("+")[0]
    return f"float32, one thread, median times ({cpu}, torch {torch})"


def graph_conv(run: Mapping[str, Any]) -> Figure:
    figure, panels = plt.subplots(1, 2, figsize=(9, 4.2), sharey=True, layout="constrained")
    slowest = 0.0
    for axes, direction in zip(panels, ("forward", "forward+backward"), strict=True):
        results = [result for result in run["benchmarks"] if result["direction"] == direction]
        slowest = max(slowest, *draw_lines(axes, results, GRAPH_CONV_LINES))
        draw_roofline(axes, results)
        axes.set_title(direction.replace("+", " + "))
    for axes in panels:
        finish(axes, (50, 3.4e6), (2e-4, 2 * slowest))
    panels[0].legend(frameon=False, fontsize=9)
    figure.suptitle(f"A graph convolution of 17 nodes, {where(run)}", fontsize=10)
    return figure


def non_local(run: Mapping[str, Any]) -> Figure:
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    results = [result for result in run["benchmarks"] if result["direction"] == "forward+backward"]
    times = draw_lines(axes, results, NON_LOCAL_LINES)
    finish(axes, (1e3, 1.5e6), (min(times) / 2, 2 * max(times)))
    axes.set_xlabel("positions N")
    axes.legend(frameon=False, fontsize=9)
    figure.suptitle(f"The non-local layer, 128 channels, forward + backward,\n{where(run)}", fontsize=10)
    return figure


FIGURES = {
    "graph_conv_cpu.svg": ("graph_conv_sizes_cpu.json", graph_conv),
    "nonlocal.svg": ("relu_affinity_cpu.json", non_local),
}


def main() -> None:
    source, target = map(Path, sys.argv[1:]) if sys.argv[1:] else (RESULTS, ROOT / "docs")
    plt.rcParams.update({"font.size": 10, "axes.titlesize": 11, "svg.hashsalt": "dgcn"})
    for picture, (results, draw) in FIGURES.items():
        draw(json.loads((source / results).read_text())).savefig(target / picture, metadata={"Date": None})


if __name__ == "__main__":
    main()
