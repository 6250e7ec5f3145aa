"""A plan meets every group once an epoch, in rows that hold them, with next to no padding."""

import dataclasses
import json
import pickle

import numpy as np
import pytest

from alignax.core.errors import BadInput
from alignax.data import plan as plan_module
from alignax.data.dealing import pack
from alignax.data.plan import Lengths, alike, make_plan, shaped
from tests.tiny_batch import random_lengths

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


# --- Worked by hand


def test_a_plan_worked_by_hand():
    # Totals 60, 10, 50, 20 of a batch of two: the heaviest two go to two units, then 20 joins
    # the lighter 50 and 10 joins 60: units of 70 tokens each. One row of 70 (70 tokens a step)
    # is cheaper than two of 60, the shortest row that holds the longest group. Each unit scores
    # 60 tokens (5 of each group are prompt), and 64 is the next multiple of 8.
    plan = make_plan(lengths([5] * 4, [55, 5, 45, 15]), batch_size=2, num_steps=2, align=10)
    assert (plan.shape.rows, plan.shape.row_length, plan.shape.scored) == (1, 70, 64)
    assert (plan.shape.groups, plan.shape.responses, plan.shape.shards) == (2, 1, 1)
    assert (plan.shape.prompt, plan.shape.response) == (5, 55)
    first, second = steps(plan)
    assert same(first, ([[0, 1]], [[0, 0]], [[0, 60]]))
    assert same(second, ([[2, 3]], [[0, 0]], [[0, 50]]))
    assert plan.padding == 0.0


def test_how_far_blocks_look_back_worked_by_hand():
    # Rows hold their longest group first: 130 tokens, then 70, then 56, a row of 256. Only one
    # block begins after token 0, at 128, and of all groups only the first is under way there,
    # begun 128 before.
    both = lengths([100, 20, 6], [30, 50, 50])
    plan = make_plan(both, batch_size=3, num_steps=1, align=64)
    assert (plan.shape.rows, plan.shape.row_length) == (1, 256)
    assert plan.shape.reach == (0, 128)
    # 100, 90 and 66: at 128 the second is under way, begun at 100. 28 rounds to half a block.
    both = lengths([50, 40, 16], [50, 50, 50])
    plan = make_plan(both, batch_size=3, num_steps=1, align=64)
    assert (plan.shape.rows, plan.shape.row_length) == (1, 256)
    assert plan.shape.reach == (0, 64)


def test_padding_is_the_share_of_rows_that_no_group_fills():
    # 50 and 20 tokens in one row, rounded up to 100: 30 of 100.
    plan = make_plan(lengths([5, 5], [45, 15]), batch_size=2, num_steps=3, align=100)
    assert plan.padding == pytest.approx(0.3)


# --- Which groups


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


@pytest.mark.parametrize("settings", [{"seed": 3}, {"order": TABLE}], ids=list)
def test_a_plan_that_was_pickled_is_the_same_plan(settings):
    plan = make_plan(random_lengths(60), batch_size=16, num_steps=9, align=64, **settings)
    plan.step(0)  # what is kept of it stays behind
    again = pickle.loads(pickle.dumps(plan))
    assert again.shape == plan.shape
    for one, other in zip(steps(plan), steps(again), strict=True):
        assert same(one, other)


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


# --- A pure function


def test_any_step_may_be_asked_for_at_any_time():
    make = lambda: make_plan(  # noqa: E731
        random_lengths(30), batch_size=4, accumulation=2, num_steps=40, seed=3, align=64
    )
    plan = make()
    in_order = steps(plan)
    assert plan.window == 7  # so that 40 steps are six windows, more than are remembered
    for index in np.random.default_rng(0).permutation(40):
        assert same(plan.step(int(index)), in_order[index])
        if index % 10 == 0:
            assert same(make().step(int(index)), in_order[index])


def test_plans_that_are_read_in_turn_pack_each_window_once(monkeypatch):
    plans = [make_plan(random_lengths(40), batch_size=8, num_steps=10, seed=i) for i in range(4)]
    packed = []

    def counted(total, units, rows, length):
        packed.append(units)
        return pack(total, units, rows, length)

    monkeypatch.setattr(plan_module, "pack", counted)
    for index in range(10):
        for plan in plans:
            plan.step(index)
    assert len(packed) == 4 * plans[0].num_windows == 8


def test_steps_are_counted_from_nought():
    plan = make_plan(random_lengths(8), batch_size=4, num_steps=3)
    for index in (-1, 3):
        with pytest.raises(IndexError, match=f"step {index} of a plan of 3"):
            plan.step(index)


# --- Where they lie


