"""Statistics of the scores of a data set, that methods keep as numbers of their own."""

from collections.abc import Iterable

import numpy as np


def mean_and_deviation(scores: Iterable[float]) -> tuple[float, float]:
    """Mean and sample deviation (over n - 1); that score itself and 1 where all are equal.

    Example:
        >>> mean_and_deviation([1.0, 3.0])
        (2.0, 1.4142135623730951)
        >>> mean_and_deviation([0.1, 0.1, 0.1])
        (0.1, 1.0)
    """
    values = np.fromiter(scores, np.float64)
    if len(values) and values.min() == values.max():  # their mean may be rounded, to another number
        return float(values[0]), 1.0
    return float(values.mean()), float(values.std(ddof=1)) or 1.0


def threshold(scores: Iterable[float], *, keep: float) -> float:
    """The lowest score of the best share `keep` of them; at least one is kept, and all ties are.

    Example:
        >>> threshold([5.0, 1.0, 3.0, 2.0], keep=0.5)
        3.0
    """
    values = np.sort(np.fromiter(scores, np.float64))[::-1]
    return float(values[max(1, round(keep * len(values))) - 1])
