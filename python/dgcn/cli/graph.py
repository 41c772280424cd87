"""Write the graphs of a data set or of a checkpoint as JSON and as figures.

examples:
  dgcn graph --data coco.yaml -o graph
  dgcn graph --annotations person_keypoints_train2017.json --gamma 0.1 0.5 1 --adjacency-samples 5
  dgcn graph --checkpoint runs/a/best.safetensors -o learned

DIR receives graph.json and the figures, each as a PDF and a PNG:
  distances         M_d, the mean distances of keypoints (Eq. 5); of a data set
  identity, hand    A_I and A_h, the skeleton's limbs
  soft_gamma_G      A_s (Eq. 6), for each γ; of a checkpoint that was trained with it, the A_s inside
  learned_HEAD_S    β(W_d ⊙ A) of each DGCM, with the A of inference (Eq. 8); of a checkpoint
  adjacency         all A side by side, with samples of A_d, drawn from the first A_s (Eq. 7, Fig. 3)
  edges             the graphs as edges on a standing person, wider with their weight (Fig. 1)
`dgcn train --graph-file` takes M_d from a graph.json of a data set. Figures need matplotlib: pip install "dgcn[plots]".
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import add_data_argument, check_outputs, check_writable, make_parser, positive

if TYPE_CHECKING:
    import numpy as np

    from ..records import ImageRecord
    from ..skeleton import Skeleton

Titled = tuple[str, "np.ndarray"]
"""The title of a figure and its matrix [K, K]."""


@dataclass(kw_only=True)
class Graphs:
    """What is written.

    entries: of graph.json, beside those made of the fields below.
    distances: M_d [K, K], if there is one.
    adjacencies: each A by the name of its figure.
    sampled: of `adjacencies`, the name of the one that A_d is drawn from, if one is.
    learned: S of each DGCM by the name of its figure.
    """

    skeleton: Skeleton
    entries: dict[str, Any]
    distances: np.ndarray | None = None
    adjacencies: dict[str, Titled]
    sampled: str | None
    learned: dict[str, Titled] = field(default_factory=dict)


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("graph", __doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    add_data_argument(source)
    source.add_argument("--annotations", type=Path, metavar="FILE", help="annotations of the persons, without --data")
    source.add_argument("--checkpoint", type=Path, metavar="FILE", help="model, a .safetensors file")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("graph"), metavar="DIR", help="folder of the results (default: graph)"
    )
    parser.add_argument("--gamma", type=gamma, nargs="+", metavar="G", help="each γ of A_s, Eq. 6 (default: 0.5)")
    parser.add_argument(
        "--adjacency-samples", type=positive, default=3, metavar="N", help="how many A_d are drawn (default: 3)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (default: 0)")
    args = parser.parse_args(argv)
    if args.checkpoint and args.gamma:
        raise ValueError(
            "--gamma needs --data or --annotations: a checkpoint does not hold the distances that A_s is made of"
        )

    from dgcn_ext.arguments import check_integer

    from ..figures import write_figures
    from ..files import write_json
    from ..graph_figures import draw_figures

    check_integer("--seed", args.seed, -(2**63), 2**63 - 1)
    path = args.output / "graph.json"
    check_outputs([path], [args.data, args.annotations, args.checkpoint])
    check_writable(args.output / "any.pdf")
    if args.checkpoint:
        graphs = graphs_of_checkpoint(args.checkpoint)
    else:
        graphs = graphs_of_data(*read_data(args), args.gamma or [0.5])
    samples = draw_samples(graphs, args.seed, args.adjacency_samples)
    document: dict[str, Any] = {
        "dgcn": version("dgcn"),
        "keypoints": list(graphs.skeleton.keypoints),
        "limbs": [list(limb) for limb in graphs.skeleton.limbs],
        **graphs.entries,
        "adjacencies": {name: rows(matrix) for name, (_, matrix) in graphs.adjacencies.items()},
    }
    if len(samples):
        document["samples"] = {"of": graphs.sampled, "seed": args.seed, "adjacencies": [rows(each) for each in samples]}
    write_json(path, document)
    figures = draw_figures(graphs.skeleton, graphs.distances, graphs.adjacencies, samples, graphs.learned)
    write_figures(args.output, figures)
    print(f"JSON    {path}\nfigures {', '.join(figures)} (.pdf, .png) in {args.output}")
    return 0


def gamma(text: str) -> float:
    """Type of a flag for γ of Eq. 6."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be finite and at least 0, got {text}")
    return value


