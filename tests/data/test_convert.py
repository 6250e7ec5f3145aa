"""Lists, pairs, labels and singles become one another where nothing has to be made up."""

import doctest
import itertools
import json

import pytest

from alignax.core import attributes, conditioning, records, scores
from alignax.core.errors import BadInput
from alignax.core.records import Labelled, LeftOut, Preference, Ranking, Scored
from alignax.data import convert
from alignax.data.sources import load_records

LIST = Ranking(prompt="p", responses=tuple("abcdef"), scores=(3.0, 1.0, 4.0, 1.0, 5.0, 9.0))


@pytest.mark.parametrize(
    "module", [convert, conditioning, scores, attributes, records], ids=lambda m: m.__name__
)
def test_worked_examples_in_docstrings_are_right(module):
    assert doctest.testmod(module).failed == 0


def as_text(pairs):
    return " ".join(f"{pair.chosen}>{pair.rejected}" for pair in pairs)


def test_best_and_worst_are_the_first_of_several():
    assert as_text(convert.pairs(LIST, "best-worst")) == "f>b"
    assert as_text(convert.pairs(LIST, "adjacent")) == "f>e e>c c>a a>b"  # b and d are a tie


def test_all_pairs_are_every_two_of_unequal_score():
    found = convert.pairs(LIST, "all")
    assert len(found) == 6 * 5 // 2 - 1
    score = dict(zip(LIST.responses, LIST.scores, strict=True))
    assert all(pair.margin == score[pair.chosen] - score[pair.rejected] > 0 for pair in found)


def test_random_pairs_use_each_response_once_and_are_the_same_every_time():
    found = convert.pairs(LIST, "random")
    used = [x for pair in found for x in (pair.chosen, pair.rejected)]
    assert len(used) == len(set(used)) in (4, 6)  # the tie may be drawn, and is then no pair
    assert convert.pairs(LIST, "random") == found
    orders = {
        as_text(convert.pairs(Ranking(**{**vars(LIST), "origin": f"f:{i}"}), "random"))
        for i in range(20)
    }
    assert len(orders) > 10


def test_a_tournament_is_won_by_the_best_and_lost_once_by_each_other():
    pairs = convert.pairs(LIST, "tournament")
    losers = [pair.rejected for pair in pairs]
    assert len(losers) == len(set(losers)) >= 4
    assert "f" not in losers
    assert pairs[-1].chosen == "f"
    for before, after in itertools.pairwise(pairs):
        assert before.chosen in (after.chosen, after.rejected)


def test_a_stronger_source_is_chosen_whatever_the_scores():
    ranking = Ranking(
        prompt="p", responses=("a", "b", "c"), scores=(9.0, 1.0, 5.0), sources=("s", "l", "other")
    )
    (pair,) = convert.pairs(ranking, "strength", ("s", "m", "l"))
    assert (pair.chosen, pair.rejected, pair.margin) == ("b", "a", 2.0)
    with pytest.raises(LeftOut, match="fewer than two responses of the sources named"):
        convert.pairs(ranking, "strength", ("s", "m"))


@pytest.mark.parametrize("pairing", ["best-worst", "adjacent", "all", "random", "tournament"])
def test_a_list_of_equal_scores_gives_no_pair(pairing):
    with pytest.raises(LeftOut, match="all scores equal"):
        convert.pairs(Ranking(prompt="p", responses=("a", "b"), scores=(1.0, 1.0)), pairing)


def test_a_responses_own_copy_is_no_rival():
    same = Ranking(prompt="p", responses=("a", "a"), scores=(1.0, 0.0))
    with pytest.raises(LeftOut):
        convert.pairs(same, "all")


def test_the_worst_is_the_worst_of_those_that_differ_from_the_best():
    ranking = Ranking(prompt="p", responses=("a", "b", "a"), scores=(2.0, 1.0, 0.0))
    (pair,) = convert.pairs(ranking, "best-worst")
    assert (pair.chosen, pair.rejected, pair.margin) == ("a", "b", 1.0)


def test_strength_needs_sources_and_nothing_else_takes_them():
    with pytest.raises(BadInput, match=r"data.strength: expected the sources of responses"):
        convert.check("strength", ("one",))
    with pytest.raises(BadInput, match=r'data.pairing: expected data.pairing="strength"'):
        convert.check("all", ("one", "two"))
    convert.check("strength", ("one", "two"))
    convert.check("all", ())


def test_an_unrelated_response_is_never_to_the_same_prompt():
    data = [
        Labelled(prompt=f"p{i // 3}", response=f"r{i}", desirable=True, origin=f"f:{i}")
        for i in range(9)
    ]
    for i, record in enumerate(convert.with_unrelated(data, "f")):
        # Three responses to a prompt: three further on, the last prompt's are the first prompt's.
        assert record.unrelated == f"r{(i + 3) % 9}"
        assert (record.response, record.origin) == (f"r{i}", f"f:{i}")


def test_desirable_and_undesirable_responses_serve_equally_as_unrelated_ones():
    pairs = [Preference(prompt=f"p{i}", chosen=f"good{i}", rejected=f"bad{i}") for i in range(3)]
    labelled = [label for pair in pairs for label in convert.labels(pair)]
    found = [record.unrelated for record in convert.with_unrelated(labelled, "f")]
    assert found == ["good1", "bad1", "good2", "bad2", "good0", "bad0"]


def test_a_circle_that_ends_with_the_prompt_it_began_with_goes_on_to_the_next():
    data = [Labelled(prompt=p, response=r, desirable=True) for p, r in ("pa", "qb", "pc")]
    assert [x.unrelated for x in convert.with_unrelated(data, "f")] == ["b", "c", "b"]


def test_one_prompt_alone_has_no_unrelated_response():
    data = [Labelled(prompt="p", response=r, desirable=True) for r in "ab"]
    with pytest.raises(BadInput, match=r"f: expected at least two different prompts"):
        convert.with_unrelated(data, "f")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


LISTS = [
    {"prompt": "p", "completions": ["a", "b"], "scores": [0, 1]},
    {"prompt": "q", "completions": ["c", "d"], "scores": [2, 2]},
    {"prompt": "r", "completions": ["e", "f", "g"], "scores": [3, 1, 2]},
]


def test_a_file_of_lists_is_read_as_pairs_and_the_report_says_so(tmp_path):
    source = write(tmp_path / "lists.jsonl", LISTS)
    records, report = load_records(source, Preference, pairing="all")
    assert as_text(records) == "b>a e>f e>g g>f"
    assert report.form == "ranking, plain text, explicit prompt, made into preference (all)"
    assert (report.rows, report.records) == (3, 4)
    assert "left out: 1 all scores equal (lists.jsonl:2)" in str(report)


def test_a_file_of_lists_is_read_as_singles_and_as_labels(tmp_path):
    source = write(tmp_path / "lists.jsonl", LISTS)
    singles, _ = load_records(source, Scored)
    assert [x.score for x in singles] == [0, 1, 2, 2, 3, 1, 2]
    labelled, _ = load_records(source, Labelled)
    assert [(x.response, x.desirable) for x in labelled] == [
        ("b", True), ("a", False), ("e", True), ("f", False),
    ]  # fmt: skip
    assert [x.unrelated for x in labelled] == ["e", "f", "b", "a"]