@pytest.mark.parametrize(("shards", "accumulation"), [(1, 1), (4, 1), (2, 2)])
@pytest.mark.parametrize("settings", [{"seed": None}, {"seed": 1}, {"order": TABLE}], ids=list)
def test_rows_never_overflow_groups_never_overlap_and_shards_hold_their_own(
    shards, accumulation, settings
):
    table = random_lengths(60)
    plan = make_plan(
        table,
        batch_size=16,
        accumulation=accumulation,
        num_steps=9,
        shards=shards,
        align=64,
        **settings,
    )
    shape, total = plan.shape, table.total
    assert shape.rows % shards == shape.groups % shards == 0
    for step in steps(plan):
        assert step.group.shape == (accumulation, 16 // accumulation)
        for groups, rows, offsets in zip(*step, strict=True):
            taken = np.zeros((shape.rows, shape.row_length), int)
            scored = np.zeros(shards, int)
            for place, (group, row, offset) in enumerate(zip(groups, rows, offsets, strict=True)):
                assert 0 <= offset <= shape.row_length - total[group]
                taken[row, offset : offset + total[group]] += 1
                shard = place // (shape.groups // shards)
                assert row // (shape.rows // shards) == shard
                scored[shard] += table.scored[group].sum()
            assert taken.max() == 1
            assert scored.max() <= shape.scored


@pytest.mark.parametrize("settings", [{"seed": 0}, {"order": TABLE}], ids=list)
def test_blocks_reach_the_begin_of_every_group_they_go_on_with(settings):
    table = random_lengths(60)
    plan = make_plan(table, batch_size=16, num_steps=9, align=64, **settings)
    reach = np.array(plan.shape.reach)
    assert len(reach) == -(-plan.shape.row_length // 128)
    for step in steps(plan):
        for group, offset in zip(step.group.ravel(), step.offset.ravel(), strict=True):
            for block, back in enumerate(reach):
                if offset < 128 * block < offset + table.total[group]:
                    assert 128 * block - back <= offset


# --- How little is wasted


@pytest.mark.parametrize(("batch_size", "shards"), [(16, 1), (64, 8)])
def test_less_than_a_twentieth_of_the_rows_is_padding(batch_size, shards):
    table = random_lengths(1873)  # as many as `hh_helpful`, and as long
    num_steps = 2 * 1873 // batch_size
    plan = make_plan(table, batch_size=batch_size, num_steps=num_steps, seed=0, shards=shards)
    assert plan.padding < 0.05
    scored = sum(int(table.scored[step.group].sum()) for step in steps(plan))
    assert scored / (num_steps * shards * plan.shape.scored) > 0.9
    tokens = sum(int(table.total[step.group].sum()) for step in steps(plan))
    room = num_steps * plan.shape.rows * plan.shape.row_length
    assert plan.padding == pytest.approx(1 - tokens / room)


# --- What cannot be planned


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"batch_size": 10, "accumulation": 4},
            "loop.batch_size: expected a batch size that 4 micro-batches can split evenly; "
            "got 10 prompts.\n    Use a multiple of 4.",
        ),
        (
            {"batch_size": 12, "accumulation": 2, "shards": 4},
            "loop.batch_size: expected a batch that 4 devices on the axes data and fsdp can split "
            "evenly; got 6 prompts in each of 2 micro-batches.\n    Use a multiple of 8.",
        ),
        (
            {"batch_size": 2, "accumulation": 4},
            "loop.batch_size: expected a batch size that 4 micro-batches can split evenly; "
            "got 2 prompts.\n    Use a multiple of 4.",
        ),
    ],
    ids=json.dumps,
)
def test_a_batch_that_cannot_be_split_is_refused(settings, text):
    with pytest.raises(BadInput) as error:
        make_plan(random_lengths(20), num_steps=2, **settings)
    assert str(error.value) == text


def test_no_groups_are_refused():
    with pytest.raises(BadInput) as error:
        make_plan(lengths([], []), batch_size=2)
    assert str(error.value) == (
        "expected at least one group; got none.\n    Look at what was dropped, and why."
    )


# --- Plans of one shape


def test_plans_of_several_seeds_get_one_shape_that_holds_each_and_keep_their_steps():
    table = random_lengths(60, seed=0)
    alone = [make_plan(table, batch_size=8, num_steps=12, seed=seed, align=8) for seed in range(4)]
    plans = alike(alone, align=8)
    assert len({repr(plan.shape) for plan in plans}) == 1
    shape = plans[0].shape
    assert shape.scored == max(plan.shape.scored for plan in alone)
    for one, plan in zip(alone, plans, strict=True):
        assert shape.rows * shape.row_length >= one.shape.rows * one.shape.row_length
        for before, step in zip(steps(one), steps(plan), strict=True):
            assert np.array_equal(before.group, step.group)
            assert (step.offset + table.total[step.group] <= shape.row_length).all()
            assert step.row.max() < shape.rows


def test_a_shape_is_taken_where_it_holds_every_step_and_refused_by_its_numbers_where_not():
    table = random_lengths(60, seed=0)
    plans = [make_plan(table, batch_size=8, num_steps=12, seed=seed, align=8) for seed in range(4)]
    shape = alike(plans, align=8)[0].shape
    assert shaped(plans[2], shape).shape == shape
    for less in ({"scored": 8}, {"row_length": 8}, {"groups": 4}, {"prompt": 1},
                 {"reach": (0,) * len(shape.reach)}):  # fmt: skip
        smaller = dataclasses.replace(shape, **less)
        with pytest.raises(BadInput) as error:
            shaped(plans[2], smaller)
        assert f"expected a shape that holds every step of the plan; got {smaller}" in str(
            error.value
        )
