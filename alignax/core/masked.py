"""Sums and means over a mask, with finite gradients where the mask is empty."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def masked_sum(x: Float[Array, "*b r"], mask: Bool[Array, "*b r"]) -> Float[Array, "*b"]:
    """Sum over the last axis where `mask` is True, in float32. 0 where it is nowhere True.

    `where` and not a product, so that a NaN off the mask reaches neither value nor gradient.
    """
    return jnp.sum(jnp.where(mask, x.astype(jnp.float32), 0.0), axis=-1)


def masked_mean(x: Float[Array, "*b r"], mask: Bool[Array, "*b r"]) -> Float[Array, "*b"]:
    """Mean over the last axis where `mask` is True, in float32. 0 where it is nowhere True."""
    count = jnp.sum(mask, axis=-1, dtype=jnp.float32)
    return masked_sum(x, mask) / jnp.maximum(count, 1.0)
