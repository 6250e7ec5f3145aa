"""A layer of a decoder, attention and MLP about a residual stream, and the network of them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from alignax.core.types import Params
from alignax.models.config import draw_score
from alignax.models.parts import MLP, ExpertMLP, Linear, Norm, draw
from alignax.models.rotary import rotate

# (query, key, value) -> (attended values, anything the caller wants to keep of this layer)
Attend = Callable[[Array, Array, Array], tuple[Array, Any]]


class Attention(nnx.Module):
    """Grouped-head attention: projections in and out, with rotary positions where there are any.

    Joined, queries, keys and values are one product.
    """

    def __init__(self, config, rngs, joined=False):
        linear = functools.partial(Linear, config, bias=config.qkv_bias, rngs=rngs)
        width, heads, kv_heads, dim = config.width, config.heads, config.kv_heads, config.head_dim
        self.ends = (heads, heads + kv_heads) if joined else None
        if joined:
            self.joined = linear((width, heads + 2 * kv_heads, dim), ("embed", "heads", "head_dim"))
        else:
            self.query = linear((width, heads, dim), ("embed", "heads", "head_dim"))
            self.key = linear((width, kv_heads, dim), ("embed", "kv_heads", "head_dim"))
            self.value = linear((width, kv_heads, dim), ("embed", "kv_heads", "head_dim"))
        shape, axes = (heads, dim, width), ("heads", "head_dim", "embed")
        self.out = Linear(config, shape, axes, contract=2, bias=config.out_bias, rngs=rngs)
        each = {"head": 1, "all": 2, "none": 0}[config.qk_norm]  # axes that are normed as one
        shapes = ((heads, dim), ("heads", "head_dim")), ((kv_heads, dim), ("kv_heads", "head_dim"))
        norms = [Norm(config, s[-each:], a[-each:]) if each else None for s, a in shapes]
        self.query_norm, self.key_norm = norms

    def __call__(self, x, angles, attend: Attend):
        if self.ends is None:
            query, key, value = self.query(x), self.key(x), self.value(x)
        else:
            query, key, value = jnp.split(self.joined(x), self.ends, axis=-2)
        query, key = _through(self.query_norm, query), _through(self.key_norm, key)
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        with jax.named_scope("attention"):
            attended, kept = attend(query, key, value)
        return self.out(attended), kept


class Block(nnx.Module):
    """Attention, then an MLP or experts, each added to the residual stream.

    Joined, products that read the same states are one: `join`.
    """

    def __init__(self, config, rngs, joined=False):
        before, after = config.norms != "after", config.norms != "before"
        self.attention_norm = Norm(config) if before else None
        self.attention = Attention(config, rngs, joined)
        self.attention_out_norm = Norm(config) if after else None
        self.mlp_norm = Norm(config) if before else None
        self.mlp = ExpertMLP(config, rngs) if config.experts else MLP(config, rngs, joined)
        self.mlp_out_norm = Norm(config) if after else None
        self.parallel = config.parallel

    def __call__(self, x, angles, attend: Attend):
        with jax.named_scope("projections"):
            attended, kept = self.attention(_through(self.attention_norm, x), angles, attend)
            attended = _through(self.attention_out_norm, attended)
            middle = x if self.parallel else x + attended
        with jax.named_scope("mlp"):
            out = middle + _through(self.mlp_out_norm, self.mlp(_through(self.mlp_norm, middle)))
        return (out + attended if self.parallel else out), kept


class Network(nnx.Module):
    """Embedding, stacked blocks, final norm, and a matrix to the vocabulary or to scores."""

    def __init__(self, config, rngs):
        shape, axes = (config.vocab_size, config.width), ("vocab", "embed")
        self.embed = nnx.Param(draw(config, rngs, shape), axes=axes)
        if config.learned_positions:
            places = (config.max_positions, config.width)
            self.positions = nnx.Param(draw(config, rngs, places), axes=("positions", "embed"))
        keys = jax.random.split(rngs.params(), config.layers)
        self.layers = jax.vmap(lambda key: Block(config, nnx.Rngs(params=key)))(keys)
        self.norm = Norm(config)
        if config.num_scores:
            self.score = nnx.Param(draw_score(rngs.params(), config), axes=("scores", "embed"))
        elif not config.tied:
            self.head = nnx.Param(draw(config, rngs, shape), axes=axes)


def join(layer: Params) -> Params:
    """The parameters of a layer as those of a joined block.

    XLA joins such products by itself on GPUs, by copying their matrices side by side at every use.
    """

    def joined(part: Params, names: tuple[str, ...], put: Callable[..., Array]) -> Params:
        rest = {name: x for name, x in part.items() if name not in names}
        sides = [part[name] for name in names]
        return rest | {"joined": jax.tree.map(lambda *x: put(x, axis=-2), *sides)}

    attention = joined(layer["attention"], ("query", "key", "value"), jnp.concatenate)
    mlp = layer["mlp"]
    if "gate" in mlp and "router" not in mlp:
        mlp = joined(mlp, ("gate", "up"), jnp.stack)
    return layer | {"attention": attention, "mlp": mlp}


def _through(norm, x):
    return x if norm is None else norm(x)
