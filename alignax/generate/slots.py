"""Slots of a decoding in progress: split, joined, moved together, given more room.

All arrays of a `State` but the ring's place count slots on their first axis. Numbers of slots are
taken from a ladder, so that few shapes are compiled.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from alignax.data.ladder import rung
from alignax.generate.sampler import State
from alignax.models.caching import Cache

# What a step costs beside a token of each response, in such tokens: the weights are read, and each
# slot reads its prompt. Of SmolLM2-135M on 2 cores (benchmarks/decode_step.py); where products are
# faster or memory is slower, the weights cost more, and moving pays less.
WEIGHTS, PROMPT = 16.0, 0.35


def cost(slots: int, width: int) -> float:
    """Of a token for every response, in tokens."""
    return WEIGHTS + slots * (width + PROMPT)


def worth_moving(slots: int, width: int) -> int:
    """How many responses must be left for fewer slots to pay; 0 where none do."""
    single = [n for n in range(1, slots * width) if cost(rung(n), 1) <= 0.8 * cost(slots, width)]
    return max(single, default=0)


def _map(state: State, slot: Any, cell: Any, *more: State) -> State:
    """Applies `slot` to arrays of slots, `cell` to arrays of slots and columns."""
    caches = [x.cache for x in (state, *more)]
    each = lambda f, xs: jax.tree.map(f, *xs)  # noqa: E731
    cache = Cache(
        prompt_key=each(slot, [c.prompt_key for c in caches]),
        prompt_value=each(slot, [c.prompt_value for c in caches]),
        prompt_lengths=slot(*(c.prompt_lengths for c in caches)),
        key=each(cell, [c.key for c in caches]),
        value=each(cell, [c.value for c in caches]),
        filled=cell(*(c.filled for c in caches)),
        at=state.cache.at,
    )
    return State(
        hidden=cell(*(x.hidden for x in (state, *more))),
        cache=cache,
        samples=each(cell, [x.samples for x in (state, *more)]),
        keys=cell(*(x.keys for x in (state, *more))),
        limits=cell(*(x.limits for x in (state, *more))),
    )


def split(state: State, width: int) -> State:
    """Slots of `width` responses, each with its own copy of the prompt."""
    parts = state.keys.shape[1] // width
    if parts == 1:
        return state
    return _map(
        state,
        lambda x: jnp.repeat(x, parts, axis=0),
        lambda x: x.reshape(x.shape[0] * parts, width, *x.shape[2:]),
    )


@functools.partial(jax.jit, static_argnums=1)
def empty(like: State, slots: int) -> State:
    """Slots that hold nothing, with the room of those of `like`."""
    zeros = lambda x: jnp.zeros((slots, *x.shape[1:]), x.dtype)  # noqa: E731
    made = _map(like, zeros, lambda x: x[:1][jnp.zeros(slots, jnp.int32)])
    return _idle(made, jnp.zeros(made.keys.shape, bool))


@functools.partial(jax.jit, donate_argnums=0)
def placed(state: State, fresh: State, index: Int[Array, " n"]) -> State:
    """Fresh slots, whose responses are empty, in these places; beyond the last: dropped."""
    put = lambda x, y: x.at[index].set(y, mode="drop")  # noqa: E731
    return _map(state, put, put, fresh)


@functools.partial(jax.jit, static_argnums=1)
def with_prompt_room(state: State, room: int) -> State:
    """Prompts padded to this many tokens."""
    more = room - state.cache.prompt_value[0].shape[2]
    key = tuple(jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, more))) for x in state.cache.prompt_key)
    value = tuple(jnp.pad(x, ((0, 0), (0, 0), (0, more), (0, 0))) for x in state.cache.prompt_value)
    return state._replace(cache=state.cache._replace(prompt_key=key, prompt_value=value))


@functools.partial(jax.jit, static_argnums=1)
def grown(state: State, places: int) -> State:
    """A ring with more places; what was written last stays last."""
    cache = state.cache
    more = places - cache.places
    # The oldest place comes first; then the new ones are written next.
    turn = lambda x, axis: jnp.roll(x, -cache.at, axis=axis)  # noqa: E731
    key = tuple(jnp.pad(turn(x, 4), ((0, 0),) * 4 + ((0, more),)) for x in cache.key)
    value = tuple(jnp.pad(turn(x, 3), ((0, 0),) * 3 + ((0, more), (0, 0))) for x in cache.value)
    at = jnp.int32(cache.places)
    return state._replace(cache=cache._replace(key=key, value=value, at=at))


def together(
    state: State, owner: Int[np.ndarray, "n w two"]
) -> tuple[State, Int[np.ndarray, "m x two"]]:
    """What is still going, in fewer slots, where that pays.

    Args:
        owner: the prompt and the sample in each column of each slot; -1 where none is going.
    """
    live = owner[..., 0] >= 0
    slots, width = live.shape
    busy, columns = np.flatnonzero(live.any(axis=1)), np.argwhere(live)
    wide, single = rung(len(busy)), rung(len(columns))
    if min(cost(wide, width), cost(single, 1)) > 0.8 * cost(slots, width):
        return state, owner
    if cost(wide, width) <= cost(single, 1):
        fresh, idle = owner[_padded(busy, wide)], wide - len(busy)
        state = _slots(state, _padded(busy, wide))
    else:
        index, idle = _padded(columns, single), single - len(columns)
        fresh = owner[index[:, 0], index[:, 1]][:, None]
        state = _cells(state, index[:, 0], index[:, 1])
    fresh[len(fresh) - idle :] = -1
    return _idle(state, fresh[..., 0] >= 0), fresh


def _padded(index: np.ndarray, size: int) -> np.ndarray:
    """Filled up with its last entry."""
    return np.concatenate([index, np.repeat(index[-1:], size - len(index), axis=0)])


@jax.jit
def _slots(state: State, index: Any) -> State:
    return _map(state, lambda x: x[index], lambda x: x[index])


@jax.jit
def _cells(state: State, slot: Any, column: Any) -> State:
    return _map(state, lambda x: x[slot], lambda x: x[slot, column][:, None])


@jax.jit
def _idle(state: State, live: Any) -> State:
    """Marks as ended what belongs to nobody."""
    return state._replace(samples=state.samples._replace(ended=state.samples.ended | ~live))
