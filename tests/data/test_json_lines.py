"""A file of rows is there whole or not at all, and one process writes it."""

import contextlib
import json

import pytest

from alignax import BadInput
from alignax.data.json_lines import check_json, read, written

ROWS = [{"text": "one"}, {"text": "zwölf"}]


def left_by_a_failure(target, key):
    with contextlib.suppress(KeyboardInterrupt), written(target, key) as lines:
        lines.write(ROWS[0])
        raise KeyboardInterrupt


def test_a_file_has_its_name_once_all_rows_are_in_it(tmp_path):
    target = tmp_path / "rows.jsonl"
    with written(target) as lines:
        lines.write(ROWS[0])
        assert not target.exists()
        lines.write(ROWS[1])
    assert [json.loads(line) for line in target.read_text().splitlines()] == ROWS
    assert list(tmp_path.iterdir()) == [target]


def test_who_stops_the_work_is_told_what_is_kept(tmp_path):
    target = tmp_path / "rows.jsonl"

    def told(key, rows):
        stopped = KeyboardInterrupt()
        with contextlib.suppress(KeyboardInterrupt), written(target, key) as lines:
            for row in rows:
                lines.write(row)
            raise stopped
        return getattr(stopped, "__notes__", [])

    assert told("a", []) == []
    said = "rows of {} are kept: the same command goes on behind them"
    assert told("a", ROWS) == [f"2 {said.format(target)}"]
    assert told("a", ROWS[:1]) == [f"3 {said.format(target)}"]
    assert told(None, ROWS) == []  # nothing is kept of work without a key


def test_work_of_the_same_key_goes_on_behind_what_is_there(tmp_path):
    target = tmp_path / "rows.jsonl"
    left_by_a_failure(target, "a")
    (draft,) = tmp_path.iterdir()
    draft.write_bytes(draft.read_bytes() + b'{"text": "cut sho')
    with written(target, "a") as lines:
        assert lines.there == 1
        lines.write(ROWS[1])
    assert [json.loads(line) for line in target.read_text().splitlines()] == ROWS


@pytest.mark.parametrize("key", ["b", None])
def test_what_work_of_another_key_has_left_is_deleted(tmp_path, key):
    target = tmp_path / "rows.jsonl"
    left_by_a_failure(target, "a")
    with written(target, key) as lines:
        assert lines.there == 0
        (said,) = lines.remarks(target)
    assert said == (
        f"[yellow]begun anew[/]: 1 rows of {target} were there, made from other settings, data or "
        "code"
    )
    assert list(tmp_path.iterdir()) == [target]


def test_rows_that_are_left_out_are_known_to_later_work_and_are_not_in_the_file(tmp_path):
    target = tmp_path / "rows.jsonl"
    with contextlib.suppress(KeyboardInterrupt), written(target, "a") as lines:
        lines.leave_out("no number")
        lines.write(ROWS[0])
        raise KeyboardInterrupt
    with written(target, "a") as lines:
        assert (lines.there, lines.left_out, lines.remarks(target)) == (2, {0: "no number"}, [])
        lines.write({"text": '"in quotes"'})
        lines.leave_out("no number")
    assert read(target) == [ROWS[0], {"text": '"in quotes"'}]
    assert list(tmp_path.iterdir()) == [target]


def test_what_is_forgotten_is_not_there_for_later_work(tmp_path):
    with contextlib.suppress(ValueError), written(tmp_path / "rows.jsonl", "a") as lines:
        lines.leave_out("no number")
        lines.forget()
        raise ValueError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["a", "b", None])
def test_a_file_that_another_writes_is_refused_and_nothing_of_it_is_lost(tmp_path, key):
    target = tmp_path / "rows.jsonl"
    with written(target, "a") as lines:
        lines.write(ROWS[0])
        with pytest.raises(BadInput, match="one that is being written"), written(target, key):
            pass
        lines.write(ROWS[1])
    assert [json.loads(line) for line in target.read_text().splitlines()] == ROWS


def test_a_draft_that_got_its_name_while_another_waited_for_it_is_not_gone_on_with(
    tmp_path, monkeypatch
):
    target = tmp_path / "rows.jsonl"
    left_by_a_failure(target, "a")
    (draft,) = tmp_path.iterdir()
    monkeypatch.setattr(
        "alignax.data.json_lines.fcntl.flock", lambda *arguments: draft.replace(target)
    )
    with pytest.raises(BadInput, match="one that is being written"), written(target, "a"):
        pass
    assert json.loads(target.read_text()) == ROWS[0]


def test_a_file_that_is_there_is_not_written_again(tmp_path):
    target = tmp_path / "rows.jsonl"
    target.write_text("mine")
    with pytest.raises(BadInput, match="a file that is not there yet"), written(target):
        pass
    assert target.read_text() == "mine"


def test_a_value_that_json_cannot_hold_is_named_before_the_work():
    with pytest.raises(BadInput, match="when, a object"):
        check_json({"text": "a", "when": object()}, "rows.parquet, row 3")


def test_what_is_left_of_a_longer_name_is_left_alone(tmp_path):
    left_by_a_failure(tmp_path / "rows.jsonl", "a")
    with written(tmp_path / "rows", "a") as lines:
        assert lines.there == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [".rows.jsonl.a.tmp", "rows"]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_json_does_not_have_is_refused(number):
    with pytest.raises(BadInput, match="value, a float"):
        check_json({"value": number}, "rows.parquet:3")


ENDS = "\u2028\u2029\x85\x1c\x0b\x0c"  # where Python ends lines, and JSON does not


def test_ends_of_lines_within_a_text_are_not_the_ends_of_rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    with written(path) as lines:
        lines.write({"text": f"a{ENDS}b"})
        lines.write({"text": "c"})
    assert read(path) == [{"text": f"a{ENDS}b"}, {"text": "c"}]
