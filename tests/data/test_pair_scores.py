"""Pairs as lists and as scored responses: by what was scored, on one scale, nothing invented."""

import doctest
import json

import pytest

from alignax.core.errors import BadInput
from alignax.core.records import Labelled, LeftOut, Preference, Ranking, Scored
from alignax.data import pair_scores
from alignax.data.sources import Report, load_records


def test_worked_examples_in_docstrings_are_right():
    assert doctest.testmod(pair_scores).failed == 0


def pair(chosen, rejected, first=None, second=None, **more):
    row = {"prompt": f"about {chosen}", "chosen": chosen, "rejected": rejected, **more}
    return row if first is None else row | {"score_chosen": first, "score_rejected": second}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


JUDGED = (pair("best", "fine", 9.0, 8.5), pair("poor", "awful", 3.0, 1.0), pair("x", "y", 7, 7))


def test_single_responses_have_the_scores_that_a_judge_gave_them(tmp_path):
    records, report = load_records(write(tmp_path / "a.jsonl", *JUDGED), Scored)
    assert {x.response: x.score for x in records} == {
        "best": 9.0, "fine": 8.5, "poor": 3.0, "awful": 1.0, "x": 7.0, "y": 7.0
    }  # fmt: skip
    assert report.form.endswith("made into scored (scores: score_chosen and score_rejected)")
    assert "noted" not in str(report)


def test_lists_have_them_too_beside_a_margin_of_another_scale(tmp_path):
    rows = [row | {"margin": 0.1} for row in JUDGED]
    records, report = load_records(write(tmp_path / "a.jsonl", *rows), Ranking)
    assert [x.scores for x in records] == [(9.0, 8.5), (3.0, 1.0), (7.0, 7.0)]
    assert set(report.columns) >= {"margin", "score_chosen", "score_rejected"}
    pairs, _ = load_records(write(tmp_path / "a.jsonl", *rows), Preference)
    assert [(x.margin, x.scores) for x in pairs[:1]] == [(0.1, (9.0, 8.5))]


@pytest.mark.parametrize(
    ("more", "scores", "kind"),
    [
        ({"margin": 2.5}, (2.5, 0.0), "margin and 0"),
        ({"margin": 0}, (0.0, 0.0), "margin and 0"),  # a tie, as of equal scores
        ({}, (1.0, 0.0), "1 and 0"),
        ({"score_chosen": 4}, (1.0, 0.0), "1 and 0"),  # one score alone says nothing
    ],
)
def test_where_nobody_scored_them_the_margin_serves_or_else_the_choice(
    tmp_path, more, scores, kind
):
    records, report = load_records(write(tmp_path / "a.jsonl", pair("a", "b", **more)), Ranking)
    assert [x.scores for x in records] == [scores]
    assert report.form.endswith(f"made into ranking (scores: {kind})")


@pytest.mark.parametrize("wanted", [Ranking, Scored])
@pytest.mark.parametrize(
    ("rows", "message", "reason"),
    [
        (
            [pair("a", "b"), *JUDGED],
            "a.jsonl:1: expected scores in every row: other rows have them, and numbers of two "
            "kinds cannot be compared; got none, or null.\n    Score them all with `alignax "
            "score`, take score_chosen and score_rejected out of all rows, or set "
            "on_bad_row='drop'.",
            "1 pair without scores (a.jsonl:1)",
        ),
        (
            [*JUDGED, pair("a", "b", None, None, margin=3)],
            "a.jsonl:4: expected scores in every row: other rows have them, and numbers of two "
            "kinds cannot be compared; got a margin alone.\n",
            "1 pair without scores (a.jsonl:4)",
        ),
        (
            [pair("a", "b", margin=0.1), pair("c", "d", margin=None), pair("e", "f", margin=0.2)],
            "a.jsonl:2: expected a margin in every row: other rows have one, and numbers of two "
            "kinds cannot be compared; got none, or null.\n    Give every row one, take the "
            "column margin out of all rows, or set on_bad_row='drop'.",
            "1 pair without a margin (a.jsonl:2)",
        ),
    ],
    ids=["none", "margin", "no margin"],
)
def test_scales_are_never_mixed(tmp_path, wanted, rows, message, reason):
    source = write(tmp_path / "a.jsonl", *rows)
    with pytest.raises(BadInput) as refused:
        load_records(source, wanted)
    assert str(refused.value).startswith(message)
    records, report = load_records(source, wanted, on_bad_row="drop")
    assert str(report.dropped) == reason
    assert len(records) == (len(rows) - 1) * (2 if wanted is Scored else 1)
    # Methods on pairs and labels read no scores.
    assert len(load_records(source, Preference)[0]) == len(rows)
    assert len(load_records(source, Labelled)[0]) == 2 * len(rows)


AGAINST = (pair("a", "b", 3, 5), pair("c", "d", 5, 3))


def test_scores_against_the_choice_rank_nothing_and_are_counted(tmp_path):
    records, report = load_records(write(tmp_path / "a.jsonl", *AGAINST), Ranking)
    assert [x.scores for x in records] == [(5.0, 3.0)]
    reason = "1 chosen response scored below the rejected one (a.jsonl:1)"
    assert (str(report.left_out), str(report.noted)) == (reason, "none")


@pytest.mark.parametrize("wanted", [Scored, Preference, Labelled])
def test_who_reads_responses_or_the_choice_alone_has_them_and_they_are_counted(tmp_path, wanted):
    records, report = load_records(write(tmp_path / "a.jsonl", *AGAINST), wanted)
    reason = "1 chosen response scored below the rejected one (a.jsonl:1)"
    assert not report.left_out
    assert f"\n  noted: {reason}" in str(report)
    assert Report.from_json(json.loads(json.dumps(vars(report), default=vars))) == report
    if wanted is Scored:
        assert [(x.response, x.score) for x in records] == [("a", 3), ("b", 5), ("c", 5), ("d", 3)]
    else:
        assert len(records) == (2 if wanted is Preference else 4)


def test_a_margin_below_0_is_against_the_choice_too(tmp_path):
    below = Preference(prompt="p", chosen="a", rejected="b", margin=-0.5)
    for convert in (pair_scores.ranking, pair_scores.scored):
        with pytest.raises(LeftOut, match="margin below 0"):
            convert(below)
    source = write(tmp_path / "a.jsonl", pair("a", "b", margin=-0.5), pair("c", "d", margin=1))
    assert str(load_records(source, Preference)[1].noted) == "1 margin below 0 (a.jsonl:1)"
    # Where responses were scored, that says who is against whom.
    agreed = Preference(prompt="p", chosen="a", rejected="b", margin=-0.5, scores=(2.0, 1.0))
    assert pair_scores.against(agreed) == ""
