"""Columns under other names: which value is read as which, and what is refused."""

import json

import pytest

from alignax.core.errors import BadInput
from alignax.core.records import Demonstration, Preference, Prompt
from alignax.data.bad_rows import BadRow
from alignax.data.chat import Renderer
from alignax.data.columns import check, described, given, renamed
from alignax.data.prompts import load_prompts
from alignax.data.sources import load_records, read_rows
from tests.tiny import chatml_tokenizer

MAP = {"prompt": "instruction", "chosen": "better", "rejected": "worse"}
ROWS = [{"instruction": f"p{i}", "better": "c", "worse": "r", "answer": i} for i in range(3)]


@pytest.fixture
def write(tmp_path):
    def write(*rows):
        path = tmp_path / "a.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def test_a_row_is_read_by_the_names_of_the_map_and_keeps_its_other_columns():
    assert renamed(ROWS[1], MAP, "") == {
        "prompt": "p1", "chosen": "c", "rejected": "r", "answer": 1
    }  # fmt: skip
    assert renamed(ROWS[1], {}, "") is ROWS[1]


def test_a_dotted_name_is_what_is_within_a_column_which_stays():
    row = {"prompt": "p", "a": {"b": {"text": "c"}}, "d.e": "r"}
    found = renamed(row, {"chosen": "a.b.text", "rejected": "d.e"}, "")
    assert found == {"chosen": "c", "rejected": "r", "prompt": "p", "a": row["a"]}


def test_two_columns_may_change_places_and_one_may_be_taken_out_of_itself():
    row = {"chosen": {"text": "c"}, "rejected": "r"}
    assert renamed(row, {"chosen": "rejected", "rejected": "chosen"}, "") == {
        "chosen": "r", "rejected": {"text": "c"}
    }  # fmt: skip
    assert renamed(row, {"chosen": "chosen.text"}, "") == {"chosen": "c", "rejected": "r"}
    assert renamed(row, {"rejected": "rejected"}, "") == row


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (
            {"prompt": "instructions"},
            "a.jsonl:2: expected the column instructions, which data.columns reads as prompt; got "
            "instruction, a, chosen.\n    Did you mean instruction?",
        ),
        (
            {"prompt": "question"},
            "a.jsonl:2: expected the column question, which data.columns reads as prompt; got "
            "instruction, a, chosen.\n    Change data.columns, or the rows.",
        ),
        (
            {"prompt": "a.texts"},
            "a.jsonl:2: expected the column a.texts, which data.columns reads as prompt; got "
            "a.text, a.n.\n    Did you mean a.text?",
        ),
        (
            {"prompt": "a.text.b"},
            "a.jsonl:2: expected the column a.text.b, which data.columns reads as prompt; got "
            "a.text, a str.\n    Change data.columns, or the rows.",
        ),
        (
            {"chosen": "instruction"},
            "a.jsonl:2: expected no column chosen beside instruction, which is read as chosen; got "
            "both, in a row with instruction, a, chosen.\n    Leave chosen out of data.columns to "
            "read the column of this name, or read that by another: "
            '"chosen_given": "chosen".',
        ),
    ],
)
def test_a_column_that_is_not_there_or_has_its_name_taken_is_refused_at_its_line(columns, text):
    row = {"instruction": "i", "a": {"text": "t", "n": 1}, "chosen": "c"}
    with pytest.raises(BadRow) as error:
        renamed(row, columns, "a.jsonl:2")
    assert str(error.value) == text


def test_what_the_last_of_these_advises_works():
    row = {"instruction": "i", "chosen": "c"}
    columns = {"chosen": "instruction", "chosen_given": "chosen"}
    assert renamed(row, columns, "") == {"chosen": "i", "chosen_given": "c"}


def test_the_form_of_rows_is_decided_by_the_names_that_they_are_read_by(write):
    records, report = load_records(write(*ROWS), Preference, columns=MAP)
    assert [(x.prompt, x.chosen, x.rejected) for x in records] == [
        ("p0", "c", "r"), ("p1", "c", "r"), ("p2", "c", "r")
    ]  # fmt: skip
    assert report.columns == ("prompt from instruction", "chosen from better",
                              "rejected from worse")  # fmt: skip
    assert report.ignored == ("answer",)
    assert "columns: prompt from instruction, chosen from better" in str(report)


