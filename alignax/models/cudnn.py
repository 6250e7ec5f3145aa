"""Attention over packed rows by cuDNN, on NVIDIA's Hopper GPUs: ragged pieces, no mask.

What a token of a response sees is two pieces of a row: its own response so far, and all of its
group's prompt. Each piece is one call of cuDNN's kernel over segments of the rows, which visits
nothing else. The two are merged by their log-sum-exps. Backward each is given the merged values
and the merged log-sum-exp, so that its gradient is its share of the whole's.

JAX offers cuDNN's log-sum-exp (`jax.nn.dot_product_attention`), but a backward pass that takes it,
and segments, only as primitives of its own, which may change from one version to the next.
"""

import functools
import inspect
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

primitives: Any
try:
    from jax._src.cudnn import fused_attention_stablehlo as primitives
except ImportError:  # then the mask serves
    primitives = None
# What the primitives of JAX 0.10 are told beside arrays (the backward one not whether it trains),
# and what those of 0.12 are told too.
SETTINGS = {
    "scale", "seed", "dropout_rate", "variadic_args", "mask_type", "layout",
    "sliding_window_length", "is_training",
}  # fmt: skip
NEWER_SETTINGS = {"score_mod_name": None, "score_mod_jaxpr": None}
KEPT = "cudnn"  # the name of what the backward pass needs of the forward pass
# Hopper. Later ones refuse the same bits each time for wide heads, or for any, by cuDNN's version.
CAPABILITIES = 9.0, 10.0


def served() -> bool:
    """Whether the devices here have kernels for ragged segments, and JAX the known primitives."""
    capability = getattr(jax.local_devices()[0], "compute_capability", "0")
    here = CAPABILITIES[0] <= float(capability) < CAPABILITIES[1]
    forward, backward = settings("fwd"), settings("bwd")
    known = SETTINGS, SETTINGS | NEWER_SETTINGS.keys()
    return here and forward in known and backward == forward - {"is_training"}


def settings(direction: Literal["fwd", "bwd"]) -> set[str]:
    """What JAX's primitive is told beside arrays, by name; empty where it is not found."""
    name = f"_dot_product_attention_{direction}"
    lowering = getattr(primitives, f"{name}_cuda_lowering", None)
    if lowering is None or not hasattr(primitives, f"{name}_p"):
        return set()
    parameters = inspect.signature(lowering).parameters.values()
    names = [x.name for x in parameters if x.kind is not inspect.Parameter.VAR_POSITIONAL]
    return set(names[names.index("scale") :]) if "scale" in names else set()


