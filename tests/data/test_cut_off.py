"""Answers that broke off, as `ended` has it: known through parsing and every conversion."""

import pytest

from alignax.core.lists import best_first
from alignax.core.records import (
    Attributed,
    Demonstration,
    Labelled,
    Message,
    Preference,
    Prompt,
    Ranking,
    Scored,
    placed,
)
from alignax.data import convert, pair_scores
from alignax.data.bad_rows import BadRow
from alignax.data.cut_off import responses
from alignax.data.forms import detect, optional
from alignax.data.records import last_alone, parse

Q, A = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
LIST = {"prompt": "Q", "completions": ["a", "b", "c"], "scores": [1, 3, 2],
        "ended": [True, False, False]}  # fmt: skip


def read(row, record_type, **how):
    return parse(row, detect(row, record_type, **how), "f:1")


@pytest.mark.parametrize(
    ("row", "record_type"),
    [
        ({"prompt": "Q", "completion": "A"}, Demonstration),
        ({"messages": [Q, A]}, Demonstration),
        ({"prompt": "Q", "completion": "A", "score": 1}, Scored),
        ({"prompt": "Q", "completion": "A", "label": True}, Labelled),
        ({"prompt": "Q", "completion": "A", "attributes": {"wit": 1}}, Attributed),
    ],
)
def test_a_single_response_broke_off_where_ended_is_false(row, record_type):
    for ended in (False, [False]):
        found = read(row | {"ended": ended}, record_type)
        assert found.cut == {found.response}
    for ended in (True, [True], None, [None]):
        assert not read(row | {"ended": ended}, record_type).cut
    assert not read(row, record_type).cut


def test_a_list_and_a_pair_have_one_for_each_response():
    assert read(LIST, Ranking).cut == {"b", "c"}
    pair = {"prompt": "Q", "chosen": "A", "rejected": "B", "ended": [True, False]}
    assert read(pair, Preference).cut == {"B"}
    assert not read(pair, Demonstration).cut
    assert read(pair | {"ended": [False, True]}, Demonstration).cut == {"A"}


def test_a_text_that_ended_once_is_whole():
    row = LIST | {"completions": ["a", "a", "c"]}
    assert read(row, Ranking).cut == {"c"}


def test_with_tools_it_is_known_of_the_turns_that_strings_become():
    found = read(LIST | {"tools": [{"name": "f"}]}, Ranking, chat=True)
    assert found.cut == {(Message("assistant", "b"),), (Message("assistant", "c"),)}


@pytest.mark.parametrize("ended", ["no", 0, [True], [True, False, "no"], [True] * 4, {"a": True}])
def test_anything_else_is_refused(ended):
    with pytest.raises(BadRow) as bad:
        read(LIST | {"ended": ended}, Ranking)
    assert str(bad.value).startswith(
        f"f:1: expected in ended true or false for each of 3 responses; got {ended!r}"
    )
    assert bad.value.reason == "ended that is not boolean"


def test_it_is_read_of_rows_with_responses_and_not_of_prompts():
    assert optional(LIST, detect(LIST, Ranking)) == ("ended",)
    assert optional(LIST | {"sources": ["x"] * 3}, detect(LIST, Ranking)) == ("sources", "ended")
    named = read(LIST | {"sources": ["x", "y", "z"]}, Ranking)
    assert (named.sources, named.cut) == (("x", "y", "z"), {"b", "c"})
    asked = LIST | {"ended": "2024-01-01"}
    assert optional(asked, detect(asked, Prompt)) == ()
    assert read(asked, Prompt).columns["ended"] == "2024-01-01"


@pytest.mark.parametrize("pairing", ["best-worst", "adjacent", "all", "random", "tournament"])
def test_pairs_of_a_list_know_it(pairing):
    for pair in convert.pairs(read(LIST, Ranking), pairing):
        for text in (pair.chosen, pair.rejected):
            assert (text in pair.cut) == (text in ("b", "c"))


def test_singles_the_best_labels_and_scores_know_it():
    ranking = read(LIST, Ranking)
    assert convert.best(ranking).response in convert.best(ranking).cut
    assert [x.response in x.cut for x in convert.singles(ranking)] == [False, True, True]
    (pair,) = convert.pairs(ranking, "best-worst")
    assert [x.response in x.cut for x in convert.labels(pair)] == [True, False]
    assert [x.response in x.cut for x in pair_scores.scored(pair)] == [True, False]
    assert pair_scores.ranking(pair).cut == ranking.cut


def test_the_last_answer_alone_of_a_conversation_that_broke_off_did_so():
    row = {"messages": [Q, A, Q, A | {"content": "B"}], "ended": False}
    turn = (Message("assistant", "B"),)
    assert read(row, Demonstration, scored_turns="last").cut == {turn}
    whole = read(row, Demonstration)
    assert whole.cut == {whole.response}
    assert last_alone(whole).cut == {turn}


def test_an_unrelated_response_broke_off_where_it_stood():
    rows = (("p", "a", True), ("p", "b", False), ("q", "c", False), ("q", "d", True))
    data = [
        Labelled(prompt=p, response=x, desirable=True, cut=frozenset(() if whole else (x,)))
        for p, x, whole in rows
    ]
    found = convert.with_unrelated(data, "f")
    assert [(x.response, x.unrelated, set(x.cut)) for x in found] == [
        ("a", "c", {"c"}), ("b", "d", {"b"}), ("c", "a", {"c"}), ("d", "b", {"b"})
    ]  # fmt: skip


def test_a_group_in_any_order_knows_which_of_its_responses_broke_off():
    record = read(LIST, Ranking)
    group = placed(best_first(record), record)
    assert [text in group.cut for text in group.responses] == [True, True, False]  # b, c, a
    assert responses(record) == ("a", "b", "c")
