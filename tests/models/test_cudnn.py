"""Two pieces of attention, merged, are the whole, forward and backward.

No GPU is here: in the place of cuDNN's primitives stand plain ones that read the same counts and
offsets. What they are not asked for they leave as NaN, as a kernel leaves memory as it found it.
"""

import logging
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.models import cudnn, flash
from alignax.models.attention import packed_attention
from alignax.train import sharding
from tests.models.test_flash_attention import SIZES, WHERE, value_and_gradients

SEGMENTS = sum(len(group) for row in SIZES for group in row)


class Segments:
    """What cuDNN computes of ragged segments, one by one."""

    def __init__(self, query, key, queries, keys, first_query, first_key, how):
        rows, tokens, heads, size = query.shape
        self.heads, self.shared = heads, heads // key.shape[2]
        at = jnp.arange(rows * tokens)
        masks = cudnn.primitives.MaskType
        assert how["mask_type"] in (masks.PADDING, masks.PADDING_CAUSAL)
        self.segments = []
        offsets = [
            first.ravel() // (array.shape[2] * size)
            for first, array in ((first_query, query), (first_key, key))
        ]
        for i, (length, other) in enumerate(zip(queries.ravel(), keys.ravel(), strict=True)):
            a, b = offsets[0][i], offsets[1][i]
            asks, answers = (at >= a) & (at < a + length), (at >= b) & (at < b + other)
            sees = asks[:, None] & answers[None]
            if how["mask_type"] is masks.PADDING_CAUSAL:
                sees &= (at - a)[:, None] >= (at - b)[None]
            self.segments.append((a, asks, answers, sees))

    def flat(self, x):
        x = x.reshape(-1, *x.shape[2:]).astype(jnp.float32)
        return jnp.repeat(x, self.shared, axis=1) if x.shape[1] != self.heads else x


class Forward:
    @staticmethod
    def bind(query, key, value, bias, queries, keys, first, second, *pages, is_training, **how):
        tokens = query.shape[1]
        segments = Segments(query, key, queries, keys, first, second, how)
        q, k, v = map(segments.flat, (query, key, value))
        scores = how["scale"] * jnp.einsum("qhe,khe->hqk", q, k)
        out, sums = jnp.full(q.shape, jnp.nan), []
        for begin, asks, _, sees in segments.segments:
            masked = jnp.where(sees, scores, -jnp.inf)
            total = jax.nn.logsumexp(masked, axis=-1)
            found = jnp.einsum("hqk,khe->qhe", jnp.exp(masked - total[..., None]), v)
            out = jnp.where(asks[:, None, None], found, out)
            place = begin + jnp.arange(tokens)
            inside = asks.at[place].get(mode="fill", fill_value=False)
            sums.append(jnp.where(inside, total[:, jnp.minimum(place, len(q) - 1)], jnp.nan))
        return out.reshape(query.shape), jnp.stack(sums)


class Backward:
    @staticmethod
    def bind(query, key, value, bias, queries, keys, first, second, *rest, **how):
        sums, out, gradient = rest[-3:]
        rows, tokens, _, size = query.shape
        segments = Segments(query, key, queries, keys, first, second, how)
        q, k, v, out, gradient = map(segments.flat, (query, key, value, out, gradient))
        scores = how["scale"] * jnp.einsum("qhe,khe->hqk", q, k)
        inner = (out * gradient).sum(-1).T  # [h, q]
        found = [jnp.full(x.shape, jnp.nan) for x in (q, k, v)]
        for (begin, asks, answers, sees), each in zip(segments.segments, sums, strict=True):
            at = jnp.clip(jnp.arange(len(q)) - begin, 0, tokens - 1)
            p = jnp.where(sees, jnp.exp(scores - each[:, at][..., None]), 0)
            dp = jnp.einsum("qhe,khe->hqk", gradient, v)
            ds = how["scale"] * jnp.where(sees, p * (dp - inner[..., None]), 0)
            parts = (
                jnp.einsum("hqk,khe->qhe", ds, k),
                jnp.einsum("hqk,qhe->khe", ds, q),
                jnp.einsum("hqk,qhe->khe", p, jnp.where(asks[:, None, None], gradient, 0)),
            )
            inside = asks, answers, answers
            found = [
                jnp.where(x[:, None, None], part, whole)
                for x, part, whole in zip(inside, parts, found, strict=True)
            ]
        dq, dk, dv = found
        summed = (x.reshape(rows, tokens, -1, segments.shared, size).sum(3) for x in (dk, dv))
        return dq.reshape(query.shape), *summed


