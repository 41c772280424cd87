"""Draws docs/nonlocal.svg, time against size, from results/relu_affinity_cpu.json."""

import json
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt

HERE = Path(__file__).resolve().parent
RESULTS, PLOT = HERE / "results" / "relu_affinity_cpu.json", HERE.parent / "docs" / "nonlocal.svg"
LINES = {  # the variant: its label, colour and marker
    "attention": ("scaled_dot_product_attention", "tab:gray", "v"),
    "dense": ("dense, a slab at a time", "tab:red", "s"),
    "composed": ("composed of torch operators", "tab:orange", "^"),
    "dgcn": ("relu_affinity", "tab:blue", "o"),
}


def main() -> None:
    results = json.loads(RESULTS.read_text())
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
    figure.savefig(PLOT, metadata={"Date": None})


if __name__ == "__main__":
    main()
