"""The rows of the paper's tables as flags of `dgcn train`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

TABLES = (1, 2, 3, 5)
SEMANTICS = ("literal", "mask")
_GAMMAS = {"0.01": 0.638, "0.1": 0.639, "0.5": 0.641, "1": 0.641, "5": 0.641, "100": 0.639}
_BACKBONES = {"resnext50_32x4d": (0.638, 0.651), "densenet121": (0.618, 0.636)}


@dataclass(frozen=True)
class Row:
    """A row of a table of the paper.

    name: of its folder, and in the results.
    flags: of `dgcn train`; what they leave out is the same in all rows.
    paper_ap: the AP that the paper reports.
    baseline: name of the row that it is compared with.
    """

    name: str
    flags: tuple[str, ...]
    paper_ap: float
    baseline: str = "baseline"


def paper_rows(table: int, *, on_crowdpose: bool = False) -> list[Row]:
    """The rows of a table of the paper. Table 5 has some for COCO and others for CrowdPose."""
    baseline = Row("baseline", ("--levels",), 0.626)
    if table == 1:
        return [
            baseline,
            Row("GCN-A_I", ("--levels", "F16", "--graph", "identity", "--propagation", "eq4"), 0.636),
            Row("GCN-A_h", ("--levels", "F16", "--graph", "hand"), 0.639),
            Row("GCN-A_s", ("--levels", "F16", "--graph", "soft"), 0.641),
            Row("DGCN-A_d", ("--levels", "F16", "--graph", "dynamic"), 0.646),
        ]
    if table == 2:
        soft = ("--levels", "F16", "--graph", "soft", "--gamma")
        return [Row(f"gamma-{gamma}", (*soft, gamma), ap, "gamma-0.5") for gamma, ap in _GAMMAS.items()]
    if table == 3:
        return [
            baseline,
            Row("DGCN-F16", ("--levels", "F16", "--graph", "dynamic"), 0.646),
            Row("DGCN-F8-F16", ("--levels", "F8", "F16", "--graph", "dynamic"), 0.651),
            Row("DGCN-F4-F8-F16", ("--levels", "F4", "F8", "F16", "--graph", "dynamic"), 0.652),
        ]
    if table == 5:
        rows = []
        for backbone, (without, with_head) in ({"resnet50": (0.563, 0.591)} if on_crowdpose else _BACKBONES).items():
            flags = ("--backbone", backbone, "--levels")
            rows.append(Row(f"baseline-{backbone}", flags, without, f"baseline-{backbone}"))
            rows.append(Row(f"DGCN-{backbone}", (*flags, "F16", "--graph", "dynamic"), with_head, rows[-1].name))
        return rows
    raise ValueError(f"table must be one of {TABLES}, got {table}")


def under_semantics(rows: Sequence[Row], semantics: Sequence[str]) -> list[Row]:
    """A row on which the readings of Eq. 8 differ once under each of `semantics`, any other once.

    They differ in what an absent edge is. The baseline has no graph, Eq. 4 no softmax, and A_s no absent edge.
    """
    expanded = []
    for row in rows:
        if {"hand", "dynamic"}.isdisjoint(row.flags):
            expanded.append(row)
            continue
        for reading in semantics:
            flags = (*row.flags, "--semantics", reading)
            expanded.append(replace(row, name=f"{row.name}-{reading}", flags=flags))
    return expanded
