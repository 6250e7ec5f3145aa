"""RSO accepts samples as the optimal policy would draw them, and pairs what it has accepted."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.errors import BadInput
from alignax.core.types import Outputs
from alignax.methods import RSO
from alignax.methods.rso import sweep_until
from tests.methods.sampled import drawn, texts

KEY = jax.random.key(0)
FIXTURE_C = [1.0, 0.4, 0.9, -0.2]


# --- The law of what is accepted (METHODS, property 10)


def accepted(policy, rewards, *, beta, candidates, runs):
    """What sort of candidate is accepted first, in each run; -1 where none but the last was.

    The candidates of a run are drawn with replacement, and one more of the highest reward comes
    last: so the sweep compares with the same highest reward in every run, as in the proof, and not
    with the highest of those that happen to be there.
    """
    rewards = jnp.asarray(rewards)

    def run(key):
        draw, sweep = jax.random.split(key)
        sort = jax.random.choice(draw, len(policy), (candidates,), p=jnp.asarray(policy))
        given = jnp.append(rewards[sort], rewards.max())
        uniforms = lambda number: jax.random.uniform(  # noqa: E731
            jax.random.fold_in(sweep, number), given.shape
        )
        first = sweep_until(given, uniforms, num_samples=1, beta=beta)[0]
        return jnp.append(sort, -1)[first]

    return np.asarray(jax.jit(jax.vmap(run))(jax.random.split(KEY, runs)))


@pytest.mark.parametrize(
    ("policy", "beta"),
    [([0.25] * 4, 0.5), ([0.1, 0.3, 0.2, 0.4], 0.5), ([0.05, 0.25, 0.05, 0.65], 1.0)],
)
def test_what_is_accepted_is_distributed_as_the_policy_times_exp_reward_over_beta(policy, beta):
    runs = 20_000
    found = accepted(policy, FIXTURE_C, beta=beta, candidates=64, runs=runs)
    target = np.array(policy) * np.exp(np.array(FIXTURE_C) / beta)
    target /= target.sum()
    assert (found >= 0).all()  # 64 candidates are enough here, the last is never needed
    expected = runs * target
    statistic = np.sum((np.bincount(found, minlength=4) - expected) ** 2 / expected)
    assert statistic < 16.27  # chi-square, 3 degrees of freedom, level 0.001; the seed is fixed
    # The test can fail: the policy's own law is far from it.
    other = runs * np.array(policy)
    assert np.sum((np.bincount(found, minlength=4) - other) ** 2 / other) > 1000.0


def test_law_of_the_first_of_few_candidates_by_enumeration():
    # Two candidates with replacement from {reward 0 with 3/4, reward -1 with 1/4}, beta = 1, then
    # the last of reward 0. The first accepted is of reward -1: 1/4 e^-1 at the first place, or at
    # the second after a -1 that was refused: 1/4 (1 - e^-1) of 1/4 e^-1.
    found = accepted([0.75, 0.25], [0.0, -1.0], beta=1.0, candidates=2, runs=20_000)
    chance = 0.25 * math.exp(-1.0) * (1.0 + 0.25 * (1.0 - math.exp(-1.0)))
    # Four standard deviations: 4 sqrt(0.107 * 0.893 / 20000) = 0.0087.
    np.testing.assert_allclose((found == 1).mean(), chance, atol=0.0087)


# --- Pairs


def batch_of(scores, **others):
    """One prompt whose i-th sample says i + 1."""
    return drawn([[[i + 1] for i in range(len(scores))]], [scores], **others)


@functools.cache
def selector(method):
    return jax.jit(method.select)


def pairs_found(method, batch, key=KEY):
    return [pair for _, pair in texts(selector(method)(key, batch)) if pair]


def test_towards_beta_zero_the_best_of_all_are_paired():
    method = RSO(num_samples=6, num_accepted=2, beta=0.0)
    scores = [0.0, 5.0, 1.0, 3.0, 4.0, 2.0]
    assert pairs_found(method, batch_of(scores)) == [[[2], [5]]]


@pytest.mark.parametrize(("ranking", "size"), [("first-round", 4), ("tournament", 7)])
def test_eight_accepted_make_pairs_ordered_by_score(ranking, size):
    scores = np.random.default_rng(0).permutation(12).astype(float).tolist()
    batch = drawn([[[i + 1] for i in range(12)]] * 3, [scores] * 3)
    method = RSO(num_samples=12, ranking=ranking)
    found = selector(method)(KEY, batch)
    assert found.valid.shape == (3 * size, 2)
    assert found.valid.all()
    assert (found.scores[:, 0] > found.scores[:, 1]).all()
    kept = texts(found)
    assert [prompt for prompt, _ in kept] == [0] * size + [1] * size + [2] * size
    for prompt in range(3):
        said = [response[0] for at, pair in kept if at == prompt for response in pair]
        assert len(set(said)) == 8
        assert ranking == "tournament" or len(said) == 8


def test_who_meets_whom_in_the_first_round_is_drawn_and_the_order_of_acceptance_does_not_count():
    # At beta 0 the order of acceptance is that of the scores, so that without a shuffle the best
    # would always meet the second. Of three ways to pair four, each has one third.
    method = RSO(num_samples=4, num_accepted=4, beta=0.0)
    scores = [4.0, 3.0, 2.0, 1.0]
    batch = drawn([[[1], [2], [3], [4]]] * 3000, [scores] * 3000)
    opponent = [pair[1][0] for pair in pairs_found(method, batch) if pair[0] == [1]]
    shares = np.bincount(opponent, minlength=5)[2:] / 3000
    # Four standard deviations: 4 sqrt(2/9 / 3000) = 0.034.
    np.testing.assert_allclose(shares, 1 / 3, atol=0.034)


def test_every_prompt_has_its_own_random_numbers():
    # Which 2 of 12 are accepted, at a temperature at which all are alike: 66 ways.
    method = RSO(num_samples=12, num_accepted=2, beta=1e6)
    batch = drawn([[[i + 1] for i in range(12)]] * 50, [np.arange(12.0)] * 50)
    found = {str(sorted(pair)) for pair in pairs_found(method, batch)}
    assert len(found) > 20


def test_a_repeated_response_is_accepted_once():
    # Samples 1 1 2 3: three differ, so that of the two pairs one has an opponent missing. Were
    # both 1s accepted, there would mostly be two, of 1 with 2 and of 1 with 3.
    method = RSO(num_samples=4, num_accepted=4)
    batch = drawn([[[1], [1], [2], [3]]], [[3.0, 3.0, 1.0, 2.0]])
    for seed in range(20):
        assert len(pairs_found(method, batch, jax.random.key(seed))) == 1


def test_invalid_responses_are_never_accepted_whatever_their_score():
    method = RSO(num_samples=6, num_accepted=4)
    scores = [1.0, math.nan, 2.0, 99.0, 3.0, 4.0]
    batch = batch_of(scores, valid=[[True, False, True, False, True, True]])
    for seed in range(20):
        found = pairs_found(method, batch, jax.random.key(seed))
        assert sorted(response[0] for pair in found for response in pair) == [1, 3, 5, 6]


@pytest.mark.parametrize("ranking", ["first-round", "tournament"])
@pytest.mark.parametrize(
    ("scores", "valid"),
    [
        ([1.0] * 4, [True] * 4),
        ([1.0, 2.0, 3.0, 4.0], [False] * 4),
        ([1.0, 2.0, 3.0, 4.0], [True, False, False, False]),
    ],
    ids=["tie", "none valid", "one valid"],
)
def test_a_prompt_that_teaches_nothing_makes_no_pair(ranking, scores, valid):
    method = RSO(num_samples=4, num_accepted=4, ranking=ranking)
    assert pairs_found(method, batch_of(scores, valid=[valid])) == []


def test_three_left_of_a_tournament_of_four_make_two_pairs():
    method = RSO(num_samples=4, num_accepted=4, ranking="tournament")
    batch = batch_of([1.0, 2.0, 3.0, 4.0], valid=[[True, True, False, True]])
    for seed in range(20):
        found = pairs_found(method, batch, jax.random.key(seed))
        assert sorted(pair[1][0] for pair in found) == [1, 2]  # each loser once
        assert any(pair[0] == [4] for pair in found)


def test_the_same_key_makes_the_same_pairs():
    method = RSO(num_samples=12)
    batch = batch_of(np.arange(12.0).tolist())
    assert pairs_found(method, batch) == pairs_found(method, batch)
    other = [pairs_found(method, batch, jax.random.key(seed)) for seed in (1, 2, 3)]
    assert any(found != pairs_found(method, batch) for found in other)


# --- The loss


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # Fixture A: h = 1.5, and 3 nats without the reference. softplus(-0.15), 1 - 0.15, 1 - 0.3.
        ({}, 0.6209570478),
        ({"objective": "hinge-norm"}, 0.85),
        ({"objective": "hinge"}, 0.7),
    ],
)
def test_losses_of_fixture_a_worked_by_hand(settings, expected):
    method = RSO(gamma=0.1, **settings)
    batch = drawn([[[1] * 4, [2] * 6]], [[1.0, 0.0]], ref=[[-13.0, -14.5]])
    if not method.needs().reference:
        batch = batch._replace(ref_logprobs=None)
    policy = jnp.where(batch.mask, jnp.array([[[-12 / 4], [-15 / 6]]]), 0.0)
    losses, metrics = method.loss(Outputs(policy), batch)
    np.testing.assert_allclose(losses, [expected], rtol=1e-6)
    margin = 0.15 if method.needs().reference else 0.3
    np.testing.assert_allclose(metrics["rewards/margins"], [margin], rtol=1e-5)
    np.testing.assert_allclose(metrics["logps/rejected"], [-15.0], rtol=1e-6)


def test_it_samples_from_the_reference_as_the_paper_does():
    sampling = RSO().needs().sampling
    assert sampling is not None
    assert (sampling.source, sampling.num_samples) == ("reference", 64)
    assert (sampling.temperature, sampling.top_k) == (0.7, 40)
    assert (RSO().num_accepted, RSO().beta, RSO().gamma) == (8, 0.5, 0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_accepted": 1}, "num_accepted: expected at least 2 samples a prompt; got 1"),
        ({"num_samples": 7}, "num_samples: expected at least 8 samples a prompt; got 7"),
    ],
)
def test_too_few_samples_are_refused(settings, message):
    with pytest.raises(BadInput, match=message):
        RSO(**settings)
