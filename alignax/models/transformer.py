"""One decoder for all families, written as `flax.nnx` modules with stacked layers.

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

from alignax.core.axes import one_gpu, over_heads, split_rows, split_tokens, whole
from alignax.core.gathers import take_rows
from alignax.core.types import BLOCK, Layout, Params
from alignax.models import decoding, flash, one_token, rotary, stack
from alignax.models.attention import softcapped
from alignax.models.blocks import Block, Network, join
from alignax.models.caching import (
    Cache,
    cached_attention,
    empty_cache,
    moved_on,
    visible,
    write,
)
from alignax.models.config import DecoderConfig
from alignax.models.kernels import plain
from alignax.models.parts import Norm
from alignax.models.stack import Remat

Tables = dict[rotary.Rope | None, Any]  # cosines and sines by position; None where none turn


def _joined(config: DecoderConfig, rngs: nnx.Rngs) -> Block:
    return Block(config, rngs, joined=True)


def _norm(config: DecoderConfig, rngs: nnx.Rngs) -> Norm:
    del rngs  # nothing of it is random
    return Norm(config)


@functools.cache
def _shapes(module: Callable[..., Any], config: DecoderConfig) -> tuple[Any, Any]:
    """Structure and shapes of a module, nothing allocated. Once a process: to ask takes 0.1 s."""
    return nnx.split(jax.eval_shape(lambda: module(config, nnx.Rngs(0))))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder:
    """A decoder as pure functions of its parameters.

    Fields:
        config: the shape.
        dtype: of the arithmetic in the blocks. Parameters stay float32 masters; norms' means,
            softmaxes and log-sum-exps are float32 whatever this says.
        remat: what the backward pass computes again to save memory: nothing, the attention
            weights, all of a block but its products with matrices, or whole blocks.
        attention: the kernel for rows; `flash.choose` says what "auto" is. With "xla", tokens that
            are drawn have no kernel of their own either (`decoding`).
        scan_layers: whether one layer is compiled for all, or each is written out, which takes
            longer to compile. None: written out on one NVIDIA GPU, where a scan's time goes into
            copying what the backward pass needs into stacks and out of them.
    """

    config: DecoderConfig
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"
    attention: flash.Choice = "auto"
    scan_layers: bool | None = None

    def init(self, key: PRNGKeyArray) -> Params:
        """Random parameters: normal of `init_scale`, cut at 3 deviations; float32."""
        return nnx.to_pure_dict(nnx.state(Network(self.config, nnx.Rngs(params=key))))

    @property
    def same_bits(self) -> bool:
        """Whether its backward pass over rows can be had with the same bits each time."""
        return flash.same_bits(self._kernel(BLOCK), windowed=self._windowed)

    @property
    def _windowed(self) -> bool:
        return any(kind.window is not None for kind in self.config.kinds)

    @property
    def _abstract(self) -> tuple[Any, Any]:
        return _shapes(Network, self.config)

    def abstract(self) -> Params:
        """The parameters' shapes and dtypes, nothing allocated."""
        return nnx.to_pure_dict(self._abstract[1])

    @functools.cached_property
    def num_params(self) -> int:
        """How many numbers the parameters hold."""
        return sum(math.prod(x.shape) for x in jax.tree.leaves(self.abstract()))

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
        self,
        params: Params,
        layout: Layout,
        *,
        reach: tuple[int, ...] | None = None,
        segments: int | None = None,
    ) -> Float[Array, "n t d"]:
        """Hidden states, after the final norm, of rows that hold packed groups.

        Args:
            reach: how far back each block of a row looks, where the plan knows it.
            segments: prompts and responses in all rows, at most, where that is known.
        """
        where = layout.group, layout.response, layout.position
        attend_rows = self._over_rows(*where, reach=reach, segments=segments)

        def attend(query, key, value, window):
            attended = over_heads(lambda query, key, value: attend_rows(query, key, value, window))
            return attended(query, key, value), None

        if self.remat == "attention" and self._kernel(layout.tokens.shape[1]) == "xla":
            attend = jax.checkpoint(attend)  # flash kernels keep no weights
        hidden, _ = self._run(params, layout.tokens, layout.position, attend, split_tokens)
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
        where = group, jnp.zeros_like(group), index
        attend_rows = self._over_rows(*where, segments=len(prompts))

        def attend(query, key, value, window):
            return attend_rows(query, key, value, window), (key, value)

        hidden, (key, value) = self._run(params, prompts, index, attend)
        last = jnp.take_along_axis(hidden, lengths[:, None, None] - 1, axis=1)[:, 0]
        cache = empty_cache(key, value, lengths, num_responses, max_response)
        return last, cache

    def tables(self, positions: int) -> Tables:
        """What turns queries and keys at positions from 0 on, for `extend` to look up.

        Within a loop XLA computes sines and cosines for each head and layer anew.
        """
        ropes = {kind.rope for kind in self.config.kinds}
        return {rope: self._angles(rope, jnp.arange(positions)) for rope in ropes}

    def extend(
        self,
        params: Params,
        cache: Cache,
        tokens: Int[Array, "b k s"],
        tables: Tables | None = None,
    ) -> tuple[Float[Array, "b k s d"], Cache]:
        """Hidden states of s further tokens of every response, and the cache that holds them.

        Layers are written out and not scanned: a scan takes its slice of the stacked weights and
        of the cache by copying it, for every token anew.

        Args:
            params: as `unstack` gives them, where this is called more than once.
            tables: for all positions that can be reached, likewise. Only loops that draw give them,
                and they ask for no gradients: so where tokens come one by one kernels may serve
                that have none (`decoding`, `one_token`).
        """
        position = (cache.prompt_lengths[:, None] + cache.filled)[..., None]
        position = position + jnp.arange(tokens.shape[2])[None, None]
        x = self._enter(params, params["embed"].astype(self.dtype)[tokens], position)
        kinds, count = self.config.kinds, tokens.shape[2]
        ropes = {kind.rope for kind in kinds}
        if tables is None:
            angles = {rope: self._angles(rope, position) for rope in ropes}
        else:  # kind by kind: the keys have no order, so the whole is no tree
            look_up = functools.partial(jax.tree.map, lambda table: table[position])
            angles = {rope: look_up(tables[rope]) for rope in ropes}
        as_one = tables is not None and count == 1 and self.attention != "xla"
        as_one = as_one and decoding.fits(self.config, self.dtype) and decoding.served()
        weights = self.unstack(params, joined=False)
        joined = "joined" in weights["layers"][0]["attention"]
        turns = angles[self.config.kind(0).rope]
        if as_one and joined and one_token.fits(self.config, cache.filled.size, turns):
            first = nnx.merge(self._abstract_norm, weights["layers"][0]["attention_norm"])
            x, rings = one_token.layers(self.config, weights, x, first(x), turns, cache)
            keys, values = zip(*rings, strict=True)
            return x, moved_on(cache, keys, values, count)
        seen = {w: visible(cache, count, w) for w in {kind.window for kind in kinds}}
        block, keys, values = _shapes(_joined if joined else Block, self.config)[0], [], []
        for i, layer in enumerate(weights["layers"]):
            kind = self.config.kind(i)

            def attend(query, key, value, i=i, kind=kind):
                if as_one:
                    scale = self.config.attention_scale
                    return decoding.attend(query, key, value, cache, i, scale=scale)
                key, value = write(cache, i, key, value)
                out = cached_attention(
                    query,
                    cache.prompt_key[i],
                    cache.prompt_value[i],
                    cache.whole(key),
                    cache.whole(value),
                    *seen[kind.window],
                    scale=self.config.attention_scale,
                    softcap=self.config.attention_softcap,
                )
                return out, (key, value)

            x, (key, value) = nnx.merge(block, layer)(x, angles[kind.rope], attend)
            keys.append(key)
            values.append(value)
        norm = nnx.merge(self._abstract_norm, params["norm"])
        return norm(x), moved_on(cache, tuple(keys), tuple(values), count)

    def unstack(self, params: Params, *, joined: bool | None = None) -> Params:
        """The parameters with a tuple of layers in place of stacked ones, in the compute dtype.

        Args:
            joined: whether products that read the same states are one; None: on one NVIDIA GPU.
        """
        if isinstance(params["layers"], tuple):
            return params
        cast = jax.tree.map(lambda x: x.astype(self.dtype), plain(params))
        layers = tuple(
            jax.tree.map(lambda x, i=i: x[i], cast["layers"]) for i in range(self.config.layers)
        )
        if one_gpu() if joined is None else joined:
            layers = tuple(map(join, layers))
        return cast | {"layers": layers, "norm": params["norm"]}

    @property
    def _abstract_norm(self) -> Any:
        return _shapes(_norm, self.config)[0]

    @property
    def _scanned(self) -> bool:
        return not one_gpu() if self.scan_layers is None else self.scan_layers

    def logits(self, params: Params, hidden: Float[Array, "*n d"]) -> Float[Array, "*n v"]:
        """Unnormalised log-probabilities over the vocabulary, float32."""
        head = self.head(params).astype(hidden.dtype)
        logits = jnp.einsum("...d,vd->...v", hidden, head, preferred_element_type=jnp.float32)
        return softcapped(logits, self.config.logits_softcap)

    @jax.named_scope("head")
    def scores(self, params: Params, hidden: Float[Array, "*n d"]) -> Float[Array, "*n c"]:
        """Outputs of the `score` head, in float32 whatever dtype the hidden states have."""
        score = whole(params["score"])  # small: it goes to the states, and not they to it
        return jnp.einsum("...d,cd->...c", hidden.astype(jnp.float32), score)

    def _kernel(self, tokens: int) -> flash.Kernel:
        config = self.config
        return flash.choose(
            self.attention,
            dtype=self.dtype,
            head_dim=config.head_dim,
            tokens=tokens,
            softcap=config.attention_softcap,
            windowed=self._windowed,
        )

    def _over_rows(self, group, response, position, **known) -> flash.AttendRows:
        return flash.over_rows(
            self._kernel(group.shape[1]),
            group,
            response,
            position,
            windows={kind.window for kind in self.config.kinds},
            scale=self.config.attention_scale,
            softcap=self.config.attention_softcap,
            # A critic is trained in one program with its policy.
            first_call=flash.CRITIC_CALLS if self.config.num_scores else 0,
            **known,
        )

    def _angles(self, rope: rotary.Rope | None, position: Array):
        """What turns queries and keys; None where no layer of the decoder turns them."""
        if all(kind.rope is None for kind in self.config.kinds):
            return None
        return rotary.angles(rope, self.config.head_dim, position)

    def _enter(self, params: Params, embedded: Array, position: Array) -> Array:
        """The stream that the first block reads."""
        if self.config.embed_scale != 1.0:
            embedded = embedded * self.config.embed_scale
        if self.config.learned_positions:
            embedded = embedded + take_rows(whole(params["positions"].astype(self.dtype)), position)
        return embedded

    def _run(self, params, tokens, position, attend, split=split_rows):
        network = nnx.merge(self._abstract[0], params)
        with jax.named_scope("embedding"):
            embedded = take_rows(whole(network.embed[...].astype(self.dtype)), tokens)
            x = split(self._enter(params, embedded, position))
        ropes = dict.fromkeys(kind.rope for kind in self.config.kinds)

        def layer(x, block, angle, window):
            x, kept = block(x, angle, functools.partial(attend, window=window))
            return split(x), kept

        x, kept = stack.run(
            layer,
            x,
            network.layers,
            self.config.kinds,
            {rope: self._angles(rope, position) for rope in ropes},
            layers=self.config.layers,
            scanned=self._scanned,
            remat=self.remat,
        )
        return network.norm(x), kept
