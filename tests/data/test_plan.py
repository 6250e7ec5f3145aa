"""A plan is a pure function whose rows hold its groups, with next to no padding.

Which groups form a step is in `test_plan_groups.py`.
"""

import dataclasses
import json
import pickle

import numpy as np
import pytest

from alignax.core.errors import BadInput
from alignax.data import plan as plan_module
from alignax.data.dealing import pack
from alignax.data.plan import alike, make_plan, shaped
from tests.data.plans import TABLE, lengths, same, steps
from tests.tiny_batch import random_lengths

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


@pytest.mark.parametrize("settings", [{"seed": 3}, {"order": TABLE}], ids=list)
def test_a_plan_that_was_pickled_is_the_same_plan(settings):
    plan = make_plan(random_lengths(60), batch_size=16, num_steps=9, align=64, **settings)
    plan.step(0)  # what is kept of it stays behind
    again = pickle.loads(pickle.dumps(plan))
    assert again.shape == plan.shape
    for one, other in zip(steps(plan), steps(again), strict=True):
        assert same(one, other)


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
def test_less_than_three_hundredths_of_the_rows_are_padding(batch_size, shards):
    table = random_lengths(1873)  # as many as `hh_helpful`, and as long
    num_steps = 2 * 1873 // batch_size
    plan = make_plan(table, batch_size=batch_size, num_steps=num_steps, seed=0, shards=shards)
    assert plan.padding < 0.03
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
