"""Intervals of many values in little memory, and of shares that are no yes or no."""

import tracemalloc

import numpy as np
import pytest

from alignax.data.pipeline import InMemory
from alignax.data.plan import make_plan
from alignax.evaluate import stats
from alignax.evaluate.evaluators import HeldOut
from alignax.evaluate.stats import estimate, wilson
from alignax.methods import RRHF
from tests.tiny_batch import model_fn, params, random_table


@pytest.mark.parametrize("n", [30, 60, 64, 1001])
@pytest.mark.parametrize("block", [1, 100, 3003, 2**18])
def test_resamples_in_blocks_are_the_bits_of_one_table(monkeypatch, n, block):
    values = np.random.default_rng(n).normal(0.0, 1.0, n)
    table = np.random.Generator(np.random.Philox(5)).integers(0, n, size=(2000, n))
    low, high = np.quantile(values[table].mean(axis=1), [0.025, 0.975])
    monkeypatch.setattr(stats, "BLOCK", block)
    found = estimate(values, seed=5)
    assert (found.low, found.high) == (low, high)


def test_an_interval_of_many_values_takes_little_memory():
    # A table of 2,000 resamples of 20,000 numbers of 8 bytes would be 305 MiB, twice over.
    # Here of prompts with unequal weights, which take most.
    draw = np.random.default_rng(0)
    values, weights = draw.normal(0.0, 1.0, 20_000), draw.random(20_000)
    tracemalloc.start()
    estimate(values, weights=weights)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20


def test_accuracies_of_lists_get_the_interval_of_means_and_of_pairs_wilsons():
    # Of three responses three pairs are compared, so accuracies are thirds.
    for responses, whole in ((3, False), (2, True)):
        table = random_table(10, responses=responses)
        scores = np.arange(responses, 0, -1, dtype=np.float32)
        table = InMemory([e._replace(scores=scores) for e in table.examples])
        plan = make_plan(table.lengths, batch_size=4, align=8)
        look = HeldOut(method=RRHF(), model=model_fn, groups=table, plan=plan, numbers={})
        found = look(params(1))["eval_rewards/accuracies"]
        assert found.n == 10
        assert (round(found.mean * 10, 4) % 1 == 0) is whole
        assert ((found.low, found.high) == wilson(found.mean, 10)) is whole
        if not whole:
            # Thirds vary less than yes and no with the same mean.
            low, high = wilson(found.mean, 10)
            assert found.high - found.low < high - low
            assert 0.0 <= found.low < found.high <= 1.0
