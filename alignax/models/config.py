"""The shape of a decoder: one frozen dataclass for all families.

Names are this library's; `families` maps the keys of Hugging Face's config.json to them. What a
field leaves out costs nothing: a decoder holds the parts that its config asks for, and no others.
"""

import dataclasses
import math
from typing import Literal

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from alignax.models.rotary import Rope

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerKind:
    """What may differ between the layers of one decoder.

    Fields:
        window: a token attends to this many last tokens, itself included; None for all.
        rope: how positions turn queries and keys; None where they do not.
    """

    window: int | None = None
    rope: Rope | None = Rope()

    def __post_init__(self):
        if self.window is not None and self.window < 1:
            raise ValueError(f"a window of {self.window} tokens; give 1 or more, or None for all")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experts:
    """Several MLPs a layer, of which each token takes a few (arXiv:2401.04088, section 2).

    Fields:
        count: of experts in a layer.
        per_token: how many of them a token goes through.
        normalised: the weights of those sum to 1; else they are the softmax over all experts.
    """

    count: int
    per_token: int
    normalised: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A decoder-only transformer. As it stands: Llama, without biases.

    Fields:
        vocab_size: rows of the embedding.
        width: of the residual stream.
        layers, heads, kv_heads: `heads` is a multiple of `kv_heads`.
        head_dim: need not be width / heads.
        mlp_width: of the hidden layer of the MLP, or of each expert.
        max_positions: the longest prompt + response that the weights were made for.
        kinds: one for every layer, or a single one that all of them share.
        norm: root mean square alone, or mean and deviation, with a bias.
        norm_eps: added to the mean square, inside the root.
        norm_offset: what is added to the stored scales: 1 where they are distances from 1.
        norms: where they stand about attention and MLP: on what goes in, on what comes out, or
            both.
        parallel: attention and MLP read the same stream, and both are added to it at once.
        qkv_bias, out_bias: of the projections into attention and out of it. mlp_bias: of the MLP.
        qk_norm: queries and keys are normed: each head by itself, all heads as one, or not.
        attention_scale: of the products of queries and keys; head_dim ** -0.5 where None.
        attention_softcap, logits_softcap: c in c * tanh(x / c); None where nothing is capped.
        gated: the MLP multiplies activation(gate(x)) with up(x); else it is activation(up(x)).
        experts: where an MLP is one of several.
        tied: the output matrix is the embedding.
        embed_scale: what embeddings are multiplied with.
        learned_positions: a table of `max_positions` rows is added to the embeddings.
        init_scale: deviation of new parameters.
        num_scores: outputs of the `score` head of a reward model; 0 for a language model, which
            has a vocabulary head instead.
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    max_positions: int = 2048
    kinds: tuple[LayerKind, ...] = (LayerKind(),)
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-5
    norm_offset: float = 0.0
    norms: Literal["before", "after", "around"] = "before"
    parallel: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: Literal["none", "head", "all"] = "none"
    attention_scale: float | None = None
    attention_softcap: float | None = None
    logits_softcap: float | None = None
    activation: Activation = "silu"
    gated: bool = True
    experts: Experts | None = None
    tied: bool = False
    embed_scale: float = 1.0
    learned_positions: bool = False
    init_scale: float = 0.02
    num_scores: int = 0

    def __post_init__(self):
        if len(self.kinds) not in (1, self.layers):
            raise ValueError(f"{len(self.kinds)} kinds for {self.layers} layers; give 1 or all")
        if len(set(self.kinds)) == 1:
            object.__setattr__(self, "kinds", self.kinds[:1])

    def kind(self, layer: int) -> LayerKind:
        """What the layer of that index is."""
        return self.kinds[layer if len(self.kinds) > 1 else 0]


def draw_score(key: PRNGKeyArray, config: DecoderConfig) -> Float[Array, "c d"]:
    """A new `score` head, float32: normal with a deviation of 1 / sqrt(width + 1).

    As Huang et al. 2024 (arXiv:2403.17031) begin their reward models: a state after the final
    norm has entries of the order of 1, so that the first rewards are of the order of 1 too.
    """
    shape = (config.num_scores, config.width)
    return jax.random.normal(key, shape) / math.sqrt(config.width + 1)
