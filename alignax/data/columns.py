"""Columns that a source has under other names: which is read as which.

A map has the names that rows are read by as its keys, and the source's own as its values:
{"prompt": "instruction", "chosen": "response_a.text"}. A dotted name is one within a column.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

from alignax.core.errors import BadInput
from alignax.data.bad_rows import BadRow
from alignax.data.catalogues import Row

_FLAG = "--data.columns"


def renamed(row: Row, columns: Mapping[str, str], origin: str) -> Row:
    """A row by the names that it is read by; the row itself where there is no map.

    All columns are taken at once, so that two may change places. What is not in the map stays, the
    column around a dotted name too.

    Args:
        origin: `file:line` of the row.

    Raises:
        BadRow: a column that the row does not have, or whose new name another column has.
    """
    if not columns:
        return row
    found = {name: _value(row, source, name, origin) for name, source in columns.items()}
    moved = {source if source in row else source.partition(".")[0] for source in columns.values()}
    for name, source in columns.items():
        if name in row and name not in moved:
            raise BadRow(
                f"two columns for {name}",
                f"no column {name} beside {source}, which is read as {name}",
                f"both, in a row with {', '.join(row)}",
                f"Leave {name} out of data.columns to read the column of this name, or read that "
                f'by another: "{name}_given": "{name}".',
                where=origin,
            )
    gone = {*columns, *columns.values()}
    return found | {name: value for name, value in row.items() if name not in gone}


def _value(row: Row, source: str, name: str, origin: str) -> Any:
    """What a row has under a source's own name."""
    value: Any = row
    parts = (source,) if source in row else source.split(".")
    for i, part in enumerate(parts):
        if not isinstance(value, Mapping) or part not in value:
            there = list(map(str, value)) if isinstance(value, Mapping) else []
            within = "".join(f"{x}." for x in parts[:i])
            near = difflib.get_close_matches(part, there, 1)
            raise BadRow(
                f"no column {source}",
                f"the column {source}, which data.columns reads as {name}",
                ", ".join(within + x for x in there)
                or (f"{within[:-1]}, a {type(value).__name__}" if within else "none"),
                f"Did you mean {within}{near[0]}?" if near else "Change data.columns, or the rows.",
                where=origin,
            )
        value = value[part]
    return value


def described(names: Sequence[str], columns: Mapping[str, str]) -> Iterator[str]:
    """The names that rows are read by, each with the source's own where that is another.

    Example:
        >>> list(described(["prompt", "chosen"], {"chosen": "better"}))
        ['prompt', 'chosen from better']
    """
    for name in names:
        other = columns.get(name, name)
        yield name if other == name else f"{name} from {other}"


def check(columns: Mapping[Any, Any]) -> None:
    """Refuses a map that is none, or that reads one column twice.

    Raises:
        BadInput: naming the column.
    """
    seen: dict[Any, Any] = {}
    for name, source in columns.items():
        where = f"data.columns: {name}"
        if not (name and source and isinstance(name, str) and isinstance(source, str)):
            raise BadInput(
                "the name of a column, as text", repr(source), "Name one, or leave it out.",
                where=where,
            )  # fmt: skip
        if source in seen:
            raise BadInput(
                "another column for each name",
                f"{source}, which is read as {seen[source]} too",
                "Leave one of them out.",
                where=where,
            )
        seen[source] = name


def given(
    arguments: Sequence[str], columns: Mapping[str, str]
) -> tuple[dict[str, str], Sequence[str]]:
    """The map with what the command line says of it, and the arguments that are left.

    `--data.columns.NAME COLUMN` sets one name, in which "-" is "_" as in all flags;
    `--data.columns NAME COLUMN ...` is the whole map, as it stands, and alone is none.

    Args:
        columns: the map of the config.

    Raises:
        BadInput: a name without its column.
    """
    found, words, kept = dict(columns), list(arguments), []
    while words:
        flag, joined, value = words[0].partition("=")
        key = flag.removeprefix(f"{_FLAG}.")
        if flag not in (_FLAG, f"{_FLAG}.{key}"):
            kept.append(words.pop(0))
            continue
        beside = list(takewhile(lambda word: not word.startswith("--"), words[1:]))
        del words[: len(beside) + 1]
        pair = [value, *beside] if joined else beside
        pair = pair if flag == _FLAG else [key.replace("-", "_"), *pair]
        if len(pair) % 2 or (flag != _FLAG and len(pair) != 2):
            raise BadInput(
                f"{_FLAG}.NAME COLUMN, or {_FLAG} NAME COLUMN NAME COLUMN ...",
                " ".join([flag, *beside]),
                "Name the column of the data behind each name that it is read as.",
                where="command line",
            )
        these = dict(zip(pair[::2], pair[1::2], strict=True))
        found = these if flag == _FLAG else found | these
    return found, kept
