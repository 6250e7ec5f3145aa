"""Steps take easy groups first and hard ones later, each set in one random order after another."""

import numpy as np
import pytest

from alignax.core.errors import BadInput
from alignax.core.schedule import Schedule
from alignax.data.curriculum import order
from alignax.data.plan import make_plan
from tests.tiny_batch import random_lengths

HALF = Schedule(start=0.5, end=0.5)


def gaps(easy: int, hard: int) -> np.ndarray:
    """First the easy groups, of gap 3, then the hard ones, of gap 1."""
    return np.repeat([3.0, 1.0], [easy, hard])


def hard_counts(table, easy: int) -> list[int]:
    return (table >= easy).sum(axis=1).tolist()


# --- How many of each


def test_the_example_of_the_docstring():
    # One hard group is taken in step 1, so step 2 takes the other and, from the next epoch, the
    # one that it has not: both. So for the easy groups in steps 0 and 1.
    for seed in range(10):
        table = order(
            np.array([3.0, 1.0, 3.0, 1.0]), Schedule(), num_steps=3, batch_size=2, seed=seed
        )
        assert sorted(table[0]) == [0, 2]
        assert table[1, 0] in (0, 2)
        assert table[1, 1] in (1, 3)
        assert sorted(table[2]) == [1, 3]


def test_the_first_step_is_all_easy_the_last_all_hard_and_those_between_grow_linearly():
    table = order(gaps(9, 6), Schedule(), num_steps=5, batch_size=4, seed=0)
    assert hard_counts(table, 9) == [0, 1, 2, 3, 4]


def test_the_schedule_may_begin_and_end_at_other_shares():
    # 1/4, 1/2, 3/4 of 4.
    part = Schedule(start=0.25, end=0.75)
    assert hard_counts(order(gaps(9, 6), part, num_steps=3, batch_size=4, seed=0), 9) == [1, 2, 3]
    down = Schedule(start=1.0, end=0.0)
    assert hard_counts(order(gaps(9, 6), down, num_steps=3, batch_size=4, seed=0), 9) == [4, 2, 0]
    easy = Schedule(start=0.0, end=0.0)
    assert hard_counts(order(gaps(9, 6), easy, num_steps=3, batch_size=4, seed=0), 9) == [0, 0, 0]


def test_the_schedule_says_which_gaps_are_hard():
    # Group 1 alone has a gap of at most 1; the median would take in those of gap 2.
    only = Schedule(start=1.0, end=1.0, hard_gap=1.0)
    table = order(np.array([2.0, 1.0, 2.0, 3.0]), only, num_steps=2, batch_size=3, seed=0)
    assert table.tolist() == [[1, 1, 1], [1, 1, 1]]


# --- In which order


@pytest.mark.parametrize("seed", range(5))
def test_every_group_of_a_set_is_met_before_one_is_met_again(seed):
    # 2 hard groups and 2 easy ones a step: in 35 steps 10 epochs of 7, and 14 epochs of 5.
    table = order(gaps(5, 7), HALF, num_steps=35, batch_size=4, seed=seed)
    easy, hard = table[table < 5].reshape(14, 5), table[table >= 5].reshape(10, 7)
    np.testing.assert_array_equal(np.sort(easy, axis=1), np.tile(np.arange(5), (14, 1)))
    np.testing.assert_array_equal(np.sort(hard, axis=1), np.tile(np.arange(5, 12), (10, 1)))
    assert len(np.unique(easy, axis=0)) > 1
    assert len(np.unique(hard, axis=0)) > 1


@pytest.mark.parametrize(("easy", "hard"), [(8, 8), (9, 8), (11, 13), (40, 8)])
@pytest.mark.parametrize("schedule", [Schedule(), HALF, Schedule(start=1.0, end=0.3)])
def test_no_step_holds_a_group_twice_where_its_set_is_large_enough(easy, hard, schedule):
    # Steps of 8 take at most all of a set. Epochs begin within steps, for 8 divides few counts.
    for seed in range(5):
        table = order(gaps(easy, hard), schedule, num_steps=60, batch_size=8, seed=seed)
        assert all(len(np.unique(step)) == 8 for step in table)


def test_a_set_smaller_than_a_step_takes_begins_again_within_the_step():
    # 4 of 3 groups a step: all of them, and one again.
    table = order(gaps(3, 3), HALF, num_steps=30, batch_size=8, seed=0)
    for step in table:
        counts = np.bincount(step, minlength=6)
        assert counts[:3].sum() == counts[3:].sum() == 4
        assert counts.max() <= 2
    np.testing.assert_array_equal(np.bincount(table.ravel()), 30 * 4 // 3)


def test_every_group_is_as_likely_as_another_to_come_first():
    # 6 hard groups, 300 seeds: 50 each, with a standard deviation of sqrt(300 5/36) = 6.5.
    table = [order(gaps(6, 6), HALF, num_steps=1, batch_size=2, seed=s)[0] for s in range(300)]
    counts = np.bincount(np.ravel(table), minlength=12)
    assert np.abs(counts - 50).max() < 4 * 6.5


def test_an_order_is_a_pure_function_of_its_arguments_and_another_seed_gives_another():
    make = lambda seed: order(gaps(20, 20), HALF, num_steps=10, batch_size=8, seed=seed)  # noqa: E731
    np.testing.assert_array_equal(make(3), make(3))
    assert not np.array_equal(make(3), make(4))


def test_easy_and_hard_groups_are_not_shuffled_alike():
    table = order(gaps(20, 20), HALF, num_steps=5, batch_size=8, seed=0)
    assert not np.array_equal(table[table < 20], table[table >= 20] - 20)


# --- In a plan


def test_a_plan_goes_on_anywhere_with_the_order_it_would_have_had():
    table = order(gaps(20, 10), Schedule(), num_steps=30, batch_size=8, seed=1)
    make = lambda: make_plan(  # noqa: E731
        random_lengths(30), batch_size=8, accumulation=2, shards=2, num_steps=30, order=table
    )
    plan = make()
    iterated = [plan.step(index) for index in range(30)]
    for index in (0, 1, 17, 29):
        for found, expected in zip(make().step(index), iterated[index], strict=True):
            np.testing.assert_array_equal(found, expected)
        assert sorted(iterated[index].group.ravel()) == sorted(table[index])


def test_gaps_that_are_all_the_same_are_refused():
    with pytest.raises(BadInput, match="got 4 pairs, all of gap 1"):
        order(np.ones(4), Schedule(), num_steps=2, batch_size=2, seed=0)
