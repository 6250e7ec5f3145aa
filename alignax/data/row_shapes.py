"""The shape that all steps of a plan have, and the rows that it takes.

Each number of rows packs with a shortest row, and the one with the fewest tokens is taken. Where
it is packed, every block of a row looks back no further than its groups begin.
"""

import dataclasses

import numpy as np
from jaxtyping import Int

from alignax.core.types import BLOCK
from alignax.data.dealing import pack

LONGEST_ROW = 8192  # tokens; a longer row is used only where a group needs it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """The one shape that all steps of a plan have.

    Fields:
        groups: in a micro-batch (axis b). responses: to each (axis k).
        shards: equal parts of a micro-batch, each on its own device.
        rows: over all shards; row_length: in tokens (axes n and t).
        scored: tokens of a shard that are scored, at most (axis m).
        prompt, response: the longest of each (axes p and r).
        reach: for each `BLOCK` of a row, how far before it the groups begin that it goes on
            with; over all rows of the plan. Rows hold their longest groups first, so that most
            blocks look back a little only.
    """

    groups: int
    responses: int
    shards: int
    rows: int
    row_length: int
    scored: int
    prompt: int
    response: int
    reach: tuple[int, ...]


def fewest_tokens(
    total: Int[np.ndarray, " g"], windows: list[Int[np.ndarray, "_ c"]], shape: Shape, align: int
) -> Shape:
    """Tries each number of rows with the shortest row that packs, and keeps the cheapest."""
    counts = np.append(total, 0)
    busiest = max(int(counts[units].sum(axis=1).max()) for units in windows)
    longest = max(LONGEST_ROW, shape.row_length)
    group = int(total.max())
    best = shape
    for per_shard in range(1, shape.groups // shape.shards):
        rows = per_shard * shape.shards
        first = round_up(max(group, -(-busiest // per_shard)), align)
        for length in range(first, longest + 1, align):
            if rows * length >= best.rows * best.row_length:
                break
            if all(pack(total, units, per_shard, length) is not None for units in windows):
                best = dataclasses.replace(shape, rows=rows, row_length=length)
                break
    return best


def reaches(
    total: Int[np.ndarray, " g"], windows: list[Int[np.ndarray, "_ c"]], shape: Shape
) -> tuple[int, ...]:
    """How far back each block looks, in half blocks, so that few shapes are compiled."""
    starts = np.arange(0, shape.row_length, BLOCK)
    reach = np.zeros(len(starts), np.int64)
    for units in windows:
        placed = pack(total, units, shape.rows // shape.shards, shape.row_length)
        assert placed is not None
        begin = placed[1].ravel()
        end = begin + np.append(total, 0)[units].ravel()
        for i, start in enumerate(starts):
            goes_on = (begin < start) & (start < end)
            reach[i] = max(reach[i], start - begin[goes_on].min(initial=start))
    return tuple(round_up(int(x), BLOCK // 2) for x in reach)


def round_up(x: int, multiple: int) -> int:
    """The least multiple that is not below x."""
    return -(-x // multiple) * multiple
