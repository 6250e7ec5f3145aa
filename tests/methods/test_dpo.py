"""DPO is equation 7 of its paper, conservative DPO where it smooths, and what TRL computes.

Robust DPO is what DPO would be without the flips of labels.
"""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.records import Preference
from alignax.core.types import Batch, Outputs
from alignax.losses import dpo, robust_dpo
from alignax.methods import DPO

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "dpo_trl.json").read_text())

# Fixture A: log-ratios 1 and -0.5, so h = 1.5 and beta h = 0.15.
POLICY, REFERENCE = jnp.array([-12.0, -15.0]), jnp.array([-13.0, -14.5])


def batch(mask, ref_logprobs) -> Batch:
    mask = jnp.asarray(mask)
    b, k, r = mask.shape
    return Batch(
        prompts=jnp.zeros((b, 1), jnp.int32),
        prompt_lengths=jnp.ones(b, jnp.int32),
        responses=jnp.zeros((b, k, r), jnp.int32),
        mask=mask,
        scores=jnp.tile(jnp.array([[1.0, 0.0]]), (b, 1)),
        valid=jnp.ones((b, k), bool),
        ref_logprobs=jnp.asarray(ref_logprobs, jnp.float32),
    )


def random_pairs(b=3, r=5):
    keys = jax.random.split(jax.random.key(0), 2)
    policy, ref = (-jax.random.exponential(key, (b, 2, r)) for key in keys)
    mask = jnp.arange(r)[None, None] < jnp.array([[5, 2], [3, 4], [1, 5]])[..., None]
    return policy, ref, mask


@pytest.mark.parametrize(
    ("smoothing", "expected"),
    [
        # log(1 + e^-0.15) = 0.6209570478, and log(1 + e^0.15) = 0.7709570478; the rest are means
        # of the two with weights 1 - eps and eps.
        (0.0, 0.6209570478),
        (0.1, 0.6359570478),
        (0.2, 0.6509570478),
    ],
)
def test_value_of_fixture_a(smoothing, expected):
    loss = dpo(POLICY, REFERENCE, beta=0.1, label_smoothing=smoothing)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_gradient_of_fixture_a():
    # -beta sigmoid(-beta h) = -0.1 * 0.4625701547 for the chosen, the opposite for the rejected.
    gradient = jax.grad(lambda s: dpo(s, REFERENCE, beta=0.1))(POLICY)
    np.testing.assert_allclose(gradient, [-0.0462570155, 0.0462570155], rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("beta", [0.01, 0.1, 5.0])
def test_is_log_two_where_policy_equals_reference(beta, smoothing):
    loss = dpo(POLICY, POLICY, beta=beta, label_smoothing=smoothing)
    np.testing.assert_allclose(loss, math.log(2.0), rtol=1e-7)


def test_swapping_the_pair_turns_smoothing_into_its_complement():
    swapped = dpo(POLICY[::-1], REFERENCE[::-1], beta=0.7, label_smoothing=0.9)
    expected = dpo(POLICY, REFERENCE, beta=0.7, label_smoothing=0.1)
    np.testing.assert_allclose(swapped, expected, rtol=1e-6)


def test_a_constant_added_to_the_reference_changes_nothing():
    moved = dpo(POLICY, REFERENCE + 8.0, beta=0.7)
    np.testing.assert_allclose(moved, dpo(POLICY, REFERENCE, beta=0.7), rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.1, 0.3])
def test_smoothing_is_stationary_where_the_margin_is_the_log_odds_of_the_label(smoothing):
    beta = 0.5
    margin = math.log((1.0 - smoothing) / smoothing) / beta
    slope = jax.grad(lambda s: dpo(s, jnp.zeros(2), beta=beta, label_smoothing=smoothing))
    np.testing.assert_allclose(slope(jnp.array([margin, 0.0])), 0.0, atol=1e-7)
    assert slope(jnp.array([margin + 0.1, 0.0]))[0] > 0
    assert slope(jnp.array([margin - 0.1, 0.0]))[0] < 0


