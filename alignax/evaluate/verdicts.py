"""What may be said of many differences at once, and whether the saying can be trusted."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import bdtrc, bdtrik, binom, stdtrit

from alignax.evaluate.paired import (
    LEVEL,
    Difference,
    Spread,
    difference,
    of_squares,
    paired_spread,
    spread,
    two_sided,
)

# Of synthetic differences: mean squares between seeds and between prompts, by that of the rest.
# Little but noise, seeds that vary some and much, prompts that do, and both.
RATIOS = ((1.0, 1.0), (3.0, 1.2), (6.5, 1.4), (30.0, 1.0), (1.0, 9.0), (9.0, 9.0))
IMPROBABLE = 0.001  # by chance so many entries would differ from themselves, or more

Verdict = Literal["better", "worse", "inconclusive"]


class Check(NamedTuple):
    """Whether the analysis did what it must on data where the answer is known."""

    passed: bool | None  # None: it states a limit, and can neither pass nor fail
    found: str


def holm(p_values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Holm's (1979) adjusted p-values, in the order given.

    The i-th smallest of n is multiplied by n - i + 1, is no less than the one before it, and no
    more than 1. To reject where the result is below a level rejects any true hypothesis with at
    most that probability, however the tests depend on each other.
    """
    n = len(p_values)
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(n)
    stepped = np.maximum.accumulate(p_values[order] * np.arange(n, 0, -1))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def verdict(found: Difference, adjusted_p: float, level: float = LEVEL) -> Verdict:
    """Whether the first method of a difference is better than the second, where more is better."""
    if adjusted_p >= level:
        return "inconclusive"
    return "better" if found.estimate.mean > 0 else "worse"


def aa_check(values: Float[np.ndarray, "s b"]) -> Check:
    """A method against itself: the first half of its seeds and the second must not differ.

    Chance alone fails one such check in twenty.

    Raises:
        ValueError: where the number of seeds is odd, or below four.
    """
    half, odd = divmod(len(values), 2)
    if odd or half < 2:
        raise ValueError(f"two halves of two seeds or more are compared, not {len(values)} seeds")
    found = difference(values[:half], values[half:])
    passed = found.p >= LEVEL
    said = "do not differ" if passed else "differ"
    return Check(passed, f"two halves of {half} seeds {said}: {found.estimate}, p = {found.p:.2g}")


def halves_check(values: Mapping[str, Float[np.ndarray, "_s _b"]]) -> Check:
    """Every entry against itself: its seeds at even positions, and those at odd ones.

    One entry in twenty may differ at `LEVEL`. The check fails where as many as do, or more, have by
    chance a probability below `IMPROBABLE` (binomial, one-sided). That takes entries for
    independent: where all have the same seeds, a failure can also say that seeds move all alike.
    Both halves are of one distribution, so what one side does seldom and the other never is not
    seen (`rare_failures`).

    Args:
        values: by entry. Of an odd number of seeds the last is put aside. Entries of fewer than
            four seeds are left out, and those whose seeds are all the same, which cannot differ.
    """
    few = [name for name, x in values.items() if len(x) < 4]
    same = [name for name, x in values.items() if name not in few and (x == x[0]).all()]
    differ, n = [], 0
    for name, x in values.items():
        if name not in few and name not in same:
            n, end = n + 1, len(x) // 2 * 2
            if difference(x[0:end:2], x[1:end:2]).p < LEVEL:
                differ.append(name)
    left = [(few, "with fewer than 4 seeds"), (same, "whose seeds are all the same")]
    said = [f"{len(names)} {why}" for names, why in left if names]
    left_out = f"; left out: {', '.join(said)}" if said else ""
    fails = next((k for k in range(1, n + 1) if bdtrc(k - 1, n, LEVEL) < IMPROBABLE), None)
    if fails is None:
        return Check(None, f"{n} entries to split are too few to tell anything{left_out}")
    return Check(
        len(differ) < fails,
        f"{len(differ)} of {n} entries differ between two halves of their seeds at {LEVEL:g}"
        + (f" ({', '.join(differ)})" if differ else "")
        + f"; {LEVEL * n:.1f} are expected at most, and {fails} or more, which have a probability"
        f" below {IMPROBABLE:g}, would fail{left_out}",
    )


