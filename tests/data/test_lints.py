"""What is said of the data before a run: lengths, contradictions, prompts of both sets."""

import dataclasses
import json

import numpy as np
import pytest

from alignax.core.method import Method, Needs
from alignax.core.records import Group, Message, Preference
from alignax.data.lints import asked, digest, digests, of_pairs, of_prompts
from alignax.data.pipeline import token_counts
from alignax.data.tokenise import Example
from alignax.generate.reward_functions import Function
from alignax.generate.rewards import Rewards
from alignax.generate.rollout import Rollout
from alignax.generate.sampler import Sampler
from alignax.methods import GRPO, KTO, DecisionTransformer, SteerLM
from alignax.remarks import of_groups, of_lengths
from alignax.run import Run
from tests.tiny_model import experiment


def pair(prompt, chosen, rejected, unscored=0) -> Example:
    """A pair of token ids; the first `unscored` of the chosen response are not learnt from."""
    ids = [np.array(x, np.int32) for x in (prompt, chosen, rejected)]
    mask = np.ones(len(chosen) + len(rejected), bool)
    mask[:unscored] = False
    lengths = np.array([len(chosen), len(rejected)], np.int32)
    scores = np.array([1, 0], np.float32)
    return Example(ids[0], np.concatenate(ids[1:]), lengths, mask, scores, "f:1")


def said(*pairs):
    return of_pairs(token_counts(pairs), digests(pairs))


def test_the_mean_lengths_of_pairs_are_always_said():
    # Chosen (3 + 4) / 2 = 3.5 scored tokens, rejected (1 + 3) / 2 = 2: less than twice.
    found = said(pair([1], [2, 3, 4], [5]), pair([2], [2, 3, 4, 5, 6], [5, 6, 7], unscored=1))
    assert found == ["[bold]pairs[/]: scored tokens, mean: chosen 3.5, rejected 2.0"]


@pytest.mark.parametrize("long_first", [True, False])
def test_lengths_that_differ_twofold_are_warned_of(long_first):
    for size, far in ((4, False), (5, True)):  # to 2: not more than twice as many, and more
        long, short = [9] * size, [8] * 2
        (line,) = said(pair([1], long, short) if long_first else pair([1], short, long))
        assert ("length is what would be learnt" in line) == far


def test_pairs_whose_opposite_is_there_are_counted():
    apart = pair([1], [2, 3], [4])
    opposed = pair([2], [2, 3], [4]), pair([2], [4], [2, 3])
    again = pair([2], [2, 3], [4])
    elsewhere = pair([3], [4], [2, 3])  # another prompt
    alike = pair([4], [5, 6], [5, 6])  # its own opposite, which contradicts no other
    _, line = said(apart, *opposed, again, elsewhere, alike)
    assert line.startswith("[yellow]contradictions[/]: 3 of 6 pairs have their opposite beside")
    assert len(said(apart, elsewhere, alike)) == 1


def test_where_one_text_ends_and_the_next_begins_tells_groups_apart():
    a, b = np.array([1, 2], np.int32), np.array([3], np.int32)
    assert digest(a, b) != digest(a[:1], np.array([2, 3], np.int32))
    assert digest(a, b) == digest(a.astype(np.int64), b)


def test_the_share_of_held_out_prompts_that_are_learnt_from_is_said():
    # Held out are 1, 2, 3; of these 2 and 3 are learnt from, however often they stand there.
    assert of_prompts([2, 3, 3, 4], [1, 2, 2, 3]) == [
        "[yellow]held out[/]: 2 of 3 prompts (66.7%) are in the training data too"
    ]
    assert of_prompts([2, 3], [1]) == []


