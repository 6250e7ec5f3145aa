"""Every token lies where its layout says, and the position is all there is to know of the order."""

import json

import jax
import numpy as np
import pytest

from alignax.core.types import Batch, Layout
from alignax.data.pipeline import Batches, InMemory, TokenArrays, build_step
from alignax.data.plan import make_plan
from tests.tiny_batch import example, random_table

P, Q, A, B, C = 11, 12, 21, 22, 31


def assert_same(found, expected):
    """Of two steps: the same fields are there, and hold the same."""
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def numbered(table: InMemory) -> TokenArrays:
    """Log-probabilities that tell which token they belong to."""
    values = TokenArrays.empty(table.lengths)
    values.values[:] = -1.0 - np.arange(values.values.size)
    return values


# --- Worked by hand


def test_the_example_of_the_docstring():
    table = InMemory([example([P, Q], [[A, B], [C]], scores=[1.0, 0.0])])
    plan = make_plan(table.lengths, batch_size=1, align=8)
    batch, layout = build_step(table, plan, 0)
    assert_same(
        batch,
        Batch(
            prompts=[[[P, Q]]],
            prompt_lengths=[[2]],
            responses=[[[[A, B], [C, 0]]]],
            mask=[[[[True, True], [True, False]]]],
            scores=[[[1.0, 0.0]]],
            valid=[[[True, True]]],
        ),
    )
    assert_same(
        layout,
        Layout(
            tokens=[[[P, Q, A, B, C, 0, 0, 0]]],
            group=[[[0, 0, 0, 0, 0, -1, -1, -1]]],
            response=[[[0, 0, 1, 1, 2, 0, 0, 0]]],
            position=[[[0, 1, 2, 3, 2, 0, 0, 0]]],
            source=[[[1, 2, 1, 0, 0, 0, 0, 0]]],  # room for scored tokens comes in eights
            target=[[[A, B, C, 0, 0, 0, 0, 0]]],
            slot=[[[0, 1, 2, -1, -1, -1, -1, -1]]],
        ),
    )


def test_a_conversation_of_several_turns_has_gaps_in_its_mask():
    # The assistant says 21 22, the user 23, the assistant 24; then the other response, 31 32, of
    # which only the last token is scored. Nothing is packed but this group.
    masks = [[True, True, False, True], [False, True]]
    table = InMemory([example([P], [[21, 22, 23, 24], [31, 32]], masks)])
    batch, layout = build_step(table, make_plan(table.lengths, batch_size=1, align=8), 0)
    np.testing.assert_array_equal(batch.mask[0, 0], [masks[0], [False, True, False, False]])
    np.testing.assert_array_equal(layout.tokens[0, 0], [P, 21, 22, 23, 24, 31, 32, 0])
    np.testing.assert_array_equal(layout.position[0, 0], [0, 1, 2, 3, 4, 1, 2, 0])
    # 21 is predicted by the prompt, 22 by 21, 24 by the user's 23, and 32 by 31 at place 5.
    np.testing.assert_array_equal(layout.source[0, 0, :4], [0, 1, 3, 5])
    np.testing.assert_array_equal(layout.target[0, 0, :4], [21, 22, 24, 32])
    np.testing.assert_array_equal(layout.slot[0, 0, :4], [0, 1, 3, 5])
    np.testing.assert_array_equal(layout.slot[0, 0, 4:], -1)


def test_the_second_row_of_a_shard_goes_on_where_the_first_ends():
    # Four equal groups of 5 + 3 tokens on two shards, two rows of 8 each: a row a group, because
    # one row of 16 is no cheaper. The second group of a shard begins at 8 of its joined rows, and
    # its first scored token is predicted by the prompt's last, at 8 + 4.
    table = InMemory([example([i] * 5, [[10 + i] * 3]) for i in range(4)])
    plan = make_plan(table.lengths, batch_size=4, shards=2, align=8)
    assert (plan.shape.rows, plan.shape.row_length) == (4, 8)
    _, layout = build_step(table, plan, 0)
    for shard in range(2):
        np.testing.assert_array_equal(layout.source[0, shard, :6], [4, 5, 6, 12, 13, 14])
        # In [4, 1, 3]: a shard's two groups are its two neighbours.
        own = list(range(6 * shard, 6 * shard + 6))
        np.testing.assert_array_equal(layout.slot[0, shard], [*own, -1, -1])
        first, second = layout.target[0, shard, [0, 3]] - 10
        rows = layout.tokens[0, 2 * shard : 2 * shard + 2]
        np.testing.assert_array_equal(rows[:, 0], [first, second])


