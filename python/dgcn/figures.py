"""What all figures share: their style, and how one is written. Needs matplotlib."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .extras import extra
from .files import atomic_write

with extra("plots", "figures need matplotlib"):
    from matplotlib import rc_context
    from matplotlib.figure import Figure

logging.getLogger("fontTools").setLevel(logging.WARNING)  # of each font in a PDF it reports every table
STYLE: Any = {  # of matplotlib
    "font.size": 9,
    "axes.titlesize": 10,
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.1,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
    "svg.hashsalt": "dgcn",  # the same bytes every time
}
FORMATS: dict[str, dict[str, Any]] = {
    ".png": {"dpi": 200},
    ".svg": {"metadata": {"Date": None}},
    ".pdf": {"metadata": {"CreationDate": None}},
}
"""By the suffix of a file, the options with which it is written."""


@rc_context(STYLE)
def write_figure(path: Path, figure: Figure) -> None:
    """Write `figure`, atomically, in the format that the suffix of `path` names: one of `FORMATS`."""
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:], **FORMATS[path.suffix])
    with atomic_write(path) as file:
        file.write(content.getbuffer())


def write_figures(folder: Path, figures: Mapping[str, Figure]) -> None:
    """Write each figure into `folder` as a PDF and a PNG of its name."""
    for name, figure in figures.items():
        for suffix in (".pdf", ".png"):
            write_figure(folder / f"{name}{suffix}", figure)