def fits(shape: tuple[int, ...], segments: int) -> bool:
    """Whether rows are served well in pieces, and at all.

    A kernel writes a log-sum-exp for each place of a row, segment and head: of many segments these
    are more bytes than a mask's two for each pair of tokens, and XLA's blocks, which look back no
    further than a group, have little to do. Offsets are of 32 bits.

    Args:
        shape: of the queries of a device, [n, t, h, e]. segments: in its rows.
    """
    rows, tokens, heads, _ = shape
    return 2 * -(-segments // rows) * heads <= tokens and math.prod(shape) < 2**31


class Piece(NamedTuple):
    """Segments of queries and the segment of keys that each sees, in the rows of a device.

    Fields:
        queries, keys: tokens of each segment; 0 where there is none. m segments a row.
        query, key: the token that each begins at, of rows that lie end to end.
        place: of each token, where its log-sum-exp lies among those of all segments.
        asks, answers: whether a token is in a segment of queries, of keys.
    """

    queries: Int[Array, "n m"]
    keys: Int[Array, "n m"]
    query: Int[Array, "n m"]
    key: Int[Array, "n m"]
    place: Int[Array, "n t"]
    asks: Bool[Array, "n t"]
    answers: Bool[Array, "n t"]


class Pieces(NamedTuple):
    """Each segment with itself, causal; the responses of each group with their prompt."""

    own: Piece
    shared: Piece


def prepare(group: Int[Array, "n t"], response: Int[Array, "n t"], segments: int) -> Pieces:
    """The pieces of the rows of a device.

    Args:
        segments: prompts and responses in these rows, at most.
    """
    rows, tokens = group.shape
    size = max(2, -(-segments // rows))  # with one a row JAX leaves out where it begins
    here = jnp.arange(rows * tokens, dtype=jnp.int32).reshape(rows, tokens)

    def begins(*marks: Array) -> Bool[Array, "n t"]:
        changes = functools.reduce(jnp.logical_or, (x[:, 1:] != x[:, :-1] for x in marks))
        return jnp.pad(changes, ((0, 0), (1, 0)), constant_values=True)

    def runs(begin: Array, within: Array) -> tuple[Array, Array, Array]:
        """First token and length of each run of tokens within, and each token's run, from 0."""

        def starts(marks: Array) -> tuple[Array, Array]:
            marks, index = marks.ravel(), here.ravel()
            count = jnp.cumsum(marks, dtype=jnp.int32)
            # Written and not searched for, which is a loop of many small kernels. Tokens that are
            # not marked go beyond the end, each to a place of its own: dropped.
            place = jnp.where(marks, count - 1, rows * size + index)
            absent = jnp.full(rows * size, rows * tokens, jnp.int32)
            return count, absent.at[place].set(index, mode="drop", unique_indices=True)

        count, first = starts(begin & within)
        ends = jnp.pad(begin.ravel()[1:] | ~within.ravel()[1:], (0, 1), constant_values=True)
        _, last = starts(ends.reshape(begin.shape) & within)
        there = first < rows * tokens
        return first, jnp.where(there, last + 1 - first, 0), count.reshape(begin.shape) - 1

    def of(run: Array, x: Array) -> Array:
        """Each token's number of its run."""
        return x[jnp.clip(run, 0, rows * size - 1)]

    def piece(first: Array, length: Array, run: Array, key: Array, keys: Array) -> Piece:
        there = (length > 0) & (keys > 0)
        length, keys = jnp.where(there, length, 0), jnp.where(there, keys, 0)

        def inside(run: Array, first: Array, length: Array) -> Bool[Array, "n t"]:
            begin = of(run, first)
            return (begin <= here) & (here < begin + of(run, length))

        asks = inside(run, first, length)
        # A prompt comes before what asks it, so its tokens are counted with the run before.
        answers = inside(run, key, keys) | inside(run + 1, key, keys)
        place = jnp.clip(run, 0, rows * size - 1) * tokens + here - of(run, first)
        return Piece(
            queries=length.reshape(rows, size),
            keys=keys.reshape(rows, size),
            query=first.reshape(rows, size),
            key=key.reshape(rows, size),
            place=jnp.where(asks, place, 0),
            asks=asks,
            answers=answers,
        )

    first, length, run = runs(begins(group, response), group >= 0)
    own = piece(first, length, run, first, length)
    answered = (group >= 0) & (response > 0)
    first, length, run = runs(begins(group, response > 0), answered)
    prompt = jax.lax.cummax(jnp.where(begins(group), here, 0).ravel())  # a group begins with it
    key = jnp.where(length > 0, prompt[jnp.minimum(first, rows * tokens - 1)], first)
    return Pieces(own, piece(first, length, run, key, first - key))


def attend(
    query: Float[Array, "n t h e"],
    key: Float[Array, "n t g e"],
    value: Float[Array, "n t g e"],
    pieces: Pieces,
    *,
    scale: float,
    number: int = 0,
) -> Float[Array, "n t h e"]:
    """The attended values of the rows of a device; 0 on padding.

    Args:
        scale: of the products.
        number: of its own for every call of a program whose bits must be the same each time. XLA
            (of JAX 0.11) marks such calls when it compiles them, but of several that are alike only
            the first, and does not find the kernels of the others when the program runs.
    """
    return _attend(query, key, value, pieces, scale, number)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attend(query, key, value, pieces, scale, number):
    return _forward(query, key, value, pieces, scale, number)[0]


def _forward(query, key, value, pieces, scale, number):
    del number
    found = [
        _one_forward(query, key, value, piece, causal, scale)
        for piece, causal in zip(pieces, (True, False), strict=True)
    ]
    (own, own_sum), (shared, shared_sum) = found
    total = jnp.logaddexp(own_sum, shared_sum)
    here = pieces.own.asks[..., None]
    weigh = lambda x, sums: x * jnp.where(here, jnp.exp(sums - total), 0)[..., None]  # noqa: E731
    out = weigh(own, own_sum) + weigh(shared, shared_sum)  # in float32, as the sums are
    out = checkpoint_name(out.astype(query.dtype), KEPT)
    total = checkpoint_name(jnp.where(here, total, 0), KEPT)
    return out, (query, key, value, pieces, out, total)


def _backward(scale, number, saved, gradient):
    query, key, value, pieces, out, total = saved
    arguments = query, key, value, out, total, gradient
    own = _one_backward(*arguments, pieces.own, True, scale, number)
    shared = _one_backward(*arguments, pieces.shared, False, scale, number)
    summed = (
        (x.astype(jnp.float32) + y.astype(jnp.float32)).astype(x.dtype)
        for x, y in zip(own, shared, strict=True)
    )
    return *summed, None


_attend.defvjp(_forward, _backward)


def _settings(query, key, piece, causal, scale, number=0):
    """What both primitives are told beside the arrays: counts and offsets, and how."""
    rows, tokens = query.shape[:2]

    def offsets(first, array):
        first = jnp.pad(first.ravel(), (0, rows), constant_values=rows * tokens)
        return (first * (array.shape[2] * array.shape[3])).reshape(rows, -1)

    nothing = jnp.zeros(0, query.dtype)
    arrays = (
        nothing,  # no bias
        piece.queries,
        piece.keys,
        offsets(piece.query, query),
        offsets(piece.key, key),
        nothing,  # no pages
        nothing,
    )
    masks = primitives.MaskType
    how = {
        "scale": scale,
        "seed": number,  # of dropout, which there is none of: a name for the call
        "dropout_rate": 0.0,
        "variadic_args": (False, False),
        "mask_type": masks.PADDING_CAUSAL if causal else masks.PADDING,
        "layout": primitives.AttentionLayout.BTNH.value,
        "sliding_window_length": None,
    }
    how |= {name: x for name, x in NEWER_SETTINGS.items() if name in settings("fwd")}
    return arrays, how


def _one_forward(query, key, value, piece, causal, scale):
    """Values and log-sum-exps of a piece; 0 and minus infinity where a token asks nothing."""
    arrays, how = _settings(query, key, piece, causal, scale)
    out, sums = primitives._dot_product_attention_fwd_p.bind(
        query, key, value, *arrays, **how, is_training=True
    )
    sums = sums.swapaxes(1, 2).reshape(-1, query.shape[2])[piece.place]
    asks = piece.asks[..., None]
    return jnp.where(asks[..., None], out, 0), jnp.where(asks, sums, -jnp.inf)


def _one_backward(query, key, value, out, total, gradient, piece, causal, scale, number):
    """The gradients by a piece of queries, keys and values."""
    tokens, heads = query.shape[1:3]
    arrays, how = _settings(query, key, piece, causal, scale, number)
    place = piece.query.reshape(-1, 1) + jnp.arange(tokens)[None]
    sums = total.reshape(-1, heads).at[place].get(mode="clip").swapaxes(1, 2)
    found = primitives._dot_product_attention_bwd_p.bind(
        query, key, value, *arrays, sums, out, gradient, **how
    )
    inside = piece.asks, piece.answers, piece.answers
    return [
        jnp.where(tokens[..., None, None], x, 0) for tokens, x in zip(inside, found, strict=True)
    ]
