"""Pictures with a point an entry: reward against distance from the reference, and against cost."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from alignax.compare.page.axes import (
    Axis,
    Box,
    fit,
    frame,
    place,
    width_of,
    without_outliers,
)
from alignax.compare.page.league import Entry, Findings, measured
from alignax.compare.page.words import Number, compact, element, interval, places, short

Estimate = Mapping[str, Any]
SIZES = {"wide": (960, 560), "narrow": (360, 440)}  # a phone gets a picture of its own
_CORNERS = {
    "iterated": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "online": ((0, -1.15), (1.1, 0.8), (-1.1, 0.8)),
    "baseline": ((0, -1.2), (1.2, 0), (0, 1.2), (-1.2, 0)),
}


def picture(content: str, width: Number, height: Number, label: str, kind: str = "") -> Markup:
    """An SVG that scales with its column; `label` is what a screen reader says first."""
    return element(
        "svg",
        content,
        class_=f"picture {kind}".strip(),
        viewBox=f"0 0 {width:g} {height:g}",
        role="group",
        aria_label=label,
    )


def shape(family: str, x: Number, y: Number, r: Number = 5.5) -> Markup:
    """A family's mark: circle, square, triangle or diamond, told apart without colour."""
    if family not in _CORNERS:
        return element("circle", class_="mark", cx=x, cy=y, r=r)
    corners = (f"{x + dx * r:.1f},{y + dy * r:.1f}" for dx, dy in _CORNERS[family])
    return element("path", class_="mark", d="M" + "L".join(corners) + "Z")


def swatch(family: str) -> Markup:
    """A family's mark in a line of text."""
    mark = shape(family, 7, 7)
    return element("svg", mark, class_=f"swatch {family}", viewBox="0 0 14 14", aria_hidden="true")


def frontier(findings: Findings, budget: str, kind: str) -> Markup:
    """Gold reward against KL to the reference, with the analytic optimum and best-of-n.

    Args:
        findings: of a comparison.
        budget: `data` or `compute`.
        kind: `wide` or `narrow`, of `SIZES`.
    """
    width, height = SIZES[kind]
    points = [(e, at) for e, at in measured(findings, budget) if at["kl"] is not None]
    chosen = [b for b in findings["frontier"]["best_of_n"] or () if b["gold"] is not None]
    reference = (findings["reference"] or {}).get("gold")
    kls = [at["kl"][end] for _, at in points for end in ("mean", "high")]
    x = fit([*without_outliers(kls), *(b["kl"] for b in chosen)], 52, width - 16, "sqrt")
    beyond = [(entry, at) for entry, at in points if at["kl"]["mean"] > x.high]
    optimum = [o for o in findings["frontier"]["optimum"] or () if o["kl"] <= x.high]
    golds = [at["gold"] for _, at in points] + [b["gold"] for b in chosen]
    golds += [reference] if reference else []
    reached = [gold[end] for gold in golds for end in ("mean", "low", "high")]
    y = fit([*reached, *(o["gold"] for o in optimum)], height - 48, 36)
    taken, crossed = [], []
    under = _optimum(optimum, x, y, taken, crossed) + _best_of_n(chosen, x, y, taken)
    if reference and all(entry["name"] != "reference" for entry, _ in points):
        here = (x.at(0), y.at(reference["mean"]))
        under.append(element("circle", class_="origin", cx=here[0], cy=here[1], r=4.0))
        under.append(_name("reference", here[0] + 9, here[1] + 4, "start", taken))
    entries = _scatter(points, [at["kl"] for _, at in points], x, y, taken, crossed)
    title = "KL to the reference, nats a response (square-root scale)"
    drawn = Markup("").join(
        [frame(x, y, title, "Gold reward"), *_off(beyond, x, y), *under, entries]
    )
    label = "Gold reward against KL to the reference, a point an entry"
    return picture(drawn, width, height, label, kind)


def _off(beyond: Sequence[tuple[Entry, Mapping[str, Any]]], x: Axis, y: Axis) -> list[Markup]:
    """Says which points stand at the edge because they lie beyond it."""
    if not beyond:
        return []
    said = ", ".join(f"{short(e['title'])} at {compact(at['kl']['mean'])}" for e, at in beyond)
    where = {"x": x.end, "y": y.end - 10, "text_anchor": "end"}
    return [element("text", f"beyond the edge: {said}", class_="label quiet", **where)]


def _optimum(
    optimum: Sequence[Mapping[str, Any]], x: Axis, y: Axis, taken: list[Box], crossed: list[Box]
) -> list[Markup]:
    if not optimum:
        return []
    pixels = [(x.at(o["kl"]), y.at(o["gold"])) for o in optimum]
    crossed += [(px - 2, py - 2, px + 2, py + 2) for px, py in pixels]
    name = _name("analytic optimum", pixels[-1][0], pixels[-1][1] - 8, "end", taken)
    return [line(pixels, "optimum"), name]


def _best_of_n(
    chosen: Sequence[Mapping[str, Any]], x: Axis, y: Axis, taken: list[Box]
) -> list[Markup]:
    if not chosen:
        return []
    pixels = [(x.at(b["kl"]), y.at(b["gold"]["mean"])) for b in chosen]
    decimals = places(b["gold"] for b in chosen)
    crosses = []
    for b, (px, py) in zip(chosen, pixels, strict=True):
        said = f"best of {b['n']} from the reference\ngold {interval(b['gold'], decimals)}"
        title = element("title", f"{said}\nKL {compact(b['kl'])} nats")
        cross = element("path", class_="cross", d=f"M{px - 4:.1f},{py:.1f}h8m-4,-4v8")
        crosses.append(element("g", title, cross, class_="point"))
        taken.append((px - 5, py - 5, px + 5, py + 5))
    name = f"best of {chosen[0]['n']} to {chosen[-1]['n']}"
    # Beside the second: where the first stands, so do the reference and what is as good.
    beside = pixels[min(1, len(pixels) - 1)]
    marks = element("g", *crosses, class_="marks", data_roving="")
    return [
        line(pixels, "best-of-n"),
        marks,
        _name(name, beside[0] + 9, beside[1] + 14, "start", taken),
    ]


