"""Train and measure the rows of a table of the paper's ablation, each with several seeds.

examples:
  dgcn ablate --table 1 --data coco.yaml --work-dir runs/table1
  dgcn ablate --table 1 --data coco.yaml --work-dir runs/table1 --seeds 0 1 2 --devices cuda:0 cuda:1 \\
      -- --backbone mobilenetv1_075 --size 385 --epochs 20
  dgcn ablate ...      the same command goes on after a crash, a kill or Ctrl-C

What follows -- are flags of dgcn train, which all rows share, beginning with --recipe paper. Each run is a
`dgcn train` in WORK_DIR/ROW/seedN, whose log.txt has its output, then a `dgcn eval` of its last epoch: to choose the
best epoch by its AP would flatter that AP. First come all rows with the first seed, then those with the next, so that a
stopped ablation has whole columns. A device that is named twice carries two runs at a time.

tables:
  1  the graph: baseline, A_I by Eq. 4, A_h, A_s, A_d by Eq. 8       2  γ of A_s
  3  levels: none, F16, F8 and F16, all three                       5  ResNeXt-50 and DenseNet-121; ResNet-50 where
                                                                       the data set is CrowdPose

WORK_DIR receives results.json, results.csv and results.md, and results.pdf and .png where matplotlib is installed,
after every run: AP of each seed, mean, standard deviation, range, a 95 % interval over the validation pictures and the
seeds, the difference to the baseline with its interval, and the paper's AP.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from .common import add_data_argument, make_parser

if TYPE_CHECKING:
    from ..ablation.results import Results
    from ..ablation.runs import Run

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    args = build_parser().parse_args(arguments[:end])

    from ..interrupt import Interrupted, InterruptGuard
    from ..training.run_folder import locked

    way_on = f"the same command goes on from {args.work_dir}"
    with locked(args.work_dir), InterruptGuard(lambda: way_on) as guard, guard.at_once():
        try:
            return ablate(args, ["--recipe", "paper", *arguments[end + 1 :]])
        except Interrupted:
            raise
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; {way_on}") from None


def build_parser() -> argparse.ArgumentParser:
    from ..ablation.rows import SEMANTICS, TABLES

    parser = make_parser("ablate", __doc__)
    parser.add_argument("--table", type=int, choices=TABLES, required=True, help="which table of the paper")
    add_data_argument(parser, required=True)
    parser.add_argument(
        "--work-dir", type=Path, required=True, metavar="DIR", help="folder of the results, with a folder for each row"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="of each row (default: 0 1 2)"
    )
    parser.add_argument(
        "--semantics",
        nargs="+",
        choices=SEMANTICS,
        default=SEMANTICS,
        help="readings of Eq. 8; where they differ, for A_h and A_d, each is a row (default: literal mask)",
    )
    parser.add_argument(
        "--devices", nargs="+", metavar="DEVICE", help="where to train (default: every GPU, or cpu where there is none)"
    )
    return parser


def ablate(args: argparse.Namespace, train_flags: Sequence[str]) -> int:
    """Do what the flags say; `train_flags` are those of every `dgcn train`. Returns the exit status."""
    from ..ablation.results import TABLE_FILE
    from ..ablation.runs import execute

    devices = choose_devices(args.devices)
    results, runs = prepare(args, train_flags)
    draw = find_figures()
    results.write()
    waiting = [run for run in runs if run.seed not in results.scores[run.row.name]]
    log.info(f"table {args.table}: {len(runs)} runs, of which {len(runs) - len(waiting)} are done")
    failed = []
    with closing(execute(waiting, devices)) as ended:
        for run, status in ended:
            if status == 2 and not any(results.scores.values()):  # a mistake in the request, which the others share
                raise ValueError(f"{run}: {run.last_line()}")
            if status != 0:
                failed.append(run)
                log.error(f"{run}: exit status {status}: {run.last_line()} ({run.folder})")
                continue
            log.info(f"{run}: AP {results.add(run.row, run.seed).ap:.4f}")
            results.write()
            draw(results)
    if not waiting:
        draw(results)
    print((args.work_dir / TABLE_FILE).read_text())
    if failed:
        print(f"{len(failed)} runs failed; the same command tries them again: {'; '.join(map(str, failed))}")
    return 1 if failed else 0


def choose_devices(given: Sequence[str] | None) -> Sequence[str]:
    """The devices that were asked for, checked; by default every GPU, or else the CPU."""
    import torch

    from ..device import check_device

    devices = given or [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"]
    for device in devices:
        check_device(device)
    return devices


def prepare(args: argparse.Namespace, train_flags: Sequence[str]) -> tuple[Results, list[Run]]:
    """The results so far, and all runs in their order: the rows of the first seed, then those of the next.

    Every configuration is checked and the annotations are read, so that most mistakes show before the first run.
    """
    import torch

    from ..ablation.results import PREDICTIONS_FILE, Results
    from ..ablation.rows import SEMANTICS, paper_rows, under_semantics
    from ..ablation.runs import Run
    from ..evaluation.metrics import EVALUATIONS
    from ..skeleton import CROWDPOSE, same_names
    from ..training.run import read_validation
    from ..training.run_folder import LAST_FILE
    from . import train
    from .benchmark import machine

    own_flags = ["--data", str(args.data), "--work-dir", str(args.work_dir)]
    shared = train.build_parser().parse_args([*train_flags, *own_flags])
    with train.errors_name_flags(shared):
        config = train.with_skeleton(train.build_config(shared), train.describe_data(shared))
    skeleton = config.model.skeleton
    on_crowdpose = same_names(skeleton.keypoints, CROWDPOSE.keypoints)
    metric = "crowdpose" if on_crowdpose else "coco"
    eval_flags = ["--data", str(args.data), "--metric", metric]
    eval_flags += ["--skip-unreadable"] if config.reading.skip_unreadable else []

    rows = paper_rows(args.table, on_crowdpose=on_crowdpose)
    wanted = under_semantics(rows, args.semantics)
    records = read_validation(config)
    if not any(record.persons for record in records):
        raise ValueError(f"{config.val_annotations} must have a person to measure AP on, got none")
    settings = config.tracked()
    del settings["seed"]
    results = Results(
        args.work_dir,
        {"table": args.table, "data": str(args.data), "metric": metric, "training": settings},
        {
            "train_flags": shlex.join(train_flags),
            "machine": machine(),
            "versions": {"dgcn": version("dgcn"), "torch": torch.__version__},
        },
        under_semantics(rows, SEMANTICS),
        args.seeds,
        lambda predictions: EVALUATIONS[metric](records, predictions, skeleton),
    )
    runs = []
    for seed in dict.fromkeys(args.seeds):
        for row in wanted:
            folder = results.run_folder(row, seed)
            flags = [*row.flags, "--data", str(args.data), "--work-dir", str(folder), "--seed", str(seed)]
            flags += ["--resume", "auto"]
            check_run(args.table, train_flags, [*flags, "--device", "cpu"])  # --devices says which
            measure = ["eval", *eval_flags, "--checkpoint", str(folder / LAST_FILE)]
            measure += ["--results", str(folder / PREDICTIONS_FILE)]
            runs.append(Run(row, seed, folder, (["train", *train_flags, *flags], measure)))
    return results, runs


def check_run(table: int, train_flags: Sequence[str], flags: Sequence[str]) -> None:
    """Raise ValueError where the configuration is wrong, or `train_flags` have one of the `flags` of the run."""
    from . import train

    parser = train.build_parser()
    args, other = (parser.parse_args([*a, *b]) for a, b in ((train_flags, flags), (flags, train_flags)))
    if clashes := [name for name, value in vars(args).items() if getattr(other, name) != value]:
        name = clashes[0].replace("_", "-")
        raise ValueError(f"--{name} must not be given after --: the runs of table {table} set it themselves")
    with train.errors_name_flags(args):
        train.check_start(train.build_config(args))


def find_figures() -> Callable[[Results], None]:
    """What draws the figure of the results; where matplotlib is not installed, nothing does."""
    try:
        from ..ablation.figure import draw_results
    except ImportError as error:
        log.warning(f"there will be no figure: {error}")
        return lambda results: None
    from ..figures import write_figures

    return lambda results: write_figures(results.folder, {"results": draw_results(results.document())})
