"""Numbers, settings and elements as text: the unknown is a dash, what is foreign is escaped."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from markupsafe import Markup

Number = float | int  # JSON writes 1.0 as 1
MISSING, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
FAMILIES = ("offline", "iterated", "online", "baseline")
BUDGETS = {"data": "Equal data", "compute": "Equal compute"}
OUTCOMES = {True: "passed", False: "failed", None: "limit"}  # of a check
_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")


def number(value: Number | None, places: int = 3) -> str:
    """A number with a fixed count of decimals and a true minus sign."""
    if value is None:
        return MISSING
    return f"{round(value, places) + 0.0:.{places}f}".replace("-", MINUS)  # + 0.0: no minus zero


def count(value: Number | None) -> str:
    """A count in full up to 99,999, and shortened beyond."""
    return f"{value:,.0f}" if value is not None and value < 1e5 else compact(value)


def compact(value: Number | None, unit: str = "") -> str:
    """Three significant digits and a prefix of a thousand: 1234567 is 1.23 M."""
    if value is None:
        return MISSING
    power = 0
    if abs(value) >= 999.5:
        power = min(int(math.log10(abs(value) * 1.0005) // 3), len(_PREFIXES) - 1)
    digits = f"{value / 1000**power:.3g}".replace("-", MINUS)
    return f"{digits} {_PREFIXES[power]}{unit}".rstrip()


def places(estimates: Iterable[Mapping[str, Any] | None]) -> int:
    """Decimals that show two digits of a typical interval's half width, and no noise after it."""
    halves = sorted(
        (e["high"] - e["low"]) / 2
        for e in estimates
        if e and e["low"] is not None and e["high"] is not None and e["high"] > e["low"]
    )
    if not halves:
        return 3
    return min(4, max(0, 1 - math.floor(math.log10(halves[len(halves) // 2]))))


def interval(estimate: Mapping[str, Any] | None, decimals: int = 3) -> str:
    """`0.512 [0.490, 0.534]`; the mean alone where the interval is unknown."""
    if estimate is None:
        return MISSING
    return f"{number(estimate['mean'], decimals)} {limits(estimate, decimals)}".rstrip()


def limits(estimate: Mapping[str, Any], decimals: int = 3) -> str:
    """`[0.490, 0.534]`; nothing where the interval is unknown."""
    if estimate["low"] is None or estimate["high"] is None:
        return ""
    return f"[{number(estimate['low'], decimals)}, {number(estimate['high'], decimals)}]"


def probability(p: Number | None) -> str:
    """A p-value: three decimals, and never zero."""
    if p is None:
        return "p unknown"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def duration(seconds: Number | None) -> str:
    """Seconds as a reader says them: 47 s, 12 min, 3.4 h."""
    if seconds is None:
        return MISSING
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5940 else f"{seconds / 3600:.1f} h"


def setting(values: Mapping[str, Any]) -> str:
    """`beta 0.1, learning_rate 0.001`: names without their room where that is not ambiguous."""
    short = {name: name.rsplit(".", 1)[-1] for name in values}
    clear = len(set(short.values())) == len(short)
    parts = (f"{short[name] if clear else name} {_value(v)}" for name, v in values.items())
    return ", ".join(parts) or "as its config has it"


def short(title: str, longest: int = 28) -> str:
    """A title as a picture has room for it."""
    return (
        title
        if len(title) <= longest
        else title[: longest - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
    )


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def element(tag: str, *children: str, **attributes: Any) -> Markup:
    """`<tag key="value">children</tag>`, escaped; `class_` is `class`, `data_set` is `data-set`.

    Coordinates are given a tenth of a pixel; an attribute that is None is left out.
    """
    named = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    written = Markup("").join(
        Markup(' {}="{}"').format(key, f"{v:.1f}".removesuffix(".0") if type(v) is float else v)
        for key, v in named
        if v is not None
    )
    return Markup("<{0}{1}>{2}</{0}>").format(tag, written, Markup("").join(children))
