"""The figure of `dgcn plot`: losses, learning rate and AP of training runs, epoch by epoch. Needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..extras import extra
from ..figures import STYLE
from .history import Record

with extra("plots", "figures need matplotlib"):
    from cycler import cycler
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

PANELS = {
    "loss": "loss (Eq. 1)",
    "AP": "AP on the validation pictures",
    "learning_rate": "learning rate",
    "pif_confidence": "PIF confidence",
    "pif_offset": "PIF offset",
    "pif_scale": "PIF scale",
    "paf_confidence": "PAF confidence",
    "paf_offset": "PAF offset",
    "nodes": "node logits",
}
"""By the name of a record's entry, the title of its panel."""

COLUMNS = 3
WIDTH = 3.6 * COLUMNS  # inches
LETTER = 0.075  # inches; mean width at 9 points
# Okabe and Ito's, which the colour-blind can tell apart.
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "black"]
LINES = cycler(linestyle=["-", "--", ":", "-."]) * cycler(color=COLORS)


@rc_context({**STYLE, "axes.prop_cycle": LINES})
def runs_figure(runs: Mapping[str, Sequence[Record]]) -> Figure:
    """A panel for each of `PANELS` that a run has, in it a line for each run.

    Args:
        runs: by name, the history of each.
    """
    histories = list(runs.values())
    names = [name for name in PANELS if any(points(history, name) for history in histories)]
    rows = math.ceil(len(names) / COLUMNS)
    labels_in_row = max(1, int(WIDTH / (0.6 + LETTER * max(map(len, runs)))))
    height = 2.4 * rows + 0.2 * math.ceil(len(runs) / labels_in_row) + 0.3
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False, sharex=True).ravel()
    for axes, name in zip(panels, names, strict=False):
        draw_runs(axes, name, histories)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    figure.supxlabel("epoch", fontsize=STYLE["font.size"])
    labels = [name.replace("$", r"\$") for name in runs]  # else what is between two of them would be mathematics
    figure.legend(panels[0].lines, labels, loc="outside upper center", ncols=labels_in_row, frameon=False)
    return figure


def points(history: Sequence[Record], name: str) -> list[tuple[int, float]]:
    """Epoch and value of each record that has the entry `name`; an AP of -1 stands for none."""
    return [
        (record["epoch"], record[name]) for record in history if name in record and (name != "AP" or record[name] >= 0)
    ]


def draw_runs(axes: Axes, name: str, histories: Sequence[Sequence[Record]]) -> None:
    """The entry `name` over the epochs, a line for each history."""
    for history in histories:
        epochs, values = np.reshape(points(history, name), (-1, 2)).T
        axes.plot(epochs, values, marker=".", markersize=4)
    axes.set_title(PANELS[name])
    axes.tick_params(labelbottom=True)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
