"""Settings of samples that cannot teach anything are refused before anything is drawn."""

import pytest

from alignax.core.errors import BadInput
from alignax.generate.reward_rules import Match
from alignax.generate.rewards import Rewards
from alignax.generate.rollout import Rollout
from alignax.methods import DPO, GRPO, REINFORCE, RLOO, SFT, OnlineDPO, ReMax

REWARDS = Rewards(parts=(Match(pattern="yes"),))


@pytest.mark.parametrize(
    ("method", "settings", "where", "got"),
    [
        (GRPO(num_samples=4), {"temperature": 0.0}, "rollout.temperature", "0.0"),
        (RLOO(temperature=0.0), {}, "method.temperature", "0.0"),
        (ReMax(temperature=0.0), {}, "method.temperature", "0.0"),
        (OnlineDPO(), {"top_k": 1}, "rollout.top_k", "1"),
        (DPO(), {"min_p": 1.0}, "rollout.min_p", "1.0"),  # pairs of four samples
        (REINFORCE(num_samples=2), {"temperature": 0.0}, "rollout.temperature", "0.0"),
    ],
)
def test_several_samples_that_would_all_be_the_likeliest_are_refused(method, settings, where, got):
    with pytest.raises(BadInput, match="samples of a prompt one") as error:
        Rollout(rewards=REWARDS, **settings).check(method)
    assert (error.value.where, error.value.got) == (where, got)
    assert "num_samples to 1" in str(error.value)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (GRPO(), {"temperature": 0.01}),
        (GRPO(), {"top_k": 2, "min_p": 0.99, "top_p": 0.1}),
        (SFT(), {"temperature": 0.0, "num_samples": 1}),
        (REINFORCE(num_samples=1), {"temperature": 0.0}),
    ],
)
def test_one_sample_may_be_the_likeliest_and_several_may_be_few(method, settings):
    Rollout(rewards=REWARDS, **settings).check(method)


def test_several_samples_that_would_be_one_are_refused_in_so_many_words():
    with pytest.raises(BadInput) as error:
        Rollout(rewards=REWARDS, temperature=0.0).check(GRPO(num_samples=4))
    assert str(error.value) == (
        "rollout.temperature: expected a number above 0: the likeliest tokens alone make all 4 "
        "samples of a prompt one, and GRPO learns nothing from how they differ; got 0.0.\n"
        "    Raise the temperature, or leave out what cuts all but the likeliest token; or set "
        "num_samples to 1, where the method takes one."
    )
