"""Easy pairs first, hard ones later: which pairs are hard, and what share of each step they are.

Xu et al. 2023, arXiv:2310.02263. Pairs come from sources of different strength. The gap of a pair
is how much stronger the source of its chosen response is than that of its rejected one; a large
gap is easy to tell, a small one hard. The paper's share of hard pairs grows linearly from 0 at
the first step to 1 at the last.
"""

import dataclasses
import math
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float, Int

from alignax.core.errors import BadInput


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """From a share of hard pairs at the first step to another at the last, linearly.

    Fields:
        start, end: the shares, in [0, 1]. 0 and 1 are the paper's; the same number twice is a
            mixture that stays as it is.
        hard_gap: pairs whose gap is at most this are hard, in the unit of the gaps. None for the
            median gap, so that about half of the pairs are hard.

    Raises:
        BadInput: a share outside [0, 1].
    """

    start: float = 0.0
    end: float = 1.0
    hard_gap: float | None = None

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            share = getattr(self, name)
            if not 0.0 <= share <= 1.0:
                raise BadInput(
                    "a share of hard pairs in [0, 1]",
                    repr(share),
                    "0 is for easy pairs only, 1 for hard ones only.",
                    where=f"schedule.{name}",
                )

    def share(self, progress: float) -> float:
        """Share of hard pairs in [0, 1], at a progress of 0 (first step) to 1 (last step)."""
        return (1.0 - progress) * self.start + progress * self.end  # exact at both ends

    def hard_counts(self, *, num_steps: int, batch_size: int) -> Int[np.ndarray, " steps"]:
        """How many pairs of every step are hard.

        The first i steps together hold as many as their shares allow, rounded down. So no step is
        off by one whole pair from its share, whatever the share, and neither is the run.

        Example: 4 steps of 2 pairs, from 0 to 1.

            share of the step       0   1/3   2/3   1
            pairs, as a fraction    0   2/3   4/3   2
            summed up               0   2/3   2     4
            hard pairs              0   0     2     2
        """
        # In fractions of the numbers as they are written: in floats a sum such as 2.999... would
        # round down to a pair too few, and the next step get one more than it holds.
        start, end = (Fraction(str(share)) for share in (self.start, self.end))
        slope = (end - start) / max(num_steps - 1, 1)
        sums = (batch_size * (i * start + slope * (i * (i - 1) // 2)) for i in range(num_steps + 1))
        return np.diff([math.floor(pairs) for pairs in sums])

    def hard(self, gaps: Float[np.ndarray, " g"]) -> Bool[np.ndarray, " g"]:
        """Which pairs are hard. Pairs with the same gap are hard together or easy together.

        Where `hard_gap` is None the limit is the median, and pairs at the median are hard; where
        that leaves none that is easy, because half of the pairs or more have the largest gap, all
        others are hard.

        Example: a pair is hard whose gap is marked.

            1 1 2 2 3 3     gap <= 2
            ^ ^ ^ ^
            1 2 2 2         gap < 2, for the median is 2 and so is the largest
            ^

        Args:
            gaps: of all pairs, finite, in any unit.

        Raises:
            BadInput: a gap that is not finite; all gaps the same; a `hard_gap` that leaves no
                pair easy or none hard.
        """
        if not np.isfinite(gaps).all():
            first = int(np.flatnonzero(~np.isfinite(gaps))[0])
            raise BadInput(
                "a gap of every pair that is a finite number",
                f"{gaps[first]} for pair {first}",
                "Look at the strengths of its two sources.",
            )
        if len(np.unique(gaps)) < 2:
            raise BadInput(
                "pairs of at least two gaps, so that some are easier than others",
                f"{len(gaps)} pairs, all of gap {gaps[0]:g}" if len(gaps) else "no pairs",
                "Add pairs from other sources, or train without a schedule.",
            )
        smallest, largest = gaps.min(), gaps.max()
        if self.hard_gap is None:
            median = np.median(gaps)
            return gaps <= median if median < largest else gaps < largest
        if not smallest <= self.hard_gap < largest:
            raise BadInput(
                f"a gap from {smallest:g}, the smallest there is, to less than {largest:g}, "
                "the largest",
                f"{self.hard_gap:g}, which leaves no pair "
                + ("easy" if self.hard_gap >= largest else "hard"),
                "Choose a gap between them, or None for the median.",
                where="schedule.hard_gap",
            )
        return gaps <= self.hard_gap
