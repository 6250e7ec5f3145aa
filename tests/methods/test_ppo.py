"""PPO: the reward by the token, a critic, advantages on one scale over the step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.method import over_step
from alignax.methods import PPO
from tests.sampled import batch_of, close, outputs_of, slope

# Fixture H: rewards -0.01, 0.02, 1 from beta 0.1, log-ratios 0.1, -0.2, 0.5 and the score 1.05;
# values 0.5, 0.4, 0.6. Then A = 0.46, 0.6, 0.4 and the returns are 0.96, 1, 1.
OLD = np.array([[[-1.0, -0.5, -2.0]]])
VALUES = np.array([[[0.5, 0.4, 0.6]]])
BATCH = batch_of(
    [[1.05]],
    [[3]],
    old_logprobs=OLD,
    ref_logprobs=OLD - np.array([0.1, -0.2, 0.5]),
    old_values=VALUES,
)
ADVANTAGES = np.array([0.46, 0.60, 0.40])
# Mean 0.4866667, variance (0.2116 + 0.36 + 0.16) / 3 - 0.2368444 = 0.0070222.
WHITENED = np.array([-0.0266667, 0.1133333, -0.0866667]) / np.sqrt(0.0070222222)
# Two responses of one token whose advantages are 1 and -1, before and after they are whitened.
PLUS_MINUS = batch_of([[1.0], [-1.0]], [[1], [1]], old_values=np.zeros((2, 1, 1)))


def test_advantages_and_returns_of_fixture_h():
    method, outputs = PPO(beta=0.1), outputs_of(OLD, VALUES)
    losses, metrics = method.loss(outputs, BATCH)
    # Whitened advantages add up to 0; values are off by the advantages: 0.1 (0.7316 / 2).
    # The policy's terms are of the order of 1 and cancel, so rounding is told against 1.
    np.testing.assert_allclose(losses, [0.03658], rtol=0, atol=2e-6)
    gradient = slope(method, outputs, BATCH)
    np.testing.assert_allclose(gradient.logprobs[0, 0], -WHITENED, rtol=2e-5)
    assert gradient.values is not None
    close(gradient.values[0, 0], -0.1 * ADVANTAGES)
    close(metrics["returns"], [2.96 / 3])
    close(metrics["advantages"], [1.46 / 3])
    close(metrics["kl"], [0.4])
    close(metrics["loss/value"], [0.7316 / 6])


@pytest.mark.parametrize(
    ("ratios", "dual_clip", "expected"),
    [
        # Fixture G: with A = 1 and A = -1 the losses of the policy.
        ((1.3, 1.3), None, (-1.2, 1.3)),
        ((0.7, 0.7), None, (-0.7, 0.8)),
        ((1.0, 4.0), None, (-1.0, 4.0)),
        ((1.0, 4.0), 3.0, (-1.0, 3.0)),
    ],
)
def test_policy_losses_of_fixture_g(ratios, dual_clip, expected):
    method = PPO(beta=0.0, value_weight=0.0, dual_clip=dual_clip)
    outputs = outputs_of(np.log(ratios).reshape(2, 1, 1), np.zeros((2, 1, 1)))
    losses, metrics = method.loss(outputs, PLUS_MINUS)
    close(losses, expected)
    close(metrics["loss/policy"], expected)


def test_values_are_led_no_further_than_their_clip():
    # Returns 1 and -1, old values 0. From 0.1 the value is led on: (0.1 - 1)^2 / 2. At 0.5 the
    # clipped value 0.2 is the worse one: (0.2 - 1)^2 / 2 = 0.32, without slope. -0.5 likewise.
    method = PPO(beta=0.0, value_weight=1.0)
    for value, loss, gradient in ((0.1, 0.405, -0.9), (0.5, 0.32, 0.0)):
        outputs = outputs_of(np.zeros((2, 1, 1)), np.array([value, -value]).reshape(2, 1, 1))
        _, metrics = method.loss(outputs, PLUS_MINUS)
        close(metrics["loss/value"], [loss, loss])
        found = slope(method, outputs, PLUS_MINUS).values
        close(found, np.reshape([gradient, -gradient], (2, 1, 1)))


def test_micro_batches_with_the_means_of_the_step_are_the_step():
    draw = np.random.default_rng(0)
    old, values, ref = (draw.standard_normal((4, 2, 5)) for _ in range(3))
    lengths = draw.integers(1, 6, (4, 2))
    batch = batch_of(
        draw.standard_normal((4, 2)),
        lengths,
        tokens=5,
        valid=[[True, True], [True, False], [False, False], [True, True]],
        old_logprobs=old,
        ref_logprobs=ref,
        old_values=values,
    )
    method, outputs = PPO(), outputs_of(old + 0.1, values + 0.1)
    whole, _ = method.loss(outputs, batch)
    means = over_step(method, outputs, batch)
    for i in range(4):
        part = jax.tree.map(lambda x: x[i : i + 1], (outputs, batch))  # noqa: B023
        found, _ = method.loss(part[0], part[1]._replace(means=means))
        close(found, whole[i : i + 1])


def test_whitened_advantages_have_mean_0_and_deviation_1_over_all_valid_tokens():
    draw = np.random.default_rng(1)
    lengths, valid = np.array([[3, 5], [1, 4]]), np.array([[True, True], [True, False]])
    old, values = draw.standard_normal((2, 2, 5)), draw.standard_normal((2, 2, 5))
    batch = batch_of([[1.0, 3.0], [-2.0, 50.0]], lengths, valid=valid, old_values=values)
    outputs = outputs_of(np.zeros_like(old), values)
    counted = np.asarray(batch.mask) & valid[..., None]
    found = -slope(PPO(beta=0.0), outputs, batch).logprobs
    np.testing.assert_allclose(found[counted].mean(), 0.0, atol=1e-6)
    np.testing.assert_allclose(found[counted].std(), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(found[~counted], 0.0)


def test_equal_advantages_are_no_advantage():
    batch = PLUS_MINUS._replace(scores=jnp.array([[7.3], [7.3]]))
    gradient = slope(PPO(beta=0.0), outputs_of(np.zeros((2, 1, 1)), np.zeros((2, 1, 1))), batch)
    np.testing.assert_array_equal(gradient.logprobs, 0.0)


def test_a_small_deviation_is_not_lost_beside_a_large_mean():
    # Advantages 1024 + 0, 1, 2, 3 times 1/64, exact in float32, where 1024^2 steps by 1/8. From
    # their mean they are -1.5, -0.5, 0.5, 1.5 times 1/64, and the variance is 1.25 / 64^2.
    scores = 1024 + np.array([[0, 1], [2, 5e4], [9e6, -9e6], [-1e3, 3]]) / 64
    valid = np.array([[True, True], [True, False], [False, False], [False, True]])
    nothing = np.zeros((4, 2, 2))
    batch = batch_of(scores, np.ones((4, 2), int), tokens=2, valid=valid, old_values=nothing)
    method, outputs = PPO(beta=0.0), outputs_of(nothing, nothing)
    expected = np.array([[-1.5, -0.5], [0.5, 0.0], [0.0, 0.0], [0.0, 1.5]]) / np.sqrt(1.25)
    found = -slope(method, outputs, batch).logprobs
    np.testing.assert_allclose(found[..., 0], expected, rtol=1e-4)  # of the 1e-8 in the root
    np.testing.assert_array_equal(found[..., 1], 0.0)
    # Cut into micro-batches, of which the third is empty, each is told the moments of the step.
    means = over_step(method, outputs, batch)
    for i in range(4):
        part = jax.tree.map(lambda x: x[i : i + 1], (outputs, batch))  # noqa: B023
        cut = -slope(method, part[0], part[1]._replace(means=means)).logprobs
        np.testing.assert_array_equal(cut, found[i : i + 1])


def test_entropy_is_asked_for_only_where_it_is_weighed():
    assert PPO().needs().outputs == frozenset()
    method = PPO(beta=0.1, entropy_weight=0.5)
    assert method.needs().outputs == {"entropy"}
    outputs = outputs_of(OLD, VALUES, [[[1.0, 2.0, 3.0]]])
    losses, metrics = method.loss(outputs, BATCH)
    np.testing.assert_allclose(losses, [0.03658 - 3.0], rtol=2e-5)
    close(slope(method, outputs, BATCH).entropy, np.full((1, 1, 3), -0.5))
    close(metrics["entropy"], [2.0])


def test_one_drawing_is_passed_over_four_times_before_the_next():
    needs = PPO().needs()
    assert needs.head == "value"
    assert needs.mean_over == "tokens"
    assert needs.sampling is not None
    assert (needs.sampling.epochs, needs.sampling.refresh) == (4, 4)


def test_discount_decay_and_clip_by_hand():
    # delta is 0 + 0.5 * 0.6 - 0.2 = 0.1, then 1 - 0.6 = 0.4. The first advantage is
    # 0.1 + 0.5 * 0.25 * 0.4 = 0.15, the second 0.4: -1 and 1 about their mean. Ratios 0.5 and 1.3
    # are clipped at 0.9 and 1.1: losses 0.9 and -1.1.
    batch = batch_of([[1.0]], [[2]], old_values=[[[0.2, 0.6]]])
    method = PPO(beta=0.0, value_weight=0.0, discount=0.5, decay=0.25, clip=0.1)
    outputs = outputs_of(np.log([[[0.5, 1.3]]]), [[[0.2, 0.6]]])
    losses, metrics = method.loss(outputs, batch)
    close(metrics["advantages"], [0.275])
    close(metrics["returns"], [(0.35 + 1.0) / 2])
    close(losses, [0.9 - 1.1])