def cost(findings: Findings, budget: str, quantity: str, title: str) -> Markup:
    """Gold reward against one of the costs of training, on a logarithmic scale."""
    width, height = 420, 320
    points = [
        (entry, at)
        for entry, at in measured(findings, budget)
        if (at["cost"] or {}).get(quantity) is not None
    ]
    values = [at["cost"][quantity] for _, at in points]
    x = fit(values, 52, width - 16, "log")
    golds = [at["gold"] for _, at in points]
    y = fit([v for g in golds for v in (g["mean"], g["low"], g["high"])], height - 48, 32)
    spent = [{"mean": v, "low": None, "high": None} for v in values]
    content = frame(x, y, title, "Gold reward") + _scatter(points, spent, x, y, [], [])
    return picture(content, width, height, f"Gold reward against {title.lower()}")


def line(points: list[tuple[Number, Number]], kind: str) -> Markup:
    """An open path through pixels."""
    return element("path", class_=kind, d="M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points))


def _name(text: str, x: Number, y: Number, anchor: str, taken: list[Box]) -> Markup:
    """The name of a curve, where no other may stand."""
    left = x - (width_of(text) if anchor == "end" else 0)
    taken.append((left, y - 11, left + width_of(text), y + 3))
    return element("text", text, class_="label quiet", x=x, y=y, text_anchor=anchor)


def _scatter(
    points: Sequence[tuple[Entry, Mapping[str, Any]]],
    across: Sequence[Estimate],
    x: Axis,
    y: Axis,
    taken: Sequence[Box],
    crossed: Sequence[Box],
) -> Markup:
    """Marks with both intervals, and names where they fit; a name without room shows on demand."""
    decimals = places(at["gold"] for _, at in points)
    pixels = [
        (x.at(spent["mean"]), y.at(at["gold"]["mean"]))
        for (_, at), spent in zip(points, across, strict=True)
    ]
    marks, bars = [], []
    for (entry, at), spent, (px, py) in zip(points, across, pixels, strict=True):
        ends = [(px, px, y.at(low), y.at(high)) for low, high in _known(at["gold"])]
        ends += [(x.at(low), x.at(high), py, py) for low, high in _known(spent)]
        bars += [
            (min(a, b) - 1, min(c, d) - 1, max(a, b) + 1, max(c, d) + 1) for a, b, c, d in ends
        ]
        whiskers = [
            element("line", class_="whisker", x1=a, x2=b, y1=c, y2=d) for a, b, c, d in ends
        ]
        title = element("title", _said(entry, at, decimals))
        mark = shape(entry["family"], px, py)
        marks.append(_of(entry, "g", title, *whiskers, mark, class_="point"))
    first = _most_telling(points, across)
    bounds = (x.begin, y.end - 4, x.end + 14, y.begin - 2)
    spots = place(
        [(*pixels[i], short(points[i][0]["title"])) for i in first],
        [*taken, *((px - 6, py - 6, px + 6, py + 6) for px, py in pixels)],
        [*crossed, *bars],
        bounds,
    )
    for i, spot in zip(first, spots, strict=True):
        entry, (px, py) = points[i][0], pixels[i]
        title = short(entry["title"])
        fits = px + 9 + width_of(title) <= bounds[2]
        at_text = spot or (px + (9 if fits else -9), py - 9, "start" if fits else "end")
        named = dict(zip(("x", "y", "text_anchor"), at_text, strict=True))
        kind = "label" if spot else "label on-demand"
        marks.append(_of(entry, "text", title, class_=kind, **named))
    return element("g", *marks, class_="marks", data_roving="")


def _known(estimate: Estimate) -> list[tuple[Number, Number]]:
    """The interval, if it is known."""
    low, high = estimate["low"], estimate["high"]
    return [] if low is None or high is None else [(low, high)]


def _of(entry: Entry, tag: str, *children: str, class_: str, **attributes: Any) -> Markup:
    return element(
        tag,
        *children,
        class_=f"{class_} {entry['family']}",
        data_entry=entry["name"],
        data_family=entry["family"],
        **attributes,
    )


def _said(entry: Entry, at: Mapping[str, Any], decimals: int) -> str:
    """What a point says when it is asked."""
    lines = [f"{entry['title']} ({entry['family']})", f"gold {interval(at['gold'], decimals)}"]
    lines += [f"KL {interval(at['kl'], places([at['kl']]))} nats"] if at["kl"] else []
    spent = at["cost"] or {}
    if spent.get("flops") is not None:
        lines.append(f"{compact(spent['flops'], 'FLOP')}, {compact(spent['generated'])} generated")
    return "\n".join(lines)


def _most_telling(points: Sequence, across: Sequence[Estimate]) -> list[int]:
    """Indices by how much a name matters: the ends of both axes, then what none beats for less."""
    if not points:
        return []
    order = range(len(points))  # by gold, the highest first
    by_cost = sorted(order, key=lambda i: across[i]["mean"])
    best = [i for i in order if all(across[j]["mean"] >= across[i]["mean"] for j in order[:i])]
    return list(dict.fromkeys([0, by_cost[-1], order[-1], by_cost[0], *best, *order]))
