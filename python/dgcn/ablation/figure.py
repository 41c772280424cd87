"""The figure of an ablation: AP of every seed beside the paper's. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..figures import STYLE, Figure, rc_context


@rc_context(STYLE)
def draw_results(document: Mapping[str, Any]) -> Figure:
    """`Results.document()`: a line for each row, with its seeds, their mean and its interval, and the paper's AP."""
    rows, settings = document["rows"], document["settings"]
    figure = Figure(figsize=(8.5, 1.4 + 0.35 * len(rows)), layout="constrained")
    here, paper = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    for place, row in enumerate(rows):
        here.plot(row["interval"], [place, place], color="0.8", linewidth=6, solid_capstyle="butt")
        here.plot(list(row["AP"].values()), [place] * len(row["AP"]), "o", color="#0072B2", markersize=4)
        here.plot(row["mean"], place, "|", color="black", markersize=14)
        paper.plot(row["paper_AP"], place, "D", color="#E69F00", markersize=5)
    here.set_yticks(range(len(rows)), [row["name"] for row in rows])
    here.invert_yaxis()
    here.set(
        xlabel=f"AP on {Path(settings['data']).name}: seeds, mean, 95 % interval", title=f"Table {settings['table']}"
    )
    paper.set(xlabel="AP", title="the paper")
    for axes in (here, paper):
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
