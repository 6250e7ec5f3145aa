"""Attention over packed rows.

A row holds groups: a prompt, then its responses, one after the other. A token attends to its own
segment up to itself, and a response also to all of its group's prompt. Everything is static but
the segment ids, so one compiled program serves every batch of a shape.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from alignax.core.axes import row_shards
from alignax.core.types import BLOCK

MASKED = -1e30  # finite, so that a wholly masked block keeps finite gradients
ROOM = 1 << 22  # scores that exist at once on a device, where one block alone has no more
OF_A_STRETCH = 2 * BLOCK  # what a stretch is as long to compile and to start as: keys of one block


def packed_attention(
    query: Float[Array, "n t h e"],
    key: Float[Array, "n t g e"],
    value: Float[Array, "n t g e"],
    group: Int[Array, "n t"],
    response: Int[Array, "n t"],
    position: Int[Array, "n t"],
    *,
    reach: tuple[int, ...] | None = None,
    window: int | Int[Array, ""] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    block: int = BLOCK,
) -> Float[Array, "n t h e"]:
    """Attention of every token to its own response so far and to its group's prompt.

    Queries go in blocks, and a block meets only the keys it can reach: not those behind it, nor
    those before the groups that it holds. So cost grows with the group and not with the row.
    Neighbours that reach about as far are computed together, as many as `ROOM` scores allow: the
    scores of a whole row never exist at once, and few operations are compiled for a long row.

    Args:
        query: h heads; `key` and `value` have g heads, each serving h / g of the query's.
        group: which group of the row a token belongs to; -1 on padding.
        response: 0 on the prompt, 1 to k on the responses.
        position: within prompt + response; only a window looks at it.
        reach: for each block of a row, how many tokens before the block its tokens may attend
            to; None where nothing is known but the causal order. Static.
        window: a token attends to this many last positions of its own sequence.
        scale: of the products; head_dim ** -0.5 where None. softcap: c in c * tanh(x / c).
        block: queries at a time.

    Returns:
        The attended values, in the dtype of `query`; softmax in float32.
    """
    rows, tokens, heads, head_dim = query.shape
    kv_heads = key.shape[2]
    # Heads first, once for all blocks: what each block takes is then contiguous.
    query = query.reshape(rows, tokens, kv_heads, -1, head_dim) * (scale or head_dim**-0.5)
    query, key, value = query.transpose(0, 2, 3, 1, 4), key.swapaxes(1, 2), value.swapaxes(1, 2)
    parts, here = [], max(1, rows // row_shards())
    for stretch in stretches(tokens, block, reach, most=ROOM // (here * heads * block)):
        allowed = visible_tokens(
            group, response, position, window, queries=stretch.queries, keys=stretch.keys
        )
        q, k, v = stretch.queries(query, 3), stretch.keys(key, 2), stretch.keys(value, 2)
        scores = jnp.einsum("ngabqe,ngbse->ngabqs", q, k, preferred_element_type=jnp.float32)
        scores = jnp.where(allowed[:, None, None], softcapped(scores, softcap), MASKED)
        weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
        attended = jnp.einsum("ngabqs,ngbse->ngabqe", weights, v)
        parts.append(attended.reshape(*attended.shape[:3], -1, head_dim))
    out = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=3)
    return out.transpose(0, 3, 1, 2, 4).reshape(rows, tokens, heads, head_dim)


class Stretch(NamedTuple):
    """Neighbouring blocks of a row that are computed together.

    Fields:
        start: the first token. count: blocks. size: tokens of each. reach: back from each.
    """

    start: int
    count: int
    size: int
    reach: int

    def queries(self, x: Array, axis: int = 1) -> Array:
        """The tokens of each block: two axes, blocks and tokens, in the place of a row's one."""
        return _as_units(
            _cut(x, axis, self.start, self.start + self.count * self.size), axis, self.size
        )

    def keys(self, x: Array, axis: int = 1) -> Array:
        """The tokens that each block meets; neighbours' overlap."""
        first, met = self.start - self.reach, self.reach + self.size
        if self.count == 1:
            return jnp.expand_dims(_cut(x, axis, first, first + met), axis)
        # Once for each part of what a block meets, and not once for each block.
        unit = math.gcd(self.reach, self.size)
        end = first + self.reach + self.count * self.size
        units, step = _as_units(_cut(x, axis, first, end), axis, unit), self.size // unit
        last = (self.count - 1) * step + 1
        parts = [
            jax.lax.slice_in_dim(units, part, part + last, step, axis)
            for part in range(met // unit)
        ]
        return jnp.concatenate(parts, axis=axis + 1)


def stretches(tokens: int, block: int, reach: tuple[int, ...] | None, most: int) -> list[Stretch]:
    """A row's blocks in stretches, so that few keys are met in vain and stretches are few.

    Args:
        most: keys that the blocks of one stretch may meet together; a block alone may meet any
            number.
    """
    starts = range(0, tokens, block)
    back = [start if reach is None else min(start, reach[start // block]) for start in starts]
    # By how many blocks are in stretches already: their cost, in keys of a block, and they.
    best: list[tuple[int, tuple[Stretch, ...]]] = [(0, ())]
    for end in range(1, len(back) + 1):
        size, tries = min(block, tokens - starts[end - 1]), []
        for first in range(end):
            count, far = end - first, max(back[first:end])
            if count > 1:
                far = -(-far // (block // 2)) * (block // 2)  # so that it is a few units
                if far > starts[first] or size < block or count * (far + size) > most:
                    continue
            cost, before = best[first]
            stretch = Stretch(starts[first], count, size, far)
            tries.append((cost + count * (far + size) + OF_A_STRETCH, (*before, stretch)))
        best.append(min(tries, key=lambda found: found[0]))
    return list(best[-1][1])


def _cut(x: Array, axis: int, start: int, stop: int) -> Array:
    return jax.lax.slice_in_dim(x, start, stop, axis=axis)


def _as_units(x: Array, axis: int, unit: int) -> Array:
    return x.reshape(*x.shape[:axis], -1, unit, *x.shape[axis + 1 :])


def visible_tokens(
    group: Int[Array, "n t"],
    response: Int[Array, "n t"],
    position: Int[Array, "n t"],
    window: int | Int[Array, ""] | None,
    *,
    queries: Callable[[Array], Array] = lambda x: x,
    keys: Callable[[Array], Array] = lambda x: x,
) -> Bool[Array, "n *b q s"]:
    """Which tokens of a row (its `keys`) each of its `queries` attends to; itself always."""
    index = jnp.arange(group.shape[1])[None]

    def pairs(x: Array) -> tuple[Array, Array]:
        return queries(x)[..., :, None], keys(x)[..., None, :]

    (of, other), (own, seen), (at, place) = map(pairs, (group, response, index))
    allowed = (of == other) & ((seen == 0) | (own == seen)) & (at >= place)
    if window is not None:
        last, first = pairs(position)
        allowed &= last - first < window
    return allowed


def softcapped(x: Float[Array, "*n"], cap: float | None) -> Float[Array, "*n"]:
    """cap * tanh(x / cap), which stays within cap; x where there is none."""
    return x if cap is None else cap * jnp.tanh(x / cap)
