"""Rows of files: JSON lines, plain or in gzip, a JSON list, Parquet.

Each row comes with its origin, `LABEL:number`. What a file takes of memory is in proportion to its
size: one that is compressed is read no further than `EXPANDED` or `RATIO` allow.
"""

import contextlib
import gzip
import itertools
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alignax.core.errors import BadInput
from alignax.data.catalogues import Row

LONGEST_LINE = 64 * 2**20  # bytes, as they are after gzip
# What a compressed file may hold: so many bytes, or so many times its own, whichever is more. Text
# packs to a tenth, where a long prompt is repeated to a fiftieth, and a bomb to a thousandth.
EXPANDED = 64 * 2**20
RATIO = 100
_BATCH = 16  # rows of Parquet at once, for in a dictionary of values a row may be of any size


@contextlib.contextmanager
def readable(where: str) -> Iterator[None]:
    """Says in words that the file system refuses a path, or does not know whose home it is in."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise BadInput(
            "a file that can be read",
            str(getattr(error, "strerror", None) or error).rstrip("."),
            "Check its name, and that you may read it and the folders above it.",
            where=where,
        ) from error


def json_lines(path: Path, label: str) -> Iterator[tuple[Row, str]]:
    """One JSON object a line; in gzip where the file's name says so.

    Raises:
        BadInput: a broken file; a line, or what is packed, that is too long.
    """
    number = held = 0
    with readable(label):
        most, file = _most(path), path.open("rb")
    with file as raw, gzip.open(raw) if path.suffix.lower() == ".gz" else raw as lines:
        while True:
            number += 1
            origin = f"{label}:{number}"
            try:
                line = lines.readline(LONGEST_LINE + 1)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise BadInput(
                    "a whole gzip file",
                    f"one that breaks off here ({error})",
                    "Copy or download the file again.",
                    where=origin,
                ) from error
            except OSError as error:
                raise BadInput(
                    "a file that can be read",
                    str(error.strerror or error),
                    "Copy or download the file again.",
                    where=origin,
                ) from error
            if not line:
                return
            if len(line) > LONGEST_LINE:
                raise BadInput(
                    f"rows of at most {LONGEST_LINE >> 20} MiB, each on a line of its own",
                    "a longer line",
                    "Write one JSON object a line.",
                    where=origin,
                )
            held += len(line)
            if lines is not raw and held > most:
                raise _too_much(path, "decompress it yourself, and give the .jsonl", origin)
            if line.strip():
                yield _json_object(line, origin), origin


def json_list(path: Path, label: str) -> Iterator[tuple[Row, str]]:
    """A list of JSON objects.

    Raises:
        BadInput: anything else.
    """
    with readable(label):
        content = path.read_bytes()
    try:
        rows = json.loads(content)
    except UnicodeDecodeError as error:
        raise _broken_json(f"bytes that are not UTF-8 at byte {error.start + 1}", label) from error
    except json.JSONDecodeError as error:
        got = f"broken JSON at column {error.colno} ({error.msg})"
        if error.msg == "Extra data" and _is_object_a_line(content):
            raise BadInput(
                "a list of objects",
                "an object a line",
                "Name the file .jsonl.",
                where=f"{label}:{error.lineno}",
            ) from error
        raise _broken_json(got, f"{label}:{error.lineno}") from error
    except (ValueError, RecursionError) as error:
        raise _broken_json(str(error), label) from error
    if not isinstance(rows, list):
        raise BadInput(
            "a list of objects",
            f"a JSON {type(rows).__name__}",
            "For one object a line, name the file .jsonl.",
            where=label,
        )
    for number, row in enumerate(rows, start=1):
        yield _object(row, f"{label}:{number}"), f"{label}:{number}"


def _is_object_a_line(content: bytes) -> bool:
    """Whether the first lines are objects, each by itself."""
    try:
        lines = itertools.islice(filter(None, map(bytes.strip, content.splitlines())), 2)
        return all(isinstance(json.loads(line), dict) for line in lines)
    except ValueError:
        return False


def parquet_rows(path: Path, label: str) -> Iterator[tuple[Row, str]]:
    """The rows of a Parquet file.

    Raises:
        BadInput: a broken file, or one that holds too much.
    """
    import pyarrow
    import pyarrow.parquet

    number = held = 0
    with readable(label):
        most = _most(path)
    instead = "write its rows as .jsonl yourself, and give that"
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if _claimed(file.metadata) > most:
                raise _too_much(path, instead, label)
            _refuse_nested_categories(file.schema_arrow, instead, label)
            for batch in map(_written_out, file.iter_batches(_BATCH)):
                held += batch.nbytes
                if held > most:
                    raise _too_much(path, instead, f"{label}:{number + 1}")
                for row in batch.to_pylist():
                    number += 1
                    yield row, f"{label}:{number}"
    except BadInput:
        raise
    # Of its own, of the file system, and of what is no text or no number of Python's.
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise BadInput(
            "a Parquet file",
            str(error).partition("\n")[0],
            "Copy or download the file again.",
            where=f"{label}:{number}" if number else label,
        ) from error


def _claimed(metadata: Any) -> int:
    """Bytes of all columns before compression, as a Parquet file has them.

    Of whole row groups: pyarrow 26 ends the process where the footer has a column wrong.
    """
    return sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))


def _refuse_nested_categories(schema: Any, instead: str, label: str) -> None:
    """A list may name one large category as often as it likes, within a single row."""
    for field in schema:
        if "dictionary<" in str(field.type)[1:]:
            raise BadInput(
                "columns whose lists and structures hold plain values",
                f"categories in the column {field.name}",
                f"Write the column as plain values; or {instead}.",
                where=label,
            )


def _written_out(batch: Any) -> Any:
    """The batch with categories in every row, so that its bytes are counted as rows hold them."""
    import pyarrow

    is_category = pyarrow.types.is_dictionary
    columns = [x.dictionary_decode() if is_category(x.type) else x for x in batch.columns]
    return pyarrow.record_batch(columns, names=batch.schema.names)


def _most(path: Path) -> int:
    """Bytes that a compressed file may hold."""
    return max(EXPANDED, RATIO * path.stat().st_size)


def _too_much(path: Path, instead: str, origin: str) -> BadInput:
    return BadInput(
        f"a compressed file that holds at most {EXPANDED >> 20} MiB, or {RATIO} times its own size",
        f"more than that in {path.stat().st_size:,} bytes",
        f"If you know what is in it, {instead}.",
        where=origin,
    )


def _json_object(line: bytes, origin: str) -> Row:
    try:
        row = json.loads(line.rstrip())  # else what is cut short is reported on an empty line 2
    except UnicodeDecodeError as error:
        raise _broken_json(f"bytes that are not UTF-8 at byte {error.start + 1}", origin) from error
    except json.JSONDecodeError as error:
        raise _broken_json(f"broken JSON at column {error.colno} ({error.msg})", origin) from error
    # A number of too many digits, or lists too deep within each other.
    except (ValueError, RecursionError) as error:
        raise _broken_json(str(error), origin) from error
    return _object(row, origin)


def _object(row: Any, origin: str) -> Row:
    if not isinstance(row, dict):
        raise _broken_json(type(row).__name__, origin)
    return row


def _broken_json(got: str, origin: str) -> BadInput:
    return BadInput(
        "a JSON object", got, "Mend the file: this is no defect of one row.", where=origin
    )
