"""A run that an earlier version began: what may be missing from its settings, and what may not."""

import pytest

from alignax.config import Data, Experiment, Model
from alignax.generate.reward_models import ModelReward
from alignax.methods import DPO
from alignax.saved import first_difference, to_json


@pytest.fixture
def settings():
    model, data = Model(model_name_or_path="m"), Data(train="t")
    return to_json(Experiment(method=DPO(), model=model, data=data, output_dir="o"))


def without(settings, name):
    return settings | {"method": {k: x for k, x in settings["method"].items() if k != name}}


def test_a_setting_that_it_did_not_have_is_no_difference_while_it_is_off(settings):
    assert first_difference(without(settings, "average"), settings) is None


def test_one_that_is_on_is_a_difference_and_so_is_one_that_only_the_earlier_knew(settings):
    old = without(settings, "average")
    on = settings | {"method": settings["method"] | {"average": True}}
    assert first_difference(old, on) == ("method.average", None, True)
    assert first_difference(without(settings, "beta"), settings) == ("method.beta", None, 0.1)
    assert first_difference(settings, old) == ("method.average", False, None)


def test_turns_that_are_all_scored_are_no_difference_to_a_run_that_could_not_say(settings):
    old = settings | {"data": {k: x for k, x in settings["data"].items() if k != "scored_turns"}}
    assert first_difference(old, settings) is None
    last = settings | {"data": settings["data"] | {"scored_turns": "last"}}
    assert first_difference(old, last) == ("data.scored_turns", None, "last")


def test_no_map_of_columns_is_no_difference_to_a_run_that_could_not_have_one(settings):
    old = settings | {"data": {k: x for k, x in settings["data"].items() if k != "columns"}}
    assert first_difference(old, settings) is None
    mapped = settings | {"data": settings["data"] | {"columns": {"prompt": "question"}}}
    assert first_difference(old, mapped) == ("data.columns", None, {"prompt": "question"})


def test_the_reward_of_a_reward_model_is_what_it_was_under_its_earlier_name():
    assert to_json(ModelReward(directory="d"))["type"] == "Model"


def test_a_word_of_a_chat_templates_own_is_a_difference_even_where_it_is_off(settings):
    of = lambda words: settings | {"data": settings["data"] | {"chat_template_kwargs": words}}  # noqa: E731
    found = first_difference(of({}), of({"enable_thinking": False}))
    assert found == ("data.chat_template_kwargs.enable_thinking", None, False)