def test_a_group_that_is_not_there_leaves_everything_empty():
    table = InMemory([example([P], [[A], [B]])])
    batch, layout = build_step(table, make_plan(table.lengths, batch_size=2, align=8), 0)
    there = batch.valid[0].any(axis=1)
    assert sorted(there) == [False, True]
    assert not batch.mask[0, ~there].any()
    assert not batch.prompts[0, ~there].any()
    assert batch.prompt_lengths[0, ~there].tolist() == [1]  # a prompt has a last token
    assert (layout.slot >= 0).sum() == 2
    assert set(layout.group[layout.group >= 0]) == set(np.flatnonzero(there))


def test_a_response_that_is_not_there_and_one_without_tokens_are_not_valid():
    # In the order of the data: a row a group, and the second group has one response where the
    # first has three, of which the second has no tokens.
    table = InMemory([example([P, Q], [[A, B], [], [C]]), example([P], [[B]])])
    batch, layout = build_step(table, make_plan(table.lengths, batch_size=2, align=8), 0)
    full = int(batch.valid[0].sum(axis=1).argmax())
    np.testing.assert_array_equal(batch.valid[0, full], [True, False, True])
    np.testing.assert_array_equal(batch.responses[0, full], [[A, B], [0, 0], [C, 0]])
    np.testing.assert_array_equal(batch.valid[0, 1 - full], [True, False, False])
    np.testing.assert_array_equal(batch.responses[0, 1 - full], [[B, 0], [0, 0], [0, 0]])
    group, response, position = (
        x[0][layout.group[0] == full] for x in (layout.group, layout.response, layout.position)
    )
    np.testing.assert_array_equal(group, [full] * 5)
    np.testing.assert_array_equal(response, [0, 0, 1, 1, 3])
    np.testing.assert_array_equal(position, [0, 1, 2, 3, 2])
    own = layout.slot[0, 0] // 6 == full
    np.testing.assert_array_equal(layout.target[0, 0, own][:3], [A, B, C])
    tokens = layout.tokens[0].ravel()
    np.testing.assert_array_equal(tokens[layout.source[0, 0, own][:3]], [Q, A, Q])


def test_of_given_shards_only_is_what_they_hold_and_the_rest_is_empty():
    table = random_table(30, responses=3)
    plan = make_plan(table.lengths, batch_size=8, shards=2, seed=1, align=8)
    ref = {"ref_logprobs": numbered(table)}
    whole, empty = build_step(table, plan, 0, ref), build_step(table, plan, 0, ref, shards=[])
    halves = [build_step(table, plan, 0, ref, shards=[shard]) for shard in range(2)]
    assert not empty[0].mask.any()
    assert (empty[1].group == -1).all()

    def check(both, nothing, first, second):
        np.testing.assert_array_equal(np.where(first != nothing, first, second), both)

    jax.tree.map(check, whole, empty, *halves)
    rows = len(whole[1].tokens[0]) // 2
    np.testing.assert_array_equal(halves[0][1].tokens[0, :rows], whole[1].tokens[0, :rows])
    assert (halves[0][1].group[0, rows:] == -1).all()


# --- What holds of any step


@pytest.mark.parametrize(("shards", "accumulation"), [(1, 1), (2, 2)])
def test_every_scored_token_is_the_target_of_the_position_before_it(shards, accumulation):
    table = random_table(30, responses=3)
    plan = make_plan(
        table.lengths,
        batch_size=8,
        accumulation=accumulation,
        num_steps=3,
        shards=shards,
        seed=1,
        align=8,
    )
    for index in range(3):
        step = build_step(table, plan, index)
        for micro in range(accumulation):
            batch, layout = jax.tree.map(lambda x, i=micro: x[i], step)
            # Back from the rows: tokens and positions of every group and response.
            b, k, r = batch.responses.shape
            for i in range(b):
                prompt = batch.prompts[i, : batch.prompt_lengths[i]]
                np.testing.assert_array_equal(
                    layout.tokens[(layout.group == i) & (layout.response == 0)], prompt
                )
                for j in range(k):
                    lies = (layout.group == i) & (layout.response == j + 1)
                    count = lies.sum()
                    np.testing.assert_array_equal(
                        layout.tokens[lies], batch.responses[i, j, :count]
                    )
                    np.testing.assert_array_equal(
                        layout.position[lies], len(prompt) + np.arange(count)
                    )
                    assert len(np.unique(np.nonzero(lies)[0])) == 1  # never straddles rows
            used = layout.slot >= 0
            assert sorted(layout.slot[used]) == np.flatnonzero(batch.mask).tolist()
            assert (layout.target[used] == batch.responses.ravel()[layout.slot[used]]).all()
            joined = lambda x: x.reshape(shards, -1)  # noqa: E731
            groups, positions, segments = map(
                joined, (layout.group, layout.position, layout.response)
            )
            for shard, place in zip(*np.nonzero(used), strict=True):
                slot, source = layout.slot[shard, place], layout.source[shard, place]
                i, j, t = np.unravel_index(slot, (b, k, r))
                assert groups[shard, source] == i
                assert positions[shard, source] == batch.prompt_lengths[i] + t - 1
                assert segments[shard, source] == (0 if t == 0 else j + 1)


