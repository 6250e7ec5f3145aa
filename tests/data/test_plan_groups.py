"""The steps of a plan hold every group once an epoch, or those of an order that is given."""

import json

import numpy as np
import pytest

from alignax.core.errors import BadInput
from alignax.data.plan import make_plan
from tests.data.plans import TABLE, lengths, met, same, steps
from tests.tiny_batch import random_lengths


@pytest.mark.parametrize("size", [12, 13])
@pytest.mark.parametrize("seed", [None, 7])
def test_every_group_once_an_epoch(size, seed):
    # 13 steps of 12 groups are 156: 13 epochs of 12, and 12 of 13.
    plan = make_plan(random_lengths(size), batch_size=12, num_steps=13, seed=seed, align=64)
    np.testing.assert_array_equal(np.bincount(met(plan)), 156 // size)


@pytest.mark.parametrize("batch_size", [4, 6, 10])
def test_no_group_is_met_twice_more_than_another(batch_size):
    # The run's end cuts an epoch short: some of its groups are met, none twice.
    plan = make_plan(random_lengths(23), batch_size=batch_size, num_steps=11, seed=0, align=64)
    counts = np.bincount(met(plan), minlength=23)
    assert counts.sum() == 11 * batch_size
    assert counts.max() - counts.min() <= 1


def test_order_is_that_of_the_data_without_a_seed_but_for_the_evening_out():
    # Groups of one length are even however they are dealt.
    plan = make_plan(lengths([3] * 6, [4] * 6), batch_size=6, num_steps=2)
    for step in steps(plan):
        assert sorted(step.group.ravel()) == list(range(6))


def test_another_seed_and_another_epoch_are_other_orders():
    table = random_lengths(40)
    orders = [met(make_plan(table, batch_size=8, num_steps=10, seed=seed)) for seed in (0, 1)]
    assert not np.array_equal(*orders)
    assert not np.array_equal(orders[0][:40], orders[0][40:])
    again = met(make_plan(table, batch_size=8, num_steps=10, seed=0))
    np.testing.assert_array_equal(again, orders[0])


@pytest.mark.parametrize(("shards", "accumulation"), [(1, 1), (2, 3), (4, 2)])
def test_one_pass_meets_every_group_exactly_once_and_fills_up_with_none(shards, accumulation):
    plan = make_plan(
        random_lengths(50), batch_size=24, accumulation=accumulation, shards=shards, align=64
    )
    assert len(plan) == 3  # 24 + 24 + 2
    assert sorted(met(plan)) == list(range(50))
    everything = np.concatenate([step.group.ravel() for step in steps(plan)])
    assert (everything == -1).sum() == 72 - 50
    np.testing.assert_array_equal(plan.groups, np.arange(50))


@pytest.mark.parametrize(("shards", "accumulation"), [(1, 4), (8, 1), (4, 2)])
def test_steps_hold_the_same_groups_however_they_are_split(shards, accumulation):
    table = random_lengths(90)
    make = lambda **split: make_plan(table, batch_size=16, num_steps=13, seed=5, **split)  # noqa: E731
    whole, split = make(), make(shards=shards, accumulation=accumulation)
    for one, other in zip(steps(whole), steps(split), strict=True):
        assert sorted(one.group.ravel()) == sorted(other.group.ravel())


@pytest.mark.parametrize(("size", "batch_size"), [(23, 10), (50, 16), (1873, 64)])
def test_no_step_holds_a_group_twice_where_two_steps_or_more_are_an_epoch(size, batch_size):
    # Of 23 groups in steps of 10, every window of two steps but the first joins two epochs.
    plan = make_plan(random_lengths(size), batch_size=batch_size, num_steps=120, seed=0)
    for step in steps(plan):
        assert len(np.unique(step.group)) == batch_size


def test_groups_of_a_short_run_are_those_it_meets():
    plan = make_plan(random_lengths(50), batch_size=8, num_steps=2, seed=0)
    assert len(plan.groups) == 16
    np.testing.assert_array_equal(plan.groups, np.sort(met(plan)))


# --- Which groups, where an order is given


@pytest.mark.parametrize("shards", [1, 2, 4])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("seed", [None, 5])
def test_steps_hold_exactly_the_groups_of_a_given_order(shards, accumulation, seed):
    plan = make_plan(
        random_lengths(60),
        batch_size=16,
        accumulation=accumulation,
        num_steps=9,
        seed=seed,
        shards=shards,
        align=64,
        order=TABLE,
    )
    for step, groups in zip(steps(plan), TABLE, strict=True):
        assert step.group.shape == (accumulation, 16 // accumulation)
        assert sorted(step.group.ravel()) == sorted(groups)
    np.testing.assert_array_equal(plan.groups, np.unique(TABLE))


def test_a_plan_of_a_given_order_worked_by_hand():
    # Totals 60, 10, 50, 20. The steps have 110 and 30 tokens, and one row of 110 for both is
    # cheaper than two of 60: of 220 tokens 140 are used. The first step scores 55 + 45 tokens, and
    # 104 is the next multiple of 8.
    plan = make_plan(
        lengths([5] * 4, [55, 5, 45, 15]), batch_size=2, align=10, order=np.array([[2, 0], [1, 3]])
    )
    assert (len(plan), plan.shape.rows, plan.shape.row_length) == (2, 1, 110)
    assert plan.shape.scored == 104
    first, second = steps(plan)
    assert same(first, ([[2, 0]], [[0, 0]], [[60, 0]]))
    assert same(second, ([[1, 3]], [[0, 0]], [[20, 0]]))
    assert plan.padding == pytest.approx(80 / 220)
    np.testing.assert_array_equal(plan.groups, [0, 1, 2, 3])


def test_an_order_may_be_longer_than_an_epoch_repeat_groups_and_leave_places_empty():
    order = np.array([[2, 0], [2, 2], [0, -1]])
    plan = make_plan(lengths([5] * 4, [55, 5, 45, 15]), batch_size=2, order=order, align=10)
    assert [sorted(step.group.ravel()) for step in steps(plan)] == [[0, 2], [2, 2], [-1, 0]]
    np.testing.assert_array_equal(plan.groups, [0, 2])
    # 110, 100 and 60 tokens in a row of 110 each.
    assert plan.padding == pytest.approx(60 / 330)


@pytest.mark.parametrize(
    ("order", "num_steps", "text"),
    [
        (
            [[0, 1], [2, 3]],
            3,
            "expected an order of the shape (steps, groups to a step) (3, 2); got (2, 2).\n"
            "    Make the order with the run's number of steps and batch size.",
        ),
        (
            [[0, 1, 2]],
            None,
            "expected an order of the shape (steps, groups to a step) (1, 2); got (1, 3).\n"
            "    Make the order with the run's number of steps and batch size.",
        ),
        (
            [[0, 1], [4, 3]],
            2,
            "expected an order of groups from 0 to 3; got group 4.\n"
            "    Make the order from the data set that the plan is made for.",
        ),
        (
            [[0, -2]],
            1,
            "expected an order of groups from 0 to 3; got group -2.\n"
            "    Make the order from the data set that the plan is made for.",
        ),
    ],
    ids=json.dumps,
)
def test_an_order_that_does_not_fit_the_run_or_the_data_is_refused(order, num_steps, text):
    with pytest.raises(BadInput) as error:
        make_plan(
            random_lengths(4), batch_size=2, num_steps=num_steps, order=np.array(order, np.int64)
        )
    assert str(error.value) == text
