"""The decoder written down plainly: one sequence, dense causal attention, all logits.

Shares no code with the package; knows no packing, cache, chunk or shared prompt.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

LENGTH = 32  # sequences are padded to it, behind what is asked for, to be compiled once


@functools.partial(jax.jit, static_argnums=0)
def logits(config, params, tokens):
    """[t] token ids to [t, v] logits."""
    t, half = len(tokens), config.head_dim // 2
    frequency = config.kinds[0].rope.theta ** (-np.arange(half) / half)
    angle = np.arange(t)[:, None] * frequency[None]
    cos, sin = (jnp.asarray(f(angle), jnp.float32)[:, None] for f in (np.cos, np.sin))
    causal = np.tril(np.ones((1, t, t), bool))

    def rotate(x):
        low, high = x[..., :half], x[..., half:]
        return jnp.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)

    def norm(x, scale):
        mean_square = jnp.mean(x**2, axis=-1, keepdims=True)
        return x / jnp.sqrt(mean_square + config.norm_eps) * scale[None]

    x = params["embed"][jnp.asarray(tokens)]
    for i in range(config.layers):
        block = jax.tree.map(lambda w, i=i: w[i], params["layers"])
        weights = {name: part["kernel"] for name, part in block["attention"].items()}
        h = norm(x, block["attention_norm"]["scale"])
        query, key = (rotate(jnp.einsum("td,dhe->the", h, weights[n])) for n in ("query", "key"))
        value = jnp.einsum("td,dhe->the", h, weights["value"])
        shared = config.heads // config.kv_heads
        key, value = (jnp.repeat(y, shared, axis=1) for y in (key, value))
        scores = jnp.einsum("qhe,khe->hqk", query, key) / np.sqrt(config.head_dim)
        attention = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf))
        x = x + jnp.einsum("hqk,khe,hed->qd", attention, value, weights["out"])
        h = norm(x, block["mlp_norm"]["scale"])
        gate, up, down = (block["mlp"][name]["kernel"] for name in ("gate", "up", "down"))
        x = x + (jax.nn.silu(h @ gate) * (h @ up)) @ down
    head = params["embed"] if config.tied else params["head"]
    return norm(x, params["norm"]["scale"]) @ head.T


def after(config, params, tokens):
    """[v] logits of what follows these tokens."""
    padded = np.zeros(LENGTH, np.int32)
    padded[: len(tokens)] = tokens
    return logits(config, params, padded)[len(tokens) - 1]


def logprobs(config, params, prompt, response):
    """Log-probability of every response token: the logits one place before it, normalised."""
    first, count = len(prompt) - 1, len(response)
    padded = np.zeros(LENGTH, np.int32)
    padded[: first + 1 + count] = np.concatenate([prompt, response])
    table = jax.nn.log_softmax(logits(config, params, padded), axis=-1)
    return table[first + np.arange(count), response]
