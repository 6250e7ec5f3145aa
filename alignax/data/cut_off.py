"""Answers that broke off: rows say so in `ended`, as `alignax sample` writes it.

What stopped at a limit is no whole answer. A round of samples learns from it as it was drawn,
without an end of turn; so does training on rows, and what is known of each response goes along
through conversions by what the response says.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from alignax.core.records import Ranking, Record, Text
from alignax.data.bad_rows import BadRow

ENDED = "ended"
RESPONSES = ("response", "chosen", "rejected")  # fields of records that are one response


def responses(record: Record) -> tuple[Text, ...]:
    """All responses of a record, in the order of its fields."""
    if isinstance(record, Ranking):
        return record.responses
    return tuple(getattr(record, name) for name in RESPONSES if hasattr(record, name))


def replaced(record: Record, prompt: Text, found: Sequence[Text]) -> Record:
    """The record with another prompt and other responses, in the order of `responses`."""
    if isinstance(record, Ranking):
        return dataclasses.replace(record, prompt=prompt, responses=tuple(found))
    names = [name for name in RESPONSES if hasattr(record, name)]
    return dataclasses.replace(record, prompt=prompt, **dict(zip(names, found, strict=True)))


def marked(record: Record, row: Mapping[str, Any], origin: str) -> Record:
    """The record, with those of its responses as `cut` of which the row says that they broke off.

    `ended` is true or false for a single response, and a list with one for each of several: of a
    pair the chosen one first. Null is as true. Of equal responses that ended and broke off, all
    count as ended.

    Raises:
        BadRow: something else, or as many as there are no responses.
    """
    value, found = row.get(ENDED), responses(record)
    if value is None or not found:
        return record
    ended = value if isinstance(value, list) else [value]
    if "chosen" in row and len(found) == 1:  # the chosen response of a pair
        ended = ended[:1]
    whole = [True if one is None else one for one in ended]
    if len(whole) != len(found) or not all(isinstance(one, bool) for one in whole):
        raise BadRow(
            "ended that is not boolean",
            f"in ended true or false for each of {len(found)} responses",
            repr(value)[:60],
            "It says which answers are whole; false ones broke off. Mend it, or rename the column.",
            where=origin,
        )
    uncut = {text for text, one in zip(found, whole, strict=True) if one}
    return dataclasses.replace(record, cut=frozenset(found) - uncut)
