"""Rows in memory: what is written of them, and what JSON cannot hold."""

import collections
import datetime
import json
import logging
import pathlib

import numpy as np
import pytest

from alignax.core.errors import BadInput
from alignax.core.records import Message, Preference
from alignax.data import in_memory
from alignax.data.in_memory import LINES, as_source, is_written
from alignax.data.sources import load_records, read_rows

ROWS = [{"prompt": f"p{i}", "chosen": "c", "rejected": "r"} for i in range(3)]


class Index(list):
    @property
    def is_unique(self):
        return len({*self}) == len(self)


class Frame:
    """As a DataFrame of pandas is asked for its rows."""

    def __init__(self, rows):
        self.rows = rows
        self.columns = Index(name for row in rows[:1] for name in row)

    def __iter__(self):
        return iter(self.rows[0])  # the names of its columns

    def iterrows(self):
        raise NotImplementedError

    def to_dict(self, orient):
        assert orient == "records"
        return self.rows


class Dataset:
    """As a Dataset of `datasets`: it has rows, and a `to_dict` of another kind."""

    def __iter__(self):
        return iter(ROWS)

    def to_dict(self, batch_size=None):
        raise AssertionError


NAType = type("NAType", (), {})  # of pandas


def written(rows, folder):
    """The rows of the file, as JSON has them."""
    path = pathlib.Path(as_source(rows, str(folder), "data.train"))
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def refused(rows, folder):
    with pytest.raises(BadInput) as error:
        as_source(rows, str(folder), "data.train")
    return str(error.value)


@pytest.mark.parametrize(
    "rows",
    [ROWS, tuple(ROWS), (row for row in ROWS), Dataset(), Frame(ROWS),
     [collections.OrderedDict(row) for row in ROWS]],
    ids=["list", "tuple", "generator", "Dataset", "DataFrame", "mappings"],
)  # fmt: skip
def test_the_same_rows_are_one_file_whatever_holds_them(rows, tmp_path):
    source = as_source(rows, str(tmp_path), "data.train")
    assert source == as_source(ROWS, str(tmp_path), "data.eval")
    assert [path.name for path in tmp_path.iterdir()] == [pathlib.Path(source).name]
    assert is_written(source)
    found = list(read_rows(source))
    assert found == [(row, f"{pathlib.Path(source).name}:{n}") for n, row in enumerate(ROWS, 1)]


def test_other_rows_or_another_order_are_another_file(tmp_path):
    files = {as_source(rows, str(tmp_path), "") for rows in (ROWS, ROWS[::-1], ROWS[:2])}
    assert len(files) == 3


def test_a_file_that_was_edited_is_written_again(tmp_path):
    path = pathlib.Path(as_source(ROWS, str(tmp_path), ""))
    content = path.read_text()
    path.write_text(content.replace("p1", "p9"))
    as_source(ROWS, str(tmp_path), "")
    assert path.read_text() == content


@pytest.mark.parametrize("source", ["train.jsonl", None, pathlib.Path("x"), 3])
def test_what_are_no_rows_is_given_back(source, tmp_path):
    assert as_source(source, str(tmp_path), "") is source
    assert not is_written("train.jsonl")


def test_values_of_other_libraries_become_what_json_has(tmp_path):
    row = {
        "array": np.arange(4).reshape(2, 2), "number": np.float32(0.5), "count": np.int64(3),
        "yes": np.bool_(True), "bytes": "ä".encode(), "tuple": (1, 2.5, None), "line": "a\u2028\nb",
        "word": np.str_("w"), "messages": [Message("user", "hi")], "empty": [],
        "objects": np.array([{"a": np.int8(1)}], object), "buffer": bytearray(b"c"),
    }  # fmt: skip
    assert written([row], tmp_path) == [{
        "array": [[0, 1], [2, 3]], "number": 0.5, "count": 3, "yes": True, "bytes": "ä",
        "tuple": [1, 2.5, None], "line": "a\u2028\nb", "word": "w",
        "messages": [{"role": "user", "content": "hi"}], "empty": [], "objects": [{"a": 1}],
        "buffer": "c",
    }]  # fmt: skip


