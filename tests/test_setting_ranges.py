"""Numbers that no run can use are refused by name, before anything is read or allocated."""

import copy
import functools
import math

import jax
import pytest

from alignax import Data, Evaluation, Experiment, Loop, Model, Rollout
from alignax.config import check
from alignax.core.errors import BadInput
from alignax.core.setting_types import check_types
from alignax.methods import (
    ALL,
    CPO,
    DAPO,
    DPO,
    GRPO,
    IPO,
    KTO,
    ORPO,
    PPO,
    PRO,
    REINFORCE,
    RLOO,
    RRHF,
    RSO,
    Curriculum,
    Filtering,
    RewardModel,
    RewardWeighted,
    RobustDPO,
    SimPO,
    SLiC,
)


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
        ("seed", -1, f"a number of at least 0 and at most {2**31 - 1}"),
        ("seed", 2**31, f"a number of at least 0 and at most {2**31 - 1}"),
        ("data.eval_limit", -1, "a number of at least 1"),
        ("data.eval_limit", 0, "a number of at least 1"),
        ("data.max_dropped_share", 1.5, "a number of at least 0 and at most 1"),
        ("data.max_dropped_share", -0.1, "a number of at least 0 and at most 1"),
        ("data.max_dropped_share", math.nan, "a finite number"),
        ("data.limits.max_prompt_length", -3, "a number of at least 1"),
        ("data.limits.max_completion_length", 0, "a number of at least 1"),
        ("evaluation.num_prompts", -1, "a number of at least 0"),
        ("evaluation.shown", -1, "a number of at least 0"),
        ("rollout.kept", -1, "a number of at least 0"),
        ("rollout.show_every", -5, "a number of at least 0"),
        ("rollout.missing_end", math.inf, "a finite number"),
        ("rollout.missing_end", -1.0, "a number of at least 0"),
        ("rollout.refresh", 0, "a number of at least 1"),
        ("rollout.slots", 0, "a number of at least 1"),
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


METHODS = [
    (DPO(beta=-0.1), "beta", "a number above 0; got -0.1"),  # it would train against the pairs
    (DPO(beta=0.0), "beta", "a number above 0; got 0.0"),
    (DPO(label_smoothing=0.5), "label_smoothing", "a number of at least 0 and below 0.5; got 0.5"),
    (DPO(nll_weight=-1.0), "nll_weight", "a number of at least 0; got -1.0"),
    (RobustDPO(label_smoothing=0.5), "label_smoothing",
     "a number of at least 0 and below 0.5; got 0.5"),
    (IPO(tau=0.0), "tau", "a number above 0; got 0.0"),
    (KTO(desirable_weight=-1.0), "desirable_weight", "a number of at least 0; got -1.0"),
    (PPO(discount=2.0), "discount", "a number of at least 0 and at most 1; got 2.0"),
    (PPO(dual_clip=1.0), "dual_clip", "a number above 1; got 1.0"),
    (GRPO(epochs=0), "epochs", "a number of at least 1; got 0"),
    (GRPO(clip=-0.1), "clip", "a number of at least 0; got -0.1"),
    (RewardWeighted(max_weight=0.0), "max_weight", "a number above 0; got 0.0"),
    (Filtering(keep=0.0), "keep", "a number above 0 and at most 1; got 0.0"),
    (Filtering(keep=1.5), "keep", "a number above 0 and at most 1; got 1.5"),
    (Curriculum(start=-0.5), "start", "a number of at least 0 and at most 1; got -0.5"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "name", "expected"), METHODS, ids=repr)
def test_a_number_that_a_method_cannot_use_is_refused_with_its_range(method, name, expected):
    with pytest.raises(BadInput) as error:
        check(changed("seed", 0, method))
    assert str(error.value) == f"method.{name}: expected {expected}.\n    Change the setting."


@pytest.mark.parametrize(
    "method",
    [
        *(method() for method in ALL),
        # What a term weighs may be nothing, and so may a margin; a KL that costs nothing is none.
        *(CPO(beta=0.0), CPO(nll_weight=0.0), ORPO(weight=0.0), RRHF(sft_weight=0.0)),
        *(PRO(sft_weight=0.0), SimPO(gamma=0.0), SLiC(delta=0.0, nll_weight=0.0)),
        *(KTO(undesirable_weight=0.0), RewardModel(centre=0.0), DPO(nll_weight=0.0)),
        *(GRPO(beta=0.0, eps=0.0, clip=0.0), RLOO(beta=0.0, clip=3.0), REINFORCE(beta=0.0)),
        *(PPO(beta=0.0, discount=0.0, decay=0.0), RSO(beta=0.0), Filtering(keep=1.0)),
        *(DPO(label_smoothing=0.49), DAPO(max_length=10, buffer=10)),
    ],
    ids=repr,
)
def test_what_has_a_meaning_is_within_the_range(method):
    check_types(method, "method.")


def test_a_traced_number_is_nobodys_to_judge():
    jax.jit(lambda beta: check_types(DPO(beta=beta)))(-1.0)


def test_a_buffer_of_more_tokens_than_there_are_is_refused():
    with pytest.raises(BadInput) as error:
        DAPO(max_length=10, buffer=100)
    assert str(error.value) == (
        "method.buffer: expected a number of tokens up to method.max_length, 10; got 100.\n"
        "    Lower it, or raise method.max_length."
    )


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
