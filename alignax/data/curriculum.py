"""Which groups every step takes, where easy ones are to come before hard ones.

A pure function of (gaps, schedule, number of steps, batch size, seed). The plan takes the table it
returns as its order, so the number of a step stays the whole position in the data.
"""

import numpy as np
from jaxtyping import Float, Int

from alignax.core.schedule import Schedule
from alignax.data.plan import generator

EASY, HARD = 2, 3  # purposes of random numbers; the plan's own are 0 and 1


def order(
    gaps: Float[np.ndarray, " g"],
    schedule: Schedule,
    *,
    num_steps: int,
    batch_size: int,
    seed: int,
) -> Int[np.ndarray, "steps b"]:
    """The groups of every step; in a step the easy ones come first.

    Step i is at progress i / (num_steps - 1). Easy and hard groups are each dealt from a stream of
    their own: all groups of the set in a random order, then all of them in another, and so on. No
    group is met again before all of its set are met, and none twice in a step that takes no more
    groups from the set than there are.

    Example: gaps 3 1 3 1, so that groups 1 and 3 are hard, over 3 steps of 2. One of the orders is

        share of hard groups    0      1/2    1
        step                    2 0    2 3    1 3

    where both sets begin again, the easy one in step 1, the hard one in step 2: with 3, whatever
    its new order, for step 2 has 1 already.

    Args:
        gaps: of each group of the data set: how much stronger the source of its chosen response
            is than that of its rejected one. A small gap is hard.
        schedule: says which gaps are hard, and their share of each step.
        num_steps: of the run, at least 1.
        batch_size: groups to a step.
        seed: of the two streams.

    Raises:
        BadInput: gaps that cannot be told into easy and hard; see `Schedule.hard`.
    """
    hard = schedule.hard(gaps)
    counts = schedule.hard_counts(num_steps=num_steps, batch_size=batch_size)
    is_hard = np.arange(batch_size) >= batch_size - counts[:, None]
    table = np.empty((num_steps, batch_size), np.int64)
    table[~is_hard] = _stream(np.flatnonzero(~hard), batch_size - counts, seed, EASY)
    table[is_hard] = _stream(np.flatnonzero(hard), counts, seed, HARD)
    return table


def _stream(
    members: Int[np.ndarray, " m"], counts: Int[np.ndarray, " steps"], seed: int, purpose: int
) -> Int[np.ndarray, " taken"]:
    """The members of a set that the steps take, `counts` of them, step after step.

    Each epoch is a permutation of the set. Where one begins within a step, members that the step
    has already change places with the first ones that it has not and would not get.
    """
    ends, size = np.cumsum(counts), len(members)
    total = int(ends[-1])
    stream = np.empty(-(-total // size) * size, np.int64)
    for begin in range(0, total, size):
        new = members[generator(seed, purpose, begin // size).permutation(size)]
        step = int(np.searchsorted(ends, begin, side="right"))  # the one that `begin` is within
        first, end = int(ends[step] - counts[step]), int(ends[step])
        if end - first <= size:  # else there are too few for the step
            wanted = end - begin
            twin = np.isin(new, stream[first:begin])
            here = np.flatnonzero(twin[:wanted])
            there = wanted + np.flatnonzero(~twin[wanted:])[: len(here)]
            new[here], new[there] = new[there], new[here]
        stream[begin : begin + size] = new
    return stream[:total]
