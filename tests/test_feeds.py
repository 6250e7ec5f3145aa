"""What feeds ask and say before a run learns anything: of servers, processes, rewards, methods."""

import dataclasses
import json

import numpy as np
import pytest

from alignax import feeds, jobs
from alignax.config import check
from alignax.core import processes
from alignax.core.errors import BadInput
from alignax.generate.reward_functions import Function
from alignax.generate.rewards import Rewards
from alignax.generate.rollout import Rollout
from alignax.generate.server import Completions, Server, ServerFailed
from alignax.methods import (
    DPO,
    GRPO,
    KTO,
    PPO,
    RAFT,
    REINFORCE,
    RLOO,
    Curriculum,
    ReMax,
    RewardModel,
    SteerLM,
)
from alignax.run import Run
from alignax.saved import first_difference
from tests.test_online_runs import setup
from tests.tiny_model import experiment as tiny


def test_only_the_first_process_asks_a_server_and_the_others_are_told(tmp_path, monkeypatch):
    asked = []

    def ask(server, renderer, sampler, prompts, numbers, **_):
        asked.append(numbers)
        return Completions([[[3, 4], [5]]], [["a", "b"]], [[False, True]])

    monkeypatch.setattr(feeds, "ask_server", ask)
    server = Server(url="http://localhost/v1", model="m")
    made = setup(tmp_path, GRPO(num_samples=2), rollout={"server": server, "max_new_tokens": 3})
    draw = feeds._outside(Run(made, quiet=True))
    found = draw(None, [np.array([1, 2], np.int32)], [7])
    assert asked == [[7]]
    assert found.tokens.tolist() == [[[3, 4, 0], [5, 0, 0]]]
    assert (found.lengths.tolist(), found.ended.tolist()) == ([[2, 1]], [[False, True]])
    monkeypatch.setattr(processes, "is_first", lambda: False)
    monkeypatch.setattr(processes, "told", lambda mine: found[:3])
    again = draw(None, [np.array([1, 2], np.int32)], [7])
    assert asked == [[7]]
    np.testing.assert_array_equal(again.tokens, found.tokens)
    monkeypatch.setattr(processes, "agree", lambda mine: False)
    with pytest.raises(ServerFailed, match="The first process says why"):
        draw(None, [np.array([1, 2], np.int32)], [7])


def test_a_servers_weights_are_not_said_to_be_the_trainers(tmp_path, capsys):
    server = Server(url="http://localhost/v1", model="m")
    method = GRPO(num_samples=2, beta=0.0)
    for rollout, said in (({"server": server}, "not checked"), ({}, "sampler equals trainer")):
        run = Run(setup(tmp_path, method, rollout=rollout))
        jobs.check_first_step(run)({"sampling/logp_difference": 0.0, "loss": 0.0})
        printed = capsys.readouterr().out
        assert said in printed
        assert ("✓" in printed) == (said != "not checked")


def test_a_run_whose_reward_was_edited_is_another_run(tmp_path):
    rule = tmp_path / "rule.py"
    rule.write_text("def good(completions):\n    return [1.0] * len(completions)\n")
    run = Run(setup(tmp_path, GRPO(), f"{rule}:good"), quiet=True)
    before = jobs.settings(run)
    assert first_difference(before, jobs.settings(run)) is None
    rule.write_text(rule.read_text().replace("1.0", "2.0"))
    different = first_difference(before, jobs.settings(run))
    assert different is not None
    assert different[0] == "contents of rollout.rewards: good"


# --- Bad input


@pytest.mark.parametrize(
    ("method", "why"),
    [(RewardModel(), "RewardModel, which trains no policy"),
     (Curriculum(), "Curriculum, which orders all its data first")],
)  # fmt: skip
def test_a_method_that_cannot_learn_from_samples_is_refused(method, why, tmp_path):
    with pytest.raises(BadInput, match=rf"rollout.rewards: expected a method .* got {why}"):
        check(setup(tmp_path, method))


