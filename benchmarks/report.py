"""The tables that a run of benchmarks ends with."""

from collections.abc import Mapping, Sequence
from typing import Any

Results = Sequence[tuple[str, Mapping[str, Any]]]  # the group and the extra_info of each benchmark


def times(results: Results) -> str:
    """A block a group, in the order of appearance."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for group, info in results:
        groups.setdefault(group, []).append(info)
    return "\n".join(_block(group, infos) for group, infos in groups.items())


def _block(group: str, infos: Sequence[Mapping[str, Any]]) -> str:
    every_variant = [variant for info in infos for variant in info["variants"].values()]
    baselines = list(dict.fromkeys(name for variant in every_variant for name in variant["relative_to"]))
    heads = "".join(f"{f'÷ {name}':>13}" for name in baselines)
    rate = "         rate" if any("rate" in variant for variant in every_variant) else ""
    lines = [f"\n{group}", f"{'milliseconds a call':44}  median  [  p25 –  p75 ]{heads}{rate}"]
    for info in infos:
        rows = [f"{name:23}{_row(variant, baselines)}" for name, variant in info["variants"].items()]
        rows += [f"{name:23}  {why}" for name, why in info["missing"].items()]
        lines += [f"{'' if i else info['case']:21}{row}" for i, row in enumerate(rows)]
    return "\n".join(lines)


def _row(variant: Mapping[str, Any], baselines: Sequence[str]) -> str:
    p25, median, p75 = (_four_digits(variant[key]) for key in ("p25_ms", "median_ms", "p75_ms"))
    ratios = (variant["relative_to"].get(name) for name in baselines)
    columns = "".join(f"{'' if ratio is None else f'{ratio:.2f}':>13}" for ratio in ratios)
    rate = f"{variant['rate']:8.1f} {variant['unit']}" if "rate" in variant else ""
    return f"{median:>8}  [{p25:>6}–{p75:>6}]{columns}{rate}".rstrip()


def _four_digits(number: float) -> str:
    return f"{number:.4f}"[:6].rstrip(".")


def claims(results: Results) -> str:
    """A line a claim, with what was measured in each of its cases; "" where nothing is claimed."""
    lines: dict[tuple[str, str], list[str]] = {}
    for _, info in results:
        for claim in info["claims"]:
            measured = f"{claim['measured']:.2f} {'' if claim['met'] else '(missed) '}{info['case']}"
            lines.setdefault((f"{info['direction']}: {claim['claim']}", claim["target"]), []).append(measured)
    head = ["\n" + f"{'claim, a ratio of median times':54}target   measured"] if lines else []
    return "\n".join(head + [f"{claim:54}{target:9}{'   '.join(cases)}" for (claim, target), cases in lines.items()])
