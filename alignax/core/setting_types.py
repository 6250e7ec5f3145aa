"""Settings as values: which classes a setting's type allows, which range its numbers have, and
whether a value is of them.
"""

import dataclasses
import difflib
import math
import operator
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from alignax.core.errors import BadInput
from alignax.core.types import Scalar

# The ends that a range may have: when a number is within, and what it then is.
ENDS = {
    "above": (operator.gt, "above"),
    "at_least": (operator.ge, "of at least"),
    "below": (operator.lt, "below"),
    "at_most": (operator.le, "at most"),
}


def setting(
    default: Any,
    *,
    above: int | float | None = None,
    at_least: int | float | None = None,
    below: int | float | None = None,
    at_most: int | float | None = None,
    **metadata: bool,
) -> Any:
    """A field whose numbers have a range, to which `check_types` holds them.

    Not the constructor: in a sweep the number may be traced.

    Args:
        metadata: what else the field says of itself.
    """
    given = {"above": above, "at_least": at_least, "below": below, "at_most": at_most}
    ends = {name: end for name, end in given.items() if end is not None}
    return dataclasses.field(default=default, metadata={"range": ends, **metadata})


def is_settings(value: Any) -> bool:
    """Whether this is a dataclass's value, which has settings of its own."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name most like this one; None where none is alike."""
    return next(iter(alike(name, known)), None)


def alike(name: str, known: Sequence[str]) -> list[str]:
    """The known names most like this one: several where they are equally like it."""
    ratios = {other: difflib.SequenceMatcher(None, other, name).ratio() for other in known}
    best = max(ratios.values(), default=0.0)
    return [other for other, ratio in ratios.items() if ratio == best >= 0.6]


def did_you_mean(names: Sequence[str]) -> str:
    """The question, of at most three names; empty where there are none."""
    *others, last = names[:3] or [""]
    return f"Did you mean {', '.join(others)}{' or ' if others else ''}{last}?" if last else ""


def check_types(settings: Any, prefix: str = "") -> None:
    """Every field holds a value of its type; a config file is Python, and no one else looks.

    Numbers are finite, but for fields that say they may be infinite, and in the range of a field
    that has one (`setting`).

    Args:
        prefix: of the names in messages.

    Raises:
        BadInput: a value of another type, unknown, not finite, or out of its range.
    """
    hints = typing.get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value, hint, where = getattr(settings, field.name), hints[field.name], prefix + field.name
        if is_settings(value) and isinstance(value, classes_of(hint)):
            check_types(value, f"{where}.")
        elif typing.get_origin(hint) is Literal and value not in typing.get_args(hint):
            known = [str(k) for k in typing.get_args(hint)]
            near = nearest(str(value), known)
            raise BadInput(
                f"one of {', '.join(known)}",
                repr(value),
                f"Did you mean {near!r}?" if near else "Choose one of these.",
                where=where,
            )
        elif typing.get_origin(hint) is not Literal and not _is_one_of(value, classes_of(hint)):
            kinds = (float,) if hint == Scalar else classes_of(hint)
            wanted = " or ".join("None" if x is type(None) else x.__name__ for x in kinds)
            raise BadInput(
                f"a value of type {wanted}",
                f"{value!r} ({type(value).__name__})",
                "Change it in the config file.",
                where=where,
            )
        elif isinstance(value, float) and not math.isfinite(value):
            may = bool(field.metadata.get("infinite"))
            if not (may and value > 0):
                wanted = "a number, which may be infinite" if may else "a finite number"
                raise BadInput(wanted, repr(value), "Change the setting.", where=where)
        if isinstance(value, int | float):
            _check_range(value, field.metadata.get("range", {}), where)


def _check_range(value: int | float, ends: Mapping[str, int | float], where: str) -> None:
    if not all(ENDS[name][0](value, end) for name, end in ends.items()):
        wanted = " and ".join(f"{ENDS[name][1]} {end}" for name, end in ends.items())
        raise BadInput(f"a number {wanted}", repr(value), "Change the setting.", where=where)


def classes_of(hint: Any) -> tuple[type, ...]:
    """The classes that a setting's type allows."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return tuple(kind for part in typing.get_args(hint) for kind in classes_of(part))
    origin = typing.get_origin(hint) or hint
    return (origin,) if isinstance(origin, type) else (object,)


def _is_one_of(value: Any, kinds: tuple[type, ...]) -> bool:
    """As `isinstance`, but a whole number serves as a float and a bool does not as a number."""
    if isinstance(value, bool):
        return bool in kinds or object in kinds
    return isinstance(value, kinds) or (isinstance(value, int) and float in kinds)
