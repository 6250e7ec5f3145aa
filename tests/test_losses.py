"""The contract of `alignax.losses`: names, argument names, shapes, dtypes and gradients.

A new loss is tested by a line in `SIGNATURES` and one in `ARRAYS`.
"""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax import losses

SIGNATURES = {
    "dpo": "logprobs, ref_logprobs, *, beta, label_smoothing=0.0",
    "nll": "logprobs, mask",
}
# For each loss: the arrays of one prompt, and hyperparameters. The numbers are small and binary
# fractions, so that bfloat16 holds them exactly.
ARRAYS = {
    "dpo": (([-12.0, -15.0], [-13.0, -14.5]), {"beta": 0.5, "label_smoothing": 0.125}),
    "nll": (([-1.5, -0.25, -3.0], [True, False, True]), {}),
}
every = pytest.mark.parametrize("name", losses.__all__)


def arrays(name, dtype=jnp.float32):
    found = [jnp.asarray(x) for x in ARRAYS[name][0]]
    return [x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x for x in found]


def call(name):
    function, keywords = getattr(losses, name), ARRAYS[name][1]
    return lambda *arrays: function(*arrays, **keywords)


def stacked(name, shape):
    """The arrays with leading axes, no two entries alike."""
    scale = 1.0 + jnp.arange(np.prod(shape)).reshape(shape) / 8.0

    def stack(x):
        wide = jnp.broadcast_to(x, (*shape, *x.shape))
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return wide
        return wide * scale.reshape(*shape, *(1,) * x.ndim)

    return [stack(x) for x in arrays(name)]


def test_every_name_is_pinned_and_nothing_else_is_public():
    assert sorted(losses.__all__) == sorted(SIGNATURES) == sorted(ARRAYS)
    functions = {name for name, x in vars(losses).items() if inspect.isfunction(x)}
    assert functions == set(losses.__all__)


@every
def test_argument_names_order_defaults_and_kinds_are_pinned(name):
    signature = inspect.signature(getattr(losses, name))
    bare = signature.replace(
        parameters=[
            p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()
        ],
        return_annotation=inspect.Signature.empty,
    )
    assert str(bare) == f"({SIGNATURES[name]})"


@every
def test_says_what_it_takes_and_returns(name):
    text = inspect.getdoc(getattr(losses, name))
    assert "Args:" in text
    assert "Returns:" in text
    for argument in inspect.signature(getattr(losses, name)).parameters:
        assert f"{argument}: " in text


@every
def test_bfloat16_arrays_give_the_same_float32_result(name):
    found = call(name)(*arrays(name, jnp.bfloat16))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, call(name)(*arrays(name)), rtol=1e-6)


@every
def test_leading_axes_are_free(name):
    wide = stacked(name, (2, 3))
    found = call(name)(*wide)
    assert found.shape[:2] == (2, 3)
    for i in np.ndindex(2, 3):
        alone = call(name)(*(x[i] for x in wide))
        assert alone.shape == found.shape[2:]
        np.testing.assert_allclose(found[i], alone, rtol=1e-6)


@every
def test_vmap_and_jit_agree_with_leading_axes(name):
    wide = stacked(name, (4,))
    expected = call(name)(*wide)
    np.testing.assert_allclose(jax.vmap(call(name))(*wide), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(call(name))(*wide), expected, rtol=1e-6)
    compiled = jax.jit(jax.vmap(jax.grad(lambda *x: call(name)(*x).sum())))
    eager = jax.grad(lambda *x: call(name)(*x).sum())(*wide)
    np.testing.assert_allclose(compiled(*wide), eager, rtol=1e-5)


@every
def test_gradients_flow_through_the_first_array_only(name):
    given = stacked(name, (4,))
    floats = [i for i, x in enumerate(given) if jnp.issubdtype(x.dtype, jnp.floating)]
    gradients = jax.grad(lambda *x: call(name)(*x).sum(), argnums=floats)(*given)
    assert np.abs(gradients[0]).max() > 0
    for gradient in gradients[1:]:
        np.testing.assert_array_equal(gradient, 0.0)
