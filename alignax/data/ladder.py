"""Sizes from a ladder, so that arrays of many sizes share few compiled programs."""

import dataclasses
from typing import Literal

from alignax.core.types import BLOCK, ROW_ALIGN
from alignax.data.dealing import pack
from alignax.data.plan import Plan
from alignax.data.row_shapes import round_up

Fit = Literal["fitted", "halves", "longest"]


def rung(count: int) -> int:
    """The least number of the ladder 1, 2, 3, 4, 6, 8, 12, 16, 24, ... that is not below."""
    power = 1 << max(count - 1, 0).bit_length()
    return power // 4 * 3 if power >= 4 and count <= power // 4 * 3 else power


def widened(plan: Plan, *, prompt: int, response: int, fit: Fit = "fitted") -> Plan:
    """The plan with a shape from a ladder, so that plans of a kind share few compiled programs.

    Rows are as long as the longest group there can be; what blocks of a row look back on is all of
    it.

    Args:
        prompt, response: the longest that any plan of this kind may have, in tokens.
        fit: of rows and scored tokens. "fitted": rounded up by a half at most; "longest": what
            holds any plan of the kind; "halves": that, or half of it where this plan needs no more.
    """
    shape = plan.shape
    # Not the plan's own length, which is another one for every plan.
    prompt, response = max(prompt, shape.prompt), max(response, shape.response)
    length = round_up(prompt + shape.responses * response, ROW_ALIGN)
    most = shape.groups // shape.shards
    rows, scored = most, round_up(most * shape.responses * response, 8)
    units = [plan.units(window) for window in range(plan.num_windows)]
    holds = lambda n: all(pack(plan.lengths.total, u, n, length) is not None for u in units)  # noqa: E731
    if fit == "fitted":
        rows = min(rung(next(n for n in range(1, most + 1) if holds(n))), most)
        scored = min(8 * rung(-(-shape.scored // 8)), scored)
    elif fit == "halves":
        half = round_up(-(-scored // 2), 8)
        if most % 2 == 0 and shape.scored <= half and holds(most // 2):
            rows, scored = most // 2, half
    return dataclasses.replace(
        plan,
        shape=dataclasses.replace(
            shape,
            rows=rows * shape.shards,
            row_length=length,
            scored=scored,
            prompt=prompt,
            response=response,
            reach=tuple(range(0, length, BLOCK)),
        ),
    )
