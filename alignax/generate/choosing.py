"""Which token comes next: temperature, truncation, and one uniform number for each draw.

The probabilities are never sorted. A token is drawn by walking the cumulative sum of all, in
blocks; whether it is among those that are kept can be told from the probability and the number of
the likelier ones, one pass over the vocabulary. If it is not, nothing less likely is either, and
the draw is made again among what is likelier. So each token that is kept is drawn with exactly its
share, at the cost of two passes over the vocabulary, and seldom four, where a sort costs dozens.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from alignax.core.errors import BadInput

BLOCK = 128  # tokens whose probabilities are summed together


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler:
    """How responses are drawn.

    Fields:
        num_samples: responses to each prompt, a greedy first one included.
        max_new_tokens: a response is cut here.
        temperature: divides the logits; 0 takes the likeliest token.
        top_p: keep the smallest set of tokens with at least this probability, in (0, 1].
        top_k: keep this many tokens; 0 keeps all.
        min_p: keep tokens with at least this share of the likeliest token's probability.
        greedy_first: take the likeliest tokens for the first response, whatever the temperature.
    """

    num_samples: int = 1
    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    greedy_first: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether all responses are draws from the model's own distribution."""
        truncated = self.top_p < 1.0 or self.top_k > 0 or self.min_p > 0.0
        return self.temperature == 1.0 and not truncated and not self.greedy_first

    def check(self, where: str = "sampler") -> None:
        """Refuses settings that draw nothing."""
        for name, low, high in (
            ("num_samples", 1, None), ("max_new_tokens", 1, None), ("temperature", 0.0, None),
            ("top_k", 0, None), ("min_p", 0.0, 1.0), ("top_p", 0.0, 1.0),
        ):  # fmt: skip
            value = getattr(self, name)
            good = value >= low and (high is None or value <= high)
            if not good or (name == "top_p" and value == 0.0):
                beyond = " above 0" if name == "top_p" else f" of at least {low}"
                raise BadInput(
                    f"a number{beyond}" + ("" if high is None else f" and at most {high:g}"),
                    repr(value),
                    "Change it.",
                    where=f"{where}.{name}",
                )


def choose(
    keys: Key[Array, "b k"],
    logits: Float[Array, "b k v"],
    *,
    sampler: Sampler,
    greedy: Bool[Array, "b k"] | None = None,
    tempered: bool = False,
) -> tuple[Int[Array, "b k"], Float[Array, "b k"]]:
    """One token for each response: the likeliest, or a draw from the truncated distribution.

    Truncation goes in the order top_k, top_p, min_p. top_p (arXiv:1904.09751) keeps the likeliest
    tokens until their share of what top_k kept reaches it, the token that crosses the line
    included. Tokens as likely as the last one kept are kept too.

    Args:
        keys: of each draw.
        greedy: responses that take the likeliest token whatever the sampler says.
        tempered: give log-probabilities at the sampler's temperature, where that is above 0, and
            not at 1.

    Returns:
        The tokens, and their log-probabilities before truncation.
    """
    highest = jnp.max(logits, axis=-1, keepdims=True)
    logits -= highest
    tempered = tempered and sampler.temperature > 0
    if tempered:
        logits /= sampler.temperature
    log_total = jnp.log(jnp.sum(jnp.exp(logits), axis=-1))
    token = likeliest = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    if sampler.temperature > 0:
        divisor = 1.0 if tempered else sampler.temperature
        token = _draw(keys, jnp.exp(logits / divisor), sampler)
        if greedy is not None:
            token = jnp.where(greedy, likeliest, token)
    logprob = jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0] - log_total
    return token, logprob


def _draw(
    keys: Key[Array, "b k"], weights: Float[Array, "b k v"], sampler: Sampler
) -> Int[Array, "b k"]:
    """Draws in proportion to the weights, the greatest of which is 1, among those that are kept."""
    shape = weights.shape[:-1]
    truncated = sampler.top_p < 1.0 or 0 < sampler.top_k < weights.shape[-1]
    share = 1.0
    if truncated and sampler.top_p < 1.0:
        share = sampler.top_p * _total(weights, sampler.top_k)

    if sampler.min_p > 0.0:
        weights = jnp.where(weights < sampler.min_p, 0.0, weights)

    def attempt(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        round_, token, floor, done = carry
        rounds = jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, round_)))(keys)
        uniform = jax.vmap(jax.vmap(jax.random.uniform))(rounds)
        drawn = _walk(uniform, jnp.where(weights > floor, weights, 0.0))
        weight = jnp.take_along_axis(weights, drawn[..., None], axis=-1)
        likelier = weights > weight
        kept = jnp.ones(shape, bool)
        if sampler.top_p < 1.0:
            # Said this way round, NaN is kept too: else a policy that has diverged draws for ever.
            kept &= ~(jnp.sum(jnp.where(likelier, weights, 0.0), axis=-1) >= share)
        if sampler.top_k > 0:
            kept &= jnp.sum(likelier, axis=-1) < sampler.top_k
        token = jnp.where(done, token, drawn)
        return round_ + 1, token, jnp.where(kept[..., None], floor, weight), done | kept

    none = jnp.zeros(shape, jnp.int32)
    first = (jnp.int32(0), none, jnp.full((*shape, 1), -1.0), none > 0)
    if not truncated:
        return attempt(first)[1]
    # The likeliest token is always kept, and each attempt that fails leaves fewer: this ends.
    return jax.lax.while_loop(lambda carry: ~jnp.all(carry[-1]), attempt, first)[1]


def _total(weights: Float[Array, "b k v"], top_k: int) -> Float[Array, "b k"]:
    """The sum of the weights that top_k keeps."""
    if not 0 < top_k < weights.shape[-1]:
        return jnp.sum(weights, axis=-1)
    least = jax.lax.top_k(weights, top_k)[0][..., -1:]
    return jnp.sum(jnp.where(weights < least, 0.0, weights), axis=-1)


def _walk(uniform: Float[Array, "b k"], weights: Float[Array, "b k v"]) -> Int[Array, "b k"]:
    """The first token at which the cumulative sum of the weights exceeds uniform times the sum."""
    vocabulary = weights.shape[-1]
    # A few ulps above 0 and below 1, so that rounding of the sums picks no token of weight 0.
    uniform = jnp.clip(uniform, 1e-7, 1.0 - 1e-6)
    blocks = jnp.pad(weights, ((0, 0), (0, 0), (0, -vocabulary % BLOCK)))
    blocks = blocks.reshape(*weights.shape[:-1], -1, BLOCK)
    sums = jnp.cumsum(jnp.sum(blocks, axis=-1), axis=-1)
    wanted = uniform[..., None] * sums[..., -1:]
    block = jnp.sum(sums <= wanted, axis=-1, dtype=jnp.int32)[..., None]
    before = jnp.where(block > 0, jnp.take_along_axis(sums, jnp.maximum(block - 1, 0), axis=-1), 0)
    inside = jnp.take_along_axis(blocks, block[..., None], axis=-2)[..., 0, :]
    passed = before + jnp.cumsum(inside, axis=-1) <= wanted
    # Where rounding puts the place beyond the block's last weight, that one is meant.
    place = jnp.arange(BLOCK)[None, None]
    last = jnp.max(jnp.where(inside > 0, place, 0), axis=-1)
    found = jnp.minimum(jnp.sum(passed, axis=-1, dtype=jnp.int32), last)
    return (block[..., 0] * BLOCK + found).astype(jnp.int32)
