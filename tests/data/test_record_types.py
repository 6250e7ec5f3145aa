"""Lists, scores, labels and attributes are read as people write them, or refused."""

import math

import pytest

from alignax.core.errors import BadInput
from alignax.core.records import (
    Attributed,
    Demonstration,
    Labelled,
    Message,
    Preference,
    Ranking,
    Scored,
)
from alignax.data.bad_rows import BadRow
from alignax.data.forms import detect
from alignax.data.records import parse

USER, ANSWER, OTHER = (
    {"role": role, "content": content}
    for role, content in (("user", "Q"), ("assistant", "A"), ("assistant", "B"))
)


def read(row, record_type, **first):
    form = detect(first or row, record_type, "f:1")
    return parse(row, form, "f:1")


@pytest.mark.parametrize("name", ["completions", "responses"])
def test_a_list_is_read_with_its_scores(name):
    record = read({"prompt": "p", name: ["a", "b", "c"], "scores": [1, 0.5, -2]}, Ranking)
    assert record == Ranking(
        prompt="p", responses=("a", "b", "c"), scores=(1.0, 0.5, -2.0), origin="f:1"
    )


@pytest.mark.parametrize("name", ["sources", "models"])
def test_a_list_may_name_the_sources_of_its_responses(name):
    row = {"prompt": "p", "responses": ["a", "b"], "scores": [1, 0], name: ["large", "small"]}
    assert read(row, Ranking).sources == ("large", "small")


@pytest.mark.parametrize("blank", ["", " \n"])
def test_a_list_may_hold_what_a_model_says_that_ends_at_once(blank):
    row = {"prompt": "p", "completions": ["x", blank, "z"], "scores": [1, 2, 3]}
    assert read(row, Ranking).responses == ("x", blank, "z")
    assert read(row | {"prompt": [USER]}, Ranking).responses[1] == (Message("assistant", blank),)
    for other in (None, [], [{"role": "assistant", "content": blank}]):
        with pytest.raises(BadRow, match=r"expected text in completions\[1\]"):
            read(row | {"completions": ["x", other, "z"]}, Ranking)


def test_a_list_of_one_serves_where_nothing_is_compared():
    row = {"prompt": "p", "completions": ["x"], "scores": [1.5]}
    for wanted in (Scored, Demonstration):
        assert read(row, wanted).responses == ("x",)
    for wanted in (Ranking, Preference, Labelled):
        with pytest.raises(BadRow, match="two or more completions to compare; got 1"):
            read(row, wanted)
    with pytest.raises(BadRow, match="f:1: expected one or more completions; got 0"):
        read(row | {"completions": [], "scores": []}, Scored)


def test_a_list_of_conversations_is_read_turn_by_turn():
    row = {"prompt": [USER], "completions": [[ANSWER], [OTHER]], "scores": [1, 0]}
    record = read(row, Ranking)
    assert record.prompt == (Message("user", "Q"),)
    assert record.responses == ((Message("assistant", "A"),), (Message("assistant", "B"),))
    assert str(detect(row, Ranking)) == "ranking, conversational, explicit prompt"
    plain = {"prompt": "p", "completions": ["a", "b"], "scores": [1, 0]}
    assert str(detect(plain, Ranking)) == "ranking, plain text, explicit prompt"


def test_strings_that_answer_a_conversation_are_turns_of_the_assistant():
    record = read({"prompt": [USER], "responses": ["A", "B"], "scores": [1, 0]}, Ranking)
    assert record.responses[1] == (Message("assistant", "B"),)


def test_single_responses_are_read_with_score_label_or_attributes():
    one = {"prompt": "p", "completion": "a"}
    assert read(one | {"score": 2}, Scored).score == 2.0
    assert read(one | {"label": False}, Labelled).desirable is False
    record = read(one | {"attributes": {"wit": 3, "depth": None}}, Attributed)
    assert record.attributes == {"wit": 3.0}  # null: not rated


def test_the_last_answer_of_a_conversation_is_the_one_that_is_judged():
    record = read({"messages": [USER, ANSWER, USER, OTHER], "label": True}, Labelled)
    assert [turn.content for turn in record.prompt] == ["Q", "A", "Q"]
    assert record.response == (Message("assistant", "B"),)


def test_helpsteers_columns_are_attributes():
    row = {"prompt": "p", "response": "r", "helpfulness": 4, "correctness": 3, "coherence": 4,
           "complexity": 2, "verbosity": 1}  # fmt: skip
    assert read(row, Attributed).attributes == {
        "helpfulness": 4.0, "correctness": 3.0, "coherence": 4.0, "complexity": 2.0,
        "verbosity": 1.0,
    }  # fmt: skip


