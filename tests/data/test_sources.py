"""Files and named data sets to rows with a place, and what every broken source is told."""

import dataclasses
import gzip
import json
import sys
import types

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds

from alignax.core.errors import BadInput
from alignax.core.records import Demonstration, Preference, Prompt
from alignax.data import catalogues
from alignax.data.sources import Report, content_hash, load_records, read_rows

ROWS = [{"prompt": f"p{i}", "chosen": "c", "rejected": "r"} for i in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def write(path, content=LINES):
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content.encode()))
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    else:
        path.write_text(json.dumps(ROWS) if path.suffix == ".json" else content)
    return str(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.parquet"])
def test_every_kind_of_file_gives_the_same_rows_with_their_places(tmp_path, name):
    rows = list(read_rows(write(tmp_path / name)))
    assert rows == [(row, f"{name}:{i}") for i, row in enumerate(ROWS, start=1)]


def test_a_folder_is_read_by_split_and_named_in_origins(tmp_path):
    folder = tmp_path / "pairs"
    folder.mkdir()
    write(folder / "train.jsonl")
    write(folder / "test.parquet")
    assert next(read_rows(str(folder)))[1] == "pairs/train.jsonl:1"
    assert next(read_rows(str(folder), split="test"))[1] == "pairs/test.parquet:1"


def test_blank_lines_are_passed_over_and_still_counted(tmp_path):
    source = write(tmp_path / "a.jsonl", '{"a": 1}\n\n{"a": 2}\n')
    assert [origin for _, origin in read_rows(source)] == ["a.jsonl:1", "a.jsonl:3"]


def test_conversations_in_parquet_are_lists_of_messages(tmp_path):
    row = {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    (record,), _ = load_records(str(tmp_path / "a.parquet"), Demonstration)
    assert record.response[0].content == "A"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": }\n', r"a.jsonl:2: expected a JSON object; got broken JSON at "
         r"column 7 \(Expecting value\)"),
        ("a.jsonl", "[1]\n", "a.jsonl:1: expected a JSON object; got list"),
        ("a.jsonl.gz", '{"a": 1}\n{', "a.jsonl.gz:2: .*broken JSON at column 2"),
        # Cut short, and a line goes on below it: not "column 1" of an empty line of its own.
        ("a.jsonl", '{"a": 1,\n{"a": 2}\n', "a.jsonl:1: .*broken JSON at column 9"),
    ],
)  # fmt: skip
def test_broken_json_is_told_with_line_and_column(tmp_path, name, content, message):
    with pytest.raises(BadInput, match=message):
        list(read_rows(write(tmp_path / name, content)))


def test_broken_json_lists_are_told_with_line_and_column(tmp_path):
    (tmp_path / "a.json").write_text('[{"a": 1},\n {"a" 2}]')
    with pytest.raises(BadInput, match=r"a.json:2: .*column 7"):
        list(read_rows(str(tmp_path / "a.json")))
    (tmp_path / "a.json").write_text('{"a": 1}')
    with pytest.raises(BadInput, match=r"a list of objects; got a JSON dict.\n.*\.jsonl"):
        list(read_rows(str(tmp_path / "a.json")))


