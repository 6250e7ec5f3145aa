"""The demo's judge prefers brief, plain, finished answers; its prompts are many and distinct."""

import importlib.util
import re
from itertools import combinations, pairwise
from pathlib import Path

import pytest

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart"


def load_rule():
    spec = importlib.util.spec_from_file_location("quickstart_rule", QUICKSTART / "rule.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


rule = load_rule()

# 10 words, one sentence.
PLAIN = "Ice floats because it is less dense than liquid water."


def numbered(count):
    """Write a text of so many different words, without punctuation."""
    return " ".join(f"w{i}" for i in range(count))


def costs(answer, ended=True):
    """Keep the parts that cost something."""
    return {name: cost for name, cost in rule.parts(answer, ended).items() if cost}


@pytest.mark.parametrize(
    "answer",
    [
        PLAIN,
        "A hunch is a feeling about something. You have no proof of it.",
        'He said to me, "Never start what you cannot finish."',
        "Isn't it simply the well-known effect of warm air?",
        numbered(8) + ".",
        numbered(30) + "!",
        f"  {PLAIN}\n",  # outer blanks are not the answer's
    ],
)
def test_a_brief_plain_finished_answer_scores_zero(answer):
    assert rule.score(answer, ended=True) == 0.0


def test_the_score_is_the_sum_of_the_parts():
    # 3 short lines: 6 words (2 missing: 4 / 8), no stop, 2 line breaks and 3 items (log2 6), cut.
    answer = "- red apples\n- ripe pears\n- sweet plums"
    assert costs(answer, ended=False) == pytest.approx(
        {"ended": -4.0, "stop": -1.0, "short": -0.5, "layout": -2.584963}
    )
    assert rule.score(answer, ended=False) == pytest.approx(-8.084963)


def test_no_part_is_ever_positive():
    for answer in ("", ".", "Yes.", PLAIN, PLAIN * 40, "# A\n\n* b\n* c", "a a a a a a a a a a"):
        for ended in (True, False):
            assert all(cost <= 0 for cost in rule.parts(answer, ended).values())


def test_a_cut_off_answer_costs_four_more():
    assert costs(PLAIN, ended=False) == {"ended": -4.0}


@pytest.mark.parametrize(
    ("answer", "cost"),
    [("", -8.0), ("Yes.", -6.125), ("It is cold.", -3.125), (numbered(6) + ".", -0.5)],
)
def test_missing_words_cost_an_eighth_of_their_square(answer, cost):
    # 8, 7, 5 and 2 words missing: 64 / 8, 49 / 8, 25 / 8, 4 / 8.
    assert rule.parts(answer, True)["short"] == cost


@pytest.mark.parametrize(("words", "cost"), [(30, 0.0), (45, -0.584963), (60, -1.0), (120, -2.0)])
def test_each_doubling_of_the_length_costs_one(words, cost):
    assert costs(numbered(words) + ".").get("long", 0.0) == pytest.approx(cost)


def test_words_joined_by_hyphens_are_counted_one_by_one():
    assert costs(numbered(60).replace(" ", "-") + ".") == {"long": -1.0}


@pytest.mark.parametrize(("sentences", "cost"), [(1, 0.0), (2, 0.0), (4, -1.0), (8, -2.0)])
def test_each_doubling_of_the_sentences_costs_one(sentences, cost):
    answer = " ".join(f"Fact{i} is fun{i}." for i in range(sentences))
    assert rule.parts(answer, True)["sentences"] == cost


@pytest.mark.parametrize(
    ("ending", "cost"),
    [
        (".", 0.0),
        ("!", 0.0),
        ("?", 0.0),
        ('."', 0.0),
        (".)", 0.0),
        ("", -1),
        (":", -1),
        ("...", -1),
    ],
)
def test_the_last_sentence_must_be_closed(ending, cost):
    assert rule.parts(numbered(10) + ending, True)["stop"] == cost


@pytest.mark.parametrize(
    ("answer", "cost"),
    [
        (f"{PLAIN}\n\n{PLAIN}", -1.0),  # one break
        (f"**Ice** floats. {PLAIN}", -1.584963),  # bold on, bold off
        (f"# Ice\n{PLAIN}", -1.584963),  # a heading, a break
        (f"1. {PLAIN}\n2. {PLAIN}", -2.0),  # two items, a break
        (f"`ice` {PLAIN}", -1.584963),  # code on, code off
        ("Two - or 3 * 4 - is not a list, and C# no heading.", 0.0),
    ],
)
def test_layout_costs_by_the_doublings_of_its_marks(answer, cost):
    assert rule.parts(answer, True)["layout"] == pytest.approx(cost)


def test_a_repeated_sentence_costs_its_share_of_the_runs():
    # Twice 8 words: 14 runs of three, of which the last 6 stood before; -6 x 6 / 14.
    answer = f"{numbered(8)}. {numbered(8).upper()}."
    assert costs(answer) == pytest.approx({"repeats": -2.571429})


def test_one_word_over_and_over_costs_almost_all_of_six():
    # 10 words: 8 runs, 7 of them repeats; -6 x 7 / 8.
    assert costs("so " * 9 + "so.") == {"repeats": -5.25}


def test_shorter_is_no_better_once_plain():
    long_enough = [rule.score(numbered(n) + ".", ended=True) for n in range(8, 31)]
    assert long_enough == [0.0] * 23


def test_degenerate_answers_score_below_a_rambling_one():
    # Five sentences of 12 words: 60 words -1, five sentences -log2(5 / 2).
    rambling = " ".join(f"{numbered(12)} s{i}.".replace("w", f"{'abcde'[i]}") for i in range(5))
    assert rule.score(rambling, ended=True) > -2.6
    for answer in ("", ".", "Yes.", "I see it.", "no no no no no no no no.", f"{PLAIN} " * 4):
        assert rule.score(answer, ended=True) < -2.6


def prompts():
    return (QUICKSTART / "prompts.txt").read_text(encoding="ascii").splitlines()


def test_there_are_420_distinct_prompts_of_4_to_20_words():
    lines = prompts()
    assert len(lines) == len({line.lower() for line in lines}) == 420
    assert all(line == line.strip() and 4 <= len(line.split()) <= 20 for line in lines)


def test_no_two_prompts_share_half_of_their_words_or_word_pairs():
    words = [re.findall(r"[a-z0-9']+", line.lower()) for line in prompts()]
    for shingles in (
        [set(line) for line in words],
        [set(pairwise(line)) for line in words],
    ):
        for one, other in combinations(shingles, 2):
            assert len(one & other) < 0.5 * len(one | other)
