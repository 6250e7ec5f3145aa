"""The shape of a decoder: one frozen dataclass for all families.

Names are this library's; `families` maps the keys of Hugging Face's config.json to them.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Llama3Scaling:
    """Rotary frequencies stretched for a longer window, as Llama 3.1 does.

    Wavelengths above `original_positions / low_freq_factor` are divided by `factor`, those below
    `original_positions / high_freq_factor` are kept, and those between are interpolated.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_positions: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearScaling:
    """All rotary frequencies divided by one factor (arXiv:2306.15595)."""

    factor: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A decoder-only transformer: RMSNorm before each part, rotary positions, a gated SiLU MLP.

    Fields:
        vocab_size: rows of the embedding.
        width: of the residual stream.
        layers, heads, kv_heads: `heads` is a multiple of `kv_heads`.
        head_dim: need not be width / heads.
        mlp_width: of the gate.
        max_positions: the longest prompt + response that the weights were made for.
        rope_theta: base of the rotary frequencies; `rope_scaling` stretches them.
        norm_eps: added to the mean square, inside the root.
        tied: the output matrix is the embedding.
        attention_bias: biases on query, key, value and output. mlp_bias: on all three of the MLP.
        window: a token attends to this many last tokens, itself included; None for all.
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
    rope_theta: float = 10_000.0
    rope_scaling: Llama3Scaling | LinearScaling | None = None
    norm_eps: float = 1e-5
    tied: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    window: int | None = None
    init_scale: float = 0.02
    num_scores: int = 0

    @property
    def num_params(self) -> int:
        """How many numbers the parameters hold."""
        query = self.width * self.heads * self.head_dim
        attention = 2 * query + 2 * self.width * self.kv_heads * self.head_dim
        if self.attention_bias:
            attention += (self.heads + 2 * self.kv_heads) * self.head_dim + self.width
        mlp = 3 * self.width * self.mlp_width + self.mlp_bias * (2 * self.mlp_width + self.width)
        tables = self.vocab_size * (1 if self.tied or self.num_scores else 2) + self.num_scores
        blocks = self.layers * (attention + mlp + 2 * self.width)
        return tables * self.width + blocks + self.width


def draw_score(key: PRNGKeyArray, config: DecoderConfig) -> Float[Array, "c d"]:
    """A new `score` head, float32: normal with a deviation of 1 / sqrt(width + 1).

    As Huang et al. 2024 (arXiv:2403.17031) begin their reward models: a state after the final
    norm has entries of the order of 1, so that the first rewards are of the order of 1 too.
    """
    shape = (config.num_scores, config.width)
    return jax.random.normal(key, shape) / math.sqrt(config.width + 1)


def rotary_frequencies(config: DecoderConfig) -> np.ndarray:
    """Radians a position for each of the head_dim / 2 planes, float32."""
    half = config.head_dim // 2
    # float32 throughout, as the reference implementation computes them: at position 8,000 a
    # float64 frequency would turn a plane by a visibly different angle.
    exponent = np.arange(0, half, dtype=np.float32) * np.float32(2) / np.float32(config.head_dim)
    frequency = (1.0 / np.float32(config.rope_theta) ** exponent).astype(np.float32)
    match config.rope_scaling:
        case None:
            return frequency
        case LinearScaling(factor=factor):
            return frequency / np.float32(factor)
        case Llama3Scaling() as s:
            wavelength = 2 * math.pi / frequency
            smooth = (s.original_positions / wavelength - s.low_freq_factor) / (
                s.high_freq_factor - s.low_freq_factor
            )
            smooth = np.clip(smooth, 0.0, 1.0).astype(np.float32)
            return ((1 - smooth) * frequency / s.factor + smooth * frequency).astype(np.float32)


def rotary_angles(
    config: DecoderConfig, position: Int[Array, "*n"]
) -> tuple[Float[Array, "*n half"], Float[Array, "*n half"]]:
    """Cosine and sine of each plane's angle at each position, float32."""
    frequency = rotary_frequencies(config).reshape((1,) * position.ndim + (-1,))
    angle = position[..., None].astype(jnp.float32) * frequency
    return jnp.cos(angle), jnp.sin(angle)