def test_bytes_that_are_not_utf8_are_told_with_their_place(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(BadInput, match=r"a.jsonl:1: .* not UTF-8 at byte 8"):
        list(read_rows(str(tmp_path / "a.jsonl")))


def test_a_truncated_gzip_is_told_with_the_line_it_breaks_at(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(LINES.encode())[:-12])
    with pytest.raises(BadInput, match=r"a.jsonl.gz:\d: expected a whole gzip file"):
        list(read_rows(str(path)))


def test_what_is_no_parquet_is_refused(tmp_path):
    (tmp_path / "a.parquet").write_text("no")
    with pytest.raises(BadInput, match=r"a.parquet: expected a Parquet file"):
        list(read_rows(str(tmp_path / "a.parquet")))


def test_an_unknown_suffix_is_answered_with_the_known_ones(tmp_path):
    (tmp_path / "a.csv").write_text("a,b")
    with pytest.raises(BadInput, match=r"ending in .jsonl.gz, .jsonl, .*, .parquet; got a.csv"):
        read_rows(str(tmp_path / "a.csv"))


def test_a_missing_file_is_answered_with_the_nearest_names(tmp_path):
    write(tmp_path / "pairs.jsonl")
    with pytest.raises(BadInput, match=r"nothing there.\n    Nearest in .*: pairs.jsonl"):
        read_rows(str(tmp_path / "pair.jsonl"))


def test_what_is_named_beside_a_missing_file_is_not_hidden(tmp_path):
    write(tmp_path / ".pair.jsonl.swp")
    write(tmp_path / "zzz.jsonl")
    with pytest.raises(BadInput, match=r"nothing there.\n    Nearest in .*: zzz.jsonl\.$"):
        read_rows(str(tmp_path / "pair.jsonl"))


def test_a_missing_split_is_answered_with_what_is_there(tmp_path):
    write(tmp_path / "test.jsonl")
    with pytest.raises(BadInput, match=r"the split train: train.jsonl.gz or .*; got test.jsonl"):
        read_rows(str(tmp_path))


def test_two_files_of_one_split_are_not_chosen_between(tmp_path):
    write(tmp_path / "train.jsonl")
    write(tmp_path / "train.parquet")
    with pytest.raises(BadInput, match=r"got train.jsonl, train.parquet.\n    Name one of"):
        read_rows(str(tmp_path))


def test_a_bad_row_stops_the_reading_unless_it_may_be_dropped(tmp_path):
    bad = json.dumps({"prompt": "p", "chosen": "", "rejected": "r", "note": 1})
    source = write(tmp_path / "a.jsonl", LINES + bad + "\n" + LINES)
    with pytest.raises(BadInput, match=r"a.jsonl:4: expected text in chosen; got an empty string"):
        load_records(source, Preference)
    records, report = load_records(source, Preference, on_bad_row="drop")
    assert (len(records), report.rows, report.repeated_prompts) == (6, 7, 3)
    assert str(report.dropped) == "1 empty field (a.jsonl:4)"
    assert "preference, plain text, explicit prompt" in str(report)


def test_broken_json_is_raised_even_where_rows_may_be_dropped(tmp_path):
    source = write(tmp_path / "a.jsonl", LINES + "{\n")
    with pytest.raises(BadInput, match=r"a.jsonl:4: expected a JSON object"):
        load_records(source, Preference, on_bad_row="drop")


def test_a_source_without_a_usable_row_is_refused(tmp_path):
    with pytest.raises(BadInput, match="at least one usable row; got no rows"):
        load_records(write(tmp_path / "a.jsonl", ""), Preference)
    source = write(tmp_path / "b.jsonl", '{"chosen": "", "rejected": ""}\n')
    with pytest.raises(BadInput, match=r"got 1 rows, dropped: 1 empty field \(b.jsonl:1\)"):
        load_records(source, Preference, on_bad_row="drop")


def test_a_limit_bounds_the_rows_read(tmp_path):
    records, report = load_records(write(tmp_path / "a.jsonl"), Preference, limit=2)
    assert (len(records), report.rows) == (2, 2)


def test_columns_that_are_not_read_are_reported(tmp_path):
    source = write(tmp_path / "a.jsonl", '{"prompt": "p", "completion": "c", "id": 1}\n')
    _, report = load_records(source, Demonstration)
    assert report.ignored == ("id",)
    assert "columns: prompt, completion; ignored: id\n" in str(report)


def test_columns_that_rewards_are_given_are_not_said_to_be_ignored(tmp_path):
    source = write(tmp_path / "a.jsonl", '{"prompt": "p", "answer": "4", "id": 1}\n')
    _, report = load_records(source, Prompt)
    told = report.described("for rewards", {"answer", "prompt"})
    assert "columns: prompt; for rewards: answer; ignored: id\n" in told


def test_a_row_without_a_column_is_dropped_where_bad_rows_may_be(tmp_path):
    lacks = '{"prompt": "p", "chosen": "c"}\n'
    source = write(tmp_path / "a.jsonl", LINES + lacks)
    records, report = load_records(source, Preference, on_bad_row="drop")
    assert len(records) == 3
    assert str(report.dropped) == "1 missing column rejected (a.jsonl:4)"


def test_keys_of_messages_that_are_not_read_are_reported(tmp_path):
    turns = [{"role": "user", "content": "Q", "name": "Bo"}, {"role": "assistant", "content": "A"}]
    source = write(tmp_path / "a.jsonl", json.dumps({"messages": turns, "id": 1}) + "\n")
    _, report = load_records(source, Demonstration)
    assert report.ignored == ("id", "messages[].name")


def test_rows_that_may_not_be_meant_as_they_are_used_are_noted(tmp_path):
    rows = [
        {"prompt": "Rain?", "chosen": "Rain? Water.", "rejected": "Rain? Milk."},
        {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": " A", "rejected": " B"},
        {"prompt": "Rain?", "chosen": "Rain? Water.", "rejected": "Milk."},
    ]
    source = write(tmp_path / "a.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
    records, report = load_records(source, Preference, chat=True)
    assert len(records) == 3
    assert (
        "  noted: 1 whose responses repeat the prompt, which is then learnt: take it off them "
        "(a.jsonl:1); 1 with a dialogue of Human and Assistant as prompt, read as turns "
        "(a.jsonl:2)"
    ) in str(report)
    assert "noted" not in str(load_records(write(tmp_path / "b.jsonl"), Preference)[1])


def test_a_report_survives_json(tmp_path):
    _, report = load_records(write(tmp_path / "a.jsonl"), Preference)
    assert Report.from_json(json.loads(json.dumps(dataclasses.asdict(report)))) == report


def test_the_hash_follows_the_bytes_of_a_file(tmp_path):
    source = write(tmp_path / "a.jsonl")
    before = content_hash(source)
    assert before == content_hash(source)
    write(tmp_path / "a.jsonl", LINES + LINES)
    assert before != content_hash(source)


def test_the_hub_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    for source in ("hf:owner/name", "owner/name"):
        with pytest.raises(BadInput, match=r"pip install -e '\.\[hub\]' in the clone"):
            list(read_rows(source))


def test_the_hub_is_read_through_datasets(monkeypatch):
    asked = []

    def load_dataset(*names, split):
        asked.append((*names, split))
        if split != "train":
            raise ValueError(f'Unknown split "{split}".')
        return ROWS

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert next(read_rows("owner/name")) == (ROWS[0], "hf:owner/name:1")
    assert len(list(read_rows("hf:owner/name/main"))) == 3
    assert asked == [("owner/name", "train"), ("owner/name", "main", "train")]
    with pytest.raises(BadInput, match=r'hf:owner/name: .*split test; got Unknown split "test"'):
        list(read_rows("owner/name", split="test"))


class TinyChats(tfds.core.GeneratorBasedBuilder):
    """A data set of TFDS with one conversation."""

    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        turns = tfds.features.Sequence(
            {"role": tfds.features.Text(), "content": tfds.features.Text()}
        )
        features = tfds.features.FeaturesDict(
            {"messages": turns, "id": tfds.features.Scalar(np.int32)}
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        turns = [{"role": "user", "content": "Ä?"}, {"role": "assistant", "content": "A"}]
        yield 0, {"messages": turns, "id": 7}


@pytest.fixture
def tfds_home(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))


def test_tfds_is_read_without_tensorflow_and_without_noise(tfds_home, capfd):
    ((row, origin),) = read_rows("tfds:tiny_chats")
    turns = [{"role": "user", "content": "Ä?"}, {"role": "assistant", "content": "A"}]
    assert (row, origin) == ({"messages": turns, "id": 7}, "tfds:tiny_chats:1")
    assert "tensorflow" not in sys.modules
    assert capfd.readouterr() == ("", "")
    (record,), _ = load_records("tfds:tiny_chats", Demonstration)
    assert record.prompt[0].content == "Ä?"


def test_an_unknown_split_of_tfds_is_answered_with_the_known_ones(tfds_home):
    with pytest.raises(BadInput, match="one of the splits train; got test"):
        list(read_rows("tfds:tiny_chats", split="test"))


def test_an_unknown_name_of_tfds_is_refused(tfds_home):
    with pytest.raises(BadInput, match="a data set of TensorFlow Datasets; got no_such_thing"):
        list(read_rows("tfds:no_such_thing"))


def test_quiet_tfds_leaves_the_progress_bars_as_they_were():
    from tensorflow_datasets.core.utils import tqdm_utils

    tfds.enable_progress_bar()
    with catalogues.quiet_tfds():
        assert not tqdm_utils._active
    assert tqdm_utils._active
