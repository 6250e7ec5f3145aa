"""Columns that a row may have or lack: each row says for itself, and the report says for all."""

import json

import pytest

from alignax import Curriculum, RewardModel
from alignax.core.errors import BadInput
from alignax.core.records import Preference, Ranking
from alignax.data.builder import prepare
from alignax.data.chat import Renderer
from alignax.data.sources import load_records
from alignax.data.tokenise import TokenLimits
from tests.tiny import chatml_tokenizer

PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}
LIST = {"prompt": "p", "completions": ["a", "b"], "scores": [1, 0]}


def write(path, *rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("lacks", [{}, {"margin": None}], ids=["none", "null"])
@pytest.mark.parametrize("first", [True, False])
def test_a_row_has_the_margin_that_it_gives_whatever_the_first_row_gives(tmp_path, lacks, first):
    rows = [PAIR | lacks, PAIR | {"margin": 2}]
    records, report = load_records(
        write(tmp_path / "a.jsonl", *(rows if first else reversed(rows))), Preference
    )
    assert [record.margin for record in records] == ([None, 2.0] if first else [2.0, None])
    assert report.columns == ("prompt", "chosen", "rejected", "margin")
    assert report.ignored == ()


def test_a_row_without_a_margin_may_have_two_scores(tmp_path):
    scored = {"score_chosen": 8, "score_rejected": 5.5}
    source = write(
        tmp_path / "a.jsonl",
        PAIR | {"margin": None} | scored,
        PAIR | {"margin": 1} | scored,
        PAIR | {"score_chosen": 8},
    )
    records, report = load_records(source, Preference)
    assert [record.margin for record in records] == [2.5, 1.0, None]
    assert report.columns == (
        "prompt", "chosen", "rejected", "score_chosen", "score_rejected", "margin"
    )  # fmt: skip


def test_sources_may_be_given_for_some_lists_alone(tmp_path):
    named = LIST | {"sources": ["x", "y"]}
    source = write(tmp_path / "a.jsonl", named, LIST, LIST | {"models": ["z", "x"]})
    records, report = load_records(source, Ranking)
    assert [record.sources for record in records] == [("x", "y"), (), ("z", "x")]
    assert report.columns == ("prompt", "completions", "scores", "sources", "models")


def test_a_margin_that_is_no_number_is_a_bad_row_wherever_it_stands(tmp_path):
    source = write(tmp_path / "a.jsonl", PAIR, PAIR | {"margin": "wide"})
    with pytest.raises(BadInput) as error:
        load_records(source, Preference)
    assert str(error.value) == (
        "a.jsonl:2: expected a finite number in margin; got 'wide'.\n"
        "    Mend it, remove the row, or set on_bad_row='drop'."
    )
    records, report = load_records(source, Preference, on_bad_row="drop")
    assert len(records) == 1
    assert str(report.dropped) == "1 not a number: margin (a.jsonl:2)"


def test_columns_of_later_rows_that_are_not_read_are_reported_too(tmp_path):
    source = write(tmp_path / "a.jsonl", PAIR | {"id": 1}, PAIR | {"note": 2, "margin": None})
    _, report = load_records(source, Preference)
    assert report.ignored == ("id", "note", "margin")


@pytest.mark.parametrize("method", [Curriculum(), RewardModel(margins=True)], ids=["c", "r"])
def test_a_method_that_reads_margins_names_the_row_without_one_or_drops_it(tmp_path, method):
    source = write(tmp_path / "a.jsonl", *[PAIR | {"margin": 1}] * 9, PAIR)
    make = lambda **settings: prepare(  # noqa: E731
        source,
        method.group,
        Preference,
        Renderer(tokenizer=chatml_tokenizer()),
        TokenLimits(),
        grouping=repr(method),
        cache_dir=tmp_path / "cache",
        **settings,
    )
    with pytest.raises(BadInput, match=r"^a.jsonl:10: expected pairs with a margin.*; got no mar"):
        make()
    prepared = make(on_bad_row="drop")
    assert len(prepared.lengths.prompt) == 9
    assert str(prepared.records.dropped) == "1 pair without a margin (a.jsonl:10)"
    write(tmp_path / "a.jsonl", PAIR)
    with pytest.raises(BadInput, match=r"dropped: 1 pair without a margin \(a.jsonl:1\)"):
        make(on_bad_row="drop")
