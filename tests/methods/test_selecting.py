"""What holds of every method that selects or pairs its own samples, whatever it selects."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.method import text_settings
from alignax.core.types import Batch, Outputs
from alignax.methods import RAFT, RSO, OnlineDPO, RejectionSampling, SLiCSampleRank

KEY = jax.random.key(3)
METHODS = [
    RAFT(),
    RAFT(beta=0.1),
    RAFT(beta=0.1, selection="global"),
    RejectionSampling(),
    OnlineDPO(num_samples=4),
    RSO(num_samples=12),
    RSO(num_samples=12, ranking="tournament", objective="hinge-norm"),
    RSO(num_samples=12, objective="hinge"),
    SLiCSampleRank(),
    SLiCSampleRank(pairing="all"),
]
PROMPTS, TOKENS = 5, 6
every = pytest.mark.parametrize("method", METHODS, ids=lambda x: repr(x)[:60])


def case(method, *, seed=0) -> Batch:
    """Samples of different lengths; of the last two prompts, ties and none that is valid."""
    draw = np.random.default_rng(seed)
    b, k, r = PROMPTS, method.needs().sampling.num_samples, TOKENS
    mask = np.arange(r) < draw.integers(1, r + 1, (b, k, 1))
    old, ref = (jnp.asarray(-draw.exponential(1.5, (b, k, r)) * mask, jnp.float32) for _ in "ab")
    scores = draw.standard_normal((b, k))
    scores[3], valid = 1.0, draw.random((b, k)) < 0.9
    valid[4] = False
    return Batch(
        prompts=jnp.asarray(np.arange(3 * b).reshape(b, 3), jnp.int32),
        prompt_lengths=jnp.full(b, 3, jnp.int32),
        responses=jnp.asarray(draw.integers(0, 9, (b, k, r)) * mask, jnp.int32),
        mask=jnp.asarray(mask),
        scores=jnp.asarray(scores, jnp.float32),
        valid=jnp.asarray(valid),
        ref_logprobs=ref if method.needs().reference else None,
        old_logprobs=old,
    )


def outputs_for(batch: Batch, *, seed=1) -> Outputs:
    draw = np.random.default_rng(seed)
    logprobs = jnp.asarray(-draw.exponential(1.5, batch.mask.shape), jnp.float32)
    return Outputs(jnp.where(batch.mask, logprobs, 0.0))


@functools.cache
def selector(method):
    return jax.jit(method.select)


def same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def off(x, where, value):
    """x with `value` off `where`, for fields that are floating and lie as it does."""
    fits = x.ndim >= where.ndim and x.shape[: where.ndim] == where.shape
    if not (fits and jnp.issubdtype(x.dtype, jnp.floating)):
        return x
    return jnp.where(where.reshape(*where.shape, *(1,) * (x.ndim - where.ndim)), x, value)


@every
def test_selection_is_the_same_under_jit_and_of_numpys_arrays(method):
    batch = case(method)
    found = selector(method)(KEY, batch)
    same(method.select(KEY, batch), found)
    same(selector(method)(KEY, jax.tree.map(np.asarray, batch)), found)


@every
def test_what_is_selected_is_among_the_samples_with_all_that_belongs_to_it(method):
    batch = case(method)
    found = selector(method)(KEY, batch)
    kept = 0
    for at in zip(*np.nonzero(found.valid), strict=True):
        prompt = found.prompts[at[0]]
        (origin,) = np.nonzero((batch.prompts == prompt[None]).all(axis=1))[0]
        here = jnp.argmax(batch.scores[origin] == found.scores[at])
        if origin != 3:  # where all scores are the same, they do not tell which it was
            for name in ("responses", "mask", "old_logprobs", "ref_logprobs"):
                if getattr(found, name) is not None:
                    expected = getattr(batch, name)[origin, here]
                    np.testing.assert_array_equal(getattr(found, name)[at], expected)
        kept += 1
    assert kept >= 3


@every
def test_an_invalid_response_has_no_tokens_and_a_prompt_without_valid_ones_is_never_kept(method):
    found = selector(method)(KEY, case(method))
    assert not found.mask[~found.valid].any()
    useful = found.valid.any(axis=1)
    last = (found.prompts == case(method).prompts[4][None]).all(axis=1)
    assert not useful[last].any()
    if not isinstance(method, RAFT | RejectionSampling):
        tied = (found.prompts == case(method).prompts[3][None]).all(axis=1)
        assert not useful[tied].any()


@every
def test_longer_padding_changes_no_choice(method):
    batch = case(method)
    pad = lambda x: jnp.pad(x, [(0, 0), (0, 0), (0, 7)]) if x.ndim == 3 else x  # noqa: E731
    found = selector(method)(KEY, jax.tree.map(pad, batch))
    same(found, jax.tree.map(pad, selector(method)(KEY, batch)))


@every
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
def test_what_stands_in_padding_and_in_invalid_responses_changes_neither_choice_nor_loss(
    method, value
):
    batch = case(method)
    odd = jax.tree.map(lambda x: off(off(x, batch.mask, value), batch.valid, value), batch)
    found, expected = selector(method)(KEY, odd), selector(method)(KEY, batch)
    for name in ("prompts", "responses", "mask", "valid"):
        chosen = [x if x.ndim < 3 else jnp.where(expected.mask, x, 0)
                  for x in (getattr(found, name), getattr(expected, name))]  # fmt: skip
        useful = expected.valid.any(axis=1)
        np.testing.assert_array_equal(chosen[0][useful], chosen[1][useful])
    outputs = outputs_for(expected)
    losses, metrics = method.loss(outputs, found)
    same((losses, metrics), method.loss(outputs, expected))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((losses, metrics)))


@every
def test_what_is_not_valid_gets_no_gradient_and_a_finite_loss(method):
    batch = selector(method)(KEY, case(method))
    poisoned = outputs_for(batch)
    poisoned = poisoned._replace(logprobs=jnp.where(batch.mask, poisoned.logprobs, jnp.nan))
    losses, _ = method.loss(poisoned, batch)
    slope = jax.grad(lambda x: method.loss(Outputs(x), batch)[0].sum())(poisoned.logprobs)
    assert np.isfinite(losses).all()
    assert np.isfinite(slope).all()
    np.testing.assert_array_equal(slope[~batch.mask], 0.0)
    assert np.abs(slope).max() > 0.0


@every
def test_a_drawing_of_which_nothing_is_valid_selects_nothing(method):
    batch = case(method)
    found = selector(method)(KEY, batch._replace(valid=jnp.zeros_like(batch.valid)))
    assert not found.valid.any()
    losses, metrics = method.loss(outputs_for(found), found)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((losses, metrics)))


@pytest.mark.parametrize("method", [RAFT(beta=0.1), RejectionSampling(), OnlineDPO(num_samples=4),
                                    SLiCSampleRank()], ids=lambda x: type(x).__name__)  # fmt: skip
def test_order_of_prompts_does_not_matter_where_nothing_is_drawn(method):
    batch, order = case(method), jnp.array([3, 0, 4, 1, 2])
    found = selector(method)(KEY, jax.tree.map(lambda x: x[order], batch))
    same(found, jax.tree.map(lambda x: x[order], selector(method)(KEY, batch)))


@every
def test_gradients_stay_finite_at_log_ratios_of_200(method):
    batch = selector(method)(KEY, case(method))
    tokens = jnp.maximum(batch.mask.sum(axis=-1, keepdims=True), 1)
    share = jnp.where(batch.mask, -200.0 / tokens, 0.0)
    for policy, ref in ((share, 0.0 * share), (0.0 * share, share)):
        policy, ref = (x.at[:, 1:].set(0.0) for x in (policy, ref))
        given = batch._replace(ref_logprobs=ref if method.needs().reference else None)
        loss = lambda x, given=given: method.loss(Outputs(x), given)[0].sum()  # noqa: E731
        assert all(np.isfinite(x).all() for x in jax.value_and_grad(loss)(policy))


def test_only_numbers_of_the_loss_are_left_out_of_what_decides_the_data():
    assert text_settings(OnlineDPO(beta=0.1)) == text_settings(OnlineDPO(beta=0.5))
    assert text_settings(RSO(gamma=0.1)) == text_settings(RSO(gamma=0.5))
    for one, other in (
        (RSO(beta=0.1), RSO(beta=0.5)),
        (RAFT(beta=0.1), RAFT(beta=0.5)),
        (RAFT(), RAFT(num_samples=4)),
    ):
        assert text_settings(one) != text_settings(other)
