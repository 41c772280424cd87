"""The tables that a run of benchmarks ends with.

    python benchmarks/report.py                        every claim with what was measured, from results/*.json

Legend: a result is the group and the extra_info of a benchmark.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Results = Sequence[tuple[str, Mapping[str, Any]]]


def times(results: Results) -> str:
    """A block a group, in the order of appearance."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for group, info in results:
        groups.setdefault(group, []).append(info)
    return "\n".join(_block(group, infos) for group, infos in groups.items())


def _block(group: str, infos: Sequence[Mapping[str, Any]]) -> str:
    every_variant = [variant for info in infos for variant in info["variants"].values()]
    columns = {name: f"  ÷ {name}".rjust(13) for variant in every_variant for name in variant["relative_to"]}
    rate = "         rate" if any("rate" in variant for variant in every_variant) else ""
    head = f"{'milliseconds a call':49} median  [     p25 –      p75]{''.join(columns.values())}{rate}"
    lines = [f"\n{group}", head]
    for info in infos:
        rows = [f"{name:27}{_row(variant, columns)}" for name, variant in info["variants"].items()]
        rows += [f"{name:27} {why}" for name, why in info["missing"].items()]
        if "stages_ms" in info:
            stages = ", ".join(f"{stage} {_four_digits(ms)}" for stage, ms in info["stages_ms"].items())
            rows.append(f"of dgcn's: {stages}")
        lines += [f"{'' if i else info['case']:20} {row}" for i, row in enumerate(rows)]
    return "\n".join(lines)


def _row(variant: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    p25, median, p75 = (_four_digits(variant[key]) for key in ("p25_ms", "median_ms", "p75_ms"))
    ratios = (variant["relative_to"].get(name) for name in columns)
    texts = ("" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
    padded = "".join(text.rjust(len(head)) for text, head in zip(texts, columns.values(), strict=True))
    rate = f"{variant['rate']:8.1f} {variant['unit']}" if "rate" in variant else ""
    return f"{median:>8}  [{p25:>8} –{p75:>9}]{padded}{rate}".rstrip()


def _four_digits(number: float) -> str:
    return f"{number:.4f}"[:6].rstrip(".") if number >= 0.01 else f"{number:.6f}"


def claims(results: Results) -> str:
    """A line a claim, with what was measured in each of its cases; "" where nothing is claimed."""
    lines: dict[tuple[str, str], list[str]] = {}
    for _, info in results:
        for claim in info["claims"]:
            measured = f"{claim['measured']:.2f} {'' if claim['met'] else '(missed) '}{info['case']}"
            lines.setdefault((f"{info['direction']}: {claim['claim']}", claim["target"]), []).append(measured)
    head = ["\n" + f"{'claim, a ratio of median times':62}target   measured"] if lines else []
    return "\n".join(head + [f"{claim:62}{target:9}{'   '.join(cases)}" for (claim, target), cases in lines.items()])


def main() -> None:
    files = sorted(Path(__file__).with_name("results").glob("*.json"))
    runs = [json.loads(file.read_text()) for file in files]
    print(claims([(one["group"], one) for run in runs for one in run.get("benchmarks", [])]))


if __name__ == "__main__":
    main()
