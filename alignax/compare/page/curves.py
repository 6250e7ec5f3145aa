"""Pictures of training as it goes on: learning curves, and the proxy against the gold reward."""

from collections.abc import Mapping
from typing import Any, Literal

from markupsafe import Markup

from alignax.compare.page.axes import Axis, Scale, fit, frame, spread, width_of
from alignax.compare.page.charts import line, picture
from alignax.compare.page.league import Entry, Findings
from alignax.compare.page.words import FAMILIES, Number, compact, element, interval, places, short

_ACROSS: dict[str, tuple[str, Scale]] = {
    "step": ("Updates", "linear"),
    "flops": ("FLOP", "log"),
    "kl": ("KL, nats", "sqrt"),
}
Across = Literal["step", "flops", "kl"]


def learning(findings: Findings, family: str, across: Across) -> Markup:
    """Gold reward of a family's entries as training goes on, a line an entry, named at its end.

    Args:
        findings: of a comparison.
        family: one of `FAMILIES`.
        across: `step` or `flops`; both axes are the same for all families.
    """
    shown = [e for e in findings["entries"] if _curve(e, across)]
    entries = [e for e in shown if e["family"] == family]
    everyone = [p for e in shown for p in _curve(e, across)]
    crowd = max((sum(e["family"] == f for e in shown) for f in FAMILIES), default=0)
    beside = max((width_of(short(e["title"])) for e in shown), default=0) + 12
    width, height = 460, max(280, 15 * crowd + 90)
    title, scale = _ACROSS[across]
    x = fit([_x(p, across) for p in everyone], 52, width - beside, scale, pad=0.01)
    y = fit([p["gold"]["mean"] for p in everyone], height - 48, 32)
    ends = [_end(_curve(e, across), "gold", across, x, y) for e in entries]
    beside_y = spread([end[1] for end in ends], 14, y.end, y.begin - 8)
    decimals = places(p["gold"] for p in everyone)
    marks = []
    for entry, end, label_y in zip(entries, ends, beside_y, strict=True):
        curve = _curve(entry, across)
        last = f"{entry['title']}\ngold {interval(curve[-1]['gold'], decimals)}"
        last += f" after {compact(curve[-1]['step'])} updates"
        leader = [(end[0] + 2, end[1]), (end[0] + 9, label_y)]
        parts = [
            element("title", last),
            _band(curve, "gold", across, x, y),
            line(_pixels(curve, "gold", across, x, y), "curve"),
            line(leader, "leader"),
            element("circle", class_="end", cx=end[0], cy=end[1], r=2.5),
            element("text", short(entry["title"]), class_="label", x=end[0] + 11, y=label_y + 4),
        ]
        whose = {"data_entry": entry["name"], "data_family": family}
        marks.append(element("g", *parts, class_=f"point {family}", **whose))
    drawn = element("g", *marks, class_="marks", data_roving="")
    content = frame(x, y, title, "Gold reward") + drawn
    return picture(content, width, height, f"Learning curves of the {family} entries")


def falls(findings: Findings) -> list[tuple[Entry, Number]]:
    """Entries with a curve, and how far below its best point gold ends; the farthest first."""
    found = []
    for entry in findings["entries"]:
        golds = [p["gold"]["mean"] for p in _curve(entry, "step")]
        if len(golds) > 1:
            found.append((entry, max(golds) - golds[-1]))
    return sorted(found, key=lambda pair: -pair[1])


def optimisation(findings: Findings, across: Across) -> dict[str, Markup]:
    """Proxy and gold reward of each entry as gains over the reference, by the entry's name.

    The two rewards have different units, so each gain is a share of the largest that any entry made
    of that reward. All pictures have the same axes.
    """
    largest = _largest(findings)
    curves = {e["name"]: _shares(e, largest) for e in findings["entries"]}
    curves = {
        name: [p for p in curve if _x(p, across) is not None] for name, curve in curves.items()
    }
    everyone = [p for curve in curves.values() for p in curve]
    both = [p[reward]["mean"] for p in everyone for reward in ("gold", "proxy") if p[reward]]
    x = fit([_x(p, across) for p in everyone], 40, 236, _ACROSS[across][1], pad=0.02)
    y = fit([0.0, *both], 164, 14, pad=0.08)
    return {
        entry["name"]: _over(entry, curves[entry["name"]], across, x, y)
        for entry in findings["entries"]
        if curves[entry["name"]]
    }


