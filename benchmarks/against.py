"""`python -m benchmarks.against OLD NEW`: how a comparison differs from an earlier one of itself.

Both are folders of raw results, as `alignax compare` or `benchmarks.published` leaves them; what
was published before is in git's history. Printed: entries whose mean moved, settings chosen
otherwise, verdicts that are others now by budget, and claims.
"""

import argparse
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from alignax.compare import results
from alignax.compare.analysis import findings
from alignax.compare.report import MADE

BUDGETS = ("data", "compute")
Found = Mapping[str, Any]


def of(folder: pathlib.Path) -> Found:
    """The findings of raw results."""
    return findings(results.read(folder), json.loads((folder / MADE).read_text("utf-8")))


def moved(old: Found, new: Found) -> list[str]:
    """Gold reward at equal data before and now, by how far it moved; places in the league."""
    before, now = _gold(old), _gold(new)
    ranks = [{name: i for i, name in enumerate(sorted(x, key=x.__getitem__, reverse=True), 1)}
             for x in (before, now)]  # fmt: skip
    both = sorted(before.keys() & now.keys(), key=lambda name: -abs(now[name] - before[name]))
    rows = [["entry", "gold before", "now", "difference", "place before", "now"]]
    rows += [
        [name, f"{before[name]:.2f}", f"{now[name]:.2f}", f"{now[name] - before[name]:+.2f}",
         *(str(x[name]) for x in ranks)]
        for name in both
    ]  # fmt: skip
    return [f"| {' | '.join(row)} |" for row in (rows[0], ["---"] * 6, *rows[1:])]


def chosen(old: Found, new: Found) -> list[str]:
    """Entries whose trials chose another setting."""
    before, now = ({x["name"]: x["setting"] for x in found["entries"]} for found in (old, new))
    return [
        f"{name}: {_shown(before[name])} before, {_shown(now[name])} now"
        for name in now
        if name in before and before[name] != now[name]
    ]


def verdicts(old: Found, new: Found, budget: str) -> list[str]:
    """How many verdicts there were and are, and those that changed.

    A verdict is lost where it became inconclusive, gained where it was, turned where the other
    entry is the better one now.
    """
    before, now = ({_pair(x): _for(x) for x in found["pairs"][budget]} for found in (old, new))
    both = before.keys() & now.keys()
    kinds: dict[str, list[str]] = {"lost": [], "gained": [], "turned": []}
    for pair in sorted(both):
        was, is_ = before[pair], now[pair]
        if was != is_:
            kind = "gained" if was is None else "lost" if is_ is None else "turned"
            better = is_ or was
            worse = next(name for name in pair if name != better)
            kinds[kind].append(f"{better} over {worse}")
    told = [sum(x[pair] is not None for pair in both) for x in (before, now)]
    lines = [f"of {len(both)} pairs at equal {budget}, {told[0]} told apart before, {told[1]} now: "
             + ", ".join(f"{len(names)} {kind}" for kind, names in kinds.items())]  # fmt: skip
    return lines + [f"{kind}: {'; '.join(names)}" for kind, names in kinds.items() if names]


def claims(old: Found, new: Found) -> list[str]:
    """Claims whose verdict is another."""
    before = {x["name"]: x["verdict"] for x in old["claims"]}
    return [
        f"{x['name']}: {before[x['name']]} before, {x['verdict']} now"
        for x in new["claims"]
        if before.get(x["name"], x["verdict"]) != x["verdict"]
    ]


def _gold(found: Found) -> dict[str, float]:
    there = [x for x in found["entries"] if x["at"]["data"]]
    return {x["name"]: x["at"]["data"]["gold"]["mean"] for x in there}


def _pair(row: Mapping[str, Any]) -> tuple[str, str]:
    first, second = sorted((row["a"], row["b"]))
    return first, second


def _for(row: Mapping[str, Any]) -> str | None:
    """The better entry; None where the pair is not told apart."""
    return {"better": row["a"], "worse": row["b"]}.get(row["verdict"])


def _shown(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.rpartition('.')[2]} {x:g}" for name, x in setting.items()) or "none"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=pathlib.Path)
    parser.add_argument("new", type=pathlib.Path)
    options = parser.parse_args()
    pair = of(options.old), of(options.new)
    parts = [moved(*pair), chosen(*pair), *(verdicts(*pair, b) for b in BUDGETS), claims(*pair)]
    print("\n\n".join("\n".join(part) for part in parts))
