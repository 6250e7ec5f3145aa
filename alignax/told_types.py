"""What the command line's parser is told of the types of settings that it does not know."""

from collections.abc import Callable
from typing import Any

import tyro

from alignax.core.types import Scalar
from alignax.data.in_memory import Source

# What is a text on the command line, and more in a config: a function, rows in memory.
TEXTS = {
    str | Callable[..., Any]: "FILE.py:NAME",
    Source: "STR",
    Source | None: "{None}|STR",
}


def registry() -> tyro.constructors.ConstructorRegistry:
    """A `Scalar` is a plain number on the command line, though a traced one in a vmap.

    And what may be a function, or rows, is the name of one.
    """
    found = tyro.constructors.ConstructorRegistry()

    @found.primitive_rule
    def scalar(
        info: tyro.constructors.PrimitiveTypeInfo,
    ) -> tyro.constructors.PrimitiveConstructorSpec[float] | None:
        if info.type != Scalar:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="FLOAT",
            instance_from_str=lambda words: float(words[0]),
            is_instance=lambda value: isinstance(value, int | float),
            str_from_instance=lambda value: [str(value)],
        )

    @found.primitive_rule
    def text(
        info: tyro.constructors.PrimitiveTypeInfo,
    ) -> tyro.constructors.PrimitiveConstructorSpec[str | None] | None:
        metavar = TEXTS.get(info.type)
        if metavar is None:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar=metavar,
            instance_from_str=lambda words: (
                None if words == ["None"] and "None" in metavar else words[0]
            ),
            is_instance=lambda value: value is None or isinstance(value, str) or callable(value),
            str_from_instance=lambda value: [str(value)],
        )

    return found
