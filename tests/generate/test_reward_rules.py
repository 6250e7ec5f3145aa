"""Rewards by rule, against values worked by hand and the published answers of GSM8K."""

import decimal
import gzip
import json
import math
import pathlib
import re
from fractions import Fraction

import numpy as np
import pytest

from alignax.core.errors import BadInput
from alignax.generate.numbers_in_text import as_fraction, final_number
from alignax.generate.reward_rules import Format, Length, Match, NumberAnswer, Overlong
from alignax.generate.rewards import Rewards

GSM8K = pathlib.Path(__file__).parents[2].parent / "shared" / "data" / "gsm8k"


def give(reward, completions, *, ids=None, **columns):
    prompts = ["p"] * len(completions)
    ids = [[1]] * len(completions) if ids is None else ids
    return reward(prompts, completions, completion_ids=ids, **columns)


def test_a_pattern_is_found_anywhere_or_must_match_the_whole():
    texts = ["yes", "oh yes", "no", "Yes"]
    assert give(Match(pattern="yes"), texts) == [1.0, 1.0, 0.0, 0.0]
    assert give(Match(pattern="yes", full=True), texts) == [1.0, 0.0, 0.0, 0.0]
    assert give(Match(pattern="(?i)yes", reward=2.0, otherwise=-1.0), texts) == [
        2.0,
        2.0,
        -1.0,
        2.0,
    ]


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("<think>2 + 2</think><answer>4</answer>", True),
        ("\n<think>\nfirst,\nthen\n</think>\n\n<answer>\n4 < 5\n</answer>\n", True),
        ("<think>2 + 2</think> so <answer>4</answer>", False),
        ("<think>2 + 2</think>", False),
        ("<answer>4</answer><think>2 + 2</think>", False),
        ("<think></think><answer>4</answer>", False),
        ("<think>a</think><think>b</think><answer>4</answer>", False),
        ("<think>a</think><answer>4</answer><answer>5</answer>", False),
        ("Well: <think>a</think><answer>4</answer>", False),
        ("<think>a</think><answer>4</answer>.", False),
        ("", False),
    ],
)
def test_a_thought_and_then_an_answer_is_the_form(text, fits):
    assert give(Format(), [text]) == [1.0 if fits else 0.0]


def test_another_form_can_be_asked_for_and_must_be_the_whole():
    assert give(Format(pattern="[0-9]+"), ["12", "12 apples"]) == [1.0, 0.0]


def test_a_long_text_of_broken_tags_takes_no_long_time():
    # Backtracking would take 2^n steps here; the test would not end.
    text = "<think>" * 2000 + "</think>" * 2000 + "<answer>" * 2000
    assert give(Format(), [text]) == [0.0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3 + 4 = 7.", 7),
        ("She pays $1,234.50 in all.", Fraction(2469, 2)),
        ("It is 50%", 50),
        ("1,000,000", 1_000_000),
        ("$.25", Fraction(1, 4)),
        ("It falls to -5 degrees", -5),
        ("She owes -$5", -5),
        ("She owes $-5", -5),
        ("\u22125", -5),  # the minus sign of typographers
        ("5-3", 3),  # taken away, not negative
        ("x = -3/4", Fraction(-3, 4)),
        ("2 1/2 cups", Fraction(5, 2)),
        (r"$-\frac{3}{4}$", Fraction(-3, 4)),
        (r"2\dfrac{1}{2}", Fraction(5, 2)),
        (r"so 10{,}000", 10_000),
        ("0.1", Fraction(1, 10)),
        ("#### 42\nI checked it 3 times", 42),
        ("#### Step 1: 6 * 3\n#### 18", 18),
        ("#### **$18**\n(in 3 steps)", 18),
        ("#### Step 1\nso 9", 9),  # no number right after it
        (r"\boxed{42} as 6 * 7 is 42 and not 43", 42),
        (r"\boxed{12 \text{ apples}} of 13", 12),
        (r"\boxed{\frac{1}{2}} and 3", Fraction(1, 2)),
        (r"\boxed{1} no, \boxed{2}", 2),
        (r"\boxed{x} for 8", 8),
        (r"\boxed{5", 5),  # cut before its end
        ("no number", None),
        ("", None),
        ("1/0", None),
        ("9" * 5000, None),  # longer than any answer
    ],
)
def test_the_answer_is_the_marked_number_or_else_the_last(text, expected):
    assert final_number(text) == expected


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        (42, 42),
        (0.1, Fraction(1, 10)),  # by its digits, and not the binary fraction next to it
        (np.float32(0.1), Fraction(1, 10)),
        (np.int64(7), 7),
        (decimal.Decimal("2.50"), Fraction(5, 2)),
        (Fraction(1, 3), Fraction(1, 3)),
        ("1,000", 1000),
        ("He has 3 * 4 = <<3*4=12>>12.\n#### 12", 12),
    ],
    ids=repr,
)
def test_a_reference_is_a_number_or_a_text_with_one(reference, expected):
    assert as_fraction(reference) == expected


@pytest.mark.parametrize("reference", ["(B)", math.nan, math.inf, [1]], ids=repr)
def test_a_reference_without_a_number_is_refused(reference):
    with pytest.raises(ValueError, match=re.escape(f"the reference {reference!r} holds no number")):
        as_fraction(reference)


