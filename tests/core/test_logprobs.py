"""Chunked log-probs, with a backward pass of their own, are those of a plain log-softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core import axes, logprobs
from alignax.core.logprobs import token_logprobs, token_logprobs_and_entropy

ROWS, TOKENS, WIDTH, VOCAB = 3, 7, 12, 50


def inputs(dtype=jnp.float32, scale=1.0):
    keys = jax.random.split(jax.random.key(0), 4)
    hidden = scale * jax.random.normal(keys[0], (ROWS, TOKENS, WIDTH))
    head = jax.random.normal(keys[1], (VOCAB, WIDTH))
    target = jax.random.randint(keys[2], (ROWS, TOKENS), 0, VOCAB)
    weight = jax.random.normal(keys[3], (ROWS, TOKENS))  # so that every token's gradient differs
    return hidden.astype(dtype), head.astype(dtype), target, weight


def plain(hidden, head, target):
    logits = jnp.einsum("nmd,vd->nmv", hidden.astype(jnp.float32), head.astype(jnp.float32))
    logprobs = jax.nn.log_softmax(logits)
    return jnp.take_along_axis(logprobs, target[..., None], axis=-1)[..., 0]


def gradients(function, hidden, head, target, weight):
    total = lambda hidden, head: jnp.sum(weight * function(hidden, head, target))  # noqa: E731
    return jax.grad(total, argnums=(0, 1))(hidden, head)


# 4 bytes a logit: room for 1, 2, 3 and all 7 tokens of each row; the last holds not even one.
@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 0])
def test_values_and_gradients_are_those_of_autodiff(tokens):
    hidden, head, target, weight = inputs()
    size = 4 * ROWS * VOCAB * tokens + 1
    chunked = lambda *args: token_logprobs(*args, chunk_bytes=size)  # noqa: E731
    expected = plain(hidden, head, target)
    np.testing.assert_allclose(chunked(hidden, head, target), expected, atol=1e-5)
    found = gradients(chunked, hidden, head, target, weight)
    for x, y in zip(found, gradients(plain, hidden, head, target, weight), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


@pytest.mark.parametrize(("softcap", "temperature"), [(None, 1.0), (5.0, 1.0), (5.0, 0.7)])
@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_gradients_by_kept_slopes_are_those_of_autodiff(tokens, softcap, temperature, monkeypatch):
    monkeypatch.setattr(logprobs, "keeps_slopes", lambda dtype, logits: True)
    hidden, head, target, weight = inputs()
    weight = weight.at[:, 1].set(0.0)  # a token that is not learnt from
    size = 4 * ROWS * VOCAB * tokens + 1

    def expected(hidden, head, target):
        logits = jnp.einsum("nmd,vd->nmv", hidden, head)
        logits = logits if softcap is None else softcap * jnp.tanh(logits / softcap)
        found = jax.nn.log_softmax(logits / temperature)
        return jnp.take_along_axis(found, target[..., None], axis=-1)[..., 0]

    monkeypatch.setattr(logprobs, "room", lambda: size)
    how = {"softcap": softcap, "temperature": temperature}
    chunked = lambda *args: token_logprobs(*args, **how)  # noqa: E731
    np.testing.assert_allclose(
        chunked(hidden, head, target), expected(hidden, head, target), atol=1e-5
    )
    found = gradients(chunked, hidden, head, target, weight)
    for x, y in zip(found, gradients(expected, hidden, head, target, weight), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_slopes_of_bfloat16_lose_nothing_where_the_target_is_nearly_certain(monkeypatch):
    """1 - p is rounded, and not p: p = 1 - 0.001 is 1 in bfloat16."""
    monkeypatch.setattr(logprobs, "keeps_slopes", lambda dtype, logits: True)
    hidden = jnp.full((1, 2, 1), 1.0, jnp.bfloat16)
    head = jnp.array([[0.0], [6.90625]], jnp.bfloat16)  # exact; 1 / (1 + e^6.90625) = 0.0010005
    target = jnp.ones((1, 2), int)
    monkeypatch.setattr(logprobs, "room", lambda: 8)
    total = lambda *arrays: token_logprobs(*arrays, target).sum()  # noqa: E731
    found = jax.grad(total, argnums=1)(hidden, head)
    np.testing.assert_allclose(found.astype(np.float32)[:, 0], [-2.001e-3, 2.001e-3], rtol=2**-8)


def test_what_is_kept_of_logits_fits_a_gpu_and_no_other_device_keeps_any(monkeypatch):
    assert not logprobs.keeps_slopes(jnp.bfloat16, 1)
    monkeypatch.setattr(axes, "device_kind", lambda: "NVIDIA H100 80GB HBM3")
    assert logprobs.keeps_slopes(jnp.bfloat16, 2**30)
    assert not logprobs.keeps_slopes(jnp.bfloat16, 2**30 + 1)
    assert logprobs.keeps_slopes("bfloat16", 2**30)
    assert not logprobs.keeps_slopes(jnp.float32, 1)


def test_kept_logits_are_the_only_array_of_their_size():
    """XLA for CPUs once wrote the probabilities beside them, their slopes, and these transposed."""
    hidden, head = jnp.ones((2, 64, 32)), jnp.ones((1000, 32))
    target, weight = jnp.zeros((2, 64), int), jnp.ones((2, 64))

    def both(hidden, head):
        values, back = jax.vjp(lambda *args: token_logprobs(*args, target), hidden, head)
        return values, back(weight)

    used = jax.jit(both).lower(hidden, head).compile().memory_analysis().temp_size_in_bytes
    logits = 4 * 2 * 64 * 1000
    assert logits <= used < 1.3 * logits


@pytest.mark.parametrize("tokens", [2, 7])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_a_temperature_divides_logits_of_log_probs_and_entropies_alike(softcap, tokens):
    hidden, head, target, weight = inputs()
    how = {"softcap": softcap, "temperature": 0.7, "chunk_bytes": 4 * ROWS * VOCAB * tokens}

    def expected(hidden, head):
        logits = jnp.einsum("nmd,vd->nmv", hidden, head)
        logits = logits if softcap is None else softcap * jnp.tanh(logits / softcap)
        found = jax.nn.log_softmax(logits / 0.7)
        entropy = -jnp.sum(jnp.exp(found) * found, axis=-1)
        return jnp.take_along_axis(found, target[..., None], axis=-1)[..., 0], entropy

    both = lambda hidden, head: token_logprobs_and_entropy(hidden, head, target, **how)  # noqa: E731
    alone = lambda hidden, head: token_logprobs(hidden, head, target, **how)  # noqa: E731
    np.testing.assert_allclose(alone(hidden, head), expected(hidden, head)[0], atol=1e-5)
    for x, y in zip(both(hidden, head), expected(hidden, head), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)

    def slopes(function):
        total = lambda *arrays: sum(  # noqa: E731
            jnp.sum(w * x) for w, x in zip((weight, weight[::-1]), function(*arrays), strict=False)
        )
        return jax.grad(total, argnums=(0, 1))(hidden, head)

    first = lambda function: lambda *arrays: function(*arrays)[:1]  # noqa: E731
    for x, y in zip(slopes(both), slopes(expected), strict=True):
        np.testing.assert_allclose(x, y, atol=2e-5)
    for x, y in zip(slopes(lambda *a: (alone(*a),)), slopes(first(expected)), strict=True):
        np.testing.assert_allclose(x, y, atol=2e-5)


def test_four_logits_at_temperature_two_are_in_the_ratio_of_their_roots():
    """Probabilities of 1, 4, 9 and 16 thirtieths become 1, 2, 3 and 4 tenths."""
    head = jnp.log(jnp.array([[1.0], [4.0], [9.0], [16.0]]))
    found = token_logprobs(jnp.ones((1, 4, 1)), head, jnp.arange(4)[None], temperature=2.0)
    np.testing.assert_allclose(jnp.exp(found), [[0.1, 0.2, 0.3, 0.4]], rtol=1e-5)


def test_is_the_same_under_jit():
    arrays = inputs()[:3]
    np.testing.assert_allclose(jax.jit(token_logprobs)(*arrays), token_logprobs(*arrays), atol=1e-6)


def test_two_equal_logits_share_the_probability():
    logprobs = token_logprobs(jnp.ones((1, 1, 2)), jnp.ones((2, 2)), jnp.array([[1]]))
    np.testing.assert_allclose(logprobs, -np.log(2.0), rtol=1e-6)


def test_extreme_logits_stay_finite_in_value_and_gradient():
    hidden, head, target, weight = inputs(scale=1e4)
    logprobs = token_logprobs(hidden, head, target)
    assert np.isfinite(logprobs).all()
    assert (logprobs <= 0).all()
    assert logprobs.min() < -1e4
    for x in gradients(token_logprobs, hidden, head, target, weight):
        assert np.isfinite(x).all()


def test_bfloat16_states_give_float32_log_probs():
    hidden, head, target, weight = inputs(jnp.bfloat16)
    logprobs = token_logprobs(hidden, head, target, chunk_bytes=1)
    assert logprobs.dtype == jnp.float32
    # Products of bfloat16 numbers are exact in float32, so only the sums' order differs.
    np.testing.assert_allclose(logprobs, plain(hidden, head, target), atol=1e-5)
    found = gradients(token_logprobs, hidden, head, target, weight)
    exact = gradients(plain, *(x.astype(jnp.float32) for x in (hidden, head)), target, weight)
    for x, y in zip(found, exact, strict=True):
        assert x.dtype == jnp.bfloat16
        # The logits' gradient and the result are each rounded to 8 bits.
        np.testing.assert_allclose(x.astype(jnp.float32), y, atol=2**-7 * np.abs(y).max())


# --- Entropies


CAP = 2.0


def plain_sum(hidden, head, target, weight):
    """Of log-probabilities by their weights, and of entropies by the weights of other tokens."""
    logits = CAP * jnp.tanh(jnp.einsum("nmd,vd->nmv", hidden, head) / CAP)
    logprobs = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(logprobs, target[..., None], axis=-1)[..., 0]
    entropy = -jnp.sum(jax.nn.softmax(logits) * logprobs, axis=-1)
    return jnp.sum(weight * chosen) + jnp.sum(weight[::-1] * entropy)


@pytest.mark.parametrize("tokens", [2, 7])  # of each row at a time: in chunks, and at once
def test_log_probs_with_entropies_have_the_values_and_gradients_of_autodiff(tokens):
    hidden, head, target, weight = inputs()

    def chunked_sum(hidden, head):
        logprobs, entropy = token_logprobs_and_entropy(
            hidden, head, target, softcap=CAP, chunk_bytes=4 * ROWS * VOCAB * tokens + 1
        )
        return jnp.sum(weight * logprobs) + jnp.sum(weight[::-1] * entropy)

    plainly = lambda hidden, head: plain_sum(hidden, head, target, weight)  # noqa: E731
    found, slopes = jax.value_and_grad(chunked_sum, argnums=(0, 1))(hidden, head)
    expected, plain_slopes = jax.value_and_grad(plainly, argnums=(0, 1))(hidden, head)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for x, y in zip(slopes, plain_slopes, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_the_entropy_of_four_equal_logits_is_log_four_and_of_a_certain_one_nothing():
    hidden, target = jnp.array([[[1.0], [0.0]]]), jnp.array([[0, 1]])
    head = jnp.array([[300.0], [0.0], [0.0], [0.0]])
    logprobs, entropy = token_logprobs_and_entropy(hidden, head, target)
    np.testing.assert_allclose(entropy, [[0.0, np.log(4.0)]], rtol=1e-6)
    np.testing.assert_allclose(logprobs, [[0.0, -np.log(4.0)]], rtol=1e-6)


def test_entropies_of_extreme_logits_stay_finite_in_value_and_gradient():
    hidden, head, target, _ = inputs(scale=1e4)
    entropy = lambda hidden, head: token_logprobs_and_entropy(hidden, head, target)[1]  # noqa: E731
    assert np.abs(entropy(hidden, head)).max() < 1e-6  # the nearest two are hundreds apart
    slopes = jax.grad(lambda *arrays: entropy(*arrays).sum(), argnums=(0, 1))(hidden, head)
    for x in slopes:
        assert np.isfinite(x).all()


@pytest.mark.parametrize("shape", [(2, 0), (0, 3)])
def test_no_tokens_have_no_log_probs_and_no_gradient(shape):
    hidden, head, target = jnp.ones((*shape, 4)), jnp.ones((8, 4)), jnp.zeros(shape, jnp.int32)
    assert token_logprobs(hidden, head, target).shape == shape
    assert [x.shape for x in token_logprobs_and_entropy(hidden, head, target)] == [shape, shape]
    slope = jax.grad(lambda head: token_logprobs(hidden, head, target).sum())(head)
    np.testing.assert_array_equal(slope, np.zeros((8, 4)))
