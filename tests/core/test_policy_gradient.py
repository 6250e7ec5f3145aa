"""Token losses of policy gradients by hand: clips on either side, signs, masks, extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.losses import (
    clipped_policy_gradient,
    clipped_value,
    group_advantage,
    policy_gradient,
    sequence_clipped_policy_gradient,
)

CLIP = {"clip_low": 0.2, "clip_high": 0.2}
# Fixture G: ratio and advantage of five tokens.
RATIOS, ADVANTAGES = jnp.array([1.3, 1.3, 0.7, 0.7, 4.0]), jnp.array([1.0, -1.0, 1.0, -1.0, -1.0])
OLD, ALL = jnp.full(5, -1.5), jnp.ones(5, bool)
NEW = OLD + jnp.log(RATIOS)


def ppo(new, old=OLD, advantages=ADVANTAGES, mask=ALL, **keywords):
    return clipped_policy_gradient(new, old, advantages, mask, **{**CLIP, **keywords})


def gspo(new, old, advantages, mask, **keywords):
    return sequence_clipped_policy_gradient(new, old, advantages, mask, **{**CLIP, **keywords})


def slope(function):
    return jax.grad(lambda x: function(x).sum())


# --- Plain


@pytest.mark.parametrize("advantages", [2.0, [2.0, -1.0, 0.5]])
def test_gradient_is_minus_the_advantage(advantages):
    advantages, mask = jnp.array(advantages), jnp.array([True, False, True])
    logprobs = jnp.array([-1.0, -2.0, -4.0])
    loss = lambda x: policy_gradient(x, advantages, mask)  # noqa: E731
    expected = np.where(mask, -np.broadcast_to(advantages, 3), 0.0)
    np.testing.assert_array_equal(loss(logprobs), expected * logprobs)
    np.testing.assert_array_equal(slope(loss)(logprobs), expected)


def test_nan_off_the_mask_changes_nothing():
    mask, nan = jnp.array([True, False]), jnp.array([0.0, jnp.nan])
    x = jnp.array([-1.0, -2.0])
    for loss in (
        lambda x, junk: policy_gradient(x + junk, x + junk, mask),
        lambda x, junk: ppo(x + junk, 0.9 * x + junk, x + junk, mask),
        lambda x, junk: gspo(x + junk, 0.9 * x + junk, x + junk, mask),
        lambda x, junk: clipped_value(x + junk, x + junk, 2 * x + junk, mask, clip=0.2),
    ):
        np.testing.assert_array_equal(loss(x, nan), loss(x, 0 * x))
        found, expected = (jax.grad(lambda x, j: loss(x, j).sum())(x, j) for j in (nan, 0 * x))  # noqa: B023
        np.testing.assert_array_equal(found, expected)


# --- Clipped


def test_values_of_fixture_g():
    np.testing.assert_allclose(ppo(NEW), [-1.2, 1.3, -0.7, 0.8, 4.0], rtol=1e-6)
    found = ppo(NEW, dual_clip=3.0)
    np.testing.assert_allclose(found, [-1.2, 1.3, -0.7, 0.8, 3.0], rtol=1e-6)


def test_gradient_is_minus_ratio_times_advantage_where_nothing_is_clipped():
    expected = [0.0, 1.3, -0.7, 0.0, 4.0]
    np.testing.assert_allclose(slope(ppo)(NEW), expected, rtol=1e-6)
    found = slope(lambda x: ppo(x, dual_clip=3.0))(NEW)
    np.testing.assert_allclose(found, [0.0, 1.3, -0.7, 0.0, 0.0], rtol=1e-6)


def test_clips_may_be_unequal():
    # Ratio 1.3 is clipped to 1.28, 0.7 to 0.9; where that is the lesser, for the same two.
    found = ppo(NEW[:4], OLD[:4], ADVANTAGES[:4], ALL[:4], clip_low=0.1, clip_high=0.28)
    np.testing.assert_allclose(found, [-1.28, 1.3, -0.7, 0.9], rtol=1e-6)


@pytest.mark.parametrize("clip", [0.0, 0.2])
@pytest.mark.parametrize("loss", [ppo, gspo])
def test_is_a_policy_gradient_where_the_policies_agree(loss, clip):
    found = lambda x: loss(x, OLD, ADVANTAGES, ALL, clip_low=clip, clip_high=clip)  # noqa: E731
    np.testing.assert_array_equal(found(OLD), -ADVANTAGES)
    expected = -ADVANTAGES if loss is ppo else jnp.full(5, -ADVANTAGES.mean())
    np.testing.assert_allclose(slope(found)(OLD), expected, rtol=1e-6)


def test_first_update_of_a_group_has_loss_zero_and_a_gradient():
    # Averaged over each response first, whatever its length: the advantages sum to 0.
    lengths = jnp.array([5, 1, 3, 2])
    mask, logprobs = jnp.arange(5)[None] < lengths[:, None], jnp.full((4, 5), -1.25)
    advantages = group_advantage(jnp.array([1.0, 0.0, 0.5, 0.0]))

    def loss(x):
        return jnp.sum(ppo(x, logprobs, advantages, mask).sum(axis=-1) / lengths)

    np.testing.assert_allclose(loss(logprobs), 0.0, atol=1e-6)
    expected = jnp.where(mask, -(advantages / lengths)[:, None], 0.0)
    np.testing.assert_allclose(jax.grad(loss)(logprobs), expected, rtol=1e-6)


def test_dual_clip_is_for_negative_advantages_only():
    old, new = jnp.zeros(2), jnp.log(jnp.array([8.0, 8.0]))
    loss = ppo(new, old, jnp.array([1.0, -1.0]), jnp.ones(2, bool), clip_high=9.0, dual_clip=3.0)
    np.testing.assert_allclose(loss, [-8.0, 3.0], rtol=1e-6)


def test_one_advantage_a_response_is_one_for_each_of_its_tokens():
    new, old = jnp.stack([NEW, NEW[::-1]]), jnp.stack([OLD, OLD])
    mask, advantages = jnp.ones((2, 5), bool), jnp.array([0.5, -2.0])
    for loss in (ppo, gspo):
        expected = loss(new, old, jnp.tile(advantages[:, None], (1, 5)), mask)
        np.testing.assert_array_equal(loss(new, old, advantages, mask), expected)


def test_log_ratio_is_clamped_at_twenty():
    new, old = jnp.array([19.0, 21.0, 1000.0, -1000.0]), jnp.zeros(4)
    found = lambda x: ppo(x, old, jnp.full(4, -1.0), jnp.ones(4, bool))  # noqa: E731
    # e^19, then e^20, and 0.8 where the ratio is below the clip.
    np.testing.assert_allclose(
        found(new), [178482300.96, 485165195.41, 485165195.41, 0.8], rtol=1e-6
    )
    np.testing.assert_allclose(slope(found)(new), [178482300.96, 0.0, 0.0, 0.0], rtol=1e-6)


# --- Clipped for the sequence


def test_value_of_fixture_j():
    # The mean log-ratio is (0.1 + 0 - 0.106) / 3 = -0.002: s = 0.9980019987, at every token.
    new, old = jnp.array([-1.0, -0.5, -2.0]), jnp.array([-1.1, -0.5, -1.894])
    found = gspo(new, old, jnp.array(1.0), jnp.ones(3, bool))
    np.testing.assert_allclose(found, -0.9980019987, rtol=1e-6)
    # Below 1 - 3e-4, which binds where the advantage is negative.
    tight = {"clip_low": 3e-4, "clip_high": 4e-4}
    found = gspo(new, old, jnp.array(-1.0), jnp.ones(3, bool), **tight)
    np.testing.assert_allclose(found, 0.9997, rtol=1e-6)
    np.testing.assert_array_equal(
        slope(lambda x: gspo(x, old, jnp.array(-1.0), jnp.ones(3, bool), **tight))(new), 0.0
    )


def test_gradient_flows_through_the_ratio_of_the_whole_sequence():
    # The mean loss over 3 tokens is -s A; each log-prob moves s by s / 3. Off the mask nothing.
    new, old = jnp.array([-1.0, -0.5, 9.0, -2.0]), jnp.array([-1.1, -0.5, -7.0, -1.894])
    mask = jnp.array([True, True, False, True])
    gradient = slope(lambda x: gspo(x, old, jnp.array(2.0), mask) / 3.0)(new)
    each = -2.0 * 0.9980019987 / 3.0
    np.testing.assert_allclose(gradient, [each, each, 0.0, each], rtol=1e-6)
    np.testing.assert_array_equal(gspo(new, old, jnp.array(2.0), mask)[2], 0.0)


def test_duplicating_tokens_does_not_change_the_ratio():
    new, old = jnp.array([-1.0, -0.5]), jnp.array([-1.25, -0.75])
    once = gspo(new, old, jnp.array(1.0), jnp.ones(2, bool), clip_high=1.0)
    twice = gspo(
        *(jnp.tile(x, 2) for x in (new, old)), jnp.array(1.0), jnp.ones(4, bool), clip_high=1.0
    )
    np.testing.assert_allclose(twice, jnp.tile(once, 2), rtol=1e-6)
    np.testing.assert_allclose(once, -np.exp(0.25), rtol=1e-6)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("far", [200.0, -200.0, 1000.0, -1000.0])
def test_a_sequence_far_from_its_sampler_stays_finite(far, advantage):
    loss = lambda x: gspo(x, jnp.zeros(3), jnp.array(advantage), jnp.ones(3, bool))  # noqa: E731
    new = jnp.full(3, far)
    assert np.isfinite(loss(new)).all()
    assert np.isfinite(slope(loss)(new)).all()


# --- Values


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "gradient"),
    [
        (1.0, 1.0, 3.0, 2.0, -2.0),  # 0.5 * 2^2
        (1.5, 1.0, 3.0, 1.62, 0.0),  # taken as 1.2, which is farther: 0.5 * 1.8^2, and no pull
        (1.5, 1.0, 1.0, 0.125, 0.5),  # taken as 1.2, which is nearer: 0.5 * 0.5^2 stands
        (0.5, 1.0, 0.0, 0.32, 0.0),  # taken as 0.8: 0.5 * 0.8^2
        (0.9, 1.0, 0.0, 0.405, 0.9),  # within the clip: 0.5 * 0.9^2
    ],
)
def test_value_loss_is_the_greater_of_clipped_and_unclipped(value, old, target, loss, gradient):
    given = jnp.array([old]), jnp.array([target]), jnp.ones(1, bool)
    found = lambda x: clipped_value(x, *given, clip=0.2)  # noqa: E731
    np.testing.assert_allclose(found(jnp.array([value])), [loss], rtol=1e-6)
    np.testing.assert_allclose(slope(found)(jnp.array([value])), [gradient], rtol=1e-6)


def test_value_loss_without_a_bound_is_half_the_square():
    values, returns = jnp.array([1.0, -1000.0]), jnp.array([-1.0, 1000.0])
    found = clipped_value(values, jnp.zeros(2), returns, jnp.ones(2, bool), clip=jnp.inf)
    np.testing.assert_allclose(found, [2.0, 2e6])
