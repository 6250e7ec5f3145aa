"""When something is due by the clock, at the same update in every process."""

import time

import numpy as np

from alignax.core import processes


class Timer:
    """Due after the first update that ends so many seconds after the last time, or soon after.

    The first process's clock counts, and to be told of it every process must wait. So it is asked
    seldom: where it would be due at the pace since the last time, but after no more updates than
    there have been since then, because a pace of few updates says little.

    Args:
        seconds: from one time to the next; None for never.
        begin: updates made.
    """

    def __init__(self, seconds: float | None, begin: int):
        self._seconds = seconds
        self._since = (begin, time.monotonic())
        self._next = begin + 1

    def due(self, step: int) -> bool:
        """Whether it is due now. Every process asks after each update."""
        if self._seconds is None or step < self._next:
            return False
        begin, began = self._since
        updates, passed = step - begin, time.monotonic() - began
        due = passed >= self._seconds
        left = updates * (self._seconds / max(passed, 1e-9) - 1)
        wait = int(min(max(left, 1), updates))
        due, wait = processes.told(np.array([due, wait], np.int32)).tolist()
        if due:
            self._since = (step, time.monotonic())
        self._next = step + wait
        return bool(due)
