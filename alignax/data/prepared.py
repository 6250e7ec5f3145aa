"""A prepared data set as it is read: groups by index, and what is known of all of them at once.

`data.builder` writes it.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float32, Int32, UInt64

from alignax.data.plan import Lengths
from alignax.data.sources import Report
from alignax.data.token_report import TokenReport
from alignax.data.tokenise import Example, TokenLimits

NAME, VERSION = "examples", "1.0.0"
SPLIT = "groups"
MOST_BYTES = 2**28  # of a data set that stays in memory as it is read
OF_A_TOKEN, OF_A_GROUP = 5, 1536  # bytes there


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A prepared data set on disk, with random access. Threads share it; processes pickle it.

    Fields:
        directory: where it is kept.
        fingerprint: hex SHA-256 of what it was made from, but for code of the user's own.
        by_own_code: whether such code made it.
    """

    directory: Path
    fingerprint: str
    by_own_code: bool = False

    def __len__(self) -> int:
        return len(self.lengths.prompt)

    def __getitem__(self, index: int) -> Example:
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        index %= len(self)
        found = self._read.get(index)
        if found is not None:
            return found
        row = self._rows[index]
        numbers = row["attributes"]
        attributes = numbers.reshape(len(row["scores"]), -1) if numbers.size else None
        ended = row["ended"] if row["ended"].size else None
        found = Example(
            **{**row, "origin": row["origin"].decode(), "attributes": attributes, "ended": ended}
        )
        if self._stays:
            for array in found:
                if isinstance(array, np.ndarray):
                    array.setflags(write=False)  # all who ask get the same
            self._read[index] = found
        return found

    def known(self) -> "Prepared":
        """By a fingerprint of its own, where answers broke off, which once were taught an end."""
        if not self._notes["broke off"]:
            return self
        own = hashlib.sha256(f"{self.fingerprint} broke off".encode()).hexdigest()
        return dataclasses.replace(self, fingerprint=own)

    @property
    def lengths(self) -> Lengths:
        """Token counts of all groups."""
        return self._lengths

    @functools.cached_property
    def _lengths(self) -> Lengths:
        with np.load(self.directory / "lengths.npz") as arrays:
            return Lengths(*(arrays[name] for name in Lengths._fields))

    @functools.cached_property
    def gaps(self) -> Float32[np.ndarray, " g"]:
        """How far apart the first and the last response of each group are scored."""
        return np.load(self.directory / "gaps.npy")

    @functools.cached_property
    def digests(self) -> UInt64[np.ndarray, "g 3"]:
        """By which equal prompts and opposite pairs are known, as `lints.digests` has it."""
        return np.load(self.directory / "digests.npy")

    @functools.cached_property
    def asked(self) -> UInt64[np.ndarray, " g"]:
        """Of each group, `lints.asked` of its record's prompt, in which no method has written."""
        return np.load(self.directory / "asked.npy")

    @functools.cached_property
    def highest(self) -> Int32[np.ndarray, " g"]:
        """The highest token id of each group."""
        return np.load(self.directory / "highest.npy")

    @functools.cached_property
    def _read(self) -> dict[int, Example]:
        """What was read and stays in memory, by index: to read a group takes 0.1 ms."""
        return {}

    @functools.cached_property
    def _stays(self) -> bool:
        """Whether the whole data set may stay in memory once read."""
        tokens = int(self.lengths.total.sum())
        return OF_A_TOKEN * tokens + OF_A_GROUP * len(self) <= MOST_BYTES

    @property
    def records(self) -> Report:
        """What was read from the source."""
        return Report.from_json(self._notes["records"])

    @property
    def tokens(self) -> TokenReport:
        """What tokenising kept and lost."""
        return TokenReport.from_json(self._notes["tokens"])

    @property
    def content(self) -> str:
        """Changes with what was made: with the tokens themselves, where the user's code decides.

        Else with what they were made from, which says as much.
        """
        return self._notes["content"] if self.by_own_code else self.fingerprint

    @property
    def limits(self) -> TokenLimits:
        """The lengths that were allowed."""
        return TokenLimits(**self._notes["limits"])

    @functools.cached_property
    def _notes(self) -> dict[str, Any]:
        return json.loads((self.directory / "notes.json").read_text())

    @functools.cached_property
    def _rows(self) -> Sequence[dict[str, Any]]:
        folder = self.directory / NAME / VERSION
        builder: Any = tfds.builder_from_directory(folder)
        return builder.as_data_source(split=SPLIT)

    def __getstate__(self) -> dict[str, Any]:
        # What is cached stays behind: another process opens the files itself.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __str__(self) -> str:
        return f"{self.records}\n{self.tokens}\nprepared: {self.directory}"
