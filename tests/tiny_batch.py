"""A tiny random decoder, groups of random tokens for it, and the plain way to compute on them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from alignax.core.types import Layout
from alignax.data.plan import Lengths
from alignax.data.tokenise import Example
from alignax.models.config import DecoderConfig
from alignax.models.outputs import outputs
from alignax.models.transformer import Decoder

CONFIG = DecoderConfig(
    vocab_size=64,
    width=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    mlp_width=64,
    init_scale=0.2,
)


class Groups(list):
    """Examples in memory, with their lengths."""

    @property
    def lengths(self) -> Lengths:
        prompt = np.array([len(e.prompt) for e in self])
        response = np.stack([e.response_lengths for e in self]).astype(int)
        scored = np.array([[mask.sum() for _, mask in e.split()] for e in self])
        return Lengths(prompt, response, scored)


def groups(count: int, *, responses: int = 2, seed: int = 0) -> Groups:
    """Prompts of 2 to 19 tokens, responses of 1 to 11, about one token in eight not scored."""
    draw = np.random.default_rng(seed)

    def one(i: int) -> Example:
        parts = [draw.integers(1, 64, draw.integers(1, 12)) for _ in range(responses)]
        mask = draw.random(sum(map(len, parts))) > 0.125
        ends = np.cumsum([len(part) for part in parts])
        mask[ends - 1] = True  # every response scores at least its last token
        return Example(
            prompt=draw.integers(1, 64, draw.integers(2, 20)).astype(np.int32),
            responses=np.concatenate(parts).astype(np.int32),
            response_lengths=np.array([len(part) for part in parts], np.int32),
            mask=mask,
            scores=np.arange(responses, 0, -1).astype(np.float32),
            origin=f"random:{i}",
        )

    return Groups(one(i) for i in range(count))


@functools.cache
def decoder(remat: str = "none") -> Decoder:
    return Decoder(config=CONFIG, remat=remat)


@functools.cache
def params(seed: int = 0):
    return jax.jit(decoder().init)(jax.random.key(seed))


def model_fn(params, batch, layout):
    return outputs(decoder(), params, batch, layout)


@jax.jit
def _plain(params, tokens) -> jax.Array:
    index = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    zero, nothing = jnp.zeros_like(tokens), jnp.zeros((1, 1), jnp.int32)
    layout = Layout(tokens, zero, zero, index, nothing, nothing, nothing)
    return jax.nn.log_softmax(decoder().packed(params, layout)[0] @ params["head"].T)


def plain_table(params, tokens) -> jax.Array:
    """log-softmax over the vocabulary at every token of one sequence, [t, v].

    Written for the tests: nothing is packed, shared, chunked or gathered. The sequence is padded
    on the right to 32, which attention never sees, so that one compiled program serves all.
    """
    tokens = np.asarray(tokens, np.int32)
    padded = np.zeros((1, 32), np.int32)
    padded[0, : len(tokens)] = tokens
    return _plain(params, padded)[: len(tokens)]


def plain_logprobs(params, prompt, response) -> jax.Array:
    """The log-probability of each response token after the prompt and the response so far."""
    response = np.asarray(response)
    table = plain_table(params, np.concatenate([np.asarray(prompt), response]))
    places = np.arange(len(prompt) - 1, len(prompt) - 1 + len(response))
    return table[places, response]
