"""Draw losses, learning rate and AP of one training run or several in one figure.

examples:
  dgcn plot runs/r50
  dgcn plot runs/*/ -o runs.pdf                         a line for each run, named as its folder

RUN is the work folder of `dgcn train`, also while it trains, or a history.jsonl. Figures need matplotlib:
pip install "dgcn[plots]".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .common import check_outputs, make_parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("plot", __doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="work folder of a run, or a history.jsonl")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("runs.png"),
        metavar="FILE",
        help="figure, a .png, .svg or .pdf file (default: runs.png)",
    )
    args = parser.parse_args(argv)

    from ..figures import FORMATS, write_figure
    from ..training.history import read_history
    from ..training.plots import runs_figure

    if args.output.suffix not in FORMATS:
        raise ValueError(f"--output must end in .png, .svg or .pdf, got {args.output}")
    check_outputs([args.output], args.runs)
    histories = [read_history(path) for path in args.runs]
    names = run_names(args.runs)
    write_figure(args.output, runs_figure(dict(zip(names, histories, strict=True))))
    print(f"figure {args.output}")
    return 0


def run_names(paths: Sequence[Path]) -> list[str]:
    """The name of each run: that of its folder, or its whole path where two folders have the same name."""
    folders = [path.resolve() if path.is_dir() else path.resolve().parent for path in paths]
    names = [folder.name for folder in folders]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]
