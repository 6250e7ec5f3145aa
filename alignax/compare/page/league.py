"""Who is better than whom: ranks in which only shown differences count, and verdicts in words."""

from collections.abc import Mapping
from typing import Any

from alignax.compare.page.words import Number, limits, number, places, probability

Findings = Mapping[str, Any]
Entry = Mapping[str, Any]
SIGNS = {"better": "▲", "worse": "▼", "inconclusive": "·"}
_TURNED = {"better": "worse", "worse": "better", "inconclusive": "inconclusive"}


def measured(findings: Findings, budget: str) -> list[tuple[Entry, Mapping[str, Any]]]:
    """Entries with a gold reward at a budget, and what was measured there, the highest first."""
    found = [(entry, (entry.get("at") or {}).get(budget)) for entry in findings["entries"]]
    found = [(entry, at) for entry, at in found if at and at["gold"] is not None]
    return sorted(found, key=lambda pair: -pair[1]["gold"]["mean"])


def absent(findings: Findings, budget: str) -> list[Entry]:
    """Entries that `measured` leaves out."""
    present = {entry["name"] for entry, _ in measured(findings, budget)}
    return [entry for entry in findings["entries"] if entry["name"] not in present]


def verdicts(findings: Findings, budget: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Pairs by (a, b), both ways round: the difference is a minus b, the verdict is a's."""
    found = {}
    for pair in findings["pairs"].get(budget) or ():
        found[pair["a"], pair["b"]] = dict(pair)
        turned = {
            "mean": -pair["difference"]["mean"],
            "low": _minus(pair["difference"]["high"]),
            "high": _minus(pair["difference"]["low"]),
        }
        found[pair["b"], pair["a"]] = pair | {
            "a": pair["b"],
            "b": pair["a"],
            "difference": turned,
            "verdict": _TURNED[pair["verdict"]],
        }
    return found


def _minus(value: Number | None) -> Number | None:
    return None if value is None else -value


def ranks(findings: Findings, budget: str) -> dict[str, tuple[int, int]]:
    """The first and the last place that the verdicts leave to an entry.

    One more than the number of entries shown to be better than it, and the number of all entries
    less those shown to be worse: entries that are not told apart share places.
    """
    pairs = verdicts(findings, budget)
    names = [entry["name"] for entry, _ in measured(findings, budget)]

    def shown(a: str, verdict: str) -> int:
        return sum((a, b) in pairs and pairs[a, b]["verdict"] == verdict for b in names)

    return {a: (1 + shown(a, "worse"), len(names) - shown(a, "better")) for a in names}


def separated(findings: Findings, budget: str) -> tuple[int, int]:
    """How many pairs are told apart, and of how many."""
    pairs = findings["pairs"].get(budget) or ()
    return sum(pair["verdict"] != "inconclusive" for pair in pairs), len(pairs)


def decimals(findings: Findings, budget: str) -> int:
    """Of differences between entries."""
    return places(pair["difference"] for pair in findings["pairs"].get(budget) or ())


def rows(findings: Findings, budget: str) -> list[dict[str, Any]]:
    """The league table by reward; each row against the entry at its head.

    Not by rank: an entry whose runs vary much is told from few, and so has a first place open.
    """
    pairs, rank = verdicts(findings, budget), ranks(findings, budget)
    table = measured(findings, budget)
    digits = decimals(findings, budget)
    return [
        {
            "entry": entry,
            "at": at,
            "rank": rank[entry["name"]],
            "against": _against(pairs.get((entry["name"], table[0][0]["name"])), digits),
        }
        for entry, at in table
    ]


def _against(pair: Mapping[str, Any] | None, digits: int) -> dict[str, Any]:
    if pair is None:
        return {"mean": "", "limits": "", "verdict": "", "why": "", "difference": None}
    found = f"{probability(pair['p_holm'])} after Holm's correction"
    if pair["detectable"] is not None:
        found += f"; shows a difference of {number(pair['detectable'], digits)} four times in five"
    return {
        "mean": number(pair["difference"]["mean"], digits),
        "limits": limits(pair["difference"], digits),
        "verdict": pair["verdict"],
        "why": found,
        "difference": pair["difference"]["mean"],
    }


def matrix(findings: Findings, budget: str) -> list[tuple[Entry, list[str]]]:
    """For each entry, its verdicts against all in the same order; empty on the diagonal."""
    pairs = verdicts(findings, budget)
    order = [entry for entry, _ in measured(findings, budget)]
    return [
        (a, [pairs.get((a["name"], b["name"]), {"verdict": ""})["verdict"] for b in order])
        for a in order
    ]


def headline(findings: Findings, budget: str) -> str:
    """What has the highest mean where something was measured, and how little that says."""
    (first, _), *others = measured(findings, budget)
    pairs = verdicts(findings, budget)
    near = sum(pairs[first["name"], x["name"]]["verdict"] == "inconclusive" for x, _ in others
               if (first["name"], x["name"]) in pairs)  # fmt: skip
    apart, of = separated(findings, budget)
    not_told = f"{near} other{'s are' if near != 1 else ' is'} not told from it"
    return (
        f"{first['title']} has the highest mean; {not_told}. {apart} of {of} pairs are told apart."
    )
