"""What the runs of an ablation gave: results.json, from which it goes on, and tables for people.

Index legend: R resamples of the validation images, S seeds.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.bootstrap import Evaluation
from ..files import atomic_write, write_json
from ..training.config import differences
from .rows import Row

PREDICTIONS_FILE = "predictions.json"
RESULTS_FILE, CSV_FILE, TABLE_FILE = "results.json", "results.csv", "results.md"
RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Score:
    """AP of a run, and of each draw of the validation images, float [R]."""

    ap: float
    resampled: np.ndarray


class Results:
    """The scores of all runs so far.

    Args:
        folder: of the ablation; `run_folder` names those of its runs.
        settings: all that the runs have in common, JSON-serialisable.
        origin: what the results say of themselves beyond that.
        rows: of the table.
        seeds: of each row; the results also show those of an earlier call.
        measure: from COCO keypoint results on the validation images to their AP.

    Raises:
        OSError: a file that cannot be read.
        ValueError: `folder` holds an ablation with other settings, or something else under the name of its results.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        origin: Mapping[str, Any],
        rows: Sequence[Row],
        seeds: Sequence[int],
        measure: Callable[[list[dict[str, Any]]], Evaluation],
    ) -> None:
        self.folder, self.settings, self.origin = folder, settings, origin
        self.rows, self.measure = rows, measure
        saved = _read(folder / RESULTS_FILE)
        if saved and (changes := list(differences(saved["settings"], settings))):
            raise ValueError(
                f"{folder} holds an ablation with other settings ({'; '.join(changes)}; as saved -> now): pass another"
                " --work-dir"
            )
        recorded = {row["name"]: [int(seed) for seed in row["AP"]] for row in saved.get("rows", [])}
        self.seeds = sorted({*seeds, *(seed for of_row in recorded.values() for seed in of_row)})
        self.scores: dict[str, dict[int, Score]] = {row.name: {} for row in rows}
        for row in rows:
            for seed in recorded.get(row.name, []):
                if (self.run_folder(row, seed) / PREDICTIONS_FILE).exists():
                    self.add(row, seed)

    def run_folder(self, row: Row, seed: int) -> Path:
        return self.folder / row.name / f"seed{seed}"

    def add(self, row: Row, seed: int) -> Score:
        """Measure the predictions of a run that is done. Raises OSError or ValueError where they are damaged."""
        path = self.run_folder(row, seed) / PREDICTIONS_FILE
        try:
            evaluation = self.measure(json.loads(path.read_bytes()))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} must hold the results of dgcn eval: {error}") from error
        score = Score(evaluation.metrics()["AP"], evaluation.resampled(RESAMPLES))
        self.scores[row.name][seed] = score
        return score

    def document(self) -> dict[str, Any]:
        """The content of results.json: of the rows those with a run that is done."""
        rows = [
            summarise(row, self.scores[row.name], self.scores[row.baseline])
            for row in self.rows
            if self.scores[row.name]
        ]
        return {
            **self.origin,
            "checkpoint": "of the last epoch",
            "resamples": RESAMPLES,
            "seeds": self.seeds,
            "rows": rows,
            "settings": self.settings,
        }

    def write(self) -> None:
        """Write all files; the JSON comes last, because the next call goes on from it."""
        document = self.document()
        for name, text in ((CSV_FILE, format_csv(document)), (TABLE_FILE, format_table(document))):
            with atomic_write(self.folder / name) as file:
                file.write(text.encode())
        write_json(self.folder / RESULTS_FILE, document)


def _read(path: Path) -> dict[str, Any]:
    """results.json; empty where there is none."""
    try:
        document = json.loads(path.read_bytes())
        if not isinstance(document["settings"], dict):
            raise TypeError
        [(row["name"], list(map(int, row["AP"]))) for row in document["rows"]]
    except FileNotFoundError:
        return {}
    except (KeyError, RecursionError, TypeError, ValueError):
        raise ValueError(f"{path} must be the results of an ablation: move it away") from None
    return document


