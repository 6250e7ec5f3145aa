"""Sampling: each prompt computed once, its k responses decoded together in one jitted loop."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from alignax.core.types import Params
from alignax.models.transformer import Cache, Decoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler:
    """How responses are drawn.

    Fields:
        num_samples: responses to each prompt.
        max_new_tokens: a response is cut here.
        temperature: divides the logits; 0 takes the likeliest token.
        top_p: keep the smallest set of tokens with at least this probability, in (0, 1].
        top_k: keep this many tokens; 0 keeps all.
    """

    num_samples: int = 1
    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


class Samples(NamedTuple):
    """What was drawn.

    Fields:
        tokens: 0 after the end.
        lengths: in tokens, the end-of-turn token included.
        logprobs: under the policy itself, before temperature and truncation; 0 after the end.
        ended: whether the response ended by itself.
    """

    tokens: Int[Array, "b k r"]
    lengths: Int[Array, "b k"]
    logprobs: Float[Array, "b k r"]
    ended: Bool[Array, "b k"]


class _State(NamedTuple):
    step: Int[Array, ""]
    logits: Float[Array, "b k v"]
    cache: Cache
    samples: Samples


def sample(
    model: Decoder,
    params: Params,
    key: PRNGKeyArray,
    prompts: Int[Array, "b p"],
    prompt_lengths: Int[Array, " b"],
    prompt_ids: Int[Array, " b"],
    end_ids: Int[Array, " e"],
    *,
    sampler: Sampler,
) -> Samples:
    """Draws responses until all have ended or reached their length.

    Args:
        key: with `prompt_ids` it decides every draw, so that a prompt gets the same responses
            whatever else is in the batch.
        prompts: padded on the right.
        prompt_ids: a number for each prompt, such as its place in the data set.
        end_ids: tokens that end a response.
    """
    b, k, length = prompts.shape[0], sampler.num_samples, sampler.max_new_tokens
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i), k))(prompt_ids)
    hidden, cache = model.prefill(
        params, prompts, prompt_lengths, num_responses=k, max_response=length
    )
    logits = jnp.broadcast_to(
        model.logits(params, hidden)[:, None], (b, k, model.config.vocab_size)
    )
    samples = Samples(
        tokens=jnp.zeros((b, k, length), jnp.int32),
        lengths=jnp.zeros((b, k), jnp.int32),
        logprobs=jnp.zeros((b, k, length), jnp.float32),
        ended=jnp.zeros((b, k), bool),
    )

    def going(state: _State) -> Bool[Array, ""]:
        return (state.step < length) & ~jnp.all(state.samples.ended)

    def draw(state: _State) -> _State:
        step, (tokens, lengths, logprobs, ended) = state.step, state.samples
        step_keys = jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, step)))(keys)
        token = choose(step_keys, state.logits, sampler=sampler)
        logprob = jnp.take_along_axis(jax.nn.log_softmax(state.logits), token[..., None], axis=-1)[
            ..., 0
        ]
        token = jnp.where(ended, 0, token)
        tokens = tokens.at[:, :, step].set(token)
        logprobs = logprobs.at[:, :, step].set(jnp.where(ended, 0.0, logprob))
        lengths += ~ended
        ended |= jnp.any(token[..., None] == end_ids[None, None], axis=-1)
        hidden, cache = model.extend(params, state.cache, token[..., None])
        logits = model.logits(params, hidden[:, :, 0])
        return _State(step + 1, logits, cache, Samples(tokens, lengths, logprobs, ended))

    start = _State(jnp.int32(0), logits, cache, samples)
    return jax.lax.while_loop(going, draw, start).samples


def choose(
    keys: Key[Array, "b k"], logits: Float[Array, "b k v"], *, sampler: Sampler
) -> Int[Array, "b k"]:
    """One token for each response: the likeliest, or a draw from the truncated distribution."""
    if sampler.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = truncate(logits / sampler.temperature, top_k=sampler.top_k, top_p=sampler.top_p)
    draw = jax.vmap(jax.vmap(jax.random.categorical))
    return draw(keys, logits).astype(jnp.int32)


def truncate(
    logits: Float[Array, "*b v"], *, top_k: int = 0, top_p: float = 1.0
) -> Float[Array, "*b v"]:
    """Sets the logits of tokens that are not kept to minus infinity.

    top_k goes first. top_p (arXiv:1904.09751) keeps the likeliest tokens until their probability
    reaches it, the token that crosses the line included; so one token is always kept, and tokens
    as likely as the last one kept are kept too.
    """
    if 0 < top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, top_k)[0][..., -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if top_p < 1.0:
        probability = jax.nn.softmax(logits, axis=-1)
        logits = jnp.where(probability < _nucleus(probability, top_p), -jnp.inf, logits)
    return logits


def _nucleus(probability: Float[Array, "*b v"], top_p: float) -> Float[Array, "*b 1"]:
    """The greatest threshold whose tokens, those at least as likely, hold `top_p` together.

    Found by bisection over the bit patterns of float32, which are ordered like the numbers, so
    that 30 sums replace a sort of the vocabulary, by far the slowest part of a step on a CPU.
    """
    bits = jax.lax.bitcast_convert_type(probability, jnp.int32)
    low = jnp.zeros((*probability.shape[:-1], 1), jnp.int32)  # holds top_p
    high = jnp.max(bits, axis=-1, keepdims=True) + 1  # holds nothing

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) // 2
        held = jnp.sum(jnp.where(bits >= middle, probability, 0.0), axis=-1, keepdims=True)
        enough = held >= top_p
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    low, _ = jax.lax.fori_loop(0, 31, halve, (low, high))
    return jax.lax.bitcast_convert_type(low, jnp.float32)
