"""Folders of the hub's layout and patterns: all files of a split as one, and none missing."""

import gzip
import json
import os
import pathlib

import pyarrow
import pyarrow.parquet
import pytest

from alignax.core.errors import BadInput
from alignax.core.records import Prompt
from alignax.data.sources import content_hash, files_of, holds_split, load_records, read_rows


def write(path, *prompts):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"prompt": prompt} for prompt in prompts]
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(text) if path.suffix.lower() == ".gz" else text)


@pytest.fixture
def hub(tmp_path):
    """A downloaded repository: two parts of one split, one of the other."""
    folder = tmp_path / "hub"
    write(folder / "data" / "train-00001-of-00002.parquet", "c")
    write(folder / "data" / "train-00000-of-00002.parquet", "a", "b")
    write(folder / "data" / "test-00000-of-00001.parquet", "d")
    (folder / "README.md").write_text("x")
    return folder


def read(source, split="train"):
    return [(row["prompt"], origin) for row, origin in read_rows(str(source), split=split)]


def refused(source, split="train"):
    with pytest.raises(BadInput) as caught:
        read_rows(str(source), split=split)
    return str(caught.value)


def test_a_repository_of_the_hub_is_read_split_by_split_with_each_rows_own_file(hub):
    assert read(hub) == [
        ("a", "hub/data/train-00000-of-00002.parquet:1"),
        ("b", "hub/data/train-00000-of-00002.parquet:2"),
        ("c", "hub/data/train-00001-of-00002.parquet:1"),
    ]
    assert read(hub, "test") == [("d", "hub/data/test-00000-of-00001.parquet:1")]
    assert read(hub / "data")[2] == ("c", "data/train-00001-of-00002.parquet:1")
    assert [path.name[:11] for path in files_of(str(hub))] == ["train-00000", "train-00001"]


def test_the_report_says_how_many_files_there_were(hub):
    _, report = load_records(str(hub), Prompt)
    assert str(report).splitlines()[0] == (
        f"{hub} (train): prompt, plain text, explicit prompt; 2 files"
    )
    assert report.rows == 3
    _, report = load_records(str(hub), Prompt, split="test")
    assert report.form == "prompt, plain text, explicit prompt"


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (("train-00000-of-00002.jsonl.gz", "train-00001-of-00002.jsonl.gz"), "ab"),
        (("train-00000-of-00002-0123456789abcdef.jsonl", "train-00001-of-00002-f.jsonl"), None),
        (("train-00001-of-00002-0123456789abcdef.jsonl", "train-00000-of-00002-"
          "fedcba9876543210.jsonl"), "ba"),
        (("train-00001-of-00002.ndjson", "train-00002-of-00002.ndjson"), "ab"),  # from 1
        (tuple(f"train-{i}-of-11.jsonl" for i in range(11)), "abcdefghijk"),  # 10 after 9
    ],
)  # fmt: skip
def test_parts_are_in_the_order_of_their_numbers(names, order, tmp_path):
    for name, prompt in zip(names, "abcdefghijk", strict=False):
        write(tmp_path / name, prompt)
    if order is None:  # another name is no part
        assert "got 1, without train-00001-of-00002.jsonl" in refused(tmp_path)
    else:
        assert "".join(prompt for prompt, _ in read(tmp_path)) == order


def test_a_part_that_is_missing_is_named(hub):
    (hub / "data" / "train-00000-of-00002.parquet").unlink()
    told = (
        f"{hub / 'data'}: expected all 2 parts of train; got 1, without "
        "train-00000-of-00002.parquet.\n"
        "    Download or write what is missing, or give a pattern that leaves it out."
    )
    assert refused(hub) == refused(hub / "data" / "train-*") == told
    # Who asks for some of the parts alone need not have the others.
    assert read(hub / "data" / "train-00001*") == [("c", "data/train-00001-of-00002.parquet:1")]


