"""The plan: pure, complete, within its rows, and with little padding."""

import numpy as np
import pytest

from alignax.core.errors import BadInput
from alignax.core.types import BLOCK
from alignax.data.plan import Lengths, make_plan


def like_dialogues(count: int, seed: int = 0) -> Lengths:
    """Lengths as uneven as those of real dialogues: a few groups are ten times the median."""
    draw = np.random.default_rng(seed)
    prompt = np.minimum(draw.lognormal(4.6, 0.7, count).astype(int) + 24, 700)
    response = np.minimum(draw.lognormal(4.0, 0.6, (count, 2)).astype(int) + 3, 300)
    return Lengths(prompt, response, response)


def all_groups(plan) -> np.ndarray:
    return np.concatenate([plan.step(i).group.ravel() for i in range(len(plan))])


def test_three_groups_of_five_tokens_lie_end_to_end_in_one_row():
    # 5 + 5 + 5 = 15 tokens: one row of 16 is fewer than 3 rows of 8.
    lengths = Lengths(np.full(3, 2), np.tile([2, 1], (3, 1)), np.tile([2, 1], (3, 1)))
    plan = make_plan(lengths, batch_size=3, align=8)
    assert (plan.shape.rows, plan.shape.row_length, plan.shape.scored) == (1, 16, 16)
    assert sorted(plan.step(0).offset[0].tolist()) == [0, 5, 10]
    assert plan.padding == pytest.approx(1 / 16)


@pytest.mark.parametrize("accumulation", [1, 4])
def test_the_stream_meets_every_group_once_an_epoch(accumulation):
    plan = make_plan(
        like_dialogues(100), batch_size=20, accumulation=accumulation, num_steps=15, seed=3
    )
    epochs = all_groups(plan).reshape(3, 100)
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(100))
    assert not np.array_equal(epochs[0], epochs[1])


def test_one_pass_meets_every_group_once_and_fills_up_with_none():
    plan = make_plan(like_dialogues(37), batch_size=8)
    groups = all_groups(plan)
    assert len(plan) == 5
    assert sorted(groups.tolist()) == [-1, -1, -1, *range(37)]


def test_a_step_is_the_same_whenever_and_by_whomever_it_is_asked_for():
    first, second = (
        make_plan(like_dialogues(300), batch_size=8, num_steps=80, seed=1) for _ in range(2)
    )
    for index in (79, 0, 41, 3):
        for one, other in zip(first.step(index), second.step(index), strict=True):
            np.testing.assert_array_equal(one, other)
    other_seed = make_plan(like_dialogues(300), batch_size=8, num_steps=80, seed=2)
    assert not np.array_equal(first.step(0).group, other_seed.step(0).group)


@pytest.mark.parametrize(("batch_size", "accumulation", "shards"), [(16, 1, 1), (64, 2, 8)])
def test_groups_lie_within_their_rows_apart_and_on_their_own_shard(
    batch_size, accumulation, shards
):
    lengths = like_dialogues(500)
    plan = make_plan(
        lengths,
        batch_size=batch_size,
        accumulation=accumulation,
        num_steps=6,
        seed=0,
        shards=shards,
    )
    shape = plan.shape
    assert shape.groups == batch_size // accumulation
    for index in range(len(plan)):
        for group, row, offset in zip(*plan.step(index), strict=True):
            taken = np.zeros((shape.rows, shape.row_length), int)
            for i in range(shape.groups):
                taken[row[i], offset[i] : offset[i] + lengths.total[group[i]]] += 1
                assert offset[i] + lengths.total[group[i]] <= shape.row_length
                # Group i of b belongs to the shard that holds its row.
                own = i // (shape.groups // shards)
                assert row[i] // (shape.rows // shards) == own
            assert taken.max() == 1
            scored = lengths.scored.sum(axis=1)[group].reshape(shards, -1).sum(axis=1)
            assert scored.max() <= shape.scored


def test_reach_covers_the_group_that_every_block_goes_on_with():
    lengths = like_dialogues(200)
    plan = make_plan(lengths, batch_size=16, num_steps=12, seed=0)
    for index in range(len(plan)):
        for group, begin in zip(*(plan.step(index)[i].ravel() for i in (0, 2)), strict=True):
            end = begin + lengths.total[group]
            for block, reach in enumerate(plan.shape.reach):
                if begin < block * BLOCK < end:
                    assert block * BLOCK - begin <= reach


@pytest.mark.parametrize(("count", "batch_size", "shards"), [(1873, 16, 1), (1873, 64, 8)])
def test_padding_stays_under_five_percent_of_uneven_dialogues(count, batch_size, shards):
    lengths = like_dialogues(count)
    plan = make_plan(
        lengths, batch_size=batch_size, num_steps=count // batch_size, seed=0, shards=shards
    )
    assert plan.padding < 0.05
    used = lengths.scored[all_groups(plan)].sum() / len(plan) / shards
    assert used / plan.shape.scored > 0.9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"batch_size": 10, "accumulation": 4},
            r"loop.batch_size: expected a batch size that 4 micro-batches can split evenly; "
            r"got 10 prompts.\n    Use a multiple of 4.",
        ),
        (
            {"batch_size": 12, "shards": 8},
            r"loop.batch_size: expected a batch that 8 devices on the axes data and fsdp can "
            r"split evenly; got 12 prompts in each of 1 micro-batches.\n    Use a multiple of 8.",
        ),
    ],
)
def test_a_batch_that_cannot_be_split_is_refused(settings, message):
    with pytest.raises(BadInput, match=message):
        make_plan(like_dialogues(50), **settings)