def test_what_is_missing_in_a_dataframe_is_null_and_counted(tmp_path, caplog):
    nan, absent = float("nan"), NAType()
    rows = [{"a": nan, "b": absent, "c": 1.0}, {"a": np.float32(1), "b": "x", "c": 2.0},
            {"a": np.float32("nan"), "b": None, "c": 3.0}]  # fmt: skip
    with caplog.at_level(logging.WARNING):
        found = written(Frame(rows), tmp_path)
    assert [(row["a"], row["b"]) for row in found] == [(None, None), (1.0, "x"), (None, None)]
    assert caplog.messages == [
        "data.train: what is missing in the DataFrame is null: a 2, b 1"
    ]  # that of None was null before


BEFORE = "data.train: row 2, counted from 1: expected columns that JSON can hold; got when, "
AFTER = ".\n    Leave the column out, or make text, numbers or null of it."


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (datetime.date(2026, 1, 2), "a date: Object of type date is not JSON serializable"),
        (float("nan"), "a float: Out of range float values are not JSON compliant"),
        ([1.0, float("inf")], "a list: Out of range float values are not JSON compliant"),
        (b"\xff", "a bytes: 'utf-8' codec can't decode byte 0xff in position 0: invalid start "
         "byte"),
        ("\ud800", "a str: 'utf-8' codec can't encode character"),
        ({1: "a"}, "a dict: the key 1 is no text"),
        ({"a", "b"}, "a set: Object of type set is not JSON serializable"),
    ],
)  # fmt: skip
def test_what_json_cannot_hold_is_refused_with_its_row_and_column(value, said, tmp_path):
    text = refused([{"when": "x", "n": 1}, {"n": 1, "when": value}], tmp_path)
    assert text.startswith(BEFORE + said)
    assert text.endswith(AFTER)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "data.train: expected at least one row; got none."),
        (iter(()), "data.train: expected at least one row; got none."),
        (["a.jsonl", "b.jsonl"], "data.train: row 1, counted from 1: expected a mapping from "
         "columns to values; got 'a.jsonl' (str).\n    Give rows as dicts; several files as one "
         "pattern of paths;"),
        (b"a.jsonl", "data.train: row 1, counted from 1: expected a mapping from columns to "
         "values; got '97' (int)."),
        ({"train": ROWS, "test": ROWS}, "data.train: expected rows, each a mapping from columns to "
         'values; got one dict of train, test.\n    Of splits give one, such as data["train"];'),
    ],
)  # fmt: skip
def test_what_is_iterable_and_no_rows_is_refused(rows, said, tmp_path):
    assert refused(rows, tmp_path).startswith(said)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert refused(ROWS, tmp_path / "file").startswith(
        f"{tmp_path}/file: expected a folder to write rows to; got "
    )
    assert refused(ROWS, "gs://bucket/cache").startswith(
        "data.cache_dir: expected a folder to write rows to; got 'gs://bucket/cache'."
    )


def test_a_bad_row_has_its_file_and_line_and_is_told_to_be_a_row_of_those_given(tmp_path):
    source = as_source([ROWS[0], ROWS[1] | {"chosen": ""}], str(tmp_path), "data.train")
    with pytest.raises(BadInput) as error:
        load_records(source, Preference)
    assert str(error.value) == (
        f"{pathlib.Path(source).name}:2: expected text in chosen; got an empty string.\n"
        "    Fill it, remove the row, or set on_bad_row='drop'. "
        "Line n is row n of the rows that were given, counted from 1."
    )
    _, report = load_records(source, Preference, on_bad_row="drop")
    assert report.form.endswith("; line n is row n of those given")


def test_each_border_that_an_error_passes_may_say_so_and_it_is_said_once():
    def fail(where):
        raise BadInput("rows", "none", "Mend it.", where=where)

    read = in_memory.told(in_memory.told(fail))
    for where, said in (("rows-0123456789abcdef.jsonl:3", f"Mend it. {LINES}"),
                        ("rows.jsonl:3", "Mend it."), (None, "Mend it.")):  # fmt: skip
        with pytest.raises(BadInput) as error:
            read(where)
        assert error.value.remedy == said
        assert str(error.value).endswith(f"\n    {said}")


def test_two_columns_of_one_name_are_refused(tmp_path):
    frame = Frame([{"prompt": "p", "x": 1}])
    frame.columns.append("x")
    with pytest.raises(BadInput, match=r"columns of different names; got prompt, x, x"):
        as_source(frame, str(tmp_path), "data.train")


@pytest.mark.parametrize("folder", ["", " ", "gs://bucket"])
def test_rows_are_not_written_to_what_is_no_folder(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="a folder to write rows to"):
        as_source([{"prompt": "p"}], folder, "data.train")
    assert not list(tmp_path.iterdir())
