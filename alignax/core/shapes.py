"""Shapes that losses refuse when they are traced.

Of what only broadcasts the loss is of other numbers, and nothing shows it: pairs laid out as
[2, b] begin at ln 2 as those of [b, 2] do.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Array, Shaped

from alignax.core.errors import BadInput
from alignax.core.types import Number

Given = Number | Shaped[Array, "..."] | None


def require_pairs(loss: str, **arrays: Given) -> None:
    """Refuses arrays by name that are not all of one shape [..., 2].

    Raises:
        BadInput: with the name of the loss, and all shapes.
    """
    shapes = [np.shape(x) for x in arrays.values()]  # type: ignore[arg-type]
    if any(shape[-1:] != (2,) or shape != shapes[0] for shape in shapes):
        raise BadInput(
            f"{_names(arrays)} {'of one shape ' if len(shapes) > 1 else ''}[..., 2], chosen first",
            _written(shapes),
            "Put the chosen and the rejected response of a pair side by side on the last axis.",
            where=loss,
        )


def require_alike(loss: str, axes: int = 0, **arrays: Given) -> None:
    """Refuses arrays by name whose shape is not that of the first; None and numbers may be any.

    Args:
        loss: the function that they are given to.
        axes: how many the first has at least.

    Raises:
        BadInput: with the name of the function, and all shapes.
    """
    given = {name: x for name, x in arrays.items() if x is not None}
    first, *others = [np.shape(x) for x in given.values()]  # type: ignore[arg-type]
    if len(first) < axes or any(shape not in ((), first) for shape in others):
        least = f" of {axes} axes or more" if len(first) < axes else ""
        raise BadInput(
            f"{_names(given)}{least}{', of one shape' if others else ''}",
            _written([first, *others]),
            "Nothing is broadcast here: give each its axes.",
            where=loss,
        )


def require_advantages(loss: str, advantages: Given, mask: Given) -> None:
    """Refuses advantages that are neither one a response nor one a token.

    Raises:
        BadInput: with the name of the loss, and both shapes.
    """
    found, whole = np.shape(advantages), np.shape(mask)  # type: ignore[arg-type]
    if found not in (whole[:-1], (*whole[:-1], 1), whole):
        raise BadInput(
            f"advantages of one number a response, {_written([whole[:-1]])}, or one a token, "
            f"{_written([whole])}",
            _written([found]),
            "Nothing is broadcast here: give them their axes.",
            where=loss,
        )


def _names(arrays: Mapping[str, Given]) -> str:
    return " and ".join(arrays)


def _written(shapes: list[tuple[int, ...]]) -> str:
    return " and ".join(str(list(shape)) for shape in shapes)
