"""The parts that blocks are made of: products, norms, and the MLPs."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

from alignax.models.config import DecoderConfig
from alignax.models.kernels import times

PRODUCT = "product"  # the name of what a matrix gives, by which it can be kept
ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}


def draw(config: DecoderConfig, rngs: nnx.Rngs, shape: tuple[int, ...]) -> Array:
    """New numbers: normal of `init_scale`, cut at 3 deviations."""
    return config.init_scale * jax.random.truncated_normal(rngs.params(), -3.0, 3.0, shape)


class Linear(nnx.Module):
    """A product over the leading axes of the kernel, with an optional bias."""

    def __init__(self, config, shape, axes, *, contract=1, bias=False, rngs):
        self.kernel = nnx.Param(draw(config, rngs, shape), axes=axes)
        self.bias = nnx.Param(jnp.zeros(shape[contract:]), axes=axes[contract:]) if bias else None
        self.contract = contract

    def __call__(self, x):
        out = times(x, self.kernel.get_value(), self.contract, _product)
        out = checkpoint_name(out, PRODUCT)
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
    # XLA folds the transpose of the result into the product, and on CPUs has none of that order
    # that takes bfloat16 to float32 (jaxlib 0.10).
    narrow_first |= x.dtype == jnp.bfloat16
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


class Norm(nnx.Module):
    """Over the last axes: x / rms(x) * scale, or (x - mean) / deviation * scale + bias; float32."""

    def __init__(self, config, shape=None, axes=("embed",)):
        shape = shape or (config.width,)
        self.over = tuple(range(-len(shape), 0))
        self.eps, self.offset = config.norm_eps, config.norm_offset
        self.scale = nnx.Param(jnp.full(shape, 1.0 - self.offset), axes=axes)
        self.bias = nnx.Param(jnp.zeros(shape), axes=axes) if config.norm == "layer" else None

    def __call__(self, x):
        wide = x.astype(jnp.float32)
        if self.bias is not None:
            wide -= jnp.mean(wide, axis=self.over, keepdims=True)
        wide *= jax.lax.rsqrt(jnp.mean(wide * wide, axis=self.over, keepdims=True) + self.eps)
        if self.offset:
            scale = self.scale[...].astype(jnp.float32) + self.offset
            return (wide * jnp.broadcast_to(scale, x.shape)).astype(x.dtype)
        out = wide.astype(x.dtype) * _spread(self.scale, x)
        return out if self.bias is None else out + _spread(self.bias, x)


class MLP(nnx.Module):
    """act(gate(x)) * up(x), or act(up(x)), brought down to the width again.

    Joined, gate and up are one product.
    """

    def __init__(self, config, rngs, joined=False):
        linear = functools.partial(Linear, config, bias=config.mlp_bias, rngs=rngs)
        wide = (config.width, config.mlp_width), ("embed", "mlp")
        both = (config.width, 2, config.mlp_width), ("embed", "sides", "mlp")
        self.paired = config.gated and joined
        if self.paired:
            self.joined = linear(*both)
        else:
            self.gate = linear(*wide) if config.gated else None
            self.up = linear(*wide)
        self.down = linear((config.mlp_width, config.width), ("mlp", "embed"))
        self.activation = ACTIVATIONS[config.activation]

    def __call__(self, x):
        if self.paired:
            sides = self.joined(x)
            return self.down(self.activation(sides[..., 0, :]) * sides[..., 1, :])
        if self.gate is None:
            return self.down(self.activation(self.up(x)))
        return self.down(self.activation(self.gate(x)) * self.up(x))


class ExpertMLP(nnx.Module):
    """Several gated MLPs, each token through the few that the router weighs most.

    Tokens are sorted by expert, so that each expert's are one run of rows, and the three products
    are ragged: no expert is padded to the busiest one, and no token is dropped. Softmax and weights
    are float32. There is no balancing loss: in fine-tuning the router is trained by the loss alone.
    """

    def __init__(self, config, rngs):
        experts, width, hidden = config.experts, config.width, config.mlp_width
        self.router = Linear(config, (width, experts.count), ("embed", "experts"), rngs=rngs)
        wide, axes = (experts.count, width, hidden), ("experts", "embed", "mlp")
        self.gate = Kernel(config, wide, axes, rngs)
        self.up = Kernel(config, wide, axes, rngs)
        narrow, axes = (experts.count, hidden, width), ("experts", "mlp", "embed")
        self.down = Kernel(config, narrow, axes, rngs)
        self.activation = ACTIVATIONS[config.activation]
        self.settings = experts

    def __call__(self, x):
        count, k = self.settings.count, self.settings.per_token
        flat = x.reshape(-1, x.shape[-1])
        weights = jax.nn.softmax(self.router(flat).astype(jnp.float32), axis=-1)
        weights, chosen = jax.lax.top_k(weights, k)
        if self.settings.normalised:
            weights /= weights.sum(axis=-1, keepdims=True)
        order = jnp.argsort(chosen.ravel(), stable=True)
        token, sizes = order // k, jnp.bincount(chosen.ravel(), length=count)
        rows = flat[token]

        def product(rows, part):
            out = jax.lax.ragged_dot(rows, part.kernel[...].astype(rows.dtype), sizes)
            return checkpoint_name(out, PRODUCT)

        hidden = self.activation(product(rows, self.gate)) * product(rows, self.up)
        out = product(hidden, self.down).astype(jnp.float32) * weights.ravel()[order][:, None]
        return (
            jnp.zeros(flat.shape, jnp.float32).at[token].add(out).astype(x.dtype).reshape(x.shape)
        )


class Kernel(nnx.Module):
    """The kernels of all experts of a layer, of which each multiplies its own rows."""

    def __init__(self, config, shape, axes, rngs):
        self.kernel = nnx.Param(draw(config, rngs, shape), axes=axes)
