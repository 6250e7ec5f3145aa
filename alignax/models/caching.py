"""The cache of a prompt's keys and values, held once, and of its responses', and attention to it.

A response's tokens lie in a ring of places: every response of a batch writes its next token at
the same place, so that a write is one slice and not a scatter, and a response that begins later
than its neighbours just has fewer places behind it that are its own. Keys are stored with places
last and values with places first of the two, which is how the products of one token read them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from alignax.models.attention import MASKED, softcapped


class Cache(NamedTuple):
    """Keys and values of b prompts, each once, and of k responses to each; a tuple of layers.

    Fields:
        key, value: [b, k, g, ..]; within a loop, without those axes that are 1 (`without_ones`).
        prompt_lengths: in tokens.
        filled: tokens of each response that are in the cache, at most r.
        at: the place of the ring that is written next.
    """

    prompt_key: tuple[Float[Array, "b g e p"], ...]
    prompt_value: tuple[Float[Array, "b g p e"], ...]
    prompt_lengths: Int[Array, " b"]
    key: tuple[Float[Array, "*bkg e r"], ...]
    value: tuple[Float[Array, "*bkg r e"], ...]
    filled: Int[Array, "b k"]
    at: Int[Array, ""]

    @property
    def places(self) -> int:
        """Of the ring: the longest response that can be held."""
        return self.key[0].shape[-1]

    @property
    def leading(self) -> tuple[int, int, int]:
        """b, k and g."""
        b, k = self.filled.shape
        return b, k, self.prompt_key[0].shape[1]

    def without_ones(self) -> "Cache":
        """Responses' keys and values without the axes among b, k and g that are 1.

        A product drops such axes. What is written at each turn of a loop and then read by a product
        must not have them, or XLA writes it twice, with them and without, and copies all of it.
        """
        ones = tuple(i for i, n in enumerate(self.leading) if n == 1)
        return self._each(lambda x: jnp.squeeze(x, ones))

    def with_ones(self) -> "Cache":
        """All axes again."""
        return self._each(self.whole)

    def whole(self, x: Float[Array, "*bkg m n"]) -> Float[Array, "b k g m n"]:
        """An array of keys or values with all axes."""
        return x.reshape(*self.leading, *x.shape[-2:])

    def _each(self, change: Callable[[Array], Array]) -> "Cache":
        key, value = (tuple(map(change, xs)) for xs in (self.key, self.value))
        return self._replace(key=key, value=value)


def empty_cache(
    key: Float[Array, "layers b p g e"],
    value: Float[Array, "layers b p g e"],
    prompt_lengths: Int[Array, " b"],
    num_responses: int,
    max_response: int,
) -> Cache:
    """A cache that holds prompts and has room for responses."""
    layers, b, _, heads, dim = key.shape
    shape = (b, num_responses, heads)
    return Cache(
        prompt_key=tuple(key.transpose(0, 1, 3, 4, 2)),
        prompt_value=tuple(value.transpose(0, 1, 3, 2, 4)),
        prompt_lengths=prompt_lengths,
        key=(jnp.zeros((*shape, dim, max_response), key.dtype),) * layers,
        value=(jnp.zeros((*shape, max_response, dim), key.dtype),) * layers,
        filled=jnp.zeros((b, num_responses), jnp.int32),
        at=jnp.int32(0),
    )


def write(
    cache: Cache, layer: int, key: Float[Array, "b k s g e"], value: Float[Array, "b k s g e"]
) -> tuple[Float[Array, "*bkg e r"], Float[Array, "*bkg r e"]]:
    """One layer's keys and values with s new ones, which must not go over the end of the ring."""
    held = cache.key[layer], cache.value[layer]
    new = key.transpose(0, 1, 3, 4, 2), value.transpose(0, 1, 3, 2, 4)
    # Places are the last axis of keys, and the last but one of values.
    key, value = (
        jax.lax.dynamic_update_slice_in_dim(
            x, y.reshape(*x.shape[:-2], *y.shape[-2:]), cache.at, axis
        )
        for x, y, axis in zip(held, new, (-1, -2), strict=True)
    )
    return key, value


