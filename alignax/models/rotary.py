"""Rotary positions (arXiv:2104.09864): the angles by which the planes of a head turn."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Llama3Scaling:
    """Frequencies stretched for a longer window, as Llama 3.1 does.

    Wavelengths above `original_positions / low_freq_factor` are divided by `factor`, those below
    `original_positions / high_freq_factor` are kept, and those between are interpolated.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_positions: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearScaling:
    """All frequencies divided by one factor (arXiv:2306.15595)."""

    factor: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class YarnScaling:
    """YaRN (arXiv:2309.00071, section 3.2): slow planes are divided by `factor`, fast ones kept.

    Between planes that turn `beta_slow` and `beta_fast` times within `original_positions` the two
    are mixed. Cosine and sine are multiplied with `attention_factor`.
    """

    factor: float
    original_positions: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rope:
    """How positions turn queries and keys.

    Fields:
        theta: base of the frequencies; `scaling` stretches them.
        dims: how many of a head's entries turn, from the first on; all of them where None.
    """

    theta: float = 10_000.0
    scaling: Llama3Scaling | LinearScaling | YarnScaling | None = None
    dims: int | None = None


def frequencies(rope: Rope | None, head_dim: int) -> np.ndarray:
    """Radians a position for each plane, float32; zeros where nothing turns."""
    dims = rope.dims if rope and rope.dims else head_dim
    half = dims // 2
    if rope is None:
        return np.zeros(half, np.float32)
    # float32 throughout, as the reference implementation computes them: at position 8,000 a
    # float64 frequency would turn a plane by a visibly different angle.
    exponent = np.arange(0, half, dtype=np.float32) * np.float32(2) / np.float32(dims)
    frequency = (1.0 / np.float32(rope.theta) ** exponent).astype(np.float32)
    match rope.scaling:
        case None:
            return frequency
        case LinearScaling(factor=factor):
            return frequency / np.float32(factor)
        case YarnScaling() as s:
            return _yarn(frequency, rope.theta, dims, s)
        case Llama3Scaling() as s:
            wavelength = 2 * math.pi / frequency
            smooth = (s.original_positions / wavelength - s.low_freq_factor) / (
                s.high_freq_factor - s.low_freq_factor
            )
            smooth = np.clip(smooth, 0.0, 1.0).astype(np.float32)
            return ((1 - smooth) * frequency / s.factor + smooth * frequency).astype(np.float32)


def _yarn(frequency: np.ndarray, theta: float, dims: int, s: YarnScaling) -> np.ndarray:
    def plane(turns: float) -> float:  # that turns so often within the original window
        return dims * math.log(s.original_positions / (2 * math.pi * turns)) / 2 / math.log(theta)

    first = max(math.floor(plane(s.beta_fast)), 0)
    last = min(math.ceil(plane(s.beta_slow)), dims - 1)
    slow = (np.arange(len(frequency)) - first) / max(last - first, 1e-3)
    slow = np.clip(slow, 0.0, 1.0).astype(np.float32)
    return (frequency / s.factor * slow + frequency * (1 - slow)).astype(np.float32)


def angles(
    rope: Rope | None, head_dim: int, position: Int[Array, "*n"]
) -> tuple[Float[Array, "*n half"], Float[Array, "*n half"]]:
    """Cosine and sine of each plane's angle at each position, float32."""
    frequency = frequencies(rope, head_dim).reshape((1,) * position.ndim + (-1,))
    angle = position[..., None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    if rope is not None and isinstance(rope.scaling, YarnScaling):
        factor = rope.scaling.attention_factor
        cos, sin = cos * factor, sin * factor
    return cos, sin


def rotate(
    x: Float[Array, "*n h e"], angle: tuple[Float[Array, "*n half"], Float[Array, "*n half"]]
) -> Float[Array, "*n h e"]:
    """Heads turned: of the entries that turn, the first half against the second."""
    cos, sin = (a[..., None, :] for a in angle)
    turned, rest = jnp.split(x, [2 * cos.shape[-1]], axis=-1)
    low, high = jnp.split(turned.astype(jnp.float32), 2, axis=-1)
    parts = [low * cos - high * sin, high * cos + low * sin]
    turned = jnp.concatenate(parts, axis=-1).astype(x.dtype)
    return turned if rest.shape[-1] == 0 else jnp.concatenate([turned, rest], axis=-1)
