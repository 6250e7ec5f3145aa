"""The findings of a comparison as Markdown tables, for a README or a paper's notes."""

from collections.abc import Mapping, Sequence
from typing import Any

from alignax.compare.page.words import OUTCOMES


def tables(found: Mapping[str, Any]) -> str:
    """League, claims and checks."""
    parts = [
        _league(found, "data", "Equal data"),
        _league(found, "compute", "Equal arithmetic"),
        _claims(found["claims"]),
        _checks(found["checks"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def against(found: Mapping[str, Any], budget: str) -> dict[str, tuple[int, int]]:
    """How many others each entry is better than, and worse than."""
    counts: dict[str, list[int]] = {}
    for pair in found["pairs"][budget]:
        for name, wins in ((pair["a"], "better"), (pair["b"], "worse")):
            own = counts.setdefault(name, [0, 0])
            if pair["verdict"] != "inconclusive":
                own[pair["verdict"] != wins] += 1
    return {name: (better, worse) for name, (better, worse) in counts.items()}


def estimate(x: Mapping[str, Any] | None, digits: int = 2) -> str:
    """A mean with its interval; the mean alone where that is exact or unknown."""
    if x is None:
        return "-"
    mean = f"{x['mean']:.{digits}f}"
    if x["low"] is None or x["low"] == x["high"]:
        return mean
    return f"{mean} [{x['low']:.{digits}f}, {x['high']:.{digits}f}]"


def named(entry: Mapping[str, Any]) -> str:
    """An entry's name, and how many of its runs failed: numbers are of those that ended."""
    failed = entry["failed"]
    return f"{entry['name']} (failed: {failed.partition(':')[0]})" if failed else entry["name"]


def _league(found: Mapping[str, Any], budget: str, title: str) -> str:
    counts = against(found, budget)
    rows = []
    there = [entry for entry in found["entries"] if entry["at"][budget]]
    for entry in sorted(there, key=lambda x: -x["at"][budget]["gold"]["mean"]):
        x = entry["at"][budget]
        cost = f"{x['cost']['flops'] / 1e9:.0f}" if x["cost"] else "-"
        better, worse = counts.get(entry["name"], (0, 0))
        setting = ", ".join(
            f"{name.rpartition('.')[2]} {value:g}" if isinstance(value, float) else f"{value}"
            for name, value in entry["setting"].items()
        )
        rows.append(
            [named(entry), entry["family"], estimate(x["gold"]), estimate(x["proxy"]),
             estimate(x["kl"], 1), str(x["step"]), cost, str(better), str(worse), setting]
        )  # fmt: skip
    head = ["entry", "learns", "gold reward", "proxy", "KL, nats", "updates", "GFLOP",
            "better than", "worse than", "chosen"]  # fmt: skip
    return f"{title}:\n\n" + _table(head, rows)


def _claims(claims: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            f"{claim['says']} ({claim['source']})",
            claim["verdict"],
            "; ".join(
                f"{x['label']}: {estimate(x['value'])} {x['unit']}" for x in claim["evidence"]
            ),
        ]
        for claim in claims
    ]
    return _table(["claim", "here", "difference that it says is positive"], rows) if rows else ""


def _checks(checks: Sequence[Mapping[str, Any]]) -> str:
    rows = [[x["name"], OUTCOMES[x["passed"]], x["found"]] for x in checks]
    return _table(["check", "", "found"], rows) if rows else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)