def _over(entry: Entry, curve: list, across: Across, x: Axis, y: Axis) -> Markup:
    zero = y.at(0.0)
    parts = [element("line", class_="level", x1=x.begin, x2=x.end, y1=zero, y2=zero)]
    ends = {}
    for reward in ("proxy", "gold"):
        known = [p for p in curve if p[reward]]
        if known:
            parts.append(_band(known, reward, across, x, y))
            parts.append(line(_pixels(known, reward, across, x, y), f"curve {reward}"))
            ends[reward] = _end(known, reward, across, x, y)
    beside = spread([end[1] for end in ends.values()], 13, y.end + 4, y.begin - 2)
    for (name, end), at in zip(ends.items(), beside, strict=True):
        parts.append(element("text", name, class_=f"label {name}", x=end[0] + 7, y=at + 4))
    points = [_asked(p, across, x, y) for p in curve if p["gold"]]
    parts.append(element("g", *points, class_="marks", data_roving=""))
    axes = frame(x, y, _ACROSS[across][0], "", apart=32)
    drawn = axes + element("g", *parts, class_=entry["family"])
    return picture(drawn, 280, 210, f"Proxy and gold reward of {entry['title']}")


def _asked(point: Mapping[str, Any], across: Across, x: Axis, y: Axis) -> Markup:
    raw = point["raw"]
    said = f"after {compact(raw['step'])} updates"
    for name, unit in (("gold", ""), ("proxy", ""), ("kl", " nats")):
        shown = interval(raw[name], places([raw[name]])) + unit
        said += f"\n{name.replace('kl', 'KL')} {shown}"
    at = (x.at(_x(point, across)), y.at(point["gold"]["mean"]))
    dot = element("circle", class_="dot", cx=at[0], cy=at[1], r=3.0)
    return element("g", element("title", said), dot, class_="point")


def _largest(findings: Findings) -> dict[str, tuple[Number, Number]]:
    """Of gold and proxy: what the reference has, and the largest gain of any entry over it."""
    found = {}
    for reward in ("gold", "proxy"):
        base = ((findings["reference"] or {}).get(reward) or {"mean": 0.0})["mean"]
        points = [p for e in findings["entries"] for p in e["curve"] or () if p[reward]]
        gain = max((p[reward]["mean"] - base for p in points), default=0.0)
        found[reward] = (base, gain if gain > 0 else 1.0)
    return found


def _shares(entry: Entry, largest: Mapping[str, tuple[Number, Number]]) -> list[dict[str, Any]]:
    """The entry's curve with gold and proxy as shares of the largest gain; the numbers as `raw`."""
    found = [dict(point) | {"raw": point} for point in entry["curve"] or ()]
    for point in found:
        for reward, (base, gain) in largest.items():
            point[reward] = point[reward] and {
                end: None if value is None else (value - base) / gain
                for end, value in point[reward].items()
            }
    return found


def _curve(entry: Entry, across: Across) -> list[Mapping[str, Any]]:
    return [p for p in entry["curve"] or () if p["gold"] and _x(p, across) is not None]


def _x(point: Mapping[str, Any], across: Across) -> Any:
    if across == "kl":
        return point["kl"] and point["kl"]["mean"]
    return point[across]


def _pixels(
    curve: list, reward: str, across: Across, x: Axis, y: Axis, end: str = "mean"
) -> list[tuple[Number, Number]]:
    return [(x.at(_x(p, across)), y.at(p[reward][end])) for p in curve]


def _end(curve: list, reward: str, across: Across, x: Axis, y: Axis) -> tuple[Number, Number]:
    return _pixels(curve[-1:], reward, across, x, y)[0]


def _band(curve: list, reward: str, across: Across, x: Axis, y: Axis) -> Markup:
    """The intervals of a curve, as an area."""
    known = [p for p in curve if p[reward]["low"] is not None and p[reward]["high"] is not None]
    if len(known) < 2:
        return Markup("")
    there = _pixels(known, reward, across, x, y, "low")
    back = _pixels(known, reward, across, x, y, "high")[::-1]
    return line(there + back, f"band {reward}")
