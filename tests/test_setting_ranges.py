"""Numbers that no run can use are refused by name, before anything is read or allocated."""

import copy
import functools
import math

import pytest

from alignax import DPO, Data, Evaluation, Experiment, Loop, Model, RewardWeighted, Rollout
from alignax.config import RANGES, check
from alignax.core.errors import BadInput


def changed(name, value, method):
    """An experiment with one number changed afterwards, as a config file could have it."""
    made = copy.deepcopy(
        Experiment(method=method, model=Model(model_name_or_path="m"), data=Data(train="t"),
                   output_dir="o", loop=Loop(), rollout=Rollout(), evaluation=Evaluation())
    )  # fmt: skip
    *rooms, last = name.split(".")
    object.__setattr__(functools.reduce(getattr, rooms, made), last, value)
    return made


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("seed", -1, f"a number from 0 to {2**31 - 1}"),
        ("seed", 2**31, f"a number from 0 to {2**31 - 1}"),
        ("data.eval_limit", -1, "a positive number"),
        ("data.eval_limit", 0, "a positive number"),
        ("data.max_dropped_share", 1.5, "a number from 0 to 1"),
        ("data.max_dropped_share", -0.1, "a number from 0 to 1"),
        ("data.max_dropped_share", math.nan, "a finite number"),
        ("data.limits.max_prompt_length", -3, "a positive number"),
        ("data.limits.max_completion_length", 0, "a positive number"),
        ("evaluation.num_prompts", -1, "0 or a positive number"),
        ("evaluation.shown", -1, "0 or a positive number"),
        ("rollout.kept", -1, "0 or a positive number"),
        ("rollout.show_every", -5, "0 or a positive number"),
        ("rollout.missing_end", math.inf, "a finite number"),
        ("loop.num_train_epochs", math.inf, "a finite number"),
        ("loop.num_train_epochs", math.nan, "a finite number"),
        ("loop.largest_grad_norm", math.inf, "a finite number"),
        ("method.beta", math.nan, "a finite number"),
        ("method.beta", -math.inf, "a finite number"),
    ],
)
def test_numbers_out_of_range_are_refused_with_the_setting_the_value_and_the_range(
    name, value, expected
):
    with pytest.raises(BadInput) as error:
        check(changed(name, value, DPO()))
    assert str(error.value) == (
        f"{name}: expected {expected}; got {value!r}.\n    Change the setting."
    )


@pytest.mark.parametrize("name", RANGES)
def test_the_ends_of_a_range_are_within_it(name):
    for value in RANGES[name]:
        if value is not None:
            check(changed(name, value, DPO()))


def test_none_is_no_number_where_it_is_a_default():
    for name in ("data.eval_limit", "data.limits.max_prompt_length", "loop.largest_grad_norm"):
        check(changed(name, None, DPO()))


def test_a_clip_may_be_infinite_and_so_be_none_but_not_nan():
    check(changed("method.max_weight", math.inf, RewardWeighted()))
    for value in (math.nan, -math.inf):
        with pytest.raises(BadInput) as error:
            check(changed("method.max_weight", value, RewardWeighted()))
        assert str(error.value) == (
            "method.max_weight: expected a number, which may be infinite; "
            f"got {value!r}.\n    Change the setting."
        )
