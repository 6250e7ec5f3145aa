"""KTO weighs a response against a reference point, as a gain where desirable, else as a loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.records import Labelled
from alignax.core.types import Batch, Outputs
from alignax.losses import kto
from alignax.methods import KTO

# Fixture A: a desirable response of log-ratio 1, an undesirable one of log-ratio -0.5.
POLICY, REFERENCE = jnp.array([-12.0, -15.0]), jnp.array([-13.0, -14.5])
DESIRABLE = jnp.array([True, False])


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (0.0, [0.4750208125, 0.4875025036]),  # 1 - sigmoid(0.1), 1 - sigmoid(0.05)
        (0.4, [0.4850044984, 0.4775151752]),  # 1 - sigmoid(0.06), 1 - sigmoid(0.09)
    ],
)
def test_value_of_fixture_a(kl, expected):
    for given in (kl, jnp.array(kl)):
        found = kto(POLICY, REFERENCE, DESIRABLE, given, beta=0.1)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_labels_may_be_numbers():
    for labels in (jnp.array([1.0, 0.0]), jnp.array([1, 0])):
        found = kto(POLICY, REFERENCE, labels, 0.0, beta=0.1)
        np.testing.assert_allclose(found, [0.4750208125, 0.4875025036], rtol=1e-6)


def test_gradient_raises_what_is_desirable_and_lowers_what_is_not():
    # -beta s (1 - s) at s = 1 - sigmoid(0.1), and + beta s (1 - s) at s = 1 - sigmoid(0.05).
    gradient = jax.grad(lambda s: kto(s, REFERENCE, DESIRABLE, 0.0, beta=0.1).sum())(POLICY)
    np.testing.assert_allclose(gradient, [-0.0249376040, 0.0249843813], rtol=1e-6)


def test_is_half_its_weight_where_policy_equals_reference():
    weights = {"desirable_weight": 1.25, "undesirable_weight": 3.0}
    found = kto(POLICY, POLICY, DESIRABLE, 0.0, beta=0.7, **weights)
    np.testing.assert_allclose(found, [0.625, 1.5], rtol=1e-7)


def test_weights_scale_their_own_kind():
    once = kto(POLICY, REFERENCE, DESIRABLE, 0.2, beta=0.5)
    found = kto(POLICY, REFERENCE, DESIRABLE, 0.2, beta=0.5, desirable_weight=2.0)
    np.testing.assert_allclose(found, once * jnp.array([2.0, 1.0]), rtol=1e-7)
    found = kto(POLICY, REFERENCE, DESIRABLE, 0.2, beta=0.5, undesirable_weight=3.0)
    np.testing.assert_allclose(found, once * jnp.array([1.0, 3.0]), rtol=1e-7)


@pytest.mark.parametrize(("desirable", "expected"), [(True, [1.0, 0.0]), (False, [0.0, 1.0])])
def test_saturates_far_from_the_reference(desirable, expected):
    far = jnp.array([-1000.0, 1000.0])
    loss = lambda s: kto(s, jnp.zeros(2), jnp.full(2, desirable), 0.0, beta=1.0)  # noqa: E731
    np.testing.assert_array_equal(loss(far), expected)
    np.testing.assert_array_equal(jax.grad(lambda s: loss(s).sum())(far), 0.0)


def test_no_gradient_flows_into_the_reference_point():
    loss = lambda kl: kto(POLICY, REFERENCE, DESIRABLE, kl, beta=0.5).sum()  # noqa: E731
    assert jax.grad(loss)(0.3) == 0.0


def test_one_reference_point_serves_any_leading_axes():
    wide = jnp.stack([POLICY, POLICY + 1.0])
    found = kto(wide, jnp.stack([REFERENCE] * 2), jnp.stack([DESIRABLE] * 2), 0.4, beta=0.1)
    np.testing.assert_allclose(found[0], [0.4850044984, 0.4775151752], rtol=1e-6)


# --- The method: fixture A as two prompts, each with a response to the other beside it

MASK = jnp.arange(6)[None, None] < jnp.array([[[4], [2]], [[6], [3]]])
RATIO = jnp.array([[1.0, 0.6], [-0.5, 0.2]])  # of policy to reference, own and unrelated


def batch_of(scores=((1.0, 0.0), (0.0, 0.0)), means=None):
    per_token = RATIO / MASK.sum(axis=-1)
    return Outputs(logprobs=jnp.where(MASK, per_token[..., None] - 1.0, 0.0)), Batch(
        prompts=jnp.ones((2, 3), jnp.int32),
        prompt_lengths=jnp.full(2, 3, jnp.int32),
        responses=jnp.ones(MASK.shape, jnp.int32),
        mask=MASK,
        scores=jnp.array(scores),
        valid=jnp.ones((2, 2), bool),
        ref_logprobs=jnp.where(MASK, -1.0, 0.0),
        means=means,
    )


def test_the_divergence_is_the_mean_over_unrelated_responses():
    # (0.6 + 0.2) / 2 = 0.4, whose losses are fixture A's.
    losses, metrics = KTO(beta=0.1).loss(*batch_of())
    np.testing.assert_allclose(losses, [0.4850044984, 0.4775151752], rtol=1e-6)
    np.testing.assert_allclose(metrics["kl"], [0.4, 0.4], rtol=1e-6)
    # Rewards 0.1 and -0.05 have the signs of the labels.
    np.testing.assert_allclose(metrics["rewards/signed"], [0.1, 0.05], rtol=1e-6)
    np.testing.assert_array_equal(metrics["rewards/accuracies"], 1.0)


def test_rewards_of_either_kind_have_trls_names_and_their_own_means():
    # The first is desirable, with a reward of 0.1 and 4 tokens at -0.75; of the other -0.05, and 6
    # at -1.0833. Means over the batch are those over either kind.
    _, metrics = KTO(beta=0.1).loss(*batch_of())
    means = {name: float(x.mean()) for name, x in metrics.items()}
    assert means["rewards/chosen"] == pytest.approx(0.1)
    assert means["rewards/rejected"] == pytest.approx(-0.05)
    assert means["rewards/margins"] == pytest.approx(0.15)
    assert (means["logps/chosen"], means["logps/rejected"]) == pytest.approx((-3.0, -6.5))


def test_the_mean_over_the_whole_step_takes_the_place_of_the_batchs_own():
    for mean, expected in ((0.4, 0.4), (1.5, 1.5), (-3.0, 0.0)):  # clamped after the mean
        means = {"kl": jnp.float32(mean), "desirable": jnp.float32(0.8)}
        _, metrics = KTO(beta=0.1).loss(*batch_of(means=means))
        np.testing.assert_allclose(metrics["kl"], [expected] * 2, rtol=1e-6)
        # The one desirable response of this batch, of four fifths in the step.
        np.testing.assert_allclose(metrics["rewards/chosen"], [0.1 / 0.8, 0.0], rtol=1e-6)


def test_a_step_of_one_kind_has_finite_numbers():
    _, metrics = KTO().loss(*batch_of(scores=((1.0, 0.0), (1.0, 0.0))))
    assert all(np.isfinite(x).all() for x in metrics.values())
    np.testing.assert_array_equal(metrics["rewards/rejected"], 0.0)


def test_the_divergence_does_not_depend_on_labels_and_has_no_gradient():
    outputs, batch = batch_of(scores=((0.0, 0.0), (1.0, 0.0)))
    _, metrics = KTO().loss(outputs, batch)
    np.testing.assert_allclose(metrics["kl"], [0.4, 0.4], rtol=1e-6)
    slope = jax.grad(lambda x: KTO().loss(outputs._replace(logprobs=x), batch)[0].sum())
    np.testing.assert_array_equal(slope(outputs.logprobs)[:, 1], 0.0)


@pytest.mark.parametrize(
    ("weights", "good", "bad", "said"),
    [
        ({}, 3, 3, ""),
        ({}, 4, 3, ""),  # 4/3, the most
        # 3 desirable for each other: 3 / u is from 1 to 4/3 where u is from 9/4 to 3.
        ({}, 30, 10, "30 of 40 responses are desirable: with the weights they count 3 times as "
         "much as the others, and 1 to 4/3 times is advised (arXiv:2402.01306); "
         "method.undesirable_weight from 2.25 to 3 gives that"),
        ({"undesirable_weight": 2.25}, 30, 10, ""),
        # 1 x 2 / (4 x 1) is a half: d x 2 / 4 is from 1 to 4/3 where d is from 2 to 8/3.
        ({"undesirable_weight": 4.0}, 2, 1, "2 of 3 responses are desirable: with the weights they "
         "count 0.5 times as much as the others, and 1 to 4/3 times is advised (arXiv:2402.01306); "
         "method.desirable_weight from 2 to 2.67 gives that"),
        ({}, 5, 0, "5 of 5 responses are desirable: of one kind alone, by their weights, nothing "
         "is told apart"),
        ({"desirable_weight": 0.0}, 2, 2, "2 of 4 responses are desirable: of one kind alone, by "
         "their weights, nothing is told apart"),
    ],
)  # fmt: skip
def test_the_balance_of_labels_and_weights_is_told_where_it_is_not_as_advised(
    weights, good, bad, said
):
    labels = np.array([1.0] * good + [0.0] * bad, np.float32)
    assert "".join(KTO(**weights).remarks(labels)) == said


def test_a_group_is_a_response_and_one_to_another_prompt():
    record = Labelled(prompt="p", response="a", desirable=False, unrelated="b", origin="f:1")
    group = KTO().group(record)
    assert (group.responses, group.scores) == (("a", "b"), (0.0, 0.0))
    assert KTO().needs().reference


def test_the_method_gives_each_kind_its_own_weight():
    # Twice and three times the losses of fixture A at 0.4.
    losses, _ = KTO(beta=0.1, desirable_weight=2.0, undesirable_weight=3.0).loss(*batch_of())
    np.testing.assert_allclose(losses, [0.9700089968, 1.4325455256], rtol=1e-6)
