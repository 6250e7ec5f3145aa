"""Methods on the same seeds and held-out prompts: means, differences, and intervals for both.

Values are one number a seed and held-out prompt, `[s, b]`: every seed is a training run of its own,
and all are asked the same prompts. Both are samples, of the runs that there could be and of the
prompts that could be asked, so an interval allows for both: one over prompts says nothing of the
next run.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import nctdtrinc, stdtr, stdtrit

from alignax.evaluate.stats import RESAMPLES, Estimate

LEVEL = 0.05  # the share of false verdicts allowed, two-sided
POWER = 0.8  # with which a difference as large as `detectable` is found


class Spread(NamedTuple):
    """A mean over seeds and prompts, and what is known of its error."""

    mean: Float[np.ndarray, "*trials"]
    error: Float[np.ndarray, "*trials"]  # standard error
    freedom: Float[np.ndarray, "*trials"]  # its degrees of freedom


class Difference(NamedTuple):
    """A method's mean minus another's, over the same seeds and prompts."""

    estimate: Estimate
    p: float  # two-sided; below 0.05 if and only if 0 is outside the interval
    error: float  # standard error
    freedom: float  # its degrees of freedom

    def detectable(self, tests: int = 1) -> float:
        """The true difference that is found with 80% power, by the noncentral t distribution.

        Args:
            tests: how many this one is among: it is then one at 5% over that many (Bonferroni),
                which Holm's never falls behind, however the others come out.
        """
        least = stdtrit(self.freedom, 1 - LEVEL / (2 * tests))
        return self.error * float(nctdtrinc(self.freedom, 1 - POWER, least))


def spread(values: Float[np.ndarray, "*trials s b"]) -> Spread:
    """The mean and its standard error, where seeds and prompts are drawn at random and crossed.

    Take the mean squares of the two-way table: A between seeds, B between prompts, E of the rest.
    The variance of the mean is estimated by

        (E + max(A - E, 0) + max(B - E, 0)) / (s b),

    which is (A + B - E) / (s b) with no component of variance below zero. Its degrees of freedom
    are Satterthwaite's (1946): the bracket squared, over the sum of A^2 / (s - 1), B^2 / (b - 1)
    and E^2 / ((s - 1) (b - 1)).

    This is the crossed bootstrap without the drawing. That one draws seeds and, independently,
    prompts anew for each resample (Owen 2007, "The pigeonhole bootstrap", doi:10.1214/07-AOAS122),
    and over all resamples its variance is exactly

        ((s - 1) A / s + (b - 1) B / b + (s - 1) (b - 1) E / (s b)) / (s b),

    which takes s seeds for less varied than they are, by (s - 1) / s, and counts E three times
    where the truth has it once. Both are put right above. Besides, a share of 2,000 resamples is
    too coarse a p-value to survive Holm's factor over hundreds of pairs.

    Of one seed, or of one prompt, nothing is known of others: the error is infinite.
    """
    values = np.asarray(values, np.float64)
    *_, s, b = values.shape
    mean = values.mean((-2, -1), keepdims=True)
    if s == 1 or b == 1:
        mean = mean[..., 0, 0]
        return Spread(mean, np.full_like(mean, np.inf), np.ones_like(mean))
    seeds, prompts = values.mean(-1, keepdims=True) - mean, values.mean(-2, keepdims=True) - mean
    rest = values - mean - seeds - prompts
    freedoms = np.array([s - 1, b - 1, (s - 1) * (b - 1)])
    sums = [b * (seeds**2).sum((-2, -1)), s * (prompts**2).sum((-2, -1)), (rest**2).sum((-2, -1))]
    return Spread(mean[..., 0, 0], *of_squares(np.stack(sums, -1) / freedoms, s, b))


def of_squares(
    squares: Float[np.ndarray, "*trials 3"], s: int, b: int
) -> tuple[Float[np.ndarray, "*trials"], Float[np.ndarray, "*trials"]]:
    """Standard error and degrees of freedom by the mean squares A, B and E of `spread`."""
    freedoms = np.array([s - 1, b - 1, (s - 1) * (b - 1)])
    left = squares[..., 2]
    total = left + np.maximum(squares[..., :2] - left[..., None], 0).sum(-1)
    doubt = (squares**2 / freedoms).sum(-1)
    freedom = np.divide(total**2, doubt, out=np.ones_like(left), where=doubt > 0)
    return np.asarray(np.sqrt(total / (s * b))), freedom


def paired_spread(values: Float[np.ndarray, "*trials s b"]) -> Spread:
    """The same of paired differences: at most s - 1 degrees of freedom (`difference` says why)."""
    found = spread(values)
    most = max(values.shape[-2] - 1, 1)
    return found._replace(freedom=np.asarray(np.minimum(found.freedom, most)))


def two_sided(found: Spread) -> Float[np.ndarray, "*trials"]:
    """Student's p-value of a true mean of 0: 1 or 0 where every number is the same."""
    same = np.where(found.mean == 0, 0.0, np.inf)
    ratio = np.divide(np.abs(found.mean), found.error, out=same, where=found.error > 0)
    return np.asarray(2 * stdtr(found.freedom, -ratio))


