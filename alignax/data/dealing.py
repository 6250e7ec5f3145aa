"""Dealing groups out evenly, and packing them into rows: arithmetic on counts, all by NumPy."""

import numpy as np
from jaxtyping import Float, Int

ONE = 2**24  # the mean load of a unit: whole numbers, whose sums are the same on every machine
EVEN = ONE + ONE // 500  # a unit with no more than this is even enough
ROUNDS = 64  # of exchanges, at most
NEAR = 16  # items of another unit that one may change places with
# What heavy and light are, in turn: tokens, scored tokens, both, and the one less the other.
DIRECTIONS = np.array([[1, 0], [0, 1], [1, 1], [1, -1]])


def deal(load: Float[np.ndarray, "s g 2"], units: int) -> Int[np.ndarray, "s u c"]:
    """Deals the items of each set to units, equally many to each, so that both loads come out even.

    The heaviest items go first, one to each unit in a round, to the lightest unit the heaviest of
    the round. Then units exchange items in rounds, the heaviest with the lightest, the next with
    the next, until all are even: each pair of which one is not makes the best exchange that is
    found. What this takes is linear in the number of items.
    """
    sets, count = load.shape[:2]
    if units == 1:
        return np.tile(np.arange(count), (sets, 1, 1))
    load = _in_whole_numbers(load, units)
    ranked = np.argsort(-load.sum(axis=2), axis=1, kind="stable").reshape(sets, -1, units)
    dealt = np.empty((sets, units, ranked.shape[1]), np.int64)
    sums = np.zeros((sets, units, 2), np.int64)
    every = np.arange(sets)[:, None]
    for rank, items in enumerate(ranked.swapaxes(0, 1)):
        receiver = np.argsort(sums.sum(axis=2), axis=1, kind="stable")
        dealt[every, receiver, rank] = items
        sums[every, receiver] += load[every, items]
    # From here on items and units are numbered through all sets.
    load, sums = load.reshape(-1, 2), sums.reshape(-1, 2)
    dealt = (dealt + count * every[..., None]).reshape(sets * units, -1)
    half, idle = units // 2, 0
    for turn in range(ROUNDS):
        shift, axis = divmod(turn, len(DIRECTIONS))
        if sums.max() <= EVEN or idle == half * len(DIRECTIONS):  # by then all have met
            break
        direction = DIRECTIONS[axis]
        order = np.argsort((sums @ direction).reshape(sets, units), axis=1, kind="stable")
        order = order + units * every
        light, heavy = order[:, :half], np.roll(order[:, ::-1][:, :half], shift, axis=1)
        pairs = np.stack([heavy.ravel(), light.ravel()])
        pairs = pairs[:, sums[pairs].max(axis=(0, 2)) > EVEN]
        exchanged = pairs.size and _exchange(load, sums, dealt, pairs, direction)
        idle = 0 if exchanged else idle + 1
    return dealt.reshape(sets, units, -1) - count * every[..., None]


def _in_whole_numbers(load: Float[np.ndarray, "s g 2"], units: int) -> Int[np.ndarray, "s g 2"]:
    """The loads with a unit's mean as `ONE`."""
    whole = np.rint(load * ONE)
    mean = np.maximum(whole.sum(axis=1, keepdims=True) / units, 1.0)
    return np.rint(whole / mean * ONE).astype(np.int64)


def _exchange(
    load: Int[np.ndarray, "i 2"],
    sums: Int[np.ndarray, "j 2"],
    dealt: Int[np.ndarray, "j c"],
    pairs: Int[np.ndarray, "2 p"],
    direction: Int[np.ndarray, " 2"],
) -> bool:
    """The best exchange of each pair of units, where that brings down the larger of its loads.

    An item of the heavy unit is compared with those of the light one that are nearest, along the
    direction, to the one which would leave both with the same.

    Returns:
        Whether there was one.
    """
    heavy, light = pairs
    each, size = np.arange(len(heavy))[:, None], dealt.shape[1]
    ours, theirs = load[dealt[heavy]], load[dealt[light]]
    order = np.argsort(theirs @ direction, axis=1, kind="stable")
    there = (theirs @ direction)[each, order]
    wanted = (ours - (sums[heavy] - sums[light])[:, None] // 2) @ direction
    least = min(there.min(), wanted.min())
    apart = each * (max(there.max(), wanted.max()) - least + 1)  # so that one search serves all
    found = np.searchsorted((there + apart).ravel(), (wanted + apart).ravel())
    near = min(NEAR, size)
    first = np.clip(found.reshape(-1, size) - each * size - near // 2, 0, size - near)
    place = order[each[..., None], first[..., None] + np.arange(near)]
    loss = ours[:, :, None] - theirs[each[..., None], place]  # of the heavy unit
    after = np.maximum(
        (sums[heavy][:, None, None] - loss).max(axis=3),
        (sums[light][:, None, None] + loss).max(axis=3),
    ).reshape(len(heavy), -1)
    best = after.argmin(axis=1)
    better = after[each[:, 0], best] < sums[pairs].max(axis=(0, 2))
    (heavy, light), (mine, near_mine) = pairs[:, better], np.divmod(best[better], near)
    yours = place[better, mine, near_mine]
    loss = loss[better, mine, near_mine]
    sums[heavy] -= loss
    sums[light] += loss
    dealt[heavy, mine], dealt[light, yours] = dealt[light, yours], dealt[heavy, mine]
    return bool(better.any())


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
