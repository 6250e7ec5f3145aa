"""The weighted sum of rewards: what is added, what is left out, and what is never passed over."""

import dataclasses
import json
import math
from typing import Any, ClassVar

import numpy as np
import pytest

from alignax.config import Experiment, Model
from alignax.core.errors import BadInput
from alignax.core.records import Message
from alignax.data.bad_rows import BadRow
from alignax.generate.reward_functions import Function
from alignax.generate.reward_rules import Length, Match, NumberAnswer, Overlong
from alignax.generate.rewards import Reward, Rewards, check_reward
from alignax.methods import RewardModel
from alignax.overrides import override
from alignax.saved import to_json
from tests.test_config import experiment

PROMPTS = ("p0", "p1", "p2")
COMPLETIONS = ("a", "bb", "ccc")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given(Reward):
    """What it was made with; an exception is raised for the completion that it stands for."""

    values: tuple[Any, ...]

    def __call__(self, prompts, completions, *, completion_ids, **columns):
        found = [self.values[COMPLETIONS.index(text)] for text in completions]
        for value in found:
            if isinstance(value, Exception):
                raise value
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneTooMany(Reward):
    def __call__(self, prompts, completions, *, completion_ids, **columns):
        return [0.0] * (len(completions) + 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Together(Given):
    """Computed by all processes of a run."""

    asked: list[str]
    everywhere: ClassVar[bool] = True

    def __call__(self, prompts, completions, *, completion_ids, **columns):
        self.asked.extend(completions)
        return super().__call__(prompts, completions, completion_ids=completion_ids)


def score(*parts, completions=COMPLETIONS, prompts=PROMPTS, columns=None, **settings):
    rewards = Rewards(parts=parts, **settings)
    ids = [[1] * len(text) for text in completions]
    return rewards.score(prompts, completions, completion_ids=ids, columns=columns or {})


def refusal(*parts, **settings) -> str:
    with pytest.raises(BadInput) as error:
        score(*parts, **settings)
    return str(error.value)


def test_the_total_is_the_weighted_sum_and_parts_are_unweighted():
    found = score(Given(values=(1, 2, 3)), Given(values=(0.5, 0.0, -1.0)), weights=(2.0, -4.0))
    # 2 * 1 - 4 * 0.5, 2 * 2 - 4 * 0, 2 * 3 + 4 * 1.
    np.testing.assert_array_equal(found.total, np.float32([0.0, 4.0, 10.0]))
    np.testing.assert_array_equal(found.parts, np.float32([[1, 0.5], [2, 0], [3, -1]]))
    assert (found.total.dtype, found.parts.dtype) == (np.float32, np.float32)
    assert found.good.all()
    assert not found.bad


def test_without_weights_all_are_1():
    found = score(Given(values=(1, 2, 3)), Given(values=(10, 20, 30)))
    np.testing.assert_array_equal(found.total, np.float32([11, 22, 33]))


def test_a_part_that_does_not_apply_is_left_out_of_that_sum():
    found = score(Given(values=(1, None, 3)), Given(values=(10, 20, None)), weights=(1.0, 2.0))
    np.testing.assert_array_equal(found.total, np.float32([21, 40, 3]))
    np.testing.assert_array_equal(
        np.isnan(found.parts), [[False] * 2, [True, False], [False, True]]
    )
    assert found.good.all()


def test_any_kind_of_number_is_one():
    import jax.numpy as jnp

    found = score(Given(values=(True, np.float64(2.5), jnp.float32(3.0))))
    np.testing.assert_array_equal(found.total, np.float32([1, 2.5, 3]))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (1e300, "1e+300"),  # no float32
        ("high", "'high', which is no number"),
        ([1.0, 2.0], "a list, which is no number"),
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"),
        (BadRow("x", "fewer words", "many", "Cut.", where="w"), "many (expected fewer words)"),
    ],
    ids=repr,
)
def test_a_bad_reward_is_refused_with_its_texts_or_masked_and_counted(bad, reason):
    part = Given(values=(1.0, bad, 3.0))
    assert refusal(part) == (
        "rewards: given: expected a finite number for every completion, or None where a reward "
        f"does not apply; got {reason} for the completion 'bb' to the prompt 'p1'.\n"
        '    Mend the reward, or leave such completions out: rollout.rewards.on_bad="mask", or '
        "--on-bad-row drop of `alignax score`."
    )
    found = score(part, Given(values=(5, 5, 5)), on_bad="mask")
    np.testing.assert_array_equal(found.total, np.float32([6, 0, 8]))
    np.testing.assert_array_equal(found.good, [True, False, True])
    np.testing.assert_array_equal(np.isnan(found.parts[:, 0]), [False, True, False])
    assert str(found.bad) == f"1 given: {reason} ('bb')"