def test_settings_of_samples_where_nothing_is_sampled_are_refused(tmp_path):
    drawn = Rollout(num_samples=8, refresh=16)
    with pytest.raises(BadInput) as refused:
        check(tiny(tmp_path, method=DPO(), rollout=drawn))
    assert str(refused.value) == (
        "rollout.rewards: expected a reward beside rollout.num_samples, rollout.refresh, for "
        "without any nothing is sampled; got none.\n"
        "    Set rollout=Rollout(rewards=Rewards(parts=(...,)), ...) to learn from samples, or "
        "leave these out to learn from the data set."
    )
    check(tiny(tmp_path, method=DPO()))
    check(setup(tmp_path, DPO(), rollout={"num_samples": 8, "refresh": 16}))


@pytest.mark.parametrize(
    ("method", "rollout", "told"),
    [
        (REINFORCE(), {"epochs": 4, "refresh": 16}, "rollout.refresh: expected 1, .* REINFORCE .*"
         r" got 16"),
        (REINFORCE(), {"epochs": 4}, "rollout.epochs: expected 1, .* got 4"),
        (ReMax(), {"replay": "all"}, "rollout.replay: expected 'none', .* ReMax .* got 'all'"),
        (ReMax(), {"source": "reference"}, "rollout.source: expected 'policy', .* got 'reference'"),
        (RLOO(), {"refresh": 2}, "rollout.refresh: expected 1, .* RLOO .* got 2"),
        (RLOO(refresh=2), {}, "method.refresh: expected 1, .* RLOO .* got 2"),
    ],
    ids=repr,
)  # fmt: skip
def test_old_samples_are_refused_where_a_loss_has_no_ratio(method, rollout, told, tmp_path):
    with pytest.raises(BadInput, match=f"{told}.\n    Leave it out; or .* PPO, GRPO or RLOO with"):
        check(setup(tmp_path, method, rollout=rollout))
    check(setup(tmp_path, type(method)(), rollout={"refresh": 1, "epochs": 1, "replay": "none"}))


@pytest.mark.parametrize("method", [RLOO(clip=0.2), GRPO(), PPO(), RAFT(), KTO()], ids=repr)
def test_a_ratio_or_a_loss_of_any_samples_takes_old_ones(method, tmp_path):
    check(setup(tmp_path, method, rollout={"refresh": 16, "epochs": 4, "replay": "all"}))


def test_min_p_is_a_setting_of_the_samples_and_refused_out_of_range(tmp_path):
    made = setup(tmp_path, GRPO(), rollout={"min_p": 0.1})
    assert made.rollout.sampler(made.method).min_p == 0.1
    with pytest.raises(BadInput, match=r"rollout.min_p: expected a number of at least 0.0 and at"):
        check(setup(tmp_path, GRPO(), rollout={"min_p": 1.5}))


def test_steerlm_on_samples_needs_to_be_told_its_attributes(tmp_path):
    with pytest.raises(BadInput, match=r"method: expected attributes, and a target for each; got"):
        jobs.train(setup(tmp_path, SteerLM()), quiet=True)


def some_masked(completions, **_):
    return [None if len(text) % 2 else 0.0 for text in completions]


def test_masked_rewards_are_null_in_what_is_kept_and_zeros_are_zeros(tmp_path):
    made = setup(tmp_path, GRPO(num_samples=8, beta=0.0), loop={"max_steps": 1})
    rewards = Rewards(parts=(Function(function=some_masked),), on_bad="mask")
    rollout = dataclasses.replace(made.rollout, rewards=rewards, kept=8)
    jobs.train(dataclasses.replace(made, rollout=rollout), quiet=True)
    for name, rewarded in (("rollouts", "rewards"), ("samples-1", "reward")):
        text = (tmp_path / "run" / f"{name}.jsonl").read_text()
        assert "NaN" not in text
        seen = set()
        for row in map(json.loads, text.splitlines()):
            for answer, reward in zip(row["completions"], row[rewarded], strict=True):
                assert reward == some_masked([answer])[0]
                seen.add(reward)
        assert seen == {None, 0.0} or name == "samples-1"