def crossed(values: Float[np.ndarray, "s b"]) -> Estimate:
    """The mean with Student's 95% interval over seeds and prompts (`spread`); n is s.

    With normal effects it covers 95% of the time for 8 seeds and 64 prompts, and 98% where neither
    seeds nor prompts have an effect of their own. Where both have, and of one size, 3 seeds cover
    92% and 2 seeds 87%; the plain percentiles of a crossed bootstrap cover 90% there with 8.
    """
    return _interval(spread(values), len(values))


def difference(first: Float[np.ndarray, "s b"], second: Float[np.ndarray, "_s _b"]) -> Difference:
    """The first method's mean minus the second's: an interval, its test, and what it could find.

    A row of both is the same seed and a column the same prompt, so what a seed or a prompt does to
    both alike cancels.

    The degrees of freedom are at most those of the seeds, s - 1. Satterthwaite's alone are right
    where one test in twenty may err, and not far out, where a correction for hundreds of tests
    looks: at 0.05 / 630, with 8 seeds, up to twice as many err, and with 4 seeds twenty times.
    With the limit no more err than should at any level, and fewer where it is prompts that vary:
    of normal effects, for what fails seldom can look steady (`verdicts.rare_failures`).

    Raises:
        ValueError: where the numbers of seeds or prompts differ.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"a paired difference needs the same seeds and prompts, not {first.shape} of the first"
            f" method and {second.shape} of the second"
        )
    found = paired_spread(first.astype(np.float64) - second)
    p, error, freedom = float(two_sided(found)), float(found.error), float(found.freedom)
    return Difference(_interval(found, len(first)), p, error, freedom)


def iqm(values: Float[np.ndarray, "s b"], *, seed: int = 0) -> Estimate:
    """The interquartile mean over runs (Agarwal et al. 2021, arXiv:2108.13264), with an interval.

    What is cut is runs: a seed's score is its mean over prompts, and the mean is over the seeds
    left when floor(s / 4) of the best and as many of the worst are put aside. There the paper pools
    the scores of tasks, each normalised; prompts are no tasks but the sample that a score is the
    mean of, and to cut among all s b numbers would put aside hard prompts rather than failed runs.

    The interval is the percentiles of 2,000 crossed resamples, as in `spread`: with 8 seeds it
    covers 95% to 97% of the time, and more where neither seeds nor prompts have an effect. Of fewer
    than four seeds none is cut: the estimate is that of `crossed`.
    """
    s, b = values.shape
    if s < 4:
        return crossed(values)
    generator = np.random.Generator(np.random.Philox(seed))
    prompts = generator.multinomial(b, np.full(b, 1 / b), RESAMPLES) / b
    seeds = generator.integers(0, s, (RESAMPLES, s))
    scores = prompts @ values.T.astype(np.float64)
    resampled = _middle_half(np.take_along_axis(scores, seeds, axis=1))
    low, high = np.quantile(resampled, [0.025, 0.975])
    mean = _middle_half(values.mean(1, dtype=np.float64, keepdims=True).T)[0]
    return Estimate(float(mean), float(low), float(high), s)


def at_budget(
    flops: Float[np.ndarray, "s points"], values: Float[np.ndarray, "s points b"], budget: float
) -> Float[np.ndarray, "s b"]:
    """Each seed's numbers where it has spent a budget, linear between the points measured.

    Args:
        flops: spent at each point, rising along each row.
        values: one number a seed, point and prompt.
        budget: in the unit of `flops`.

    Raises:
        ValueError: where a seed was not measured on both sides of the budget.
    """
    if not (np.diff(flops) > 0).all():
        raise ValueError("the flops of a seed's points must rise from each to the next")
    first, last = flops[:, 0].max(), flops[:, -1].min()
    if not first <= budget <= last:
        raise ValueError(
            f"all seeds were measured between {first:.4g} and {last:.4g} flops,"
            f" so nothing is known at {budget:.4g}"
        )
    points = np.arange(flops.shape[1])
    place = np.array([np.interp(budget, row, points) for row in flops])
    before, after = np.floor(place).astype(int), np.ceil(place).astype(int)
    share = (place - before)[:, None]
    rows = np.arange(len(flops))
    return (1 - share) * values[rows, before] + share * values[rows, after]


def _interval(found: Spread, n: int) -> Estimate:
    mean, half = float(found.mean), float(stdtrit(found.freedom, 0.975) * found.error)
    return Estimate(mean, mean - half, mean + half, n)


def _middle_half(scores: Float[np.ndarray, "n s"]) -> Float[np.ndarray, " n"]:
    cut = scores.shape[1] // 4
    return np.sort(scores, axis=1)[:, cut : scores.shape[1] - cut].mean(1)