def test_a_count_of_any_size_lists_few_of_the_parts_that_are_missing(tmp_path):
    write(tmp_path / f"train-0-of-{10**30}.jsonl", "a")
    assert refused(tmp_path).count(f"-of-{10**30}.jsonl") == 5


def test_two_files_of_one_part_are_not_chosen_between(tmp_path):
    names = [f"train-00000-of-00001-{digit * 16}.jsonl" for digit in "ab"]
    for name in names:
        write(tmp_path / name, "a")
    assert f"expected one file for each part of train; got {' and '.join(names)}." in refused(
        tmp_path
    )


def test_whole_files_and_parts_of_one_split_are_not_chosen_between(hub):
    write(hub / "data" / "train.jsonl", "e")
    told = refused(hub)
    assert "; got train-*-of-00002*.parquet, train.jsonl.\n" in told
    pattern = hub / "data" / "train-*-of-00002*.parquet"
    assert told.endswith(f"Name one of them: '{pattern}' or '{hub / 'data' / 'train.jsonl'}'.")
    assert [prompt for prompt, _ in read(pattern)] == ["a", "b", "c"]


def test_a_file_in_the_folder_itself_goes_before_those_in_data(hub):
    write(hub / "train.jsonl", "e")
    assert read(hub) == [("e", "hub/train.jsonl:1")]
    assert [prompt for prompt, _ in read(hub, "test")] == ["d"]


def test_a_pattern_reads_what_it_matches_in_the_order_of_names(tmp_path, monkeypatch):
    for name in ("b/2.jsonl", "a/10.jsonl", "a/1.parquet"):
        write(tmp_path / "parts" / name, name)
    assert read(tmp_path / "parts" / "*" / "*") == [
        (name, f"parts/{name}:1") for name in ("a/1.parquet", "a/10.jsonl", "b/2.jsonl")
    ]
    monkeypatch.chdir(tmp_path / "parts")
    assert read("**/[12].*", "whatever the split") == [
        (name, f"parts/{name}:1") for name in ("a/1.parquet", "b/2.jsonl")
    ]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    write(tmp_path / "a[1].jsonl", "a")
    write(tmp_path / "a1.jsonl", "b")
    assert read(tmp_path / "a[1].jsonl") == [("a", "a[1].jsonl:1")]


def test_a_pattern_that_matches_nothing_or_what_is_no_data_is_refused(hub):
    assert refused(hub / "data" / "valid*") == (
        f"{hub}/data/valid*: expected files that match the pattern; got none.\n"
        f"    {hub}/data holds test-00000-of-00001.parquet, train-00000-of-00002.parquet, "
        "train-00001-of-00002.parquet."
    )
    assert refused(hub / "gone" / "*").endswith(
        f"There is no folder {hub}/gone with anything in it."
    )
    assert "got README.md.\n    Match fewer files." in refused(hub / "*.md")


def test_a_split_that_a_repository_lacks_is_answered_with_its_files(hub):
    told = refused(hub, "validation")
    assert "or validation.parquet, or parts such as validation-00000-of-00002.parquet" in told
    assert told.endswith(
        "; got data/test-00000-of-00001.parquet, data/train-00000-of-00002.parquet, "
        "data/train-00001-of-00002.parquet.\n    Name another split, a file itself, or a pattern "
        f"such as '{hub}/data/*.parquet'."
    )


def test_configurations_in_folders_of_their_own_are_named(tmp_path):
    write(tmp_path / "main" / "train-00000-of-00001.parquet", "a")
    told = refused(tmp_path)
    assert told.endswith(
        f"; got no data files.\n    {tmp_path} holds main. Name a folder, or the files."
    )


