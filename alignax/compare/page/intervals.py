"""Intervals in cells of tables: a row's reward with its seeds, trials, the evidence of claims."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from alignax.compare.page.axes import Axis, fit
from alignax.compare.page.charts import Estimate, shape
from alignax.compare.page.league import Entry, Findings, measured
from alignax.compare.page.words import MISSING, Number, element, interval, number, places, setting

_WIDTH, _HEIGHT = 240, 24


def rewards(findings: Findings, budget: str) -> Axis:
    """The axis that all rows of a league table share."""
    table = [at for _, at in measured(findings, budget)]
    values = [at["gold"][end] for at in table for end in ("mean", "low", "high")]
    values += [gold for at in table for gold in at["seeds"] or ()]
    return fit([*values, _reference(findings)], 8, _WIDTH - 8)


def trials(findings: Findings) -> Axis:
    """The axis that the trials of all entries share."""
    golds = [t["gold"] for e in findings["entries"] for t in e["tried"] or () if t["gold"]]
    return fit([g[end] for g in golds for end in ("mean", "low", "high")], 8, _WIDTH - 8)


def scale(axis: Axis) -> Markup:
    """The ticks of a column of intervals, for its heading."""
    ticks = [
        element("text", text, class_="tick", x=axis.at(value), y=12, text_anchor="middle")
        for value, text in axis.ticks(52.0)
    ]
    return _cell(ticks, 16)


def row(findings: Findings, entry: Entry, at: Mapping[str, Any], axis: Axis) -> Markup:
    """An entry's gold reward: a dot a seed, the interval, the mean, and the reference's level."""
    parts = _level(findings, axis)
    for i, gold in enumerate(at["seeds"] or ()):
        middle = _HEIGHT / 2 + (-1) ** i * 6.5  # above and below the interval, by turns
        parts.append(element("circle", class_="seed", cx=axis.at(gold), cy=middle, r=1.7))
    parts += [*_bar(at["gold"], axis), shape(entry["family"], axis.at(at["gold"]["mean"]), 12, 3.8)]
    return _cell(parts, _HEIGHT, entry["family"])


def reference_row(findings: Findings, axis: Axis) -> Markup:
    """The gold reward of the reference, beneath those of the entries."""
    gold = findings["reference"]["gold"]
    mark = element("circle", class_="origin", cx=axis.at(gold["mean"]), cy=12, r=3.5)
    return _cell([*_level(findings, axis), *_bar(gold, axis), mark], _HEIGHT, "baseline")


def tried(entry: Entry, axis: Axis) -> Markup:
    """All trials of an entry on one line; the chosen one is filled."""
    parts = []
    golds = [t["gold"] for t in entry["tried"] if t["gold"]]
    for trial in sorted(entry["tried"], key=lambda t: t["chosen"]):
        if not trial["gold"]:
            continue
        said = f"{setting(trial['setting'])}\ngold {interval(trial['gold'], places(golds))}"
        mark = shape(entry["family"], axis.at(trial["gold"]["mean"]), 12, 5)
        kind = "trial chosen" if trial["chosen"] else "trial"
        parts.append(element("g", element("title", said), mark, class_=kind))
    return _cell(parts, _HEIGHT, entry["family"])


def evidence(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A claim's evidence by rows: label, picture, text. Rows of one unit share an axis."""
    found = []
    for shown in rows:
        alike = [r["value"] for r in rows if r["unit"] == shown["unit"] and r["value"]]
        axis = fit([0.0] + [v[end] for v in alike for end in ("mean", "low", "high")], 8, 192)
        here = axis.at(0.0)
        parts = [element("line", class_="level", x1=here, x2=here, y1=0, y2=_HEIGHT)]
        if shown["value"]:
            parts += _bar(shown["value"], axis)
            middle = axis.at(shown["value"]["mean"])
            parts.append(element("circle", class_="mark", cx=middle, cy=12, r=4.5))
        text = f"{interval(shown['value'], places(alike))} {shown['unit']}"
        if shown.get("detectable") is not None:
            text += (
                f"; {number(shown['detectable'], places(alike))} would be seen four times in five"
            )
        picture = _cell(parts, _HEIGHT, "evidence", 200)
        found.append({"label": shown["label"], "picture": picture, "text": text})
    return found


def _bar(estimate: Estimate, axis: Axis) -> list[Markup]:
    if estimate["low"] is None or estimate["high"] is None:
        return []
    low, high = axis.at(estimate["low"]), axis.at(estimate["high"])
    return [element("line", class_="interval", x1=low, x2=high, y1=12, y2=12)]


def _cell(parts: Sequence[str], height: int, kind: str = "", width: int = _WIDTH) -> Markup:
    return element(
        "svg",
        *parts,
        class_=f"cell {kind}".strip(),
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        aria_hidden="true",
    )


def _level(findings: Findings, axis: Axis) -> list[Markup]:
    reference = _reference(findings)
    if reference is None:
        return []
    here = axis.at(reference)
    return [element("line", class_="level", x1=here, x2=here, y1=0, y2=_HEIGHT)]


def _reference(findings: Findings) -> Number | None:
    gold = (findings["reference"] or {}).get("gold")
    return gold and gold["mean"]


def percent(estimate: Estimate | None) -> str:
    """A share as a percentage."""
    return MISSING if estimate is None else f"{number(100 * estimate['mean'], 0)} %"