def test_all_steps_have_one_shape():
    table = random_table(21)
    plan = make_plan(table.lengths, batch_size=4, num_steps=12, seed=0, align=8)
    shapes = {
        str(jax.tree.map(lambda x: (x.shape, x.dtype.str), build_step(table, plan, i)))
        for i in range(12)
    }
    assert len(shapes) == 1


def test_micro_batches_are_the_parts_of_the_step():
    table = random_table(12)
    plan = make_plan(table.lengths, batch_size=6, accumulation=2, num_steps=2, seed=0, align=8)
    batch, layout = build_step(table, plan, 1)
    assert batch.prompts.shape[:2] == (2, 3)
    assert layout.tokens.shape[0] == 2
    for part, groups in enumerate(plan.step(1).group):
        for i, group in enumerate(groups):
            expected = table[group]
            length = batch.prompt_lengths[part, i]
            np.testing.assert_array_equal(batch.prompts[part, i, :length], expected.prompt)
            for j, (tokens, mask) in enumerate(expected.split()):
                np.testing.assert_array_equal(batch.responses[part, i, j, : len(tokens)], tokens)
                np.testing.assert_array_equal(batch.mask[part, i, j, : len(tokens)], mask)
                assert not batch.mask[part, i, j, len(tokens) :].any()


def test_reference_log_probs_land_on_their_tokens():
    # Two groups of 2 + 1 and 1 + 3 response tokens: -1 -2 | -3 and -4 | -5 -6 -7.
    table = InMemory([example([P], [[A, B], [C]]), example([Q], [[A], [A, B, C]])])
    plan = make_plan(table.lengths, batch_size=2, align=8)
    batch, _ = build_step(table, plan, 0, {"ref_logprobs": numbered(table)})
    expected = {
        0: [[-1, -2, 0], [-3, 0, 0]],
        1: [[-4, 0, 0], [-5, -6, -7]],
    }
    for i, group in enumerate(plan.step(0).group[0]):
        np.testing.assert_array_equal(batch.ref_logprobs[0, i], expected[group])


def test_without_reference_the_batch_has_none():
    table = random_table(2)
    batch, _ = build_step(table, make_plan(table.lengths, batch_size=2, align=8), 0)
    assert (batch.ref_logprobs, batch.old_logprobs, batch.old_values) == (None, None, None)


# --- In order


def made(steps=9):
    table = random_table(10)
    plan = make_plan(table.lengths, batch_size=4, num_steps=steps, seed=0, align=8)
    return table, plan


def test_reading_ahead_keeps_the_order_and_ends_with_the_plan():
    table, plan = made()
    found = list(Batches(table, plan, numbers={"ref_logprobs": numbered(table)}))
    assert len(found) == 9
    for index, step in enumerate(found):
        assert_same(step, build_step(table, plan, index, {"ref_logprobs": numbered(table)}))


@pytest.mark.parametrize("through_json", [False, True], ids=["as it is", "json"])
@pytest.mark.parametrize("taken", [0, 1, 5])
def test_a_restored_position_goes_on_with_the_same_arrays(taken, through_json):
    table, plan = made()
    batches = Batches(table, plan)
    for _ in range(taken):
        next(batches)
    position = batches.position()
    if through_json:
        position = json.loads(json.dumps(position))
    rest = list(batches)
    assert len(rest) == 9 - taken
    fresh = Batches(table, plan)
    fresh.restore(position)
    again = list(fresh)
    assert len(again) == len(rest)
    for found, expected in zip(again, rest, strict=True):
        assert_same(found, expected)


def test_going_back_is_possible_too():
    table, plan = made()
    batches = Batches(table, plan)
    start = batches.position()
    first = [next(batches) for _ in range(4)]
    batches.restore(start)
    for expected in first:
        assert_same(next(batches), expected)


def test_a_transform_sees_every_step():
    table, plan = made(3)
    batches = Batches(table, plan, transform=lambda step: step[0].prompts.sum())
    expected = [build_step(table, plan, i)[0].prompts.sum() for i in range(3)]
    assert list(batches) == expected