def test_this_jax_has_the_primitives_that_are_known():
    # With another JAX this is what fails first; the mask would serve until it is looked at.
    known = cudnn.SETTINGS, cudnn.SETTINGS | cudnn.NEWER_SETTINGS.keys()
    assert cudnn.settings("fwd") in known
    assert cudnn.settings("bwd") == cudnn.settings("fwd") - {"is_training"}


@pytest.mark.parametrize("found", [set(), cudnn.SETTINGS | {"another"}], ids=["none", "more"])
def test_unknown_primitives_are_not_called(found, monkeypatch):
    hopper = types.SimpleNamespace(compute_capability="9.0")
    monkeypatch.setattr(jax, "local_devices", lambda: [hopper])
    assert cudnn.served()
    monkeypatch.setattr(cudnn, "settings", lambda direction: found)
    assert not cudnn.served()


@pytest.fixture
def plainly(monkeypatch):
    """The plain primitives in the place of cuDNN's."""
    monkeypatch.setattr(cudnn.primitives, "_dot_product_attention_fwd_p", Forward)
    monkeypatch.setattr(cudnn.primitives, "_dot_product_attention_bwd_p", Backward)


def assert_whole(found):
    def masked(query, key, value, window):
        return packed_attention(query, key, value, *WHERE)

    (_, out), gradients = found
    expected = value_and_gradients(masked, None)
    np.testing.assert_allclose(out, expected[0][1], rtol=0, atol=1e-5)
    for x, y in zip(gradients, expected[1], strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("plainly")
@pytest.mark.parametrize("segments", [SEGMENTS, SEGMENTS + 9])
def test_two_pieces_are_the_whole(segments):
    pieces = cudnn.prepare(WHERE[0], WHERE[1], segments)

    def attend(query, key, value, window):
        return cudnn.attend(query, key, value, pieces, scale=8**-0.5)

    assert_whole(value_and_gradients(attend, None))


@pytest.mark.usefixtures("plainly")
def test_each_device_has_pieces_of_its_own_rows_and_heads(monkeypatch):
    monkeypatch.setattr(cudnn, "served", lambda: True)
    monkeypatch.setattr(cudnn, "fits", lambda shape, segments: True)
    mesh = sharding.make_mesh(sharding.Mesh(data=2, fsdp=2, tensor=2))
    split = jax.NamedSharding(mesh, jax.P(("data", "fsdp"), None, "tensor"))
    most = len(SIZES) * max(sum(map(len, row)) for row in SIZES)  # a device has a row
    with jax.set_mesh(mesh):
        attend = flash.over_rows("cudnn", *WHERE, windows={None}, segments=most)
        found = value_and_gradients(attend, None, lambda x: jax.device_put(x, split))
    assert_whole(jax.device_get(found))


def test_rows_of_many_segments_and_of_too_many_tokens_have_the_mask():
    def fits(rows, tokens, segments):
        return cudnn.fits((rows, tokens, 32, 64), segments)

    # By bytes: log-sum-exps of 4 for each segment, head and token, a mask of 2 for each pair.
    assert fits(4, 3072, 4 * 48)
    assert not fits(4, 3072, 4 * 48 + 1)
    assert fits(341, 3072, 341)
    assert not fits(342, 3072, 342)  # 342 * 3,072 * 32 * 64 numbers are more than 2**31


def test_the_log_says_where_bits_may_differ(monkeypatch, caplog):
    monkeypatch.setattr(flash, "device_kind", lambda: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(cudnn, "served", lambda: True)
    flash._say_once.cache_clear()
    assert flash.same_bits("cudnn", windowed=False)
    assert flash.same_bits("xla", windowed=True)
    assert not caplog.messages
    with caplog.at_level(logging.WARNING, logger="alignax"):
        assert not flash.same_bits("cudnn", windowed=True)
    assert "updates may differ in their last bits" in caplog.text