def read_data(args: argparse.Namespace) -> tuple[list[ImageRecord], Skeleton, Path]:
    """The pictures of a data set's training split, its skeleton, and its annotation file."""
    from ..data.description import Description, Split, read_description
    from ..data.rules import log_rules, make_skeleton

    if args.data is not None:
        description = read_description(args.data)
    else:
        description = Description(splits={"train": Split(Path(), args.annotations)})
    annotations = description.split("train").annotations
    file = description.read("train", with_images=False)
    skeleton, rules = make_skeleton(file, str(annotations), description.skeleton)
    log_rules((*file.rules, *rules))
    return file.records, skeleton, annotations


def graphs_of_data(records: Sequence[ImageRecord], skeleton: Skeleton, source: Path, gammas: Sequence[float]) -> Graphs:
    """M_d of the persons (Eq. 5), and A_s for every γ (Eq. 6)."""
    from ..graph import SCALE, distance_matrix, measurements, persons_per_pair, soft_adjacency

    persons = [person for record in records for person in record.persons]
    keypoints_xy, visibility, scale = measurements(persons, source)
    distances = distance_matrix(keypoints_xy, visibility, scale)
    adjacencies = fixed_adjacencies(skeleton)
    for value in gammas:
        name, title = soft_names(value)
        adjacencies[name] = title, soft_adjacency(distances, value).numpy()
    entries = {
        "source": str(source),
        "scale": SCALE,
        "persons": len(scale),
        "persons_per_pair": persons_per_pair(visibility).tolist(),
        "distances": rows(distances),
    }
    return Graphs(
        skeleton=skeleton,
        entries=entries,
        distances=distances,
        adjacencies=adjacencies,
        sampled=soft_names(gammas[0])[0],
    )


def graphs_of_checkpoint(path: Path) -> Graphs:
    """The graph that a model was trained with, and S of each of its DGCMs.

    Raises ValueError where it has none."""
    from dgcn_ext import GraphConv

    from ..model.checkpoint import load_model

    model, _ = load_model(path)
    config = model.config
    settings = ("graph", "gamma", "propagation", "semantics", "aggregate", "eval_graph")
    own, title = soft_names(config.gamma) if config.graph in ("dynamic", "soft") else (config.graph, "all ones")
    symbol = r"$\tilde{A}$" if config.propagation == "eq4" else r"$\beta(W_d \odot A)$"
    adjacencies = fixed_adjacencies(config.skeleton)
    learned: dict[str, Titled] = {}
    entries: dict[str, Any] = {}
    for place, layer in model.named_modules():
        if isinstance(layer, GraphConv):
            head, stride = place.split("_")[0], place.split(".")[2]  # of "pif_stream.dgcms.16.graph_conv"
            name, mixing = f"learned_{head}_{stride}", layer.mixing().detach().numpy()
            learned[name] = f"{symbol}, {head.upper()}, stride {stride}", mixing
            entries[name] = {"mixing": rows(mixing)}
            if layer.edge_weight is not None:
                entries[name]["edge_weight"] = rows(layer.edge_weight.detach().numpy())
            adjacencies.setdefault(own, (title, layer.adjacency.numpy()))
    if not learned:
        raise ValueError(f"{path} must be a model with DGCMs, got one without (its levels are empty)")
    return Graphs(
        skeleton=config.skeleton,
        entries={
            "source": str(path),
            "model": {setting: getattr(config, setting) for setting in settings},
            "learned": entries,
        },
        adjacencies=adjacencies,
        sampled=own if config.graph == "dynamic" else None,
        learned=learned,
    )


def fixed_adjacencies(skeleton: Skeleton) -> dict[str, Titled]:
    """A_I and A_h."""
    from ..graph import hand_crafted_adjacency, identity_adjacency

    return {
        "identity": ("$A_I$", identity_adjacency(skeleton.num_keypoints).numpy()),
        "hand": ("$A_h$", hand_crafted_adjacency(skeleton).numpy()),
    }


def soft_names(gamma: float) -> tuple[str, str]:
    """Figure and title of A_s."""
    return f"soft_gamma_{gamma:g}", rf"$A_s$, $\gamma$ = {gamma:g}"


def draw_samples(graphs: Graphs, seed: int, number: int) -> np.ndarray:
    """`number` draws of A_d (Eq. 7), [number, K, K], none where the graph is not one to draw from."""
    import numpy as np
    import torch

    from dgcn_ext.functional import sample_adjacency

    if graphs.sampled is None:
        return np.empty((0, 0, 0))
    _, probability = graphs.adjacencies[graphs.sampled]
    return sample_adjacency(torch.from_numpy(probability), torch.tensor(seed), number).numpy()


def rows(matrix: np.ndarray) -> list[list[float | None]]:
    """A matrix for JSON, with six digits; null for infinity."""
    return [[float(f"{value:.6g}") if math.isfinite(value) else None for value in row] for row in matrix.tolist()]
