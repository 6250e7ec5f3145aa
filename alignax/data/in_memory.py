"""Rows in memory, such as a list or a DataFrame, written once as JSON lines and then read as those.

FOLDER/rows-DIGEST.jsonl    line n is row n, both counted from 1

The name is a digest of the content: the same rows have the same file in every process and at every
start, and a run that names it can be gone on with, measured and repeated like any other.
"""

import collections
import functools
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from alignax.core import drafts
from alignax.core.errors import BadInput
from alignax.core.records import Message

Source = str | Iterable[Any]  # the name of a source, or rows
P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger("alignax")
LINES = "Line n is row n of the rows that were given, counted from 1."
_NAME = re.compile(r"rows-[0-9a-f]{16}\.jsonl")
_ABSENT = ("NAType", "NaTType")  # of pandas, which need not be installed


def as_source(rows: Any, folder: str, where: str) -> Any:
    """The path of the file that rows were written to; what are no rows is given back as it is.

    Args:
        rows: an iterable of mappings from columns to values (a list of dicts, a Dataset of
            `datasets`, a generator, which is read to its end), or a DataFrame of pandas, without
            its index. Bytes become the text that they are in UTF-8, arrays lists, and what is
            missing in a DataFrame null, with a line in the log that counts it.
        folder: where the file is kept.
        where: the setting that has them, for the messages.

    Raises:
        BadInput: no rows, a row that is no mapping or that JSON cannot hold, with its number and
            column; a folder that cannot be written.
    """
    frame = hasattr(rows, "iterrows")
    if isinstance(rows, str) or not (frame or isinstance(rows, Iterable)):
        return rows
    if isinstance(rows, Mapping):
        raise BadInput(
            "rows, each a mapping from columns to values",
            f"one {type(rows).__name__} of {', '.join(map(str, rows)) or 'nothing'}",
            'Of splits give one, such as data["train"]; of columns make rows: '
            "[dict(zip(columns, row)) for row in zip(*columns.values())].",
            where=where,
        )
    if frame and not rows.columns.is_unique:  # type: ignore[attr-defined]
        raise BadInput(
            "columns of different names",
            ", ".join(map(str, rows.columns)),  # type: ignore[attr-defined]
            "Rename those that come twice: of each two one would be lost.",
            where=where,
        )
    absent: collections.Counter[str] = collections.Counter()
    lines = []
    each: Any = rows.to_dict("records") if frame else rows  # type: ignore[attr-defined]
    for number, row in enumerate(each, start=1):
        origin = f"{where}: row {number}, counted from 1"
        if not isinstance(row, Mapping):
            raise BadInput(
                "a mapping from columns to values",
                f"{str(row)[:80]!r} ({type(row).__name__})",
                "Give rows as dicts; several files as one pattern of paths; another library's "
                "table by its rows: to_pylist() of pyarrow, to_dicts() of polars.",
                where=origin,
            )
        if frame:
            absent.update(str(name) for name, value in row.items() if _is_absent(value))
            row = {name: None if _is_absent(value) else value for name, value in row.items()}
        lines.append(_line(row, origin))
    if not lines:
        raise BadInput("at least one row", "none", "Give rows, or a source by name.", where=where)
    if absent:
        counts = ", ".join(f"{name} {count:,}" for name, count in absent.items())
        log.warning("%s: what is missing in the DataFrame is null: %s", where, counts)
    return _written(b"".join(lines), folder)


def is_written(path: str | Path) -> bool:
    """Whether this is a file that `as_source` has written, by its name."""
    return bool(_NAME.fullmatch(Path(path).name))


def told(read: Callable[P, T]) -> Callable[P, T]:
    """The same function, whose errors at a line of such a file say which row that is."""

    @functools.wraps(read)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return read(*args, **kwargs)
        except BadInput as error:
            if _NAME.search(error.where or "") and LINES not in error.remedy:
                error.advise(LINES)
            raise

    return wrapped


def _is_absent(value: Any) -> bool:
    """Whether this is what pandas has where a row has nothing."""
    is_nan = isinstance(value, float | np.floating) and bool(np.isnan(value))
    return is_nan or type(value).__name__ in _ABSENT


def _line(row: Mapping[Any, Any], origin: str) -> bytes:
    try:
        return _json(row)
    except (TypeError, ValueError, RecursionError):
        for name, value in row.items():
            try:
                _json({name: value})
            except (TypeError, ValueError, RecursionError) as error:
                raise BadInput(
                    "columns that JSON can hold",
                    f"{name}, a {type(value).__name__}: {error}",
                    "Leave the column out, or make text, numbers or null of it.",
                    where=origin,
                ) from error
        raise


def _json(row: Mapping[Any, Any]) -> bytes:
    return json.dumps(_plain(row), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _plain(value: Any) -> Any:
    """As JSON has it: text for bytes, lists for arrays, objects for mappings and named tuples."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode()
    if isinstance(value, Message):
        if value.tools:
            raise TypeError("tools in a turn: they are a column of the row")
        value = value.as_dict()
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()  # type: ignore[attr-defined]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):  # JSON would make text of a number
                raise TypeError(f"the key {key!r} is no text")
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(part) for part in value]
    as_lists = getattr(value, "tolist", None)  # of arrays and their numbers, in any library
    return _plain(as_lists()) if callable(as_lists) else value


def _written(content: bytes, folder: str) -> str:
    """The path of the file of this content. Processes that write it at once write the same."""
    name = f"rows-{hashlib.sha256(content).hexdigest()[:16]}.jsonl"
    if "://" in folder or not folder.strip():
        raise BadInput(
            "a folder to write rows to",
            repr(folder),
            "Name one; mount a bucket, as docs/pods.md says, and give a path in it.",
            where="data.cache_dir",
        )
    path = Path(folder).expanduser() / name
    try:
        if not path.is_file() or path.read_bytes() != content:
            with drafts.draft(path.parent) as draft:
                (draft / name).write_bytes(content)
                (draft / name).replace(path)
    except OSError as error:
        raise BadInput(
            "a folder to write rows to",
            f"{error.strerror} ({type(error).__name__})",
            "Set data.cache_dir to a folder that can be written, with room for the rows.",
            where=str(path.parent),
        ) from error
    return str(path)
