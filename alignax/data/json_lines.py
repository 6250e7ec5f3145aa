"""Rows written as JSON lines: what cannot be written is refused before the work, not after it.

FOLDER/.NAME.KEY.tmp    the rows until now, of work that has this key; in the place of a row that is
                        left out a text, why
FOLDER/NAME             all rows
"""

import contextlib
import fcntl
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from rich.markup import escape

from alignax.core.errors import BadInput


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of this project's own, UTF-8; `sources` reads those of others."""
    return parsed(path.read_text(encoding="utf-8"))


def parsed(text: str) -> list[dict[str, Any]]:
    """The rows of a text. A line ends with a line feed and nothing else: a model's answers have
    other ends of lines in them, such as U+2028, which JSON leaves as they are.

    Example:
        >>> parsed('{"a": "one\\u2028line"}\\n{"a": "another"}\\n')[1]
        {'a': 'another'}
    """
    return [json.loads(line) for line in text.split("\n") if line]


class Lines(NamedTuple):
    """A file of rows that is being written.

    Fields:
        there: rows that an earlier process of the same key has written or left out.
        left_out: of those that it has left out, the place among all, from 0, with why.
        deleted: rows that work of other keys had left, and that are gone.
    """

    file: IO[bytes]
    there: int
    left_out: Mapping[int, str]
    deleted: int

    def write(self, row: Mapping[str, Any]) -> None:
        """One row more, which a killed process leaves behind."""
        self._add(_line(row))

    def leave_out(self, why: str) -> None:
        """A row that the file does not get, which is not looked at again either."""
        self._add(json.dumps(why).encode() + b"\n")

    def forget(self) -> None:
        """Nothing until now is kept, should the work fail."""
        self.file.seek(0)
        self.file.truncate()

    def remarks(self, target: Path) -> list[str]:
        """Lines with rich's markup: whether work that was stopped is not gone on from."""
        if not self.deleted:
            return []
        return [
            f"[yellow]begun anew[/]: {self.deleted:,} rows of {escape(str(target))} were there, "
            "made from other settings, data or code"
        ]

    def _add(self, line: bytes) -> None:
        self.file.write(line)
        self.file.flush()


@contextlib.contextmanager
def written(target: Path, key: str | None = None) -> Iterator[Lines]:
    """A file that gets its name when all rows are in it.

    Args:
        key: of everything that decides the rows. Where the work fails, those that are there stay,
            and work of the same key goes on behind them; what other keys have left is deleted.
            None for work that is done anew.

    Raises:
        BadInput: the file is there already, cannot be written, or another process writes it.
    """
    if target.exists():
        raise BadInput(
            "a file that is not there yet", "one that is", "Name another.", where=str(target)
        )
    draft, deleted = _draft(target, key or "new"), 0
    try:
        for left in _drafts(target):
            if left != draft or key is None:
                with left.open("rb") as file:
                    _lock(file, left, target)
                    deleted += 0 if left == _draft(target, _WHOLE) else _count(file)
                    left.unlink()
        file = draft.open("a+b")
    except OSError as error:
        raise BadInput(
            "a file that can be written",
            f"{type(error).__name__}: {error.strerror}",
            "Make its folder, or name another file.",
            where=str(target),
        ) from error
    with file:
        _lock(file, draft, target)
        file.seek(0)
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)  # a line that was cut short
        file.seek(0, 2)
        before = content.split(b"\n")[:-1]
        left_out = {i: json.loads(x) for i, x in enumerate(before) if _is_left_out(x)}
        try:
            yield Lines(file, len(before), left_out, deleted)
        except BaseException as error:
            if key is None or file.tell() == 0:
                draft.unlink()
            elif isinstance(error, KeyboardInterrupt):
                error.add_note(f"{_count(file):,} rows of {target} are kept: the same command goes "
                               "on behind them")  # fmt: skip
            raise
        file.flush()
        file.seek(0)
        if not any(map(_is_left_out, file)):
            draft.replace(target)
            return
        file.seek(0)
        with _draft(target, _WHOLE).open("wb") as whole:
            _lock(whole, Path(whole.name), target)
            whole.writelines(line for line in file if not _is_left_out(line))
            whole.flush()
            Path(whole.name).replace(target)
        draft.unlink()


_WHOLE = "whole"  # the key of what is only written once all is known


def _draft(target: Path, key: str) -> Path:
    return target.with_name(f".{target.name}.{key}.tmp")


def _is_left_out(line: bytes) -> bool:
    return line.startswith(b'"')


def _count(file: IO[bytes]) -> int:
    file.seek(0)
    return sum(line.endswith(b"\n") and not _is_left_out(line) for line in file)


def _drafts(target: Path) -> list[Path]:
    """What this and earlier processes have left of a file. A longer name's drafts are not its."""
    own = re.compile(rf"\.{re.escape(target.name)}\.[^.]+\.tmp")
    return [path for path in target.parent.iterdir() if own.fullmatch(path.name)]


def _lock(file: IO[bytes], path: Path, target: Path) -> None:
    """Takes a draft that no other process works on. Holds nothing on file systems without locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = path.exists()  # else it was another's until now, who has renamed it
    except BlockingIOError:
        free = False
    except OSError:
        return
    if not free:
        raise BadInput(
            "a file that no other process writes", "one that is being written",
            "Wait for its end, or name another file.", where=str(target),
        )  # fmt: skip


def check_json(row: Mapping[str, Any], origin: str) -> None:
    """Refuses a row of which JSON cannot hold a value, such as a date of a Parquet file, or NaN.

    Raises:
        BadInput: naming the column.
    """
    for name, value in row.items():
        try:
            _line({name: value})
        except (TypeError, ValueError) as error:
            raise BadInput(
                "columns that JSON can hold",
                f"{name}, a {type(value).__name__}: {error}",
                "Leave the column out of the data, or make text of it.",
                where=origin,
            ) from error


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
