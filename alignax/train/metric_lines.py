"""Lines of metrics: how a number is written, what of a file is whole, a file of all of them.

A line is a JSON object with a step. `trainer_state.json` has them all as one list, as
transformers keeps it.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, SupportsFloat

import numpy as np

from alignax.core.errors import BadInput

_CHUNK = 2**20  # bytes of a file at a time


class Read(NamedTuple):
    """How much of a file of lines has been looked at.

    Fields:
        size: bytes of its whole lines.
        lines: how many these are.
        step: of the last of them.
    """

    size: int = 0
    lines: int = 0
    step: int = 0


NOTHING = Read()


def as_line(step: int, values: Mapping[str, SupportsFloat]) -> str:
    """One JSON object: the step, then the names in alphabetical order."""
    # Sorted, because jit returns a dict sorted and eager code does not.
    pairs = [f"{json.dumps(name)}: {_number(values[name])}" for name in sorted(values)]
    return "{" + ", ".join([f'"step": {step}', *pairs]) + "}\n"


def _number(value: SupportsFloat) -> str:
    """The shortest decimal that reads back as the same float32; an integer as it is.

    JSON has no word for what is not finite: that is the string NaN, Infinity or -Infinity, as in
    the JSON form of protocol buffers, and Python's `float` reads each.
    """
    if isinstance(value, int | np.integer):
        return str(int(value))
    number = np.float32(value)
    if math.isfinite(number):
        return str(number)
    return '"NaN"' if math.isnan(number) else '"Infinity"' if number > 0 else '"-Infinity"'


def whole_lines(path: Path, read: Read = NOTHING) -> Iterator[str]:
    """The lines of a file of JSON objects that have a step, but for a last one cut short.

    Args:
        read: what of the file is passed over.

    Raises:
        BadInput: where a line other than the last is no such object.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(read.size)
        lines = file.read().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            whole = isinstance(json.loads(line)["step"], int)
        except (ValueError, KeyError, TypeError):
            whole = False
        if whole:
            yield line.decode() + "\n"
        elif number < len(lines):
            raise BadInput(
                "a JSON object with an integer step",
                repr(line[:80].decode(errors="replace")),
                "Repair the line or move the file away.",
                where=f"{path}:{read.lines + number}",
            )


def read_on(path: Path, read: Read) -> Read:
    """All of a file's whole lines, after a look at those alone that are not in `read`.

    Raises:
        BadInput: as `whole_lines`.
    """
    if not path.exists() or path.stat().st_size < read.size:
        read = NOTHING  # another file, or none
    size, lines, line = read.size, read.lines, ""
    for line in whole_lines(path, read):
        size, lines = size + len(line.encode()), lines + 1
    return Read(size, lines, json.loads(line)["step"]) if line else read


def write_history(path: Path, log: Path, read: Read) -> None:
    """Writes the lines of a log that were read as one JSON object, `log_history` its list."""
    replace(path, _history(log, read))


def _history(log: Path, read: Read) -> Iterator[bytes]:
    yield f'{{\n  "global_step": {read.step},\n  "log_history": [\n'.encode()
    left = read.size - 1  # behind the last line there is no comma
    if left > 0:
        yield b"    "
        with log.open("rb") as file:
            while left > 0 and (some := file.read(min(left, _CHUNK))):
                left -= len(some)
                yield some.replace(b"\n", b",\n    ")
    yield b"\n  ]\n}\n"


def replace(path: Path, parts: Iterable[bytes]) -> None:
    """Writes a file at once: after a kill, of the machine too, it is the old one or the new one."""
    fresh = path.with_name(path.name + ".partial")
    try:
        with fresh.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> BadInput:
    """The refusal of a place where a line cannot be written."""
    return BadInput(
        "a place that can be written",
        error.strerror or str(error),
        "Free some space or its permissions, or give another output_dir.",
        where=str(path),
    )
