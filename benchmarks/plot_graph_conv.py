"""Draws the time of the graph convolution against its size, with the roofline.

    python benchmarks/plot_graph_conv.py [RESULTS.json [PICTURE.svg]]

From the results of bench_graph_conv_sizes.py (benchmarks/results/graph_conv_sizes_cpu.json) to docs/graph_conv_cpu.svg.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "graph_conv_sizes_cpu.json"
PICTURE = ROOT / "docs" / "graph_conv_cpu.svg"

# Name: label, colour (Okabe and Ito's, told apart by the colour-blind too), marker, line width.
LINES = {
    "eager": ("eager, as the paper writes it", "#E69F00", "s", 1.3),
    "compiled baddbmm": ("torch.compile of baddbmm", "#CC79A7", "^", 1.3),
    "baddbmm": ("baddbmm, W·S folded by hand", "#0072B2", "o", 1.3),
    "dgcn": ("dgcn", "#000000", "D", 2.0),
}
TIMES = {1e-3: "1 µs", 1e-2: "10 µs", 1e-1: "100 µs", 1e0: "1 ms", 1e1: "10 ms", 1e2: "100 ms", 1e3: "1 s"}  # by ms
POSITIONS = {1e2: "100", 1e3: "1,000", 1e4: "10,000", 1e5: "100,000", 1e6: "1 million"}


def draw(axes: Axes, results: Sequence[Mapping[str, Any]]) -> None:
    positions = [result["positions"] for result in results]
    for name, (label, colour, marker, width) in LINES.items():
        medians = [result["variants"].get(name, {}).get("median_ms") for result in results]
        if None not in medians:
            axes.plot(positions, medians, color=colour, marker=marker, markersize=4, linewidth=width, label=label)
    limits = [{name: result["variants"][name]["median_ms"] for name in ("FMA peak", "copy")} for result in results]
    roofline = [max(limit.values()) for limit in limits]
    axes.plot(positions, roofline, color="0.45", linewidth=1, linestyle="--", label="roofline: the FMA peak, or a copy")
    axes.fill_between(positions, roofline, 1e-5, color="0.93", linewidth=0)
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(50, 3.4e6),
        ylim=(2e-4, 2e3),
        title=results[0]["direction"].replace("+", " + "),
    )
    axes.set_xticks(list(POSITIONS), list(POSITIONS.values()))
    axes.set_yticks(list(TIMES), list(TIMES.values()))
    axes.minorticks_off()
    axes.grid(color="0.85", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def main() -> None:
    given = [Path(argument) for argument in sys.argv[1:]]
    source, picture = given + [RESULTS, PICTURE][len(given) :]
    run = json.loads(source.read_text())
    plt.rcParams.update({"font.size": 10, "axes.titlesize": 11, "svg.hashsalt": "dgcn"})
    figure, panels = plt.subplots(1, 2, figsize=(9, 4.2), sharey=True, layout="constrained")
    for axes, direction in zip(panels, ("forward", "forward+backward"), strict=True):
        draw(axes, [result for result in run["benchmarks"] if result["direction"] == direction])
    slowest = max(variant["median_ms"] for result in run["benchmarks"] for variant in result["variants"].values())
    panels[0].set_ylim(2e-4, 2 * slowest)  # and so the other: they share the axis
    panels[0].legend(frameon=False, fontsize=9)
    figure.supxlabel("positions, B·H·W", fontsize=10)
    figure.suptitle(
        f"A graph convolution of 17 nodes on one thread, float32, median times ({run['machine']['cpu']}, "
        f"torch {run['versions']['torch'].split('+')[0]})",
        fontsize=10,
    )
    picture.parent.mkdir(exist_ok=True)
    figure.savefig(picture, metadata={"Date": None} if picture.suffix == ".svg" else None, dpi=150)


if __name__ == "__main__":
    main()