@pytest.mark.parametrize(
    ("ratio", "loss", "slope"),
    [
        # beta 2.5 times a difference of 400 is a margin of 1,000: log(1 + e^-1000) is 0 in
        # float32, and log(1 + e^1000) is 1,000, falling by beta for each nat of the chosen.
        ([200.0, -200.0], 0.0, 0.0),
        ([-200.0, 200.0], 1000.0, -2.5),
    ],
)
def test_stays_finite_and_right_at_extreme_log_ratios(ratio, loss, slope):
    function = lambda s: dpo(s, jnp.zeros(2), beta=2.5)  # noqa: E731
    value, gradient = jax.value_and_grad(function)(jnp.array(ratio))
    np.testing.assert_allclose(value, loss, rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(gradient, [slope, -slope], rtol=1e-6, atol=1e-30)


def test_smoothed_extremes_stay_finite():
    for ratio in ([200.0, -200.0], [-200.0, 200.0]):
        function = lambda s: dpo(s, jnp.zeros(2), beta=2.5, label_smoothing=0.25)  # noqa: E731
        value, gradient = jax.value_and_grad(function)(jnp.array(ratio))
        # A quarter or three quarters of 1,000, whichever label the margin speaks against.
        np.testing.assert_allclose(value, 250.0 if ratio[0] > 0 else 750.0, rtol=1e-6)
        assert np.isfinite(gradient).all()


def test_strength_may_be_traced():
    betas = jnp.array([0.1, 0.2, 0.4])
    losses = jax.vmap(lambda beta: dpo(POLICY, REFERENCE, beta=beta))(betas)
    expected = [math.log1p(math.exp(-1.5 * beta)) for beta in (0.1, 0.2, 0.4)]
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


@pytest.mark.parametrize(("flips", "expected"), [(0.1, 0.6022070478), (0.2, 0.5709570478)])
def test_value_of_robust_dpo_in_fixture_a(flips, expected):
    # ((1 - eps) 0.6209570478 - eps 0.7709570478) / (1 - 2 eps).
    loss = robust_dpo(POLICY, REFERENCE, beta=0.1, label_smoothing=flips)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize("flips", [0.0, 0.1, 0.4])
def test_robust_dpo_is_dpo_on_average_over_flips(flips):
    robust = lambda order: robust_dpo(  # noqa: E731
        POLICY[order], REFERENCE[order], beta=0.7, label_smoothing=flips
    )
    kept, flipped = robust(jnp.array([0, 1])), robust(jnp.array([1, 0]))
    average = (1.0 - flips) * kept + flips * flipped
    np.testing.assert_allclose(average, dpo(POLICY, REFERENCE, beta=0.7), rtol=1e-5)


@pytest.mark.parametrize("flips", [0.1, 0.3])
def test_robust_dpo_is_log_two_at_the_reference_and_falls_without_end(flips):
    loss = lambda s: robust_dpo(s, jnp.zeros(2), beta=1.0, label_smoothing=flips)  # noqa: E731
    np.testing.assert_allclose(loss(jnp.zeros(2)), math.log(2.0), rtol=1e-7)
    # Far out only the flips' share is left: -eps / (1 - 2 eps) for each nat.
    value, gradient = jax.value_and_grad(loss)(jnp.array([1000.0, 0.0]))
    slope = -flips / (1.0 - 2.0 * flips)
    np.testing.assert_allclose(value, 1000.0 * slope, rtol=1e-6)
    np.testing.assert_allclose(gradient, [slope, -slope], rtol=1e-6)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: f"{c['pair']}-{c['loss_type']}")