def test_what_a_part_raised_is_the_cause_of_the_refusal():
    with pytest.raises(BadInput) as error:
        score(Given(values=(1.0, ZeroDivisionError("by zero"), 3.0)))
    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_what_all_processes_compute_is_asked_before_what_may_fail_in_the_first_alone():
    together = Together(values=(1.0, 2.0, 3.0), asked=[])
    with pytest.raises(BadInput, match="got nan"):
        score(Given(values=(1.0, math.nan, 1.0)), together)
    assert together.asked == list(COMPLETIONS)
    found = score(Given(values=(10.0, 20.0, 30.0)), together, weights=(1.0, 2.0))
    np.testing.assert_array_equal(found.total, [12, 24, 36])


def test_a_completion_to_which_nothing_applies_is_bad():
    none = Given(values=(1.0, None, 3.0))
    assert "got None from every part for the completion 'bb' to the prompt 'p1'" in refusal(none)
    found = score(none, on_bad="mask")
    np.testing.assert_array_equal(found.total, np.float32([1, 0, 3]))
    np.testing.assert_array_equal(found.good, [True, False, True])
    assert str(found.bad) == "1 no part applies ('bb')"


def test_a_list_of_another_length_says_nothing_of_any_completion():
    assert (
        "got 4 numbers for 3 completions for completions that begin with 'a' to the prompt 'p0'"
        in refusal(OneTooMany())
    )
    found = score(OneTooMany(), on_bad="mask")
    np.testing.assert_array_equal(found.good, [False] * 3)
    assert found.bad.counts == {"one_too_many: 4 numbers for 3 completions": 3}


def test_a_part_that_always_raises_masks_all():
    part = Given(values=(ValueError("no"),) * 3)
    found = score(part, on_bad="mask")
    assert found.bad.counts == {"given: ValueError: no": 3}
    np.testing.assert_array_equal(found.total, np.zeros(3, np.float32))


def test_a_setting_that_cannot_work_is_refused_and_never_masked():
    text = refusal(NumberAnswer(column="gold"), on_bad="mask", columns={"answer": [1, 2, 3]})
    assert text == (
        "rewards: number_answer.column: expected a column 'gold' beside the prompts; got the "
        "columns answer.\n"
        "    Name the column that holds the reference, or add it to the data."
    )


def test_long_texts_are_quoted_by_their_ends_and_conversations_by_their_last_turn():
    long = "begin " + "x" * 500 + " end"
    prompt = (Message("system", "Be brief."), Message("user", "Why?"))
    part = Function(function=lambda completions: [math.nan])
    with pytest.raises(BadInput) as error:
        Rewards(parts=(part,)).score([prompt], [long], completion_ids=[[1]], columns={})
    assert "'begin xxx" in str(error.value)
    assert "xxx end' to the prompt 'Why?'" in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"parts": ()}, "rewards.parts: expected at least one reward; got none.\n"
         "    Name what is rewarded."),
        ({"parts": (Match(pattern="a"), Match(pattern="b")), "weights": (1.0,)},
         "rewards.weights: expected 2 weights, one for each of match, match_2; got 1: 1.0.\n"
         "    Give one weight a reward, or none for a plain sum."),
        ({"parts": (Match(pattern="a"),), "weights": (math.nan,)},
         "rewards.weights: expected finite weights; got nan.\n    Change the weight."),
    ],
    ids=("no parts", "weights", "nan"),
)  # fmt: skip
def test_a_sum_that_cannot_work_is_refused_before_and_when_it_is_used(settings, text):
    for use in (lambda x: x.check(), lambda x: x.score([], [], completion_ids=[], columns={})):
        with pytest.raises(BadInput) as error:
            use(Rewards(**settings, on_bad="mask"))
        assert str(error.value) == text


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        (Model(model_name_or_path="runs/rm/export"),
         'The reward of a reward model is ModelReward(directory="runs/rm/export").'),
        ("owner/rm", 'The reward of a reward model is ModelReward(directory="owner/rm").'),
        (RewardModel(),
         'The reward of a reward model is ModelReward(directory="OUTPUT_DIR/export").'),
        ("rule.py:f", 'Write Function(function="rule.py:f").'),
        (len, "Wrap a function of your own as Function(function=...)."),
    ],
    ids=lambda x: type(x).__name__,
)  # fmt: skip
def test_what_is_no_reward_is_told_what_to_write_in_its_place(given, remedy):
    with pytest.raises(BadInput) as error:
        check_reward(given, "rewards.parts")
    assert str(error.value) == (
        f"rewards.parts: expected rewards; got {given!r} ({type(given).__name__}).\n    {remedy}"
    )