@pytest.mark.parametrize(("note", "of_split"), [("state.json", ""), ("dataset_dict.json", '["x"]')])
def test_what_datasets_has_saved_is_told_how_to_become_parquet(note, of_split, tmp_path):
    for name in (note, "dataset_info.json"):
        (tmp_path / name).write_text("{}")
    assert refused(tmp_path, "x") == (
        f"{tmp_path}: expected JSON lines or Parquet; got a folder that save_to_disk of datasets "
        f'has written.\n    Write it as Parquet: datasets.load_from_disk("{tmp_path}"){of_split}'
        '.to_parquet("x.parquet"). In Python, Data takes what load_from_disk gives.'
    )


def test_notes_of_datasets_are_no_candidates(tmp_path):
    (tmp_path / "dataset_infos.json").write_text("{}")
    write(tmp_path / "test.jsonl", "a")
    assert "; got test.jsonl.\n" in refused(tmp_path)


def test_suffixes_may_be_in_capitals_and_ndjson_is_lines(tmp_path):
    for name in ("a.JSONL", "b.NdJson", "c.ndjson.gz", "d.JSONL.GZ"):
        write(tmp_path / name, "a")
        assert read(tmp_path / name) == [("a", f"{name}:1")]


def test_the_hash_follows_the_bytes_the_names_and_the_borders_of_all_files(tmp_path):
    first, second = (tmp_path / f"train-0000{i}-of-00002.jsonl" for i in (0, 1))
    pattern = str(tmp_path / "train-*")
    found = []
    for parts in ((("a", "b"), ("c",)), (("a", "b"), ("d",)), (("a",), ("b", "d"))):
        write(first, *parts[0])
        write(second, *parts[1])
        assert content_hash(str(tmp_path)) == content_hash(pattern)
        found.append(content_hash(pattern))
    for path in (first, second):
        path.rename(str(path).replace("train", "train-x"))
    found.append(content_hash(pattern))
    assert len(set(found)) == 4


def test_the_hash_of_a_single_file_is_of_its_name_and_bytes_alone(tmp_path):
    """So what earlier versions prepared of it is found."""
    (tmp_path / "a.jsonl").write_bytes(b"{}\n")
    # printf 'a.jsonl{}\n' | sha256sum
    known = "29c155aacdd635d442f7c599a23957ba3b457c91da3bdc10650c2884f2f33f4e"
    assert content_hash(str(tmp_path / "a.jsonl")) == known


def test_one_file_is_open_at_a_time(hub, monkeypatch):
    opened, real = [], pyarrow.parquet.ParquetFile
    monkeypatch.setattr(
        pyarrow.parquet, "ParquetFile", lambda path: opened.append(path.name[:11]) or real(path)
    )
    rows = read_rows(str(hub))
    seen = [(next(rows)[0]["prompt"], list(opened)) for _ in range(3)]
    assert seen == [
        ("a", ["train-00000"]),
        ("b", ["train-00000"]),
        ("c", ["train-00000", "train-00001"]),
    ]


def test_a_broken_line_is_told_with_its_own_file(tmp_path):
    write(tmp_path / "train-0-of-2.jsonl", "a")
    (tmp_path / "train-1-of-2.jsonl").write_text('{"prompt": "a"}\n{\n')
    where = f"{tmp_path.name}/train-1-of-2.jsonl:2"
    with pytest.raises(BadInput, match=f"^{where}: expected a JSON object"):
        load_records(str(tmp_path), Prompt)


def test_whether_a_folder_has_a_split(hub, tmp_path):
    assert holds_split(str(hub), "test")
    assert holds_split(str(hub / "data"), "train")
    assert not holds_split(str(hub), "tes")
    assert not holds_split(str(hub / "README.md"), "test")
    (tmp_path / "test.csv").write_text("a\n")  # which is then refused in words
    assert holds_split(str(tmp_path), "test")


def test_a_folder_that_may_not_be_listed_is_told_so(tmp_path, monkeypatch):
    def denied(_):
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(pathlib.Path, "iterdir", denied)
    assert "expected a file that can be read; got Permission denied." in refused(tmp_path)