def rows(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def printed(made, capsys):
    Run(made).preflight()
    return " ".join(capsys.readouterr().out.split())


def test_a_run_says_it_of_its_data(tmp_path, capsys):
    made = experiment(tmp_path)
    told = printed(made, capsys)
    # The files of these runs hold questions of the numbers 0 to 23 and 0 to 7, in the same words.
    assert "pairs: scored tokens, mean: chosen" in told
    assert told.endswith("held out: 8 of 8 prompts (100.0%) are in the training data too")
    assert "contradictions" not in told
    one = {"prompt": "Q", "chosen": "A", "rejected": "B"}
    rows(tmp_path / "train.jsonl", one, {"prompt": "Q", "chosen": "B", "rejected": "A"})
    rows(tmp_path / "test.jsonl", {**one, "prompt": "R"})
    # A letter and the end of a turn.
    assert printed(made, capsys).endswith(
        "pairs: scored tokens, mean: chosen 2.0, rejected 2.0 contradictions: 2 of 2 pairs have "
        "their opposite beside them, the same two responses with the other one chosen"
    )


def test_a_run_says_what_its_method_says_of_the_data(tmp_path, capsys):
    labels = [{"prompt": p, "completion": "A", "label": p != "D"} for p in "ABCD"]
    made = experiment(tmp_path, method=KTO())
    rows(tmp_path / "train.jsonl", *labels)
    data = dataclasses.replace(made.data, eval=None)
    told = printed(dataclasses.replace(made, data=data), capsys)
    assert "train: 3 of 4 responses are desirable: with the weights they count 3 times" in told
    assert "pairs: " not in told


def test_a_run_that_samples_says_which_held_out_prompts_it_trains_on(tmp_path, capsys):
    reward = Rewards(parts=(Function(function=len),))
    made = experiment(tmp_path, method=GRPO(), rollout=Rollout(rewards=reward, max_new_tokens=8))
    rows(tmp_path / "train.jsonl", {"prompt": "Q", "answer": "4"}, {"prompt": "R", "answer": "5"})
    rows(tmp_path / "test.jsonl", {"prompt": "R"}, {"prompt": "S"})
    told = printed(made, capsys)
    assert "columns: prompt; for rewards: answer" in told
    assert told.endswith("held out: 1 of 2 prompts (50.0%) are in the training data too")


SPOKEN = [{"role": "user", "content": "S"}]


@pytest.mark.parametrize("method", [SteerLM(), DecisionTransformer(target=1.0)])
def test_a_request_in_the_prompts_hides_none_that_is_held_out_too(method, tmp_path, capsys):
    made = experiment(tmp_path, method=method)
    request = {"attributes": {"wit": 3}} if isinstance(method, SteerLM) else {"score": 3.0}
    other = {"attributes": {"wit": 1}} if isinstance(method, SteerLM) else {"score": 1.0}
    rows(
        tmp_path / "train.jsonl",
        *({"prompt": p, "completion": "A", **request} for p in ("Q", "R", "S")),
    )
    rows(
        tmp_path / "test.jsonl",
        *({"prompt": p, "completion": "B", **other} for p in ("R", SPOKEN, "T")),
    )
    told = "held out: 2 of 3 prompts (66.7%) are in the training data too"
    assert printed(made, capsys).endswith(told)
    assert printed(made, capsys).endswith(told)  # of data that are there already


def test_nor_does_it_where_a_run_samples(tmp_path, capsys):
    reward = Rewards(parts=(Function(function=len),))
    made = experiment(
        tmp_path, method=DecisionTransformer(target=1.0),
        rollout=Rollout(rewards=reward, max_new_tokens=8),
    )  # fmt: skip
    rows(tmp_path / "train.jsonl", {"prompt": "Q"}, {"prompt": "R"})
    rows(tmp_path / "test.jsonl", {"prompt": "R"}, {"prompt": "S"})
    told = printed(made, capsys)
    assert "held out: 1 of 2 prompts (50.0%) are in the training data too" in told


def test_a_string_is_the_users_turn_where_prompts_are_told_apart():
    assert asked("S") == asked((Message("user", "S"),))
    assert len({asked("S"), asked("T"), asked((Message("system", "S"),)), asked(())}) == 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChosenAlone(Method):
    """Learns from pairs, and looks at one response of each."""

    def needs(self):
        return Needs(record=Preference)

    def group(self, record):
        return Group(prompt=record.prompt, responses=(record.chosen,), scores=(1.0,))

    def loss(self, outputs, batch):
        return -outputs.logprobs.sum(axis=(1, 2)), {}


def test_groups_of_another_number_than_two_are_no_pairs(tmp_path):
    run = Run(experiment(tmp_path, method=ChosenAlone()), quiet=True)
    assert of_groups(run.method, run.train_data) == []


def test_only_a_run_that_samples_has_lengths_of_samples_to_compare(tmp_path):
    offline = experiment(tmp_path)
    evaluation = dataclasses.replace(
        offline.evaluation, num_prompts=4, sampler=Sampler(max_new_tokens=5)
    )
    offline = dataclasses.replace(offline, evaluation=evaluation)
    assert of_lengths(offline) == []
    rewards = Rewards(parts=(Function(function=lambda completions: [0.0] * len(completions)),))
    rollout = Rollout(rewards=rewards, max_new_tokens=6)
    (line,) = of_lengths(dataclasses.replace(offline, method=GRPO(), rollout=rollout))
    assert "cut at 6 tokens (rollout.max_new_tokens), held-out answers at 5" in line
