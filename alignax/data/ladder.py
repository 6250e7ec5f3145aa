"""Sizes from a ladder, so that arrays of many sizes share few compiled programs."""

import dataclasses

from alignax.core.types import BLOCK, ROW_ALIGN
from alignax.data.dealing import pack
from alignax.data.plan import Plan, round_up


def rung(count: int) -> int:
    """The least number of the ladder 1, 2, 3, 4, 6, 8, 12, 16, 24, ... that is not below."""
    power = 1 << max(count - 1, 0).bit_length()
    return power // 4 * 3 if power >= 4 and count <= power // 4 * 3 else power


def widened(plan: Plan, *, prompt: int, response: int, fitted: bool = True) -> Plan:
    """The plan with a shape from a ladder, so that plans of a kind share few compiled programs.

    Rows are as long as the longest group there can be, and their number, like that of scored
    tokens, is rounded up by a half at most; what blocks of a row look back on is all of it.

    Args:
        prompt, response: the longest that any plan of this kind may have, in tokens.
        fitted: whether the ladder is climbed no higher than this plan needs; else all plans of a
            kind have the one shape that holds any of them.
    """
    shape = plan.shape
    # Not the plan's own length, which is another one for every plan.
    prompt, response = max(prompt, shape.prompt), max(response, shape.response)
    length = round_up(prompt + shape.responses * response, ROW_ALIGN)
    most = shape.groups // shape.shards
    rows, scored = most, round_up(most * shape.responses * response, 8)
    if fitted:
        units = [plan.units(window) for window in range(plan.num_windows)]
        rows = next(
            n
            for n in range(1, most + 1)
            if all(pack(plan.lengths.total, u, n, length) is not None for u in units)
        )
        rows, scored = min(rung(rows), most), min(8 * rung(-(-shape.scored // 8)), scored)
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