def summarise(row: Row, scores: Mapping[int, Score], baseline: Mapping[int, Score]) -> dict[str, Any]:
    """The entry of a row in results.json.

    Args:
        row: what was trained.
        scores: by seed, at least one.
        baseline: those of the row that it is compared with; there is a gain only if there are any.
    """
    aps = {str(seed): scores[seed].ap for seed in sorted(scores)}
    numbers = list(aps.values())
    mean = float(np.mean(numbers))
    entry = {
        "name": row.name,
        "flags": " ".join(row.flags),
        "AP": aps,
        "mean": mean,
        "std": float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None,
        "range": [min(numbers), max(numbers)],
        "interval": _percentiles(_draw_means(scores, 0)),
        "baseline": None,
        "gain": None,
        "gain_interval": None,
        "paper_AP": row.paper_ap,
    }
    if baseline and row.name != row.baseline:
        entry["baseline"] = row.baseline
        entry["gain"] = mean - float(np.mean([score.ap for score in baseline.values()]))
        entry["gain_interval"] = _percentiles(_draw_means(scores, 0) - _draw_means(baseline, 1))
    return entry


def _draw_means(scores: Mapping[int, Score], generator_seed: int) -> np.ndarray:
    """Mean AP of each draw of the images, float [R]; the S seeds are drawn with replacement as well."""
    resampled = np.stack([score.resampled for score in scores.values()])  # [S, R]
    drawn = np.random.default_rng(generator_seed).integers(len(resampled), size=resampled.shape)
    return np.take_along_axis(resampled, drawn, axis=0).mean(axis=0)


def _percentiles(numbers: np.ndarray) -> list[float]:
    """95 % interval; draws without ground truth are left out."""
    low, high = np.nanpercentile(numbers, [2.5, 97.5])
    return [float(low), float(high)]


def format_csv(document: Mapping[str, Any]) -> str:
    seeds = document["seeds"]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    names = ("mean", "std", "min", "max", "low", "high", "gain", "gain_low", "gain_high", "paper_AP")
    writer.writerow(["row", *(f"seed{seed}" for seed in seeds), *names])
    for row in document["rows"]:
        numbers = [*(row["AP"].get(str(seed)) for seed in seeds), row["mean"], row["std"], *row["range"]]
        numbers += [*row["interval"], row["gain"], *(row["gain_interval"] or (None, None)), row["paper_AP"]]
        writer.writerow([row["name"], *numbers])
    return text.getvalue()


def format_table(document: Mapping[str, Any]) -> str:
    """The results as a Markdown page."""
    seeds, settings = document["seeds"], document["settings"]
    names = ["row", *(f"seed {seed}" for seed in seeds), "mean ± std", "lowest to highest", "95 % interval", "over"]
    lines = [
        f"# Table {settings['table']} of the paper, on {settings['data']}",
        "",
        f"AP ({settings['metric']}) after the last epoch. The intervals are of the mean, from {document['resamples']}"
        " draws of the validation images and of the seeds, with replacement. The paper's AP is that of its own"
        " training.",
        "",
        f"| {' | '.join([*names, 'gain', 'paper'])} |",
        f"|---|{'---:|' * (len(names) - 2)}---|---:|---:|",
    ]
    for row in document["rows"]:
        aps = [row["AP"].get(str(seed)) for seed in seeds]
        cells = [row["name"], *("" if ap is None else f"{ap:.4f}" for ap in aps)]
        cells.append(f"{row['mean']:.4f}" + ("" if row["std"] is None else f" ± {row['std']:.4f}"))
        cells += [_limits(row["range"]), _limits(row["interval"]), row["baseline"] or ""]
        gain = "" if row["gain"] is None else f"{row['gain']:+.4f} ({_limits(row['gain_interval'], '+.4f')})"
        lines.append(f"| {' | '.join([*cells, gain, format(row['paper_AP'], '.3f')])} |")
    return "\n".join(lines) + "\n"


def _limits(limits: Sequence[float], form: str = ".4f") -> str:
    return f"{limits[0]:{form}} to {limits[1]:{form}}"
