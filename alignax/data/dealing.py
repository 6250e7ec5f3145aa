"""Dealing groups out evenly, and packing them into rows: arithmetic on counts, all by NumPy."""

import numpy as np
from jaxtyping import Float, Int

EVEN = 1.005  # a unit this much above the mean is even enough
CANDIDATES = 64  # units that an overfull one looks for an exchange with


def deal(load: Float[np.ndarray, "g 2"], units: int) -> Int[np.ndarray, "u c"]:
    """Deals items to units, equally many to each, so that both loads come out even.

    The heaviest items go first, one to each unit in a round, to the lightest unit the heaviest of
    the round. Then the unit furthest above the mean exchanges an item for another unit's, the
    best exchange there is, until all are even or no exchange helps.
    """
    if units == 1:
        return np.arange(len(load))[None]
    ranked = np.argsort(-load.sum(axis=1), kind="stable").reshape(-1, units)
    dealt = np.empty_like(ranked.T)
    sums = np.zeros((units, 2))
    for rank, items in enumerate(ranked):
        receiver = np.argsort(sums.sum(axis=1), kind="stable")
        dealt[receiver, rank] = items
        sums[receiver] += load[items]
    mean = np.maximum(sums.mean(axis=0), 1e-9)
    for _ in range(8 * units):
        worst = (sums / mean).max(axis=1)
        giver = int(worst.argmax())
        axis = int((sums[giver] / mean).argmax())
        if worst[giver] <= EVEN:
            break
        others = np.argsort(sums[:, axis], kind="stable")[:CANDIDATES]
        gain = load[dealt[others]][:, :, None] - load[dealt[giver]]  # what the giver would gain
        after = np.maximum(
            ((sums[giver] + gain) / mean).max(axis=3),
            ((sums[others][:, None, None] - gain) / mean).max(axis=3),
        )
        after[others == giver] = np.inf
        best = np.unravel_index(after.argmin(), after.shape)
        if after[best] >= worst[giver] - 1e-9:
            break
        taker, theirs, ours = int(others[best[0]]), best[1], best[2]
        sums[giver] += gain[best]
        sums[taker] -= gain[best]
        dealt[giver, ours], dealt[taker, theirs] = dealt[taker, theirs], dealt[giver, ours]
    return dealt


def part_twins(
    groups: Int[np.ndarray, " g"], load: Float[np.ndarray, "g 2"], dealt: Int[np.ndarray, "w c"]
) -> Int[np.ndarray, "w c"]:
    """Steps that hold no group twice, where a window holds the end of an epoch and a beginning.

    The second of a pair changes places with the group most like it in a step that has room for
    it; it stays where there is no such step, as in a window of one step.
    """
    names = groups[dealt]
    for step, row in enumerate(names):
        seen = np.zeros(len(row), bool)
        seen[np.unique(row, return_index=True)[1]] = True
        for place in np.flatnonzero(~seen & (row >= 0)):
            open_steps = ~(names == row[place]).any(axis=1)
            fits = open_steps[:, None] & ~np.isin(names, row)
            if fits.any():
                unlike = np.abs(load[dealt] - load[dealt[step, place]]).max(axis=2)
                other = np.unravel_index(np.where(fits, unlike, np.inf).argmin(), fits.shape)
                for table in (dealt, names):
                    table[step, place], table[other] = table[other], table[step, place]
    return dealt


def pack(
    total: Int[np.ndarray, " g"], units: Int[np.ndarray, "u c"], rows: int, length: int
) -> tuple[Int[np.ndarray, "u c"], Int[np.ndarray, "u c"]] | None:
    """Best-fit decreasing, all units at once: the row and the offset of each group.

    None where some group does not fit.
    """
    need = np.append(total, 0)[units]
    used = np.zeros((len(units), rows), np.int64)
    row, offset = np.empty_like(units), np.empty_like(units)
    every = np.arange(len(units))
    for rank in np.argsort(-need, axis=1, kind="stable").T:
        wanted = need[every, rank]
        left = length - used - wanted[:, None]
        chosen = np.where(left >= 0, left, length + 1).argmin(axis=1)
        if (left[every, chosen] < 0).any():
            return None
        row[every, rank], offset[every, rank] = chosen, used[every, chosen]
        used[every, chosen] += wanted
    return row, offset