def test_a_row_that_lacks_a_column_is_dropped_and_counted_like_other_bad_rows(write):
    source = write(*ROWS, {"instruction": "p3", "better": "c"})
    with pytest.raises(BadRow, match=r"^a.jsonl:4: expected the column worse, which data.columns"):
        load_records(source, Preference, columns=MAP)
    records, report = load_records(source, Preference, columns=MAP, on_bad_row="drop")
    assert (len(records), report.rows) == (3, 4)
    assert str(report.dropped) == "1 no column worse (a.jsonl:4)"


def test_a_map_that_does_not_fit_the_first_row_is_refused_and_not_dropped_with_every_row(write):
    with pytest.raises(BadInput, match=r"a.jsonl:1: expected the column output, .* as completion"):
        load_records(
            write(*ROWS), Demonstration, columns={"completion": "output"}, on_bad_row="drop"
        )


def test_rows_and_prompts_are_read_by_the_map_too(write):
    source = write(*ROWS)
    row, origin = next(read_rows(source, columns=MAP))
    assert (row["prompt"], row["answer"], origin) == ("p0", 0, "a.jsonl:1")
    prompts = load_prompts(
        source,
        Renderer(tokenizer=chatml_tokenizer()),
        ask=lambda prompt: prompt,
        max_length=128,
        columns={"prompt": "instruction", "solution": "answer"},
    )
    assert list(prompts.texts) == ["p0", "p1", "p2"]
    assert prompts.columns["solution"] == [0, 1, 2]
    (record, *_), _ = load_records(source, Prompt, columns={"prompt": "instruction"})
    assert record.prompt == "p0"


def test_names_are_described_with_those_of_the_source():
    assert list(described(["prompt", "label"], {"prompt": "q", "label": "label"})) == [
        "prompt from q", "label"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"prompt": 3}, "data.columns: prompt: expected the name of a column, as text; got 3."),
        ({"prompt": ""}, "data.columns: prompt: expected the name of a column, as text; got ''."),
        (
            {"chosen": "text", "rejected": "text"},
            "data.columns: rejected: expected another column for each name; got text, which is "
            "read as chosen too.",
        ),
    ],
)
def test_a_map_that_is_none_is_refused(columns, text):
    check(MAP)
    with pytest.raises(BadInput) as error:
        check(columns)
    assert str(error.value).startswith(text)


@pytest.mark.parametrize(
    ("words", "expected", "left"),
    [
        (["--seed", "3"], {"prompt": "q"}, ["--seed", "3"]),
        (["--data.columns.chosen", "better"], {"prompt": "q", "chosen": "better"}, []),
        (["--data.columns.a-b=x=y", "--seed", "3"], {"prompt": "q", "a_b": "x=y"}, ["--seed", "3"]),
        (["--data.columns.prompt", "instruction"], {"prompt": "instruction"}, []),
        (["--data.columns", "chosen", "better", "rejected", "worse", "--x"],
         {"chosen": "better", "rejected": "worse"}, ["--x"]),
        (["--data.columns"], {}, []),
        (["--data.columns", "--data.columns.chosen", "c"], {"chosen": "c"}, []),
    ],
)  # fmt: skip
def test_the_command_line_names_one_column_or_all(words, expected, left):
    assert given(words, {"prompt": "q"}) == (expected, left)


@pytest.mark.parametrize(
    "words", [["--data.columns", "chosen"], ["--data.columns.chosen"],
              ["--data.columns.chosen", "a", "b"]],
)  # fmt: skip
def test_a_name_on_the_command_line_without_one_column_is_refused(words):
    with pytest.raises(BadInput) as error:
        given(words, {})
    assert str(error.value).startswith(
        "command line: expected --data.columns.NAME COLUMN, or --data.columns NAME COLUMN NAME "
        f"COLUMN ...; got {' '.join(words)}.\n"
    )
