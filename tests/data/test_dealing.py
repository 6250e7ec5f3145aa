"""Dealing is even on tokens and on scored tokens at once, and costs what the items cost."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from alignax.data.dealing import deal
from alignax.data.plan import Lengths
from tests.tiny_batch import random_lengths

REAL = Path(__file__).parents[2] / "benchmarks" / "hh_helpful_lengths.json"


def real_lengths(count) -> Lengths:
    """Pairs as long as Anthropic's helpful ones, again and again."""
    table = np.resize(np.array(json.loads(REAL.read_text())), (count, 3))
    return Lengths(table[:, 0], table[:, 1:], table[:, 1:])


def test_an_exchange_evens_out_what_the_heaviest_first_leaves_uneven():
    # All items weigh 4 in both together, so they go in turn: 0 and 2 to one unit, 1 and 3 to the
    # other, (6, 2) and (2, 6) of a mean of (4, 4). Any exchange gives both (4, 4).
    load = np.array([[[3.0, 1.0], [1.0, 3.0], [3.0, 1.0], [1.0, 3.0]]])
    (units,) = deal(load, 2)
    assert sorted(units.ravel()) == [0, 1, 2, 3]
    np.testing.assert_array_equal(load[0][units].sum(axis=1), [[4, 4], [4, 4]])


def test_an_item_heavier_than_all_others_leaves_the_rest_even():
    # 90 of 100 are one item's: with it goes the lightest, and nothing can be better.
    (units,) = deal(np.array([[[90.0, 90.0], [1.0, 1.0], [4.0, 4.0], [5.0, 5.0]]]), 2)
    assert [sorted(unit) for unit in units] == [[0, 1], [2, 3]]


@pytest.mark.parametrize("units", [1, 2, 3, 8, 24])
def test_sets_that_are_dealt_together_are_dealt_as_each_alone(units):
    load = np.stack([random_lengths(48, seed=seed).load for seed in range(5)])
    load[1] = 0.0  # groups that are not there
    together = deal(load, units)
    assert together.shape == (5, units, 48 // units)
    for one, found in zip(load, together, strict=True):
        np.testing.assert_array_equal(np.sort(found.ravel()), np.arange(48))
        np.testing.assert_array_equal(deal(one[None], units)[0], found)


@pytest.mark.parametrize("lengths", [real_lengths, random_lengths], ids=["real", "drawn"])
@pytest.mark.parametrize("units", [8, 64, 512])
def test_a_window_of_many_groups_is_even_to_half_a_percent(lengths, units):
    load = lengths(8192).load
    (dealt,) = deal(load[None], units)
    np.testing.assert_array_equal(np.sort(dealt.ravel()), np.arange(8192))
    sums = load[dealt].sum(axis=1)
    assert (sums.max(axis=0) / sums.mean(axis=0)).max() < 1.005


def test_large_batches_take_no_more_memory_than_small_ones():
    # Each item is compared with 16 at most. With all of a unit of 1,024 it would be 128 MiB of
    # differences alone: 8 units, 1,024 x 1,024 pairs, two numbers of 8 bytes.
    load = random_lengths(8192).load
    tracemalloc.start()
    deal(load[None], 8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20
