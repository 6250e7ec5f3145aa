"""A drawing by itself: which prompt a reward is told of, and which responses count."""

import numpy as np
import pytest

from alignax.data.bad_rows import Tally
from alignax.data.prompts import Prompts
from alignax.data.sources import Report
from alignax.generate.drawing import Answered, draw, judge
from alignax.generate.reward_functions import Function
from alignax.generate.rewards import Rewards
from alignax.generate.rollout import Rollout

REPORT = Report(
    source="f", split="train", form="prompt", columns=("prompt", "answer"), ignored=(), rows=3,
    records=3, dropped=Tally(), left_out=Tally(), repeated_prompts=0,
)  # fmt: skip
PROMPTS = Prompts(
    ["a", "b", "c"], [np.array([i], np.int32) for i in range(3)],
    {"answer": ["A", "B", "C"]}, ["f:1", "f:2", "f:3"], REPORT, Tally(),
)  # fmt: skip


def settings(reward, **rollout):
    return Rollout(rewards=Rewards(parts=(Function(function=reward),)), **rollout)


def decode(ids):
    return [" ".join(map(str, one)) for one in ids]


def test_a_reward_sees_the_prompt_and_the_columns_that_each_response_belongs_to():
    told = []

    def reward(prompts, completions, answer, **_):
        told.extend(zip(prompts, completions, answer, strict=True))
        return [float(text) for text in completions]

    ids = [[[1], [2], [3]], [[4], [5], [6]]]  # of the third prompt, then of the first
    texts, _, scores = judge(PROMPTS, [2, 0], ids, np.ones((2, 3), bool), settings(reward), decode)
    assert told == [
        ("c", "1", "C"), ("c", "2", "C"), ("c", "3", "C"),
        ("a", "4", "A"), ("a", "5", "A"), ("a", "6", "A"),
    ]  # fmt: skip
    assert texts == [["1", "2", "3"], ["4", "5", "6"]]
    assert scores.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


@pytest.mark.parametrize(
    ("truncated", "valid", "mean"), [("keep", [True, True], 6.0), ("mask", [True, False], 5.0)]
)
def test_a_response_that_was_cut_counts_only_where_it_is_kept(truncated, valid, mean):
    answered = Answered(
        np.array([[[5], [7]]], np.int32), np.ones((1, 2), np.int32),
        np.array([[True, False]]), np.zeros((1, 2, 1), np.float32),
    )  # fmt: skip
    rollout = settings(lambda completions, **_: [float(x) for x in completions],
                       truncated=truncated)  # fmt: skip
    drawing = draw(PROMPTS, [0], answered, rollout, decode)
    assert drawing.valid.tolist() == [valid]
    assert drawing.metrics["reward"] == mean
