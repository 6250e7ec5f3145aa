"""Log-probabilities of chosen tokens, and entropies, without more logits than fit a budget.

The logits of a batch are by far its largest array, and half of a small model's arithmetic. Where
they fit the budget they are computed once and kept for the backward pass, which turns them into
their own gradient in place. Where they do not, they exist for one chunk of tokens only, in both
passes: the backward pass, a rule of its own, computes a chunk's logits again. Or, on a GPU, it
finds what their gradient is but for a factor a token, kept in two bytes by the forward pass.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from alignax.core.axes import device_kind, gathered_vocabulary, one_gpu, split_all, token_shards

CHUNK_BYTES = 256 * 2**20  # float32 logits held at once on one device
# On GPUs: each chunk reads and writes the gradient of the whole matrix, which is memory's time.
GPU_CHUNK_BYTES = 2**30
SLOPES_BYTES = 2**31  # bfloat16 slopes kept on a GPU for the backward pass, of each member too


class Form(NamedTuple):
    """What products of states and matrix go through to become logits: a cap, then a division."""

    softcap: float | None = None
    temperature: float = 1.0


def room() -> int:
    """How many bytes of float32 logits are held at once on each device in use.

    Of one model: of each member, where several are mapped over (`train --seeds`).
    """
    return GPU_CHUNK_BYTES if device_kind().startswith("NVIDIA") else CHUNK_BYTES


@jax.named_scope("head")
def token_logprobs(
    hidden: Float[Array, "n m d"],
    head: Float[Array, "v d"],
    target: Int[Array, "n m"],
    *,
    softcap: float | None = None,
    temperature: float = 1.0,
    chunk_bytes: int | None = None,
) -> Float[Array, "n m"]:
    """log softmax(hidden @ head.T / temperature)[target], in nats and float32, of any dtype.

    Args:
        hidden: the states that predict the targets, already gathered: the shift by one is made.
        head: the output matrix.
        target: token ids in [0, v).
        softcap: c, where the logits are c * tanh(hidden @ head.T / c), as Gemma 2's are.
        temperature: above 0; divides the logits, capped ones too.
        chunk_bytes: how many bytes of logits may exist at once on one device: over all of axis n,
            or over the part of it that a device of the mesh in use has. `room()` where None; then
            their slopes may be kept too (`keeps_slopes`).

    Returns:
        One log-probability a token, at most 0.
    """
    form = Form(softcap, temperature)
    return _in_chunks(hidden, head, target, form, chunk_bytes, entropic=False)[0]


@jax.named_scope("head")
def token_logprobs_and_entropy(
    hidden: Float[Array, "n m d"],
    head: Float[Array, "v d"],
    target: Int[Array, "n m"],
    *,
    softcap: float | None = None,
    temperature: float = 1.0,
    chunk_bytes: int | None = None,
) -> tuple[Float[Array, "n m"], Float[Array, "n m"]]:
    """`token_logprobs`, and the entropy -sum p log p of the distributions that they are of.

    Both from the same logits, a chunk at a time.

    Returns:
        Two numbers a token: its log-probability, and the entropy over the vocabulary, in nats and
        float32, from 0 to log v.
    """
    form = Form(softcap, temperature)
    logprobs, entropy = _in_chunks(hidden, head, target, form, chunk_bytes, entropic=True)
    assert entropy is not None
    return logprobs, entropy


def _in_chunks(hidden, head, target, form, chunk_bytes, *, entropic):
    rows, tokens = target.shape
    if not target.size:
        nothing = jnp.zeros(target.shape, jnp.float32)
        return nothing, nothing if entropic else None
    shards = token_shards()
    here = rows if rows % shards else rows // shards
    budget, chunk_bytes = chunk_bytes, chunk_bytes or room()
    chunk = max(1, min(tokens, chunk_bytes // (4 * here * head.shape[0])))
    chunks = -(-tokens // chunk)
    chunk = -(-tokens // chunks)  # even chunks pad the least
    padding = chunks * chunk - tokens
    hidden = jnp.pad(hidden, ((0, 0), (0, padding), (0, 0)))
    target = jnp.pad(target, ((0, 0), (0, padding)))
    hidden = hidden.reshape(rows, chunks, chunk, -1).swapaxes(0, 1)
    target = target.reshape(rows, chunks, chunk).swapaxes(0, 1)
    # In one place, a chunk's tokens are one axis: with two XLA for CPUs makes slopes beside the
    # logits and not in their place, and transposes them by a copy ahead of the product.
    if shards == 1:
        hidden = hidden.reshape(chunks, rows * chunk, -1)
        target = target.reshape(chunks, rows * chunk)
    # Where a budget is given, it holds.
    slopes = chunks > 1 and not entropic and budget is None
    slopes = slopes and keeps_slopes(hidden.dtype, target.size * len(head))
    found = _chunked(form, entropic, slopes, hidden, head.astype(hidden.dtype), target)
    whole = lambda x: x.reshape(chunks, rows, chunk).swapaxes(0, 1).reshape(rows, -1)  # noqa: E731
    return jax.tree.map(lambda x: whole(x)[:, :tokens], found)


def keeps_slopes(dtype: DTypeLike, logits: int) -> bool:
    """Whether the derivative of each log-probability by each logit is kept for the backward pass.

    That saves computing the logits again: where they are no more than a GPU has room for, and in
    bfloat16, which their gradient is rounded to in any case.
    """
    return one_gpu() and jnp.dtype(dtype) == jnp.bfloat16 and 2 * logits <= SLOPES_BYTES


def _logits(form, hidden, head):
    logits = jnp.einsum("...d,vd->...v", hidden, head, preferred_element_type=jnp.float32)
    if form.softcap is not None:
        logits = form.softcap * jnp.tanh(logits / form.softcap)
    return logits if form.temperature == 1 else logits / form.temperature


def _entropy(logprobs):
    return -jnp.sum(jnp.exp(logprobs) * logprobs, axis=-1)


def _slopes(form, logits, normaliser, target):
    """d log p[target] / d (hidden @ head.T)."""
    probability = jnp.exp(logits - normaliser[..., None])
    chosen = (
        jax.lax.broadcasted_iota(target.dtype, probability.shape, target.ndim) == target[..., None]
    )
    return (chosen - probability) * _slope(form, logits)


def _slope(form, logits):
    """d logit / d (hidden @ head.T); 1 where nothing is done to the products."""
    if form.softcap is None:
        return 1 / form.temperature
    return (1 - (logits * form.temperature / form.softcap) ** 2) / form.temperature  # of the tanh


def _plainly_chunked(
    form: Form,
    entropic: bool,
    slopes: bool,
    hidden: Float[Array, "c *t d"],
    head: Float[Array, "v d"],
    target: Int[Array, "c *t"],
) -> tuple[Float[Array, "c *t"], Float[Array, "c *t"] | None]:
    return _forward(form, entropic, False, hidden, head, target)[0]


def _forward(form, entropic, slopes, hidden, head, target):
    given, head = head, gathered_vocabulary(head)

    def chunk(inputs):
        hidden, target = inputs
        logits = _logits(form, hidden, head)
        normaliser = jax.nn.logsumexp(logits, axis=-1)
        chosen = jnp.take_along_axis(logits, target[..., None], axis=-1)[..., 0]
        entropy = _entropy(logits - normaliser[..., None]) if entropic else None
        return (chosen - normaliser, entropy), normaliser, logits

    def slope(inputs):
        found, normaliser, logits = chunk(inputs)
        return found, _slopes(form, logits, normaliser, inputs[1]).astype(hidden.dtype)

    if slopes:
        found, kept = jax.lax.map(slope, (hidden, target))
        return found, (hidden, given, kept)
    if len(hidden) == 1:
        only = chunk((hidden[0], target[0]))
        found, normaliser, logits = jax.tree.map(lambda x: x[None], only)
    else:
        found, normaliser = jax.lax.map(lambda x: chunk(x)[:2], (hidden, target))
        logits = None
    return found, (hidden, given, target, normaliser, found[1], logits)


def _backward(form, entropic, slopes, saved, gradients):
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    if slopes:  # a token's factor is the same for all its logits
        hidden, head, kept = saved
        factor = gradients[0][..., None]
        hidden_gradient = (factor * product("...v,vd->...d", kept, head)).astype(hidden.dtype)
        hidden = (factor * hidden).astype(hidden.dtype)
        head_gradient = product("ctv,ctd->vd", kept, hidden)  # on one GPU: tokens are one axis
        return hidden_gradient, head_gradient.astype(head.dtype), None
    hidden, head, target, normaliser, entropy, kept = saved
    head = gathered_vocabulary(head)
    # A row to a device: each sums up its own share, and they meet once, after all chunks.
    apart = hidden.ndim == 4 and hidden.shape[1] == token_shards()
    share = (hidden.shape[1],) if apart else ()
    terms = "ncv,ncd->nvd" if apart else "ncv,ncd->vd" if hidden.ndim == 4 else "tv,td->vd"

    def chunk(head_gradient, inputs):
        hidden, target, normaliser, entropy, (gradient, entropy_gradient) = inputs
        logits = _logits(form, hidden, head) if kept is None else kept[0]
        by_logits = _slopes(form, logits, normaliser, target)
        # A token's factor stays out of the vocabulary. XLA for CPUs else writes that array three
        # times over: before the factor, after it, and after it transposed.
        factor = gradient[..., None]
        if entropic:  # d entropy / d logit = -p (log p + entropy); no factor is common to both
            logprobs = logits - normaliser[..., None]
            surprise = jnp.exp(logprobs) * (logprobs + entropy[..., None])
            surprise *= _slope(form, logits)
            by_logits = factor * by_logits - entropy_gradient[..., None] * surprise
            factor = 1
        by_logits = by_logits.astype(hidden.dtype)
        hidden_gradient = (factor * product("...v,vd->...d", by_logits, head)).astype(hidden.dtype)
        hidden = (factor * hidden).astype(hidden.dtype)
        head_gradient += product(terms, by_logits, hidden)
        return head_gradient, hidden_gradient

    zero = jnp.zeros((*share, *head.shape))
    inputs = (hidden, target, normaliser, entropy, gradients)
    if apart:
        zero = split_all(zero)
    if kept is None:
        head_gradient, hidden_gradient = jax.lax.scan(chunk, zero, inputs)
    else:
        head_gradient, hidden_gradient = chunk(zero, jax.tree.map(lambda x: x[0], inputs))
        hidden_gradient = hidden_gradient[None]
    if apart:
        head_gradient = jnp.sum(head_gradient, axis=0)
    return hidden_gradient, head_gradient.astype(head.dtype), None


_chunked = jax.custom_vjp(_plainly_chunked, nondiff_argnums=(0, 1, 2))
_chunked.defvjp(_forward, _backward)
