"""Compressed files of rows take memory in proportion to their size."""

import gzip
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from alignax.core.errors import BadInput
from alignax.core.records import Preference
from alignax.data import row_files
from alignax.data.sources import load_records, read_rows

PAIR = {"prompt": "Is 2 a number?", "chosen": "yes", "rejected": "no"}


def test_a_little_gzip_file_is_not_let_grow_to_a_line_of_any_length(tmp_path, monkeypatch):
    monkeypatch.setattr(row_files, "LONGEST_LINE", 2**20)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b"\0" * (2**20 + 1)))
    with pytest.raises(BadInput, match="expected rows of at most 1 MiB, each on a line of its own"):
        load_records(str(tmp_path / "rows.jsonl.gz"), Preference)


TOO_MUCH = (
    "expected a compressed file that holds at most 1 MiB, or 100 times its own size; got more than "
    "that in {} bytes.\n    If you know what is in it, {}."
)


@pytest.fixture
def little(monkeypatch):
    """What a compressed file may hold, small enough for a test; the ratio stays."""
    monkeypatch.setattr(row_files, "EXPANDED", 2**20)


def test_a_little_gzip_file_is_not_let_grow_to_any_number_of_lines(tmp_path, little):
    line = json.dumps(PAIR | {"prompt": "x" * 1000}) + "\n"  # which packs to some ten bytes
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(line.encode() * 2000))
    with pytest.raises(BadInput) as caught:
        load_records(str(path), Preference)
    instead = "decompress it yourself, and give the .jsonl"
    told = TOO_MUCH.format(f"{path.stat().st_size:,}", instead)
    last = 2**20 // len(line) + 1
    assert str(caught.value) == f"rows.jsonl.gz:{last}: {told}"


def test_a_gzip_file_may_hold_a_hundred_times_its_own_size(tmp_path, monkeypatch):
    monkeypatch.setattr(row_files, "EXPANDED", 0)
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(PAIR) + "\n").encode() * 20))
    assert len(list(read_rows(str(path)))) == 20


def write_parquet(path, column, **options):
    table = pyarrow.table({"prompt": column})
    pyarrow.parquet.write_table(table, path, compression="zstd", **options)
    return path


@pytest.mark.parametrize("categories", [True, False])
def test_a_long_text_that_a_parquet_file_names_again_and_again_is_not_written_out(
    categories, tmp_path, little
):
    """400 rows of the same 100,000 letters: 40 MB in half a kilobyte, in batches of 16 rows."""
    rows = pyarrow.DictionaryArray.from_arrays(np.zeros(400, np.int32), ["x" * 100_000])
    path = write_parquet(tmp_path / "rows.parquet", rows if categories else rows.cast("string"))
    with pytest.raises(BadInput) as caught:
        load_records(str(path), Preference)
    instead = "write its rows as .jsonl yourself, and give that"
    told = TOO_MUCH.format(f"{path.stat().st_size:,}", instead)
    assert str(caught.value) == f"rows.parquet:1: {told}"


def test_more_than_a_parquet_file_may_hold_is_refused_before_any_of_it_is_read(tmp_path, little):
    """Twenty rows of the same 100,000 letters, each written out and then packed."""
    rows = pyarrow.array(["x" * 100_000] * 20)
    path = write_parquet(tmp_path / "rows.parquet", rows, use_dictionary=False)
    with pytest.raises(BadInput, match=r"^rows\.parquet: expected a compressed file that holds"):
        load_records(str(path), Preference)


def test_categories_within_the_lists_of_a_parquet_file_are_refused(tmp_path):
    words = pyarrow.DictionaryArray.from_arrays(np.zeros(2, np.int32), ["x"])
    path = write_parquet(tmp_path / "rows.parquet", pyarrow.ListArray.from_arrays([0, 2], words))
    with pytest.raises(BadInput, match=r"lists and structures hold plain values; got categories"):
        load_records(str(path), Preference)
