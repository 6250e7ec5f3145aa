"""Responses are picked, paired and told apart in arrays of one shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.selection import (
    best_of_rounds,
    distinct,
    only_ranked,
    pairs,
    spread,
    take,
    take_best,
    take_pairs,
)
from tests.methods.sampled import drawn, texts

TWO = drawn([[[1], [2, 3], [4]], [[5], [6], [7, 8]]], [[0.0, 2.0, 1.0], [3.0, 3.0, -1.0]])


def useful_pairs(scores, pairing, valid=None):
    scores = jnp.asarray([scores], jnp.float32)
    valid = jnp.ones(scores.shape, bool) if valid is None else jnp.asarray([valid])
    index, useful = jax.jit(pairs, static_argnums=2)(scores, valid, pairing)
    return [tuple(pair) for pair in index[0][useful[0]].tolist()], index.shape[1]


def test_a_response_that_an_earlier_one_has_said_is_not_distinct():
    # The third repeats the first; the fourth begins like it, and what is padded does not count.
    batch = drawn([[[1, 2], [2, 1], [1, 2], [1], [1, 2, 0]]], [[0.0] * 5])
    assert distinct(batch).tolist() == [[True, True, False, True, True]]


def test_what_stands_off_the_mask_makes_no_difference_between_responses():
    batch = drawn([[[1], [1], [1, 2]]], [[0.0] * 3])
    batch = batch._replace(responses=batch.responses.at[0, 1, 1].set(9))
    assert distinct(batch).tolist() == [[True, False, True]]


def test_an_invalid_response_is_not_distinct_and_hides_no_other():
    batch = drawn([[[1], [1], [1]]], [[0.0] * 3], valid=[[False, True, True]])
    assert distinct(batch).tolist() == [[False, True, False]]


def test_the_same_response_to_another_prompt_is_distinct():
    assert distinct(drawn([[[1]], [[1]]], [[0.0], [0.0]])).all()


@pytest.mark.parametrize(
    ("scores", "valid", "expected"),
    [
        ([1.0, 1.0, 2.0], [True, True, True], [True, True, True]),
        ([1.0, 1.0, 2.0], [True, True, False], [False, False, False]),
        ([1.0, 2.0, 3.0], [True, False, True], [True, False, True]),
        ([1.0, 2.0, 3.0], [False, True, False], [False, False, False]),
        ([1.0, 2.0, 3.0], [False, False, False], [False, False, False]),
        ([1.0, np.nan, 1.0], [True, False, True], [False, False, False]),
    ],
)
def test_only_prompts_with_scores_that_differ_are_ranked(scores, valid, expected):
    assert only_ranked(jnp.array([scores]), jnp.array([valid])).tolist() == [expected]


@pytest.mark.parametrize(
    ("pairing", "expected"),
    [
        ("best-worst", [(2, 1)]),
        ("first-round", [(0, 1), (2, 3)]),
        # 0 beats 1, 2 beats 3, 4 has no opponent; 2 beats 0; 2 beats 4.
        ("tournament", [(0, 1), (2, 3), (2, 0), (2, 4)]),
        ("all", [(0, 1), (2, 0), (0, 3), (0, 4), (2, 1), (3, 1), (4, 1), (2, 3), (2, 4), (4, 3)]),
    ],
)
def test_pairs_of_five_worked_by_hand(pairing, expected):
    found, size = useful_pairs([3.0, -1.0, 5.0, 0.0, 2.0], pairing)
    assert found == expected
    assert size == len(expected)


@pytest.mark.parametrize(
    ("pairing", "expected"),
    [
        ("best-worst", [(3, 0)]),  # of two worst the first
        ("first-round", []),
        # 0 ties with 1 and goes on, 3 goes on because 2 is invalid; then 3 beats 0.
        ("tournament", [(3, 0)]),
        ("all", [(3, 0), (3, 1)]),
    ],
)
def test_ties_and_invalid_responses_make_no_pair(pairing, expected):
    scores, valid = [1.0, 1.0, 9.0, 2.0], [True, True, False, True]
    assert useful_pairs(scores, pairing, valid)[0] == expected


@pytest.mark.parametrize("pairing", ["best-worst", "first-round", "tournament", "all"])
@pytest.mark.parametrize("valid", [[False] * 3, [False, True, False]])
def test_fewer_than_two_valid_responses_make_no_pair_whatever_stands_in_the_others(pairing, valid):
    for fill in (0.0, np.nan, np.inf, -np.inf):
        scores = np.where(valid, 1.0, fill).tolist()
        assert useful_pairs(scores, pairing, valid)[0] == []


@pytest.mark.parametrize("pairing", ["first-round", "tournament", "all"])
def test_one_response_makes_no_pairs(pairing):
    assert useful_pairs([1.0], pairing) == ([], 0)


@pytest.mark.parametrize("k", range(2, 12))
def test_a_tournament_has_one_pair_for_every_loser_and_the_best_wins_it(k):
    scores = np.random.default_rng(k).permutation(k).astype(float).tolist()
    found, size = useful_pairs(scores, "tournament")
    assert len(found) == size == k - 1
    best = int(np.argmax(scores))
    assert sorted(loser for _, loser in found) == [i for i in range(k) if i != best]
    assert all(scores[winner] > scores[loser] for winner, loser in found)


def test_take_gathers_all_that_belongs_to_a_response():
    batch = drawn([[[1], [2, 3]]], [[0.0, 2.0]], old=[[-1.0, -4.0]], ref=[[-3.0, -8.0]])
    batch = batch._replace(attributes=jnp.array([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]))
    found = take(batch, jnp.array([[1, 0, 1]]), jnp.array([[True, True, False]]))
    assert texts(found) == [(0, [[2, 3], [1]])]
    assert found.old_logprobs is not None
    assert found.ref_logprobs is not None
    assert found.attributes is not None
    np.testing.assert_array_equal(found.scores, [[2.0, 0.0, 2.0]])
    np.testing.assert_array_equal(found.old_logprobs[0], [[-2, -2], [-1, 0], [-2, -2]])
    np.testing.assert_array_equal(found.ref_logprobs[0], [[-4, -4], [-3, 0], [-4, -4]])
    np.testing.assert_array_equal(found.attributes[0, :, 0], [4.0, 1.0, 4.0])
    assert found.old_values is None


def test_spread_repeats_prompts_and_keeps_their_order():
    batch = drawn([[[1], [2], [3], [4]], [[5], [6], [7], [8]]], [[0.0] * 4] * 2)
    found = spread(batch, 2)
    assert texts(found) == [(0, [[1], [2]]), (0, [[3], [4]]), (1, [[5], [6]]), (1, [[7], [8]])]
    assert found.prompt_lengths.tolist() == [2] * 4


def test_pairs_become_prompts_and_useless_ones_have_no_valid_response():
    index = jnp.array([[[1, 0], [2, 0]], [[0, 2], [0, 1]]])
    found = take_pairs(TWO, index, jnp.array([[True, True], [True, False]]))
    assert texts(found) == [(0, [[2, 3], [1]]), (0, [[4], [1]]), (1, [[5], [7, 8]]), (1, [])]


def test_the_best_to_each_prompt_and_the_best_of_all():
    # Scores 0 2 1 and 3 3 -1: the first of the two best of the second prompt; of all, both.
    assert texts(take_best(TWO, TWO.scores, over="per_prompt")) == [(0, [[2, 3]]), (1, [[5]])]
    assert texts(take_best(TWO, TWO.scores, over="global")) == [(1, [[5]]), (1, [[6]])]


def test_an_invalid_response_is_never_the_best():
    batch = TWO._replace(
        valid=jnp.array([[True, False, False], [False, False, False]]),
        scores=TWO.scores.at[1].set(jnp.nan),
    )
    assert texts(take_best(batch, batch.scores, over="per_prompt")) == [(0, [[1]]), (1, [])]
    found = texts(take_best(batch, batch.scores, over="global"))
    assert found[0] == (0, [[1]])
    assert found[1][1] == []


@pytest.mark.parametrize(
    ("scores", "prompts", "expected"),
    [
        ([1.0, 2.0, 3.0], [5, 6, 7], [0, 1, 2]),
        ([1.0, 2.0, 0.5, 3.0], [5, 6, 5, 6], [0, 3]),
        ([1.0, 1.0, 1.0], [5, 5, 5], [2]),  # of equals the latest
        ([1.0, 1.0, -1.0], [5, 5, 5], [1]),
        ([-np.inf], [5], [0]),
        ([], [], []),
    ],
)
def test_a_pool_of_several_rounds_keeps_the_best_for_each_prompt(scores, prompts, expected):
    found = best_of_rounds(np.array(scores, np.float32), np.array(prompts, np.int64))
    assert found.tolist() == expected


def test_a_round_joined_to_what_was_kept_gives_what_all_rounds_together_give():
    draw = np.random.default_rng(0)
    scores, prompts = draw.integers(0, 4, 60).astype(np.float32), draw.integers(0, 9, 60)
    once = best_of_rounds(scores, prompts)
    kept = np.arange(0)
    for begin in range(0, 60, 20):
        pool = np.concatenate([kept, np.arange(begin, begin + 20)])
        kept = pool[best_of_rounds(scores[pool], prompts[pool])]
    np.testing.assert_array_equal(kept, once)
