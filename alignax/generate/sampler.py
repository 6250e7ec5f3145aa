"""Sampling: each prompt computed once, its k responses decoded together in one jitted loop."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from alignax.core.axes import split_if_even
from alignax.core.types import Params
from alignax.generate.choosing import Sampler, choose
from alignax.models.caching import Cache
from alignax.models.transformer import Decoder


class Samples(NamedTuple):
    """What was drawn.

    Fields:
        tokens: 0 after the end.
        lengths: in tokens, the end-of-turn token included.
        logprobs: before truncation, as `choose` has them; 0 after the end.
        ended: whether the response ended by itself.
    """

    tokens: Int[Array, "b k r"]
    lengths: Int[Array, "b k"]
    logprobs: Float[Array, "b k r"]
    ended: Bool[Array, "b k"]


class State(NamedTuple):
    """A batch in the middle of its decoding.

    Fields:
        hidden: what predicts the next token of each response.
        keys: of each response's draws; which draw it is says its length.
        limits: tokens at which each response is cut.
    """

    hidden: Float[Array, "b k d"]
    cache: Cache
    samples: Samples
    keys: Key[Array, "b k"]
    limits: Int[Array, "b k"]


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
    """Draws responses to a batch of prompts until all have ended or reached their length.

    One compiled program; `engine.Engine` keeps its slots busy where lengths differ.

    Args:
        key: with `prompt_ids` it decides every draw, so that a prompt gets the same responses
            whatever else is in the batch.
        prompts: padded on the right.
        prompt_ids: a number for each prompt, such as its place in the data set.
        end_ids: tokens that end a response.
    """
    state = start(model, params, key, prompts, prompt_lengths, prompt_ids, sampler=sampler,
                  places=sampler.max_new_tokens)  # fmt: skip
    steps, until = jnp.int32(sampler.max_new_tokens), jnp.int32(0)
    weights = model.unstack(params)
    return advance(model, weights, state, end_ids, steps, until, sampler=sampler).samples


def start(
    model: Decoder,
    params: Params,
    key: PRNGKeyArray,
    prompts: Int[Array, "b p"],
    prompt_lengths: Int[Array, " b"],
    prompt_ids: Int[Array, " b"],
    *,
    sampler: Sampler,
    places: int,
) -> State:
    """Prompts computed, nothing drawn yet.

    Args:
        places: of the cache, for each response.
    """
    b, k, length = prompts.shape[0], sampler.num_samples, sampler.max_new_tokens
    last, cache = model.prefill(
        params, prompts, prompt_lengths, num_responses=k, max_response=places
    )
    return State(
        hidden=jnp.broadcast_to(last[:, None], (b, k, last.shape[-1])),
        cache=cache,
        samples=Samples(
            tokens=jnp.zeros((b, k, length), jnp.int32),
            lengths=jnp.zeros((b, k), jnp.int32),
            logprobs=jnp.zeros((b, k, length), jnp.float32),
            ended=jnp.zeros((b, k), bool),
        ),
        keys=jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i), k))(prompt_ids),
        limits=jnp.full((b, k), length),
    )


def going(state: State) -> Bool[Array, "b k"]:
    """Which responses have neither ended nor reached their limit."""
    return ~state.samples.ended & (state.samples.lengths < state.limits)


def advance(
    model: Decoder,
    params: Params,
    state: State,
    end_ids: Int[Array, " e"],
    steps: Int[Array, ""],
    until: Int[Array, ""],
    *,
    sampler: Sampler,
    greedy: Bool[Array, "b k"] | None = None,
    tempered: bool = False,
) -> State:
    """Draws a token for every response that is still going, again and again.

    Args:
        params: as `Decoder.unstack` gives them.
        steps: tokens at most.
        until: stop when no more than this many responses are still going.
        greedy: which responses take the likeliest tokens; the first of each prompt if the sampler
            says so, where not given.
        tempered: as `choose` has it.
    """
    if greedy is None and sampler.greedy_first:
        first = jnp.arange(state.keys.shape[1])[None] == 0
        greedy = jnp.broadcast_to(first, state.keys.shape)

    state = jax.tree.map(split_if_even, state)
    longest = state.cache.prompt_key[0].shape[-1] + state.cache.places
    tables = model.tables(longest)

    def wanted(carry: tuple[Array, State]) -> Bool[Array, ""]:
        step, state = carry
        return (step < steps) & (jnp.sum(going(state)) > until)

    def draw(carry: tuple[Array, State]) -> tuple[Array, State]:
        step, state = carry
        hidden, cache, samples, keys, limits = state
        active = going(state)
        logits = model.logits(params, hidden)
        draw_keys = jax.vmap(jax.vmap(jax.random.fold_in))(keys, samples.lengths)
        token, logprob = choose(
            draw_keys, logits, sampler=sampler, greedy=greedy, tempered=tempered
        )
        samples = _put(samples, active, token, logprob, end_ids)
        hidden, cache = model.extend(params, cache, token[..., None], tables)
        # A response that has ended is carried along, and must not outgrow the ring.
        cache = cache._replace(filled=jnp.minimum(cache.filled, cache.places))
        return step + 1, State(hidden[:, :, 0], cache, samples, keys, limits)

    state = state._replace(cache=state.cache.without_ones())
    state = jax.lax.while_loop(wanted, draw, (jnp.int32(0), state))[1]
    return state._replace(cache=state.cache.with_ones())


def _put(
    samples: Samples,
    active: Bool[Array, "b k"],
    token: Int[Array, "b k"],
    logprob: Float[Array, "b k"],
    end_ids: Int[Array, " e"],
) -> Samples:
    """Each active response with one token more."""
    index = jnp.arange(samples.tokens.shape[2])[None, None]
    place = (index == samples.lengths[..., None]) & active[..., None]
    return Samples(
        tokens=jnp.where(place, token[..., None], samples.tokens),
        lengths=samples.lengths + active,
        logprobs=jnp.where(place, logprob[..., None], samples.logprobs),
        ended=samples.ended | (active & jnp.any(token[..., None] == end_ids[None, None], axis=-1)),
    )
