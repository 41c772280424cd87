"""Draws the time of the non-local layer against its size.

    python benchmarks/plot_relu_affinity.py [RESULTS.json [PICTURE.svg]]

From the results of bench_relu_affinity.py (benchmarks/results/relu_affinity_cpu.json) to docs/nonlocal.svg.
"""

import json
import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "relu_affinity_cpu.json"
PICTURE = ROOT / "docs" / "nonlocal.svg"
LINES = {  # the variant: its label, colour and marker
    "attention": ("scaled_dot_product_attention", "tab:gray", "v"),
    "dense": ("dense, a slab at a time", "tab:red", "s"),
    "composed": ("composed of torch operators", "tab:orange", "^"),
    "dgcn": ("relu_affinity", "tab:blue", "o"),
}


def main() -> None:
    given = [Path(argument) for argument in sys.argv[1:]]
    source, picture = given + [RESULTS, PICTURE][len(given) :]
    results = json.loads(source.read_text())
    scaling = [one for one in results["benchmarks"] if one["direction"] == "forward+backward"]
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "dgcn", "font.size": 10})
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for name, (label, color, marker) in LINES.items():
        points = [(one["positions"], one["variants"][name]["median_ms"]) for one in scaling if name in one["variants"]]
        axes.loglog(*zip(*points, strict=True), label=label, color=color, marker=marker)
    sizes = [one["positions"] for one in scaling]
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("positions N")
    axes.set_ylabel("milliseconds, forward + backward")
    axes.set_title(f"128 channels, float32, one thread of an {results['machine']['cpu']}", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(picture, metadata={"Date": None})


if __name__ == "__main__":
    main()
