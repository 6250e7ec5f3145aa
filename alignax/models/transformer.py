"""One decoder for all families, written as `flax.nnx` modules with stacked, scanned layers.

Outside this package a model is a pure function and a nested dictionary of parameters. `Decoder`
holds the settings and offers the calls: `packed` for training rows, `prefill` and `extend` for a
prompt computed once and its k responses. All go through the same blocks; they differ in the
attention that they hand down.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from alignax.core.axes import split_rows, whole
from alignax.core.types import Layout, Params
from alignax.models.attention import packed_attention
from alignax.models.caching import (
    Cache,
    cached_attention,
    empty_cache,
    moved_on,
    visible,
    write,
)
from alignax.models.config import DecoderConfig, draw_score, rotary_angles
from alignax.models.kernels import plain, times

# (query, key, value) -> (attended values, anything the caller wants to keep of this layer)
Attend = Callable[[Array, Array, Array], tuple[Array, Any]]
Remat = Literal["none", "attention", "block"]


class Linear(nnx.Module):
    """A product over the leading axes of the kernel, with an optional bias."""

    def __init__(self, config, shape, axes, *, contract=1, bias=False, rngs):
        draw = jax.random.truncated_normal(rngs.params(), -3.0, 3.0, shape)
        self.kernel = nnx.Param(config.init_scale * draw, axes=axes)
        self.bias = nnx.Param(jnp.zeros(shape[contract:]), axes=axes[contract:]) if bias else None
        self.contract = contract

    def __call__(self, x):
        out = times(x, self.kernel.get_value(), self.contract, _product)
        return out if self.bias is None else out + _spread(self.bias, out)


def _plain_product(axes: int, x: Array, kernel: Array) -> Array:
    """x times the kernel over the last axes of x, in the dtype of x."""
    return jnp.tensordot(x, kernel.astype(x.dtype), axes=axes)


def _product_forward(axes, x, kernel):
    return _plain_product(axes, x, kernel), (x, kernel)


def _product_backward(axes, saved, gradient):
    x, kernel = saved
    rows, out = tuple(range(x.ndim - axes)), tuple(range(axes, kernel.ndim))
    back = tuple(range(len(rows), gradient.ndim))
    x_gradient = jnp.tensordot(gradient, kernel.astype(gradient.dtype), axes=(back, out))
    narrow_first = math.prod(kernel.shape[:axes]) <= math.prod(kernel.shape[axes:])
    pair = (x, gradient) if narrow_first else (gradient, x)
    summed = jnp.tensordot(*pair, axes=(rows, rows), preferred_element_type=jnp.float32)
    if not narrow_first:
        summed = jnp.moveaxis(summed, range(len(out)), range(axes, kernel.ndim))
    return x_gradient, summed.astype(kernel.dtype)


# A backward pass of its own: the kernel's gradient is summed in float32 whatever the dtype of x,
# and of its two operands the narrower one is transposed. XLA on CPUs copies what it transposes,
# and left alone it copies the wide hidden layer of every MLP: 12% of a block's time.
_product = jax.custom_vjp(_plain_product, nondiff_argnums=(0,))
_product.defvjp(_product_forward, _product_backward)


def _spread(weight, x):
    return jnp.broadcast_to(weight[...].astype(x.dtype), x.shape)


class RMSNorm(nnx.Module):
    """x / rms(x) * scale, computed in float32."""

    def __init__(self, config):
        self.scale = nnx.Param(jnp.ones(config.width), axes=("embed",))
        self.eps = config.norm_eps

    def __call__(self, x):
        wide = x.astype(jnp.float32)
        wide *= jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return wide.astype(x.dtype) * _spread(self.scale, x)


class Attention(nnx.Module):
    """Grouped-head attention with rotary positions (halves of a head rotate together)."""

    def __init__(self, config, rngs):
        linear = functools.partial(Linear, config, bias=config.attention_bias, rngs=rngs)
        width, dim = config.width, config.head_dim
        self.query = linear((width, config.heads, dim), ("embed", "heads", "head_dim"))
        self.key = linear((width, config.kv_heads, dim), ("embed", "kv_heads", "head_dim"))
        self.value = linear((width, config.kv_heads, dim), ("embed", "kv_heads", "head_dim"))
        self.out = linear((config.heads, dim, width), ("heads", "head_dim", "embed"), contract=2)

    def __call__(self, x, angles, attend: Attend):
        query, key = _rotate(self.query(x), angles), _rotate(self.key(x), angles)
        attended, kept = attend(query, key, self.value(x))
        return self.out(attended), kept


def _rotate(x, angles):
    cos, sin = (a[..., None, :] for a in angles)
    low, high = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([low * cos - high * sin, high * cos + low * sin], -1).astype(x.dtype)


class MLP(nnx.Module):
    """silu(gate(x)) * up(x), brought down to the width again."""

    def __init__(self, config, rngs):
        linear = functools.partial(Linear, config, bias=config.mlp_bias, rngs=rngs)
        self.gate = linear((config.width, config.mlp_width), ("embed", "mlp"))
        self.up = linear((config.width, config.mlp_width), ("embed", "mlp"))
        self.down = linear((config.mlp_width, config.width), ("mlp", "embed"))

    def __call__(self, x):
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Block(nnx.Module):
    """Attention and MLP, each on a normed input and added to the residual stream."""

    def __init__(self, config, rngs):
        self.attention_norm = RMSNorm(config)
        self.attention = Attention(config, rngs)
        self.mlp_norm = RMSNorm(config)
        self.mlp = MLP(config, rngs)

    def __call__(self, x, angles, attend: Attend):
        attended, kept = self.attention(self.attention_norm(x), angles, attend)
        x = x + attended
        return x + self.mlp(self.mlp_norm(x)), kept


class Network(nnx.Module):
    """Embedding, stacked blocks, final norm, and a matrix to the vocabulary or to scores."""

    def __init__(self, config, rngs):
        shape, axes = (config.vocab_size, config.width), ("vocab", "embed")
        draw = jax.random.truncated_normal(rngs.params(), -3.0, 3.0, shape)
        self.embed = nnx.Param(config.init_scale * draw, axes=axes)
        keys = jax.random.split(rngs.params(), config.layers)
        self.layers = jax.vmap(lambda key: Block(config, nnx.Rngs(params=key)))(keys)
        self.norm = RMSNorm(config)
        if config.num_scores:
            self.score = nnx.Param(draw_score(rngs.params(), config), axes=("scores", "embed"))
        elif not config.tied:
            draw = jax.random.truncated_normal(rngs.params(), -3.0, 3.0, shape)
            self.head = nnx.Param(config.init_scale * draw, axes=axes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder:
    """A decoder as pure functions of its parameters.

    Fields:
        config: the shape.
        dtype: of the arithmetic in the blocks. Parameters stay float32 masters; norms' means,
            softmaxes and log-sum-exps are float32 whatever this says.
        remat: what the backward pass computes again to save memory: nothing, the attention
            weights, or whole blocks.
    """

    config: DecoderConfig
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"

    def init(self, key: PRNGKeyArray) -> Params:
        """Random parameters: normal of `init_scale`, cut at 3 deviations; float32."""
        return nnx.to_pure_dict(nnx.state(Network(self.config, nnx.Rngs(params=key))))

    @functools.cached_property
    def _abstract(self) -> tuple[Any, Any]:
        return nnx.split(jax.eval_shape(lambda: Network(self.config, nnx.Rngs(0))))

    def abstract(self) -> Params:
        """The parameters' shapes and dtypes, nothing allocated."""
        return nnx.to_pure_dict(self._abstract[1])

    def axes(self) -> Params:
        """The logical axes of every parameter, in the structure of `abstract()`."""

        def name(path, variable):
            stacked = path[0].key == "layers"
            return (("layers",) if stacked else ()) + variable.get_metadata("axes")

        is_variable = lambda x: isinstance(x, nnx.Variable)  # noqa: E731
        state = jax.tree_util.tree_map_with_path(name, self._abstract[1], is_leaf=is_variable)
        return nnx.to_pure_dict(state)

    def head(self, params: Params) -> Float[Array, "v d"]:
        """The output matrix: the embedding, where they are tied."""
        return params["embed"] if self.config.tied else params["head"]

    def packed(
        self, params: Params, layout: Layout, *, reach: tuple[int, ...] | None = None
    ) -> Float[Array, "n t d"]:
        """Hidden states, after the final norm, of rows that hold packed groups.

        Args:
            reach: how far back each block of a row looks, where the plan knows it.
        """

        def attend(query, key, value):
            out = packed_attention(
                query,
                key,
                value,
                layout.group,
                layout.response,
                layout.position,
                reach=reach,
                window=self.config.window,
            )
            return out, None

        if self.remat == "attention":
            attend = jax.checkpoint(attend)
        hidden, _ = self._run(params, layout.tokens, layout.position, attend)
        return hidden

    def prefill(
        self,
        params: Params,
        prompts: Int[Array, "b p"],
        lengths: Int[Array, " b"],
        *,
        num_responses: int,
        max_response: int,
    ) -> tuple[Float[Array, "b d"], Cache]:
        """Computes each prompt once.

        Returns:
            The hidden state that predicts the first token of every response, and a cache with
            room for `num_responses` responses of `max_response` tokens.
        """
        index = jnp.broadcast_to(jnp.arange(prompts.shape[1]), prompts.shape)
        group = jnp.where(index < lengths[:, None], 0, -1)
        segment = jnp.zeros_like(group)

        def attend(query, key, value):
            out = packed_attention(
                query, key, value, group, segment, index, window=self.config.window
            )
            return out, (key, value)

        hidden, (key, value) = self._run(params, prompts, index, attend)
        last = jnp.take_along_axis(hidden, lengths[:, None, None] - 1, axis=1)[:, 0]
        cache = empty_cache(key, value, lengths, num_responses, max_response)
        return last, cache

    def extend(
        self, params: Params, cache: Cache, tokens: Int[Array, "b k s"]
    ) -> tuple[Float[Array, "b k s d"], Cache]:
        """Hidden states of s further tokens of every response, and the cache that holds them.

        Layers are written out and not scanned: a scan takes its slice of the stacked weights and
        of the cache by copying it, for every token anew.

        Args:
            params: as `unstack` gives them, where this is called more than once.
        """
        position = (cache.prompt_lengths[:, None] + cache.filled)[..., None]
        angles = rotary_angles(self.config, position + jnp.arange(tokens.shape[2])[None, None])
        x = params["embed"].astype(self.dtype)[tokens]
        seen = visible(cache, tokens.shape[2], self.config.window)
        keys, values = [], []
        for i, weights in enumerate(self.unstack(params)["layers"]):

            def attend(query, key, value, i=i):
                key, value = write(cache, i, key, value)
                out = cached_attention(
                    query, cache.prompt_key[i], cache.prompt_value[i], key, value, *seen
                )
                return out, (key, value)

            x, (key, value) = nnx.merge(self._abstract_block, weights)(x, angles, attend)
            keys.append(key)
            values.append(value)
        norm = nnx.merge(self._abstract_norm, params["norm"])
        return norm(x), moved_on(cache, tuple(keys), tuple(values), tokens.shape[2])

    def unstack(self, params: Params) -> Params:
        """The parameters with a tuple of layers in place of stacked ones, in the compute dtype."""
        if isinstance(params["layers"], tuple):
            return params
        cast = jax.tree.map(lambda x: x.astype(self.dtype), plain(params))
        layers = tuple(
            jax.tree.map(lambda x, i=i: x[i], cast["layers"]) for i in range(self.config.layers)
        )
        return cast | {"layers": layers, "norm": params["norm"]}

    @functools.cached_property
    def _abstract_block(self) -> Any:
        return nnx.split(jax.eval_shape(lambda: Block(self.config, nnx.Rngs(0))))[0]

    @functools.cached_property
    def _abstract_norm(self) -> Any:
        return nnx.split(jax.eval_shape(lambda: RMSNorm(self.config)))[0]

    def logits(self, params: Params, hidden: Float[Array, "*n d"]) -> Float[Array, "*n v"]:
        """Unnormalised log-probabilities over the vocabulary, float32."""
        head = self.head(params).astype(hidden.dtype)
        return jnp.einsum("...d,vd->...v", hidden, head, preferred_element_type=jnp.float32)

    def scores(self, params: Params, hidden: Float[Array, "*n d"]) -> Float[Array, "*n c"]:
        """Outputs of the `score` head, in float32 whatever dtype the hidden states have."""
        score = whole(params["score"])  # small: it goes to the states, and not they to it
        return jnp.einsum("...d,cd->...c", hidden.astype(jnp.float32), score)

    def _run(self, params, tokens, position, attend: Attend):
        angles = rotary_angles(self.config, position)
        network = nnx.merge(self._abstract[0], params)
        x = split_rows(whole(network.embed[...].astype(self.dtype))[tokens])

        def layer(x, block):
            x, kept = block(x, angles, attend)
            return split_rows(x), kept

        if self.remat == "block":
            layer = jax.checkpoint(layer)
        x, kept = jax.lax.scan(layer, x, network.layers)
        return network.norm(x), kept
