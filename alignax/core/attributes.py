"""Attributes of responses by name: which there are, and that no record has others."""

import difflib
from collections.abc import Sequence

from alignax.core.errors import BadInput
from alignax.core.records import Attributed


def known_attributes(records: Sequence[Attributed], names: tuple[str, ...]) -> tuple[str, ...]:
    """The names given, or all that the records have, by alphabet.

    Raises:
        BadInput: at `file:line`, an attribute that is not among the names given.
    """
    if not names:
        return tuple(sorted({name for record in records for name in record.attributes}))
    for record in records:
        for name in record.attributes:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                raise BadInput(
                    f"attributes among {', '.join(names)}",
                    name,
                    f"Did you mean {near[0]}?"
                    if near
                    else "Add it to method.attributes, or remove it from the data.",
                    where=record.origin or None,
                )
    return names
