"""Rows that cannot be used: the error for one, and the count of many, so that none is silent."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from alignax.core.errors import BadInput

SHOWN = 3  # places kept for each reason
OnBadRow = Literal["refuse", "drop"]


class BadRow(BadInput):
    """A row whose content is defective; `reason` is what it is counted under when dropped."""

    def __init__(self, reason: str, expected: str, got: str, remedy: str, *, where: str):
        super().__init__(expected, got, remedy, where=where or None)
        self.reason = reason


@dataclasses.dataclass
class Tally:
    """How often each reason occurred and where first. Falsy while nothing has been counted.

    Example:
        >>> dropped = Tally()
        >>> for line in (3, 8, 9, 12):
        ...     dropped.add("empty field", f"pairs.jsonl:{line}")
        >>> print(dropped)
        4 empty field (pairs.jsonl:3, pairs.jsonl:8, pairs.jsonl:9, ...)
    """

    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    places: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def add(self, reason: str, place: str) -> None:
        """Counts one more for `reason`, and keeps `place` if it is among the first."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        first = self.places.setdefault(reason, [])
        if len(first) < SHOWN:
            first.append(place)

    def include(self, other: "Tally") -> None:
        """Counts all that another has counted, as if it came behind."""
        for reason, count in other.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + count
            first = self.places.setdefault(reason, [])
            first += other.places[reason][: SHOWN - len(first)]

    @property
    def total(self) -> int:
        """Of all reasons together."""
        return sum(self.counts.values())

    @property
    def first(self) -> str:
        """The first reason and place counted, in words. Empty while nothing has been counted."""
        for reason, places in self.places.items():
            return f"{places[0]}: {reason}"
        return ""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Tally":
        """The tally that `dataclasses.asdict` took apart."""
        return cls(dict(value["counts"]), {k: list(v) for k, v in value["places"].items()})

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        parts = []
        for reason, count in self.counts.items():
            more = ", ..." if count > len(self.places[reason]) else ""
            parts.append(f"{count:,} {reason} ({', '.join(self.places[reason])}{more})")
        return "; ".join(parts) or "none"
