"""Attention over packed rows.

A row holds groups: a prompt, then its responses, one after the other. A token attends to its own
segment up to itself, and a response also to all of its group's prompt. Everything is static but
the segment ids, so one compiled program serves every batch of a shape.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from alignax.core.types import BLOCK

MASKED = -1e30  # finite, so that a wholly masked block keeps finite gradients


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
    those before the groups that it holds. So cost grows with the group and not with the row, and
    the scores of a whole row never exist at once.

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
    parts = []
    for start in range(0, tokens, block):
        end = min(start + block, tokens)
        first = 0 if reach is None else max(0, start - reach[start // block])
        q, k = slice(start, end), slice(first, end)
        allowed = visible_tokens(group, response, position, q, k, window)
        parts.append(_attend(query[..., q, :], key[:, :, k], value[:, :, k], allowed, softcap))
    out = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=3)
    return out.transpose(0, 3, 1, 2, 4).reshape(rows, tokens, heads, head_dim)


def visible_tokens(
    group: Int[Array, "n t"],
    response: Int[Array, "n t"],
    position: Int[Array, "n t"],
    queries: slice,
    keys: slice,
    window: int | Int[Array, ""] | None,
) -> Bool[Array, "n q s"]:
    """Which tokens of a row (`keys`) each of `queries` attends to; itself always."""
    q, k = queries, keys
    allowed = group[:, q, None] == group[:, None, k]
    allowed &= (response[:, None, k] == 0) | (response[:, q, None] == response[:, None, k])
    allowed &= jnp.arange(q.start, q.stop)[None, :, None] >= jnp.arange(k.start, k.stop)[None, None]
    if window is not None:
        allowed &= position[:, q, None] - position[:, None, k] < window
    return allowed


def _attend(
    query: Float[Array, "n g a q e"],
    key: Float[Array, "n g s e"],
    value: Float[Array, "n g s e"],
    allowed: Bool[Array, "n q s"],
    softcap: float | None,
) -> Float[Array, "n g a q e"]:
    scores = jnp.einsum("ngaqe,ngse->ngaqs", query, key, preferred_element_type=jnp.float32)
    scores = softcapped(scores, softcap)
    weights = jax.nn.softmax(jnp.where(allowed[:, None, None], scores, MASKED), axis=-1)
    return jnp.einsum("ngaqs,ngse->ngaqe", weights.astype(value.dtype), value)


def softcapped(x: Float[Array, "*n"], cap: float | None) -> Float[Array, "*n"]:
    """cap * tanh(x / cap), which stays within cap; x where there is none."""
    return x if cap is None else cap * jnp.tanh(x / cap)
