"""Statistics of the scores of a data set, that methods keep as numbers of their own."""

from collections.abc import Iterable

import numpy as np


def mean_and_deviation(scores: Iterable[float]) -> tuple[float, float]:
    """Mean and sample deviation (over n - 1); the deviation is 1 where all scores are equal.

    Example:
        >>> mean_and_deviation([1.0, 3.0])
        (2.0, 1.4142135623730951)
    """
    values = np.fromiter(scores, np.float64)
    deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return float(values.mean()), deviation or 1.0


def threshold(scores: Iterable[float], *, keep: float) -> float:
    """The lowest score of the best share `keep` of them; at least one is kept.

    Example:
        >>> threshold([5.0, 1.0, 3.0, 2.0], keep=0.5)
        3.0
    """
    values = np.sort(np.fromiter(scores, np.float64))[::-1]
    return float(values[max(1, round(keep * len(values))) - 1])