def moved_on(
    cache: Cache,
    key: tuple[Float[Array, "*bkg e r"], ...],
    value: tuple[Float[Array, "*bkg r e"], ...],
    count: int,
) -> Cache:
    """The cache after `count` tokens have been written to every layer."""
    return cache._replace(
        key=key,
        value=value,
        filled=cache.filled + count,
        at=(cache.at + count) % cache.places,
    )


def visible(
    cache: Cache, count: int, window: int | None
) -> tuple[Bool[Array, "b k s p"], Bool[Array, "b k s r"]]:
    """What each of `count` new tokens attends to: of the prompt, and of its response's places."""
    new = jnp.arange(count)
    age = (cache.at + new[:, None] - jnp.arange(cache.places)[None]) % cache.places
    past = cache.filled[..., None] + new[None, None]
    own = age[None, None] <= past[..., None]
    index = jnp.arange(cache.prompt_value[0].shape[2])
    prompt = index[None] < cache.prompt_lengths[:, None]
    if window is None:
        return jnp.broadcast_to(prompt[:, None, None], (*past.shape, index.size)), own
    own &= age[None, None] < window
    position = cache.prompt_lengths[:, None, None] + past
    near = position[..., None] - index[None, None, None] < window
    return prompt[:, None, None] & near, own


def cached_attention(
    query: Float[Array, "b k s h e"],
    prompt_key: Float[Array, "b g e p"],
    prompt_value: Float[Array, "b g p e"],
    key: Float[Array, "b k g e r"],
    value: Float[Array, "b k g r e"],
    see_prompt: Bool[Array, "b k s p"],
    see_own: Bool[Array, "b k s r"],
    *,
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Array, "b k s h e"]:
    """Attention of s new tokens of each response to its prompt and to its own past.

    The prompt's keys and values are read once for all k responses. Both parts share one softmax,
    in float32.
    """
    b, k, s, heads, dim = query.shape
    groups = key.shape[2]
    # [b, k, g, a s, e]: all queries that read the same keys are rows of one product.
    query = query.reshape(b, k, s, groups, -1, dim) * (scale or dim**-0.5)
    query = query.transpose(0, 1, 3, 4, 2, 5).reshape(b, k, groups, -1, dim)
    wide = {"preferred_element_type": jnp.float32}
    to_prompt = jnp.einsum("bgme,bgep->bgmp", _side_by_side(query), prompt_key, **wide)
    to_prompt = _apart(to_prompt, k)
    to_own = jnp.einsum("bkgme,bkger->bkgmr", query, key, **wide)

    def mask(scores, seen):
        rows = softcapped(scores, softcap).reshape(b, k, groups, -1, s, scores.shape[-1])
        return jnp.where(seen[:, :, None, None], rows, MASKED).reshape(scores.shape)

    to_prompt, to_own = mask(to_prompt, see_prompt), mask(to_own, see_own)
    highest = jnp.maximum(to_prompt.max(axis=-1), to_own.max(axis=-1))[..., None]
    to_prompt, to_own = jnp.exp(to_prompt - highest), jnp.exp(to_own - highest)
    total = (to_prompt.sum(axis=-1) + to_own.sum(axis=-1))[..., None]
    to_prompt, to_own = to_prompt.astype(value.dtype), to_own.astype(value.dtype)
    out = _apart(jnp.einsum("bgmp,bgpe->bgme", _side_by_side(to_prompt), prompt_value, **wide), k)
    out = (out + jnp.einsum("bkgmr,bkgre->bkgme", to_own, value, **wide)) / total
    out = out.astype(value.dtype).reshape(b, k, groups, -1, s, dim)
    return out.transpose(0, 1, 4, 2, 3, 5).reshape(b, k, s, heads, dim)


def _side_by_side(x: Float[Array, "b k g m e"]) -> Float[Array, "b g km e"]:
    """The rows of all k responses under one another, for a product with what they share."""
    b, k, groups, rows, last = x.shape
    return x.swapaxes(1, 2).reshape(b, groups, k * rows, last)


def _apart(x: Float[Array, "b g km e"], k: int) -> Float[Array, "b k g m e"]:
    b, groups, rows, last = x.shape
    return x.reshape(b, groups, k, rows // k, last).swapaxes(1, 2)
