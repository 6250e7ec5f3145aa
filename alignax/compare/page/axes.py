"""From numbers to pixels: scales and ticks, the frame of a picture, labels that do not collide."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Literal

from markupsafe import Markup

from alignax.compare.page.words import Number, compact, element, number

Box = tuple[Number, Number, Number, Number]  # left, top, right, bottom
Scale = Literal["linear", "sqrt", "log"]
Spot = tuple[Number, Number, str]
_BENT = {"linear": float, "sqrt": math.sqrt, "log": math.log}
_ZERO_GAP = 26.0  # pixels between a logarithmic axis and the place of zero before it


@dataclasses.dataclass(frozen=True)
class Axis:
    """A scale: `low` is drawn at pixel `begin`, `high` at `end`.

    `sqrt` spreads small values: gains grow about as the root of the KL. `log` has a place of its
    own for zero, at `begin`, where `zero` is true: an offline method generates no tokens.
    """

    low: Number
    high: Number
    begin: Number
    end: Number
    scale: Scale = "linear"
    zero: bool = False

    def at(self, value: Number) -> Number:
        """The pixel of a value; values off the scale are drawn at its edge."""
        begin = self.begin
        if self.scale == "log":
            if value <= 0:
                return begin
            begin += _ZERO_GAP if self.zero else 0.0
        bent = _BENT[self.scale]
        low, high = bent(self.low), bent(self.high)
        value = bent(min(max(value, self.low), self.high))
        return begin + (value - low) / (high - low) * (self.end - begin)

    def ticks(self, apart: Number = 56.0) -> list[tuple[Number, str]]:
        """Round values at least `apart` pixels from each other, with their texts."""
        if self.scale == "linear":
            step = _round_step((self.high - self.low) * apart / abs(self.end - self.begin))
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            decimals = max(0, -math.floor(math.log10(step)))
            large = max(abs(self.low), abs(self.high)) >= 1e4
            values = [i * step for i in range(first, last + 1)]
            return [(v, compact(v) if large else number(v, decimals)) for v in values]
        kept = [0.0] if self.low <= 0 or self.zero else []
        decades = range(math.floor(math.log10(max(self.low, self.high * 1e-3))), 25)
        for mantissa in (1, 5, 2):  # whole powers of ten first
            for value in (mantissa * 10.0**power for power in reversed(decades)):
                if not self.low <= value <= self.high:
                    continue
                if all(abs(self.at(value) - self.at(other)) >= apart for other in kept):
                    kept.append(value)
        return [(value, compact(value)) for value in sorted(kept)]


def fit(
    values: Iterable[Number | None],
    begin: Number,
    end: Number,
    scale: Scale = "linear",
    pad: Number = 0.06,
) -> Axis:
    """The axis that shows all values, with a margin of `pad` of its length."""
    known = [value for value in values if value is not None]
    if scale == "log":
        positive = [value for value in known if value > 0] or [1.0]
        stretch = max((max(positive) / min(positive)) ** pad, 1.25)
        low, high = min(positive) / stretch, max(positive) * stretch
        return Axis(low, high, begin, end, scale, zero=any(value <= 0 for value in known))
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if scale == "sqrt":
        return Axis(0.0, max(high, 1e-3) * (1 + pad), begin, end, scale)
    margin = pad * (high - low) or 0.5
    return Axis(low - margin, high + margin, begin, end)


def without_outliers(values: Sequence[Number]) -> list[Number]:
    """Those within thrice what nine in ten do not exceed: a few would squeeze the many."""
    if not values:
        return []
    most = 3 * sorted(values)[math.ceil(0.9 * len(values)) - 1]
    return [value for value in values if value <= most]


def _round_step(at_least: Number) -> Number:
    power = 10.0 ** math.floor(math.log10(at_least))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= at_least * (1 - 1e-9))


def frame(x: Axis, y: Axis, x_title: str, y_title: str, apart: Number = 56.0) -> Markup:
    """Grid lines, ticks and titles; the title of y stands level above its axis, to be read."""
    parts = []
    for value, text in y.ticks(38.0):
        at = y.at(value)
        parts += [
            element("line", class_="grid", x1=x.begin, x2=x.end, y1=at, y2=at),
            element("text", text, class_="tick", x=x.begin - 8, y=at + 4, text_anchor="end"),
        ]
    for value, text in x.ticks(apart):
        at = x.at(value)
        parts += [
            element("line", class_="notch", x1=at, x2=at, y1=y.begin, y2=y.begin + 5),
            element("text", text, class_="tick", x=at, y=y.begin + 18, text_anchor="middle"),
        ]
    return Markup("").join(
        [
            *parts,
            element("line", class_="axis", x1=x.begin, x2=x.end, y1=y.begin, y2=y.begin),
            element("text", x_title, class_="title", x=x.end, y=y.begin + 36, text_anchor="end"),
            element("text", y_title, class_="title", x=max(x.begin - 40, 4.0), y=y.end - 10),
        ]
    )


def width_of(text: str, size: Number = 12.0) -> Number:
    """Pixels that a line of text takes in a common sans serif, on the wide side."""
    return 0.6 * size * len(text) + 2


def spread(wanted: Sequence[Number], apart: Number, low: Number, high: Number) -> list[Number]:
    """Places for labels beside line ends: as wanted, in order, at least `apart` from each other.

    Neighbours that collide become a block around their mean; blocks that meet become one.
    """
    blocks: list[list[int]] = []
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])

    def top(block: list[int]) -> Number:
        length = (len(block) - 1) * apart
        middle = sum(wanted[i] for i in block) / len(block)
        return max(low, min(middle - length / 2, high - length))

    for i in order:
        blocks.append([i])
        while len(blocks) > 1 and top(blocks[-1]) < top(blocks[-2]) + len(blocks[-2]) * apart:
            last = blocks.pop()
            blocks[-1] += last
    found = [0.0] * len(wanted)
    for block in blocks:
        for place, i in enumerate(block):
            found[i] = top(block) + place * apart
    return found


def place(
    points: Sequence[tuple[Number, Number, str]],
    taken: Sequence[Box],
    crossed: Sequence[Box],
    bounds: Box,
    size: Number = 12.0,
) -> list[Spot | None]:
    """Where each point's label begins, or None where it finds no room; earlier points choose first.

    Args:
        points: x, y and text, the most important first.
        taken: boxes that no label may touch, such as the points themselves.
        crossed: boxes that a label had better not touch, such as intervals and curves.
        bounds: what labels must stay within.
        size: of the type, in pixels.

    Returns:
        Of each label the point it hangs on, and which part of it hangs there: `text-anchor`.
    """
    fixed, found = list(taken), []
    for x, y, text in points:
        long, best = width_of(text, size), None
        for at, base, anchor in _around(x, y, size):
            left = at - long * {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor]
            box = (left, base - 0.8 * size, left + long, base + 0.25 * size)
            inside = bounds[0] <= box[0] and bounds[1] <= box[1]
            inside = inside and box[2] <= bounds[2] and box[3] <= bounds[3]
            if not inside or any(_touch(box, other) for other in fixed):
                continue
            cost = sum(_touch(box, other) for other in crossed)
            if best is None or cost < best[0]:
                best = (cost, (at, base, anchor), box)
        found.append(best[1] if best else None)
        if best:
            fixed.append(best[2])
    return found


def _around(x: Number, y: Number, size: Number) -> list[Spot]:
    """Right, left, above, below, then the corners."""
    level, above, below = y + 0.32 * size, y - 0.75 * size, y + 1.5 * size
    sides = [(x + 9, level, "start"), (x - 9, level, "end"), (x, above, "middle")]
    corners = [(x + 5, above, "start"), (x - 5, above, "end"), (x + 5, below, "start")]
    return [*sides, (x, below, "middle"), *corners, (x - 5, below, "end")]


def _touch(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
