"""PRO picks each response from those ranked below it, at temperatures set by their scores."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.records import Ranking
from alignax.losses import plackett_luce, pro
from alignax.methods import PRO

LOGPROBS, SCORES = jnp.array([-3.0, -2.5, -4.0]), jnp.array([1.0, 0.2, -0.5])  # fixture B


def test_value_of_fixture_b():
    # D of the first are 0.8 and 1.5, its own 1.5: log(e^-4.5 + e^-2 + e^-6) + 4.5 = 2.5956743294.
    # Of the second 0.7: log(e^-1.75 + e^-2.8) + 1.75 = 0.3000584796.
    np.testing.assert_allclose(pro(LOGPROBS, SCORES), 2.8957328090, rtol=1e-6)


def test_value_of_fixture_b_without_temperature():
    # log(1 + e^0.5 + e^-1) + log(1 + e^-1.5).
    np.testing.assert_allclose(pro(LOGPROBS, SCORES, temperature=False), 1.3055438833, rtol=1e-6)


@pytest.mark.parametrize("temperature", [True, False])
def test_two_responses_are_a_logistic_loss(temperature):
    logprobs, scores = jnp.array([-1.0, -1.75]), jnp.array([0.5, 2.5])
    # The second is better, by 2, and less probable, by 0.75.
    margin = -0.75 * (2.0 if temperature else 1.0)
    found = pro(logprobs, scores, temperature=temperature)
    np.testing.assert_allclose(found, math.log1p(math.exp(-margin)), rtol=1e-6)


def test_without_temperature_it_is_plackett_luce():
    found = pro(LOGPROBS, SCORES, temperature=False)
    np.testing.assert_allclose(found, plackett_luce(LOGPROBS, SCORES), rtol=1e-6)


def test_order_of_responses_does_not_matter():
    for order in itertools.permutations(range(3)):
        order = jnp.array(order)
        np.testing.assert_allclose(pro(LOGPROBS[order], SCORES[order]), 2.8957328090, rtol=1e-6)


def test_ties_are_not_compared_and_the_lowest_adds_nothing():
    # The two best are each picked from themselves and the third, 1.5 below both:
    # log(1 + e^(1.5 * (-4 + 3))) + log(1 + e^(1.5 * (-4 + 2.5))).
    expected = math.log1p(math.exp(-1.5)) + math.log1p(math.exp(-2.25))
    np.testing.assert_allclose(pro(LOGPROBS, jnp.array([1.0, 1.0, -0.5])), expected, rtol=1e-6)
    value, gradient = jax.value_and_grad(pro)(LOGPROBS, jnp.full(3, 0.25))
    assert value == 0.0
    np.testing.assert_array_equal(gradient, 0.0)


def test_an_invalid_response_sets_no_temperature():
    # Were the third valid it would set the first's own D to 1.5; so it is 0.8.
    found = pro(LOGPROBS, SCORES, jnp.array([True, True, False]))
    np.testing.assert_allclose(found, math.log1p(math.exp(0.8 * 0.5)), rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
def test_preference_survives_large_scores(scale):
    # Where the paper's code loses it: exponentials of -3,000 are nothing beside its 1e-10. The
    # better response is the less probable one, by 0.5, so the loss is scale / 2 and pulls by scale.
    pair, scores = jnp.array([-3.0, -2.5]), jnp.array([scale, 0.0])
    value, gradient = jax.value_and_grad(pro)(pair, scores)
    weight = scale / (1.0 + math.exp(-scale / 2.0))
    np.testing.assert_allclose(value, math.log1p(math.exp(-scale / 2)) + scale / 2, rtol=1e-6)
    np.testing.assert_allclose(gradient, [-weight, weight], rtol=1e-6)


def test_scores_are_divided_by_the_datas_deviation_or_by_the_one_that_is_given():
    # Squares of the deviations from 0 sum to 2, over n - 1 = 2.
    record = Ranking(prompt="p", responses=("a", "b", "c"), scores=(1.0, 0.0, -1.0))
    for method, divisor in ((PRO(normalise=True), 1.0), (PRO(normalise=True, deviation=4.0), 4.0)):
        fitted = method.fit([record])
        assert fitted == PRO(normalise=True, deviation=divisor)
        assert fitted.group(record).scores == (1.0 / divisor, 0.0, -1.0 / divisor)
