"""The tables at the end of a run, and the files in results/.

    python -m benchmarks.report                        every claim with what was measured, from results/*.json

A result is what the fixture `record` keeps (conftest.py).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")

Result = Mapping[str, Any]


def save(path: Path, origin: Mapping[str, Any], **measured: Any) -> None:
    """Writes what was measured after where it comes from (`machine.origin`)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**origin, **measured}, indent=4) + "\n")


def tables(results: Sequence[Result]) -> str:
    """A table for each group, in the order of appearance."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result["group"], []).append(result)
    return "\n".join(_table(group, own) for group, own in groups.items())


def _table(group: str, results: Sequence[Result]) -> str:
    variants = [variant for result in results for variant in result.get("variants", {}).values()]
    columns = {name: f"  ÷ {name}".rjust(13) for variant in variants for name in variant["relative_to"]}
    lines = [f"\n{group}"]
    if variants:
        rate = "         rate" if any("rate" in variant for variant in variants) else ""
        lines.append(f"{'milliseconds a call':49} median  [     p25 –      p75]{''.join(columns.values())}{rate}")
    for result in results:
        rows = [f"{name:27}{_row(variant, columns)}" for name, variant in result.get("variants", {}).items()]
        rows += [f"{name:27} {why}" for name, why in result.get("missing", {}).items()]
        if "stages_ms" in result:
            stages = ", ".join(f"{stage} {_four_digits(ms)}" for stage, ms in result["stages_ms"].items())
            rows.append(f"of dgcn's: {stages}")
        if "outcome" in result:
            rows.append(result["outcome"])
        lines += [f"{'' if i else result['case']:20} {row}" for i, row in enumerate(rows)]
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


def claims(results: Sequence[Result]) -> str:
    """A line for each claim, with what was measured in each of its cases; "" where nothing is claimed."""
    lines: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for claim in result["claims"]:
            measured = f"{claim['measured']:.2f} {'' if claim['met'] else '(missed) '}{result['case']}"
            lines.setdefault((f"{result['direction']}: {claim['claim']}", claim["target"]), []).append(measured)
    head = ["\n" + f"{'claim, a ratio of median times':62}target   measured"] if lines else []
    return "\n".join(head + [f"{claim:62}{target:9}{'   '.join(cases)}" for (claim, target), cases in lines.items()])


def main() -> None:
    runs = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))]
    print(claims([result for run in runs for result in run.get("benchmarks", [])]))


if __name__ == "__main__":
    main()
