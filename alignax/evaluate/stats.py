"""Means with intervals. Nothing is reported without one."""

from collections.abc import Hashable, Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import stdtrit

RESAMPLES = 2000
BLOCK = 2**18  # numbers drawn at a time: 2 MiB, and 2 to 4 more of what they stand for
FEW = 30  # prompts below which the bootstrap covers too little
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


def numbered(keys: Iterable[Hashable]) -> Int[np.ndarray, " n"]:
    """A number for each key, the same for equal ones, in the order in which they first come.

    Example:
        >>> numbered("abac").tolist()
        [0, 1, 0, 2]
    """
    found: dict[Hashable, int] = {}
    return np.array([found.setdefault(key, len(found)) for key in keys], np.int64)


def estimate(
    values: Float[np.ndarray, " n"],
    *,
    prompts: Int[np.ndarray, " n"] | None = None,
    weights: Float[np.ndarray, " n"] | None = None,
    share: bool = False,
    seed: int = 0,
) -> Estimate:
    """A mean over values, and a 95% interval for the mean over all prompts that could be asked.

    Values of one prompt are not independent of each other: intervals are over prompts with all
    their values, and `n` counts prompts. From 30 of them the interval is the percentile bootstrap
    (Efron 1979), 2,000 resamples, drawn in blocks, whose size changes no bit, so that memory is
    that of one block, or of one resample where that is more. Of fewer it is Student's with the
    jackknife's variance. On synthetic data with 4, 8 and 16 prompts that covers 95%, 96% and 94%
    where values are normal (the bootstrap 80%, 90%, 91%), and 88%, 90% and 90% where they are
    exponential (75%, 85%, 88%); from 30 prompts on the two differ by 2% at most.

    Args:
        prompts: of each value which prompt it is of, as `numbered` has it; None where every value
            is of another.
        weights: not negative: the mean is the sum of the values over the sum of these, such as a
            loss over tokens. None for 1 each. A prompt whose weights are 0 is not counted.
        share: whether the values are shares, in [0, 1], without weights. Where each is 0 or 1, the
            interval is Wilson's, which stays honest near 0 and 1, at as many independent answers
            as all of them are worth (`worth`). That of other shares is cut off at 0 and 1.
        seed: of the resamples.
    """
    above = np.asarray(values, np.float64)
    below = np.ones(len(above)) if weights is None else np.asarray(weights, np.float64)
    if prompts is not None:
        above, below = (np.bincount(prompts, weights=x) for x in (above, below))
    above, below = above[below > 0], below[below > 0]
    n = len(below)
    if n == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    mean = float(above.sum() / below.sum())
    if share and np.isin(values, (0, 1)).all():
        return Estimate(mean, *wilson(mean, worth(above, below)), n)
    low, high = float("-inf"), float("inf")
    if n > 1:
        low, high = _student(above, below) if n < FEW else _bootstrap(above, below, seed)
    if share:
        low, high = max(low, 0.0), min(high, 1.0)
    return Estimate(mean, low, high, n)


def over_seeds(values: Float[np.ndarray, " s"]) -> Estimate:
    """The mean of one number a seed, with Student's 95% interval, s - 1 degrees of freedom."""
    n, mean = len(values), float(np.mean(values, dtype=np.float64))
    if n == 1:
        return Estimate(mean, float("-inf"), float("inf"), 1)
    half = stdtrit(n - 1, 0.975) * np.std(values, ddof=1, dtype=np.float64) / np.sqrt(n)
    return Estimate(mean, float(mean - half), float(mean + half), n)


def wilson(share: float, n: int | float) -> tuple[float, float]:
    """Wilson's 95% score interval for a share of n (Wilson 1927)."""
    z = NORMAL_975
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def worth(yes: Float[np.ndarray, " n"], asked: Float[np.ndarray, " n"]) -> float:
    """How many independent answers, yes or no, say as much of their share as those to n prompts.

    By the design effect (Kish 1965), between the number of prompts, where all answers to one are
    alike (fewer where some have more answers than others), and the number of answers. It is
    estimated with two prompts more, one answered by yes alone and one by no: so answers that are
    all alike, which say nothing of how alike those to one prompt are, count as the fewest. Few
    prompts say little of it either, hence Student's quantile (Korn and Graubard 1998). On
    synthetic data Wilson's interval then covers 91% or more from 8 prompts on, with 4 or 28
    answers to each, at shares of 0.5 and 0.9.

    Args:
        yes: answers to each prompt that are yes. asked: all answers to it, above 0.
    """
    n, size = len(asked), asked.mean()
    fewest = asked.sum() ** 2 / (asked**2).sum()  # n, where all have as many answers
    yes, every = np.append(yes, [size, 0.0]), np.append(asked, [size, size])
    share = yes.sum() / every.sum()
    found = n * share * (1 - share) * size**2 / np.mean((yes - share * every) ** 2)
    found *= (NORMAL_975 / stdtrit(max(n - 1, 1), 0.975)) ** 2
    return float(np.clip(found, fewest, asked.sum()))


def _student(above: Float[np.ndarray, " n"], below: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """The mean of n prompts, and what it would be without each: of equal weights Student's own."""
    n, total = len(above), below.sum()
    mean = above.sum() / total
    moved = (mean * below - above) / (total - below)  # the mean without a prompt, less the mean
    half = stdtrit(n - 1, 0.975) * np.sqrt((n - 1) / n * (moved**2).sum())
    return float(mean - half), float(mean + half)


def _bootstrap(
    above: Float[np.ndarray, " n"], below: Float[np.ndarray, " n"], seed: int
) -> tuple[float, float]:
    n, alike = len(above), bool((below == below[0]).all())
    generator = np.random.Generator(np.random.Philox(seed))
    rows, means = max(1, BLOCK // n), np.empty(RESAMPLES)
    for first in range(0, RESAMPLES, rows):
        part = means[first : first + rows]
        index = generator.integers(0, n, size=(len(part), n))
        part[:] = above[index].sum(axis=1)
        part /= below.sum() if alike else below[index].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
