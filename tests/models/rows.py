"""Groups of tokens laid into rows by hand, for tests of the model."""

import jax.numpy as jnp
import numpy as np

from alignax.core.types import Layout

Group = tuple[list[int], list[list[int]]]  # a prompt, its responses


def layout(rows: list[list[Group]], length: int) -> Layout:
    """Rows of `length` tokens, each holding its groups in order; nothing is scored."""
    shape = (len(rows), length)
    tokens, response, position = (np.zeros(shape, np.int32) for _ in range(3))
    group = np.full(shape, -1, np.int32)
    for n, groups in enumerate(rows):
        at = 0
        for g, (prompt, responses) in enumerate(groups):
            for r, segment in enumerate([prompt, *responses]):
                where = slice(at, at + len(segment))
                tokens[n, where], group[n, where], response[n, where] = segment, g, r
                position[n, where] = np.arange(len(segment)) + (len(prompt) if r else 0)
                at += len(segment)
    nothing = jnp.zeros((len(rows), 1), jnp.int32)
    arrays = (jnp.asarray(x) for x in (tokens, group, response, position))
    return Layout(*arrays, source=nothing, target=nothing, slot=nothing - 1)