def test_the_parts_are_checked_too():
    with pytest.raises(BadInput, match=r"rewards: match\.pattern: expected a regular expression"):
        Rewards(parts=(Match(pattern="("),)).check()


def test_arguments_of_unequal_lengths_are_refused():
    text = refusal(Match(pattern="a"), prompts=("p",), columns={"answer": [1, 2]})
    assert text == (
        "rewards: expected as many of everything as completions, 3; got 1 prompts, 2 "
        "columns['answer'].\n"
        "    Repeat each prompt and its columns for each of its completions."
    )


def test_no_completions_have_no_rewards():
    found = Rewards(parts=(Match(pattern="a"),)).score([], [], completion_ids=[], columns={})
    assert (found.total.shape, found.parts.shape, found.good.shape) == ((0,), (0, 1), (0,))


def test_a_column_of_a_reserved_name_does_not_get_in_the_way():
    found = score(Match(pattern="b"), columns={"completions": ["x"] * 3, "prompts": ["x"] * 3})
    np.testing.assert_array_equal(found.total, np.float32([0, 1, 0]))


def test_names_are_all_different():
    parts = (Match(pattern="a"), NumberAnswer(), Match(pattern="b"), Function(function="m:f"))
    assert Rewards(parts=parts).names == ("match", "number_answer", "match_2", "f")


def plain_length(completions):
    return [float(len(text)) for text in completions]


def test_rewards_print_compare_and_go_to_json():
    made = lambda: Rewards(  # noqa: E731
        parts=(
            Match(pattern="a"),
            Overlong(max_length=8, buffer=4),
            Function(function=plain_length),
        ),
        weights=(1.0, 0.5, 0.1),
    )
    assert made() == made()
    assert hash(made()) == hash(made())
    assert "Match(pattern='a', full=False, reward=1.0, otherwise=0.0)" in repr(made())
    assert json.loads(json.dumps(to_json(made()))) == {
        "type": "Rewards",
        "parts": [
            {"type": "Match", "pattern": "a", "full": False, "reward": 1.0, "otherwise": 0.0},
            {"type": "Overlong", "max_length": 8, "buffer": 4},
            {"type": "Function", "function": "tests.generate.test_rewards:plain_length"},
        ],
        "weights": [1.0, 0.5, 0.1],
        "on_bad": "refuse",
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithRewards(Experiment):
    rewards: Rewards


def test_rewards_are_changed_from_the_command_line():
    plain = {
        field.name: getattr(experiment(), field.name) for field in dataclasses.fields(Experiment)
    }
    parts = (NumberAnswer(), Function(function=plain_length), Length(target=5.0, width=2.0))
    before = WithRewards(**plain, rewards=Rewards(parts=parts))
    arguments = ["--rewards.parts.0.column", "gold", "--rewards.parts.2.unit", "tokens",
                 "--rewards.weights", "1", "0.5", "2", "--rewards.on-bad", "mask"]  # fmt: skip
    found = override(before, arguments)
    assert found.rewards == Rewards(
        parts=(
            NumberAnswer(column="gold"),
            Function(function=plain_length),
            Length(target=5.0, width=2.0, unit="tokens"),
        ),
        weights=(1.0, 0.5, 2.0),
        on_bad="mask",
    )
    with pytest.raises(BadInput, match="expected a setting; NumberAnswer has column, reward"):
        override(before, ["--rewards.parts.0.colum", "gold"])
    with pytest.raises(
        BadInput, match=r"expected a setting; tuple has 0, 1, 2; got rewards\.parts\.3"
    ):
        override(before, ["--rewards.parts.3.column", "gold"])


@pytest.mark.parametrize("function", [plain_length, "rule.py:first"])
def test_a_function_is_changed_to_another_by_its_name(function):
    plain = {
        field.name: getattr(experiment(), field.name) for field in dataclasses.fields(Experiment)
    }
    before = WithRewards(**plain, rewards=Rewards(parts=(Function(function=function),)))
    found = override(before, ["--rewards.parts.0.function", "rule.py:other"])
    assert found.rewards == Rewards(parts=(Function(function="rule.py:other"),))