def test_an_answer_is_right_where_it_is_the_references_number():
    texts = ["so 1,000.", "$1000.00", "999", "none", "1000 1/2", "It costs 2000/2"]
    expected = [1.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    assert give(NumberAnswer(), texts, answer=["1000"] * 6) == expected
    assert give(NumberAnswer(), texts, answer=[1000] * 6) == expected
    assert (
        give(NumberAnswer(column="solution"), texts, solution=["5*200 #### 1,000"] * 6) == expected
    )
    # 1/3 is no decimal fraction, and 0.33 is none of it.
    assert give(NumberAnswer(), ["0.33", "1/3", r"\frac{2}{6}"], answer=["1/3"] * 3) == [0, 1, 1]
    other = NumberAnswer(reward=2.0, otherwise=-0.5)
    assert give(other, ["4", "5"], answer=[4, 4]) == [2.0, -0.5]


def test_a_row_without_a_reference_has_no_such_reward():
    assert give(NumberAnswer(), ["4", "5"], answer=[4, None]) == [1.0, None]


def test_a_column_that_is_not_there_is_refused_with_those_that_are():
    for columns, known in (({"solution": ["4"], "gold": ["4"]}, "the columns gold, solution"),
                           ({}, "prompts alone")):  # fmt: skip
        with pytest.raises(BadInput) as error:
            give(NumberAnswer(), ["4"], **columns)
        assert str(error.value) == (
            "rewards: number_answer.column: expected a column 'answer' beside the prompts; got "
            f"{known}.\n    Name the column that holds the reference, or add it to the data."
        )


def test_a_reference_without_a_number_is_a_bad_row_of_the_sum():
    found = Rewards(parts=(NumberAnswer(),), on_bad="mask").score(
        ["p", "p"], ["4", "4"], completion_ids=[[1], [1]], columns={"answer": ["4", "(B)"]}
    )
    np.testing.assert_array_equal(found.good, [True, False])
    assert "the reference '(B)' holds no number" in str(found.bad)


@pytest.mark.skipif(not GSM8K.is_dir(), reason="no ../shared/data/gsm8k")
def test_the_published_solutions_of_gsm8k_are_right_and_their_neighbours_wrong():
    with gzip.open(GSM8K / "train.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    assert len(rows) > 7000
    answers = [row["answer"] for row in rows]
    solutions = [row["solution"] for row in rows]
    assert give(NumberAnswer(), solutions, answer=answers) == [1.0] * len(rows)
    assert give(NumberAnswer(), answers, answer=solutions) == [1.0] * len(rows)
    # The answer in a sentence, one more than it, and the solution's text without its mark.
    said = [f"So the answer is ${decimal.Decimal(x):,}." for x in answers]
    wrong = [f"So the answer is {decimal.Decimal(x) + 1}." for x in answers]
    assert give(NumberAnswer(), said, answer=answers) == [1.0] * len(rows)
    assert give(NumberAnswer(), wrong, answer=answers) == [0.0] * len(rows)


def test_length_peaks_at_its_target_and_halves_one_width_away():
    words = ["w " * n for n in (10, 15, 5, 20, 0)]
    # 1 / (1 + z^2) at z = 0, 1, -1, 2, -2.
    assert give(Length(target=10.0, width=5.0), words) == [1.0, 0.5, 0.5, 0.2, 0.2]
    ids = [[7] * n for n in (10, 15, 5, 20, 0)]
    by_tokens = Length(target=10.0, width=5.0, unit="tokens")
    assert give(by_tokens, ["one word"] * 5, ids=ids) == [1.0, 0.5, 0.5, 0.2, 0.2]


def test_the_overlong_penalty_falls_over_its_buffer():
    # Max 20, buffer 8: 0 up to 12, then (12 - n) / 8.
    ids = [[7] * n for n in (0, 12, 14, 16, 20, 30)]
    expected = [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]
    assert give(Overlong(max_length=20, buffer=8), [""] * 6, ids=ids) == expected
    cliff = Overlong(max_length=20, buffer=0)
    assert give(cliff, [""] * 3, ids=[[7] * n for n in (19, 20, 21)]) == [0.0, 0.0, -1.0]


@pytest.mark.parametrize(
    ("reward", "text"),
    [
        (Match(pattern="(a"), "match.pattern: expected a regular expression; got '(a': missing ), "
         "unterminated subpattern at position 0.\n    Mend the pattern; a backslash before a "
         "special character takes it as it stands."),
        (Format(pattern="["), "format.pattern: expected a regular expression; got '['"),
        (Match(pattern="a", reward=math.inf), "match.reward: expected a finite number; got inf.\n"
         "    Change the setting."),
        (NumberAnswer(otherwise=math.nan), "number_answer.otherwise: expected a finite number; "
         "got nan"),
        (Length(target=-1.0, width=1.0), "length.target: expected a length, at least 0; got -1.0"),
        (Length(target=1.0, width=0.0), "length.width: expected a positive number; got 0.0"),
        (Overlong(max_length=0, buffer=0), "overlong.max_length: expected a positive number of "
         "tokens; got 0"),
        (Overlong(max_length=8, buffer=9), "overlong.buffer: expected a number of tokens from 0 "
         "to 8; got 9"),
    ],
    ids=lambda x: x.split(":")[0] if isinstance(x, str) else "",
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(reward, text):
    with pytest.raises(BadInput) as error:
        reward.check()
    assert str(error.value).startswith(f"rewards: {text}")


def test_settings_that_work_are_not_refused():
    for reward in (Format(), Match(pattern="a"), NumberAnswer(), Length(target=0.0, width=1.0),
                   Overlong(max_length=8, buffer=8)):  # fmt: skip
        reward.check()


def test_a_rule_that_counts_tokens_says_so_where_there_are_none():
    for rule in (Length(target=1.0, width=1.0, unit="tokens"), Overlong(max_length=8, buffer=4)):
        with pytest.raises(BadInput, match="the token ids of the completions; got texts alone"):
            Rewards(parts=(rule,)).score(["p"], ["a"], completion_ids=None, columns={})
    assert Length(target=1.0, width=1.0)(["p"], ["a"], completion_ids=None) == [1.0]