def coverage(
    seeds: int,
    prompts: int,
    trials: int,
    seed: int = 0,
    *,
    deviations: tuple[float, float, float] = (0.35, 1.0, 1.0),
) -> float:
    """The share of synthetic experiments whose 95% interval holds the true mean.

    Args:
        deviations: of the normal effects of seeds, of prompts, and of each run's answer to each
            prompt. As they stand, seeds and prompts move the mean of 8 x 64 about equally.
        seed: of the experiments.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    of_seeds, of_prompts, of_rest = deviations
    values = of_seeds * generator.standard_normal((trials, seeds, 1))
    values = values + of_prompts * generator.standard_normal((trials, 1, prompts))
    values = values + of_rest * generator.standard_normal((trials, seeds, prompts))
    found = spread(values)
    return float((np.abs(found.mean) <= stdtrit(found.freedom, 0.975) * found.error).mean())


def coverage_check(seeds: int, prompts: int, trials: int = 2000, seed: int = 0) -> Check:
    """Whether intervals of that many seeds and prompts cover 95%, as near as trials can tell.

    The share must lie where 99% of shares do if each trial covers with probability 0.95 (binomial).
    """
    share = coverage(seeds, prompts, trials, seed)
    low, high = (float(bdtrik(tail, trials, 0.95)) / trials for tail in (0.005, 0.995))
    return Check(
        low <= share <= high,
        f"{share:.1%} of {trials:,} intervals from {seeds} seeds and {prompts} prompts hold the"
        f" truth on synthetic data; 95% but for chance is {low:.1%} to {high:.1%}",
    )


def false_verdicts(
    seeds: int, prompts: int, level: float, trials: int, seed: int = 0
) -> Float[np.ndarray, " ratios"]:
    """The share of synthetic differences of nothing with a p-value below a level, far out too.

    Effects are normal. The mean and the three mean squares are then independent, and drawn as they
    are distributed, chi-squared, in place of tables: millions of trials take a second.

    Args:
        seed: of the trials.

    Returns:
        A share for each of `RATIOS`.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    freedoms = np.array([seeds - 1, prompts - 1, (seeds - 1) * (prompts - 1)])
    drawn = generator.chisquare(freedoms, (trials, 3)) / freedoms
    normal, found = generator.standard_normal(trials), []
    for of_seeds, of_prompts in RATIOS:
        squares = drawn * [of_seeds, of_prompts, 1.0]
        error, freedom = of_squares(squares, seeds, prompts)
        mean = normal * np.sqrt((of_seeds + of_prompts - 1) / (seeds * prompts))
        p = two_sided(Spread(mean, error, np.minimum(freedom, seeds - 1)))
        found.append((p < level).mean())
    return np.array(found)


def tail_check(seeds: int, prompts: int, tests: int, trials: int = 500_000) -> Check:
    """Whether a verdict is false as seldom as one of so many tests may be, of normal effects.

    At `LEVEL` over the number of tests, which is where the smallest p-value of Holm's is judged. No
    share of `RATIOS` may be more than 99% of shares would be if each trial erred with that
    probability (binomial).
    """
    if min(seeds, prompts) < 2:
        return Check(True, "of one seed, or of one prompt, nothing is told apart")
    level = LEVEL / tests
    worst = float(false_verdicts(seeds, prompts, level, trials).max())
    most = float(bdtrik(0.99, trials, level)) / trials
    return Check(
        worst <= most,
        f"at most {worst * 1e6:.0f} of a million synthetic differences of nothing are told apart at"
        f" {LEVEL:g} / {tests} with {seeds} seeds and {prompts} prompts, whichever of their normal"
        f" effects vary how much; {level * 1e6:.0f} may be, and {most * 1e6:.0f} by chance",
    )


def rare_failures(
    seeds: int,
    levels: Sequence[float],
    trials: int = 4000,
    seed: int = 0,
    *,
    often: float = 0.1,
    lost: float = 2.0,
    deviation: float = 0.1,
) -> Float[np.ndarray, " levels"]:
    """The share of false verdicts on a method that fails seldom and is else steady.

    It is as good as its opponent on average: what it loses in some runs it gains over all. Prompts
    are so many that seeds alone vary. Where none of the seeds fails, it looks better, and steady.

    Args:
        levels: below which a p-value gives a verdict.
        trials: of each number of failures, 0 to all seeds, which then count by its probability.
        seed: of the trials.
        often: the probability that a run fails. lost: what it loses then, in reward.
        deviation: of the other runs' difference from the opponent's, which is normal.

    Returns:
        A share for each level: (1 - often)^seeds or more where the deviation is 0, at any level.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    steady = lost * often + deviation * generator.standard_normal((trials, seeds))
    share = np.zeros(len(levels))
    for failed in range(seeds + 1):
        values = steady - lost * (np.arange(seeds) < failed)
        p = two_sided(paired_spread(np.repeat(values[..., None], 2, axis=2)))  # two prompts, alike
        probability = binom(seeds, failed) * often**failed * (1 - often) ** (seeds - failed)
        share += probability * (p[:, None] < np.asarray(levels)).mean(axis=0)
    return share


def rare_failures_limit(seeds: int, tests: int) -> Check:
    """What no test of so many seeds can see, at `LEVEL` and at that over the number of tests."""
    one, all_ = (f"{100 * x:.2g}%" for x in rare_failures(seeds, (LEVEL, LEVEL / tests)))
    return Check(
        None,
        f"a method that fails in one run of ten, where it loses 2, and is as good as a steady one"
        f" on average: {one} false verdicts at {LEVEL:g}, and {all_} at {LEVEL:g} / {tests} (runs"
        f" that do not fail deviate by 0.1); with a probability of {0.9**seeds:.0%} none of"
        f" {seeds} seeds fails, and no test of {seeds} seeds sees this",
    )
