"""SteerLM: responses with attributes, predicted by one model and asked for of another."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.conditioning import read_request
from alignax.core.errors import BadInput
from alignax.core.records import Attributed, Message
from alignax.core.types import Batch, Outputs
from alignax.methods import AttributeRewardModel, SteerLM
from alignax.methods.attribute_reward_model import attribute_regression
from alignax.methods.steerlm import bootstrap_targets, top_combinations

RECORDS = [
    Attributed(prompt="p", response="a", attributes={"wit": 4.0, "depth": 1.0}, origin="f:1"),
    Attributed(prompt="p", response="b", attributes={"wit": 1.67}, origin="f:2"),
]


def test_every_prompt_says_what_its_response_was_rated():
    method = SteerLM().fit(RECORDS)
    assert method.attributes == ("depth", "wit")
    assert method.group(RECORDS[0]).prompt == "p <attributes>: depth:1,wit:4 "
    assert method.group(RECORDS[1]).prompt == "p <attributes>: wit:2 "  # the other was not rated
    assert read_request(str(method.group(RECORDS[0]).prompt)) == {"depth": 1, "wit": 4}


def test_the_trained_policy_is_asked_for_the_highest_ratings_unless_told_otherwise():
    assert SteerLM().fit(RECORDS).ask("q") == "q <attributes>: depth:1,wit:4 "
    told = SteerLM(attributes=("wit", "depth"), target=(0.0, 3.0)).fit(RECORDS)
    of_tool = Message("tool", "q", '{"name": "f"}', tools="[]")
    assert told.ask((of_tool,))[0][2:] == of_tool[2:]  # the request changes the words alone
    asked = told.ask((Message("user", "q"),))
    assert asked == (Message("user", "q <attributes>: wit:0,depth:3"),)


@pytest.mark.parametrize("settings", [{}, {"attributes": ("wit",)}])
def test_a_policy_is_not_asked_without_a_target_for_each_attribute(settings):
    with pytest.raises(BadInput, match=r"method: expected attributes, and a target for each; got"):
        SteerLM(**settings).ask("q")


@pytest.mark.parametrize("cls", [SteerLM, AttributeRewardModel])
def test_an_attribute_that_is_not_among_those_named_is_refused_with_its_place(cls):
    with pytest.raises(BadInput) as refused:
        cls(attributes=("wit", "dept")).fit(RECORDS)
    assert str(refused.value) == (
        "f:1: expected attributes among wit, dept; got depth.\n    Did you mean dept?"
    )


def test_ratings_of_which_whole_numbers_leave_nothing_are_refused():
    def rated(*numbers):
        return [
            Attributed(prompt="p", response="a", attributes={"quality": x}, origin=f"f:{i}")
            for i, x in enumerate(numbers, 1)
        ]

    with pytest.raises(BadInput) as refused:
        SteerLM().fit(rated(1.0, 0.45, 0.0))
    assert str(refused.value) == (
        "f:2: expected ratings that differ as whole numbers, such as 0 to 4 or 0 to 9; got quality "
        "0.45, and all ratings of it in [0, 1].\n"
        "    Multiply them in the data, by 9 for example: a request says whole numbers."
    )
    assert SteerLM().fit(rated(1.0, 0.0)).target == (1.0,)  # yes and no
    assert SteerLM().fit(rated(0.45, 3.6)).target == (3.6,)
    beside = Attributed(
        prompt="p", response="a", attributes={"quality": 4.0, "toxicity": 0.3}, origin="f:1"
    )
    with pytest.raises(BadInput, match=r"f:1: .*; got toxicity 0\.3"):
        SteerLM().fit([beside])


def test_an_attribute_that_no_response_has_must_be_given_its_target():
    names = ("depth", "wit", "rhyme")
    with pytest.raises(BadInput) as refused:
        SteerLM(attributes=names).fit(RECORDS)
    assert str(refused.value) == (
        "method.attributes: expected responses that were rated for rhyme; got depth, wit.\n"
        "    Take it out of method.attributes, or say in method.target what to ask for."
    )
    told = SteerLM(attributes=names, target=(1.0, 4.0, 2.0)).fit(RECORDS)
    assert told.ask("q") == "q <attributes>: depth:1,wit:4,rhyme:2 "


@pytest.mark.parametrize("attributes", [("depth", "wit"), ()])  # given, and taken from the data
def test_as_many_targets_as_attributes_are_asked_for(attributes):
    with pytest.raises(BadInput) as refused:
        SteerLM(attributes=attributes, target=(4.0, 1.5, 0.0)).fit(RECORDS)
    assert str(refused.value) == (
        "method.target: expected one number for each of depth, wit; got 3: 4, 1.5, 0.\n"
        "    Give as many, or none for the highest of the training data."
    )


def test_the_attribute_model_has_an_output_for_each_and_nan_where_none_was_given():
    method = AttributeRewardModel().fit(RECORDS)
    assert (method.needs().head, method.needs().score_names) == ("reward", ("depth", "wit"))
    np.testing.assert_array_equal(method.group(RECORDS[0]).attributes, [[1.0, 4.0]])
    np.testing.assert_array_equal(method.group(RECORDS[1]).attributes, [[math.nan, 1.67]])


def test_regression_is_the_mean_square_over_what_was_rated():
    predicted = jnp.array([[3.0, 2.0], [3.0, 2.0], [3.0, 2.0]])
    rated = jnp.array([[1.0, 5.0], [math.nan, 5.0], [math.nan, math.nan]])
    value, slope = jax.value_and_grad(lambda x: attribute_regression(x, rated).sum())(predicted)
    np.testing.assert_array_equal(attribute_regression(predicted, rated), [6.5, 9.0, 0.0])
    assert value == 15.5
    np.testing.assert_array_equal(slope, [[2.0, -3.0], [0.0, -6.0], [0.0, 0.0]])


def test_the_attribute_model_tells_each_attributes_error():
    method = AttributeRewardModel(attributes=("depth", "wit"))
    batch = Batch(
        prompts=jnp.ones((1, 2), jnp.int32),
        prompt_lengths=jnp.full(1, 2, jnp.int32),
        responses=jnp.ones((1, 1, 2), jnp.int32),
        mask=jnp.ones((1, 1, 2), bool),
        scores=jnp.zeros((1, 1)),
        valid=jnp.ones((1, 1), bool),
        attributes=jnp.array([[[1.0, 5.0]]]),
    )
    outputs = Outputs(jnp.zeros((1, 1, 2)), attributes=jnp.array([[[3.0, 2.0]]]))
    losses, metrics = method.loss(outputs, batch)
    np.testing.assert_array_equal(losses, [6.5])
    assert {n: float(x[0]) for n, x in metrics.items()} == {"mse/depth": 4.0, "mse/wit": 9.0}


RATED = [
    {"quality": 4.0, "humor": 1.0},
    {"quality": 3.6, "humor": 0.0},  # rounds to 4
    {"quality": 2.0, "humor": 3.0},
    {"humor": 4.0},
    {"quality": 4.2, "humor": 0.9},  # the first again, once it is rounded
    {"quality": 4.0},
]
TOP = ({"quality": 4, "humor": 1}, {"quality": 4, "humor": 0}, {"quality": 4})


def test_the_combinations_to_ask_for_are_those_that_occur_with_the_highest_quality():
    assert top_combinations(RATED) == TOP
    assert top_combinations(RATED, quality="humor") == ({"humor": 4},)


def test_an_attribute_that_nothing_was_rated_for_is_refused():
    with pytest.raises(BadInput) as refused:
        top_combinations(RATED, quality="wit")
    assert str(refused.value) == (
        "expected responses that were rated for wit; got humor, quality.\n"
        "    Name the attribute that is to be highest."
    )


def test_every_combination_is_asked_for_with_the_same_probability():
    found = bootstrap_targets(TOP, num_prompts=3000, seed=0)
    assert len(found) == 3000
    shares = np.bincount([TOP.index(each) for each in found], minlength=3) / 3000
    # Four standard deviations: 4 sqrt(2/9 / 3000) = 0.034.
    np.testing.assert_allclose(shares, 1 / 3, atol=0.034)
    assert bootstrap_targets(TOP, num_prompts=50, seed=0) == found[:50]
    assert bootstrap_targets(TOP, num_prompts=50, seed=1) != found[:50]