def test_loss_metrics_and_gradient_are_those_of_trl(case):
    pair = {name: jnp.asarray(x)[None] for name, x in GOLDEN["pairs"][case["pair"]].items()}
    method = DPO(beta=case["beta"], label_smoothing=case["label_smoothing"])
    given = batch(pair["mask"], pair["ref_logprobs"])

    def loss(logprobs):
        losses, metrics = method.loss(Outputs(logprobs=logprobs), given)
        return losses[0], metrics

    logprobs = pair["logprobs"].astype(jnp.float32)
    (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(logprobs)
    # Sums of six float32 numbers of the order of 10 are exact to about 1e-6.
    np.testing.assert_allclose(value, case["loss"], rtol=1e-5)
    np.testing.assert_allclose(gradient[0], case["gradient"], rtol=1e-5)
    assert metrics.keys() == case["metrics"].keys()
    for name, expected in case["metrics"].items():
        np.testing.assert_allclose(metrics[name], [expected], rtol=1e-5, atol=3e-6)


def test_the_method_is_the_loss_of_summed_log_probs():
    policy, ref, mask = random_pairs()
    losses, _ = DPO(beta=0.3, label_smoothing=0.1).loss(Outputs(policy), batch(mask, ref))
    sums = [jnp.sum(jnp.where(mask, x, 0.0), axis=-1) for x in (policy, ref)]
    expected = dpo(*sums, beta=0.3, label_smoothing=0.1)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_nan_off_the_mask_changes_neither_value_nor_gradient():
    policy, ref, mask = random_pairs()
    given = batch(mask, ref)

    def total(policy, given):
        return DPO().loss(Outputs(policy), given)[0].sum()

    expected = jax.value_and_grad(total)(policy, given)
    poisoned = given._replace(ref_logprobs=jnp.where(mask, ref, jnp.nan))
    found = jax.value_and_grad(total)(jnp.where(mask, policy, jnp.nan), poisoned)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_only_the_policy_gets_a_gradient():
    policy, ref, mask = random_pairs()

    def total(ref):
        return DPO().loss(Outputs(policy), batch(mask, ref))[0].sum()

    np.testing.assert_array_equal(jax.grad(total)(ref), 0.0)


@pytest.mark.parametrize("loss", [dpo, robust_dpo])
def test_hyperparameters_get_no_gradient(loss):
    def total(numbers):
        return loss(POLICY, REFERENCE, beta=numbers[0], label_smoothing=numbers[1])

    np.testing.assert_array_equal(jax.grad(total)(jnp.array([0.1, 0.2])), 0.0)


def test_logged_rewards_carry_no_gradient():
    policy, ref, mask = random_pairs()

    def rewards(policy):
        metrics = DPO().loss(Outputs(policy), batch(mask, ref))[1]
        return sum(x.sum() for name, x in metrics.items() if name.startswith("rewards/"))

    assert rewards(policy) != 0
    np.testing.assert_array_equal(jax.grad(rewards)(policy), 0.0)


def test_a_tie_is_not_counted_as_accurate():
    # TRL: chosen > rejected, strictly. Policy equals reference, so both rewards are 0.
    policy, _, mask = random_pairs()
    metrics = DPO().loss(Outputs(policy), batch(mask, policy))[1]
    np.testing.assert_array_equal(metrics["rewards/accuracies"], 0.0)


def test_rewards_of_long_responses_are_not_lost_in_their_sums():
    # 2,048 tokens of about -2 nats sum to -4,096, where float32 steps by 5e-4; the reward, 2,048
    # differences of 1e-3 times beta 1, must be right to far less than one such step.
    generator = np.random.default_rng(0)
    policy = -generator.exponential(2.0, (1, 2, 2048)).astype(np.float32)
    ref = (policy - generator.uniform(0.0, 2e-3, policy.shape)).astype(np.float32)
    exact = (policy.astype(np.float64) - ref).sum(axis=-1)
    given = batch(np.ones(policy.shape, bool), ref)
    metrics = DPO(beta=1.0).loss(Outputs(jnp.asarray(policy)), given)[1]
    np.testing.assert_allclose(metrics["rewards/chosen"], exact[:, 0], atol=1e-5)
    np.testing.assert_allclose(metrics["rewards/rejected"], exact[:, 1], atol=1e-5)


def test_needs_pairs_and_a_reference_and_is_averaged_over_prompts():
    needs = DPO().needs()
    assert (needs.record, needs.reference, needs.mean_over) == (Preference, True, "prompts")
    assert (needs.reward, needs.sampling, needs.head) == (False, None, None)


def test_puts_the_chosen_response_first():
    pair = Preference(prompt="p", chosen="good", rejected="bad", origin="f:1")
    group = DPO().group(pair)
    assert group.prompt == "p"
    assert group.responses == ("good", "bad")
    assert group.scores == (1.0, 0.0)
    assert group.origin == "f:1"


def test_default_strength_is_the_papers():
    assert (DPO().beta, DPO().label_smoothing) == (0.1, 0.0)


def test_the_likelihood_beside_it_is_the_chosen_responses_a_token():
    # Chosen: 2 tokens of -1 and -2, mean -1.5; rejected: 1 of -5. The policy is the reference.
    mask = [[[True, True], [True, False]]]
    logprobs = jnp.array([[[-1.0, -2.0], [-5.0, 0.0]]])
    found, metrics = DPO(nll_weight=0.5).loss(Outputs(logprobs=logprobs), batch(mask, logprobs))
    np.testing.assert_allclose(found, [math.log(2.0) + 0.5 * 1.5], rtol=1e-6)
    np.testing.assert_allclose(metrics["nll_loss"], [1.5], rtol=1e-6)
