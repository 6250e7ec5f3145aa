"""Means with intervals. Nothing is reported without one."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

RESAMPLES = 2000
BLOCK = 2**18  # numbers drawn at a time: 2 MiB, and 2 more of what they stand for
NORMAL_975 = 1.959963984540054  # the 97.5% point of the standard normal distribution


class Estimate(NamedTuple):
    """A mean over n independent prompts, or seeds, with its 95% interval."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        # Four digits of what is large, so that two of these stand side by side on 80 columns.
        decimals = 3 if max(abs(self.low), abs(self.high)) < 10 else 2
        mean, low, high = (f"{x:.{decimals}f}" for x in self[:3])
        return f"{mean} [{low}, {high}]"


def estimate(values: Float[np.ndarray, " n"], *, share: bool = False, seed: int = 0) -> Estimate:
    """The mean of one number a prompt, and a 95% interval for the mean over all such prompts.

    Args:
        share: whether the values are 0 or 1. Shares get Wilson's score interval, which stays
            honest near 0 and 1; everything else the percentile bootstrap over prompts (Efron
            1979), 2,000 resamples. They are drawn in blocks, whose size changes no bit, so that
            memory is that of one block, or of one resample where that is more.
        seed: of the resamples.
    """
    n = len(values)
    if n == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    mean = float(np.mean(values, dtype=np.float64))
    if share:
        return Estimate(mean, *wilson(mean, n), n)
    if n == 1:
        return Estimate(mean, float("-inf"), float("inf"), 1)
    generator = np.random.Generator(np.random.Philox(seed))
    exact, rows = np.asarray(values, np.float64), max(1, BLOCK // n)
    means = np.empty(RESAMPLES)
    for first in range(0, RESAMPLES, rows):
        part = means[first : first + rows]
        part[:] = exact[generator.integers(0, n, size=(len(part), n))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(mean, float(low), float(high), n)


def over_seeds(values: Float[np.ndarray, " s"]) -> Estimate:
    """The mean of one number a seed, with Student's 95% interval, s - 1 degrees of freedom."""
    n, mean = len(values), float(np.mean(values, dtype=np.float64))
    if n == 1:
        return Estimate(mean, float("-inf"), float("inf"), 1)
    half = stdtrit(n - 1, 0.975) * np.std(values, ddof=1, dtype=np.float64) / np.sqrt(n)
    return Estimate(mean, float(mean - half), float(mean + half), n)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95% score interval for a share of n (Wilson 1927)."""
    z = NORMAL_975
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))
