"""Figures of graphs to publish: matrices like Fig. 3 of the paper, edges on a person like Fig. 1. Needs matplotlib.

Legend: K keypoints. Lengths are in inches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .extras import extra
from .figures import STYLE
from .skeleton import Skeleton

with extra("plots", "figures need matplotlib"):
    from matplotlib import colormaps, rc_context
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize, PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve
    from matplotlib.ticker import MaxNLocator

CELLS = colormaps["viridis"].with_extremes(over="0.85", bad="white")  # perceptually uniform
LINES = ListedColormap(colormaps["viridis_r"](np.linspace(0.25, 1, 256)))  # without the yellow that white swallows
ADJACENCY = PowerNorm(0.5, 0, 1)  # most entries of A_s are below 0.1
ADJACENCY_LABEL = "$A_{ij}$ (square-root scale)"
CELL = 0.24  # edge of a matrix's cell that has a name
LETTER = 0.065  # width of a letter at 8 points
POSE = 5.0  # longer side of the reference pose, if it has no more than 50 keypoints
PANELS = 4  # at most side by side in one figure


@rc_context(STYLE)
def draw_figures(
    skeleton: Skeleton,
    distances: np.ndarray | None,
    adjacencies: Mapping[str, tuple[str, np.ndarray]],
    samples: np.ndarray,
    learned: Mapping[str, tuple[str, np.ndarray]],
) -> dict[str, Figure]:
    """Every figure of some graphs, by its name.

    Args:
        skeleton: of the K keypoints.
        distances: M_d of Eq. 5 [K, K], if there is one.
        adjacencies: by the name of their figure, the title and A [K, K].
        samples: A_d of Eq. 7, [N, K, K]; N may be 0.
        learned: by the name of their figure, the title and S [K, K] of each DGCM.
    """
    names = skeleton.keypoints
    figures: dict[str, Figure] = {}
    if distances is not None:
        high = distances[np.isfinite(distances)].max()
        figures["distances"] = matrix_figure(
            names, "$M_d$", distances, Normalize(0, high), "mean distance, in units of the person's scale"
        )
    for name, (title, matrix) in adjacencies.items():
        figures[name] = matrix_figure(names, title, matrix, ADJACENCY, ADJACENCY_LABEL)
    for name, (title, matrix) in learned.items():
        others, own = matrix[~np.eye(len(matrix), dtype=bool)], matrix.diagonal()
        told_apart = others if len(np.unique(others)) > 1 else matrix
        norm = Normalize(told_apart.min(), told_apart.max())
        label = f"weight (diagonal: {own.min():.2g} to {own.max():.2g})"
        figures[name] = matrix_figure(names, title, matrix, norm, label)
    drawn = [(f"$A_d$, sample {number}", sample) for number, sample in enumerate(samples, start=1)]
    figures["adjacency"] = panels_figure(names, [*adjacencies.values(), *drawn])
    people = {**adjacencies, **learned}
    people.pop("identity", None)  # it has no edges
    figures["edges"] = person_figure(skeleton, list(people.values()))
    return figures


def matrix_figure(names: Sequence[str], title: str, matrix: np.ndarray, norm: Normalize, label: str) -> Figure:
    """One matrix [K, K]: cells above the range of `norm` are grey, those that are not finite white.

    Args:
        names: of the keypoints.
        title: above the matrix.
        matrix: the values.
        norm: what the colours stand for.
        label: of the colour bar.
    """
    cell = min(CELL, 12 / len(names))
    figure = Figure(figsize=(cell * len(names) + 2.6, cell * len(names) + 1.8), layout="constrained")
    axes = figure.add_subplot(title=title)
    draw_matrix(axes, matrix, norm, cell)
    name_cells(axes, names, cell)
    has_more = bool((matrix[np.isfinite(matrix)] > norm.vmax).any())
    bar = figure.colorbar(axes.images[0], label=label, extend="max" if has_more else "neither", shrink=0.8)
    bar.outline.set_visible(False)
    return figure


def panels_figure(names: Sequence[str], panels: Sequence[tuple[str, np.ndarray]]) -> Figure:
    """Adjacencies side by side, each a title and a matrix [K, K], with the names at the left and at the bottom."""
    rows, columns = arrangement(len(panels))
    cell = min(0.55 * CELL, 6 / len(names))
    side = cell * len(names)
    figure = Figure(figsize=(columns * (side + 0.15) + 1.9, rows * (side + 0.3) + 1.1), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number >= len(panels):
            axes.set_axis_off()
            continue
        title, matrix = panels[number]
        draw_matrix(axes, matrix, ADJACENCY, cell)
        axes.set_title(title)
        name_cells(axes, names, cell, rows=number % columns == 0, columns=number // columns == rows - 1)
    bar = figure.colorbar(ScalarMappable(ADJACENCY, CELLS), ax=grid, label=ADJACENCY_LABEL, aspect=30)
    bar.outline.set_visible(False)
    return figure


def arrangement(count: int) -> tuple[int, int]:
    """Rows and columns of a figure of so many panels."""
    rows = -(-count // PANELS)
    return rows, -(-count // rows)


def draw_matrix(axes: Axes, matrix: np.ndarray, norm: Normalize, cell: float) -> None:
    """The cells of `matrix`, of the edge `cell`, with white lines between them."""
    axes.imshow(np.ma.masked_invalid(matrix), cmap=CELLS, norm=norm, interpolation="nearest")
    borders = np.arange(1, len(matrix)) - 0.5
    axes.set_xticks(borders, minor=True)
    axes.set_yticks(borders, minor=True)
    axes.grid(which="minor", color="white", linewidth=2 * cell)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def name_cells(axes: Axes, names: Sequence[str], cell: float, *, rows: bool = True, columns: bool = True) -> None:
    """The names of the keypoints at the rows and the columns of a matrix, as high as cells of the edge `cell` allow."""
    labels = [readable(name) for name in names]
    ticks, size = np.arange(len(names)), min(9, 50 * cell)
    axes.set_xticks(ticks, labels if columns else [], rotation=90, fontsize=size)
    axes.set_yticks(ticks, labels if rows else [], fontsize=size)


def person_figure(skeleton: Skeleton, graphs: Sequence[tuple[str, np.ndarray]]) -> Figure:
    """Graphs as edges on the reference pose, side by side, each a title and a matrix [K, K]."""
    rows, columns = arrangement(len(graphs))
    points, labels = place(skeleton)
    margin = 0.2 + LETTER * max(len(name) for name in skeleton.keypoints)
    everything = np.vstack([points, labels])
    low, high = everything.min(axis=0) - np.array([margin, 0.2]), everything.max(axis=0) + np.array([margin, 0.2])
    width, height = high - low
    bars = 0.9  # height of the title and the colour bar of each
    figure = Figure(figsize=(columns * width, rows * (height + bars)))
    total = rows * (height + bars)
    for number, (title, matrix) in enumerate(graphs):
        row, column = divmod(number, columns)
        bottom = total - row * (height + bars) - height - 0.25
        axes = figure.add_axes((column / columns, bottom / total, 1 / columns, height / total), title=title)
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        axes.set_axis_off()
        colors = draw_edges(axes, skeleton, points, matrix)
        for name, point, label in zip(skeleton.keypoints, points, labels, strict=True):
            axes.annotate(
                readable(name),
                point,
                label,
                ha="right" if label[0] < 0 else "left",
                va="center",
                fontsize=8,
                arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.5, "shrinkA": 1, "shrinkB": 0},
                zorder=0,
            )
        if colors is not None:
            place_of_bar = ((column + 0.25) / columns, (bottom - 0.1) / total, 0.5 / columns, 0.08 / total)
            axes = figure.add_axes(place_of_bar)
            figure.colorbar(colors, cax=axes, orientation="horizontal", label="weight", ticks=MaxNLocator(3))
    return figure


def draw_edges(axes: Axes, skeleton: Skeleton, points: np.ndarray, matrix: np.ndarray) -> ScalarMappable | None:
    """The heaviest edges between `points` [K, 2], wider and darker with their weight; those of no limb are bent.

    2K edges are drawn. The weight of an edge is the mean of its two directions. Returns what the colours stand for,
    None where all weights are the same."""
    one, other = np.triu_indices(len(points), 1)
    weights = ((matrix + matrix.T) / 2)[one, other]
    drawn = np.argsort(weights)[-2 * len(points) :]
    drawn = drawn[weights[drawn] > 0]
    limbs = {frozenset(limb) for limb in skeleton.limbs}
    low, high = (weights[drawn].min(), weights[drawn].max()) if len(drawn) else (0.0, 0.0)
    for edge in drawn:
        ends = one[edge].item(), other[edge].item()
        start, end = points[list(ends)]
        middle, across = (start + end) / 2, np.array([start[1] - end[1], end[0] - start[0]])
        bend = 0.0 if frozenset(ends) in limbs else 0.2 if across @ middle >= 0 else -0.2  # away from the body
        curve = Curve([start, middle + bend * across, end], [Curve.MOVETO, Curve.CURVE3, Curve.CURVE3])
        share = float((weights[edge] - low) / (high - low)) if high > low else 0.6
        width = 0.8 + 3 * share
        axes.add_patch(
            PathPatch(curve, fill=False, edgecolor=LINES(share), linewidth=width, capstyle="round", zorder=1 + share)
        )
    axes.scatter(points[:, 0], points[:, 1], s=30, color="black", zorder=3)
    return ScalarMappable(Normalize(low, high), LINES) if high > low else None


def place(skeleton: Skeleton) -> tuple[np.ndarray, np.ndarray]:
    """Where the keypoints and their names are drawn, [K, 2] each, y up and x = 0 in the middle.

    The keypoints are those of the reference pose, except that points which nearly coincide, as eyes and ears do, are
    pushed apart until edges between them can be told apart. The names stand in two columns beside it."""
    pose = skeleton.upright_pose * (1, -1)
    count = len(pose)
    size = max(POSE, 0.1 * count)
    turn = np.arange(count)
    points = (pose - pose.mean(axis=0)) * (size / max(np.ptp(pose, axis=0).max(), 1e-9))
    points += 1e-6 * np.column_stack([np.cos(turn), np.sin(turn)])  # so that points in one place part, too
    points = push_apart(points, size * min(0.065, 0.4 / np.sqrt(count)))
    points[:, 0] -= points[:, 0].mean()
    labels = np.empty_like(points)
    left, right = np.split(np.argsort(points[:, 0], kind="stable"), [count // 2])
    for members, x in ((left, points[:, 0].min() - 0.4), (right, points[:, 0].max() + 0.4)):
        depth = abs(points[members, 0] - x)
        y = points[members, 1] + 0.2 * depth  # lines with a slope pass over the keypoints between them and their name
        labels[members] = np.column_stack([np.full(len(members), x), keep_apart(y, 0.19)])
    return points, labels


def push_apart(points: np.ndarray, gap: float) -> np.ndarray:
    """`points` [K, 2], those closer than `gap` moved away from each other until 99 % of it is kept, or 300 times."""
    for _ in range(300):
        apart = points[:, None] - points
        distance = np.linalg.norm(apart, axis=2)
        missing = np.where(distance < gap, gap - distance, 0)
        np.fill_diagonal(missing, 0)
        if missing.max() < 0.01 * gap:
            break
        points = points + ((missing / np.maximum(distance, 1e-9))[..., None] * apart).sum(axis=1) / 2
    return points


def keep_apart(heights: np.ndarray, gap: float) -> np.ndarray:
    """`heights` [K] moved up and down until none is closer than `gap` to another, in the same order."""
    order = np.argsort(heights, kind="stable")
    room = gap * np.arange(len(heights))
    wanted = heights[order] - room
    # Only upwards, and only downwards: both keep the gaps, and so does their mean.
    moved = (np.maximum.accumulate(wanted) + np.minimum.accumulate(wanted[::-1])[::-1]) / 2
    placed = np.empty_like(heights)
    placed[order] = moved + room
    return placed


def readable(name: str) -> str:
    return name.replace("_", " ")
