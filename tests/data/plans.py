"""Lengths to plan for, written as lists, and what a plan's steps hold."""

import numpy as np

from alignax.data.plan import Lengths

# Of 60 groups 16 in each of 9 steps, none twice in one, some in many and some in none.
TABLE = np.stack([np.random.default_rng(i).permutation(50)[:16] for i in range(9)])


def lengths(prompt, *responses) -> Lengths:
    """All response tokens are scored."""
    response = np.array(responses, np.int32).T
    return Lengths(np.array(prompt, np.int32), response, response)


def steps(plan):
    return [plan.step(index) for index in range(len(plan))]


def met(plan) -> np.ndarray:
    """Every group in the order of the steps, no group left out."""
    groups = np.concatenate([step.group.ravel() for step in steps(plan)])
    return groups[groups >= 0]


def same(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