def test_a_pair_may_have_a_margin_or_two_scores():
    pair = {"prompt": "p", "chosen": "a", "rejected": "b"}
    assert read(pair, Preference).margin is None
    assert read(pair | {"margin": 2}, Preference).margin == 2.0
    scored = pair | {"score_chosen": 8.0, "score_rejected": 5.5}  # as ultrafeedback_binarized
    assert read(scored, Preference).margin == 2.5


LIST = {"prompt": "p", "completions": ["a", "b"], "scores": [1, 0]}
ONE = {"prompt": "p", "completion": "a"}
BAD = {
    "more responses than scores": (
        Ranking,
        LIST | {"scores": [1]},
        "f:1: expected as many scores as completions; got 1 scores for 2 completions.\n",
    ),
    "fewer sources than responses": (
        Ranking,
        LIST | {"sources": ["x"]},
        "f:1: expected as many sources as completions; got 1 sources for 2 completions.\n",
    ),
    "one response": (
        Ranking,
        LIST | {"completions": ["a"], "scores": [1]},
        "f:1: expected two or more completions to compare; got 1.\n",
    ),
    "a string for a list": (
        Ranking,
        LIST | {"completions": "ab"},
        "f:1: expected a list in completions; got 'ab'.\n",
    ),
    "NaN among scores": (
        Ranking,
        LIST | {"scores": [1, math.nan]},
        "f:1: expected a finite number in scores[1]; got nan.\n",
    ),
    "infinite score": (
        Scored,
        ONE | {"score": -math.inf},
        "f:1: expected a finite number in score; got -inf.\n",
    ),
    "score in words": (
        Scored,
        ONE | {"score": "7"},
        "f:1: expected a finite number in score; got '7'.\n",
    ),
    "label that is a number": (
        Labelled,
        ONE | {"label": 1},
        "f:1: expected true or false in label; got 1.\n    Write desirable responses as true",
    ),
    "label in words": (
        Labelled,
        ONE | {"label": "good"},
        "f:1: expected true or false in label; got 'good'.\n",
    ),
    "attributes without names": (
        Attributed,
        ONE | {"attributes": [1, 2]},
        "f:1: expected attributes as an object, such as {'helpfulness': 3}; got [1, 2].\n",
    ),
    "attribute that is no number": (
        Attributed,
        ONE | {"attributes": {"wit": "high"}},
        "f:1: expected a finite number in attributes.wit; got 'high'.\n",
    ),
    "nothing rated": (
        Attributed,
        ONE | {"attributes": {"wit": None}},
        "f:1: expected at least one attribute with a number; got {'wit': None}.\n",
    ),
    "no response in a list": (
        Ranking,
        LIST | {"completions": ["a", None]},
        "f:1: expected text in completions[1]; got null.\n",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_defective_row_is_refused_in_three_parts(name):
    record_type, row, wanted = BAD[name]
    with pytest.raises(BadRow) as refused:
        read(row, record_type)
    assert str(refused.value).startswith(wanted)


@pytest.mark.parametrize(
    ("row", "record_type", "remedy"),
    [
        (ONE, Ranking, "For prompt and response alone, use SFT."),
        (ONE | {"label": True}, Scored, "For responses labelled true or false, use KTO."),
        (ONE | {"score": 1.0}, Labelled, "For single responses with scores, use reward-weighted"),
        (LIST, Attributed, "For responses with scores, use RRHF, PRO"),
        (LIST, Scored, None),
    ],
)  # fmt: skip
def test_columns_of_another_type_are_sent_to_a_method_that_takes_them(row, record_type, remedy):
    if remedy is None:  # a list is single responses with scores, one after another
        assert detect(row, record_type).wanted is Scored
        return
    with pytest.raises(BadInput) as refused:
        detect(row, record_type, "f:1")
    assert remedy in str(refused.value)


def test_the_form_says_what_rows_are_made_into():
    assert str(detect(LIST, Preference)) == (
        "ranking, plain text, explicit prompt, made into preference"
    )
    assert detect(LIST, Demonstration).record is Ranking
    # A pair with a score of each is a pair first of all.
    pair = {"prompt": "p", "chosen": "a", "rejected": "b"}
    assert detect(pair, Ranking).record is Preference
    assert detect(pair, Labelled).wanted is Labelled
