"""Log-probabilities through packed rows are those of every response alone, written down plainly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.data.pipeline import InMemory, build_step
from alignax.data.plan import make_plan
from alignax.models.outputs import outputs, score_responses
from tests.models import plain
from tests.tiny_batch import CONFIG, decoder, example, params, random_table

TABLE = random_table(6, responses=3, longest=9)
PLAN = make_plan(TABLE.lengths, batch_size=6, num_steps=1, align=8)


@functools.cache
def step():
    """The one micro-batch of the one step, and which group each of its prompts is."""
    batch, layout = jax.tree.map(lambda x: jnp.asarray(x[0]), build_step(TABLE, PLAN, 0))
    return batch, layout, PLAN.step(0).group[0]


def responses_of(group):
    """(place, tokens, mask) of each response of a group."""
    return [(j, *pair) for j, pair in enumerate(TABLE[group].split())]


@functools.cache
def plain_logprobs():
    """[b, k, r], 0 off the mask."""
    batch, _, groups = step()
    found = np.zeros(batch.mask.shape, np.float32)
    for i, group in enumerate(groups):
        for j, tokens, mask in responses_of(group):
            alone = plain.logprobs(CONFIG, params(), TABLE[group].prompt, tokens)
            found[i, j, : len(tokens)] = np.where(mask, alone, 0.0)
    return found


@functools.partial(jax.jit, static_argnames=("model", "reach", "chunk_bytes"))
def packed_logprobs(params, batch, layout, *, model=None, **kwargs):
    return outputs(model or decoder(), params, batch, layout, **kwargs).logprobs


def asked(batch):
    return batch.prompts, batch.prompt_lengths, batch.responses, batch.mask


def test_the_step_packs_several_groups_into_a_row():
    # Otherwise the tests below would not say much.
    _, layout, _ = step()
    assert any(len(set(row[row >= 0].tolist())) > 2 for row in np.asarray(layout.group))


# 4 bytes a logit, 40 of them a token: five tokens at a time, or all.
@pytest.mark.parametrize("chunk_bytes", [4 * 40 * 5, 2**26], ids=["in chunks", "at once"])
@pytest.mark.parametrize("reach", [None, PLAN.shape.reach], ids=["all", "reach"])
def test_packed_rows_give_the_log_probs_of_each_response_alone(reach, chunk_bytes):
    batch, layout, _ = step()
    found = packed_logprobs(params(), batch, layout, reach=reach, chunk_bytes=chunk_bytes)
    assert (found.shape, found.dtype) == (batch.mask.shape, jnp.float32)
    np.testing.assert_allclose(found, plain_logprobs(), atol=1e-5)


def test_entropies_are_those_of_the_distributions_that_tokens_are_drawn_from():
    batch, layout, groups = step()
    asked = functools.partial(outputs, decoder(), entropy=True, chunk_bytes=4 * 40 * 5)
    found = jax.jit(asked)(params(), batch, layout)
    np.testing.assert_allclose(found.logprobs, plain_logprobs(), atol=1e-5)
    np.testing.assert_array_equal(found.entropy[~np.asarray(batch.mask)], 0.0)
    prompt = TABLE[groups[0]].prompt
    for j, tokens, mask in responses_of(groups[0]):
        whole = np.zeros(plain.LENGTH, np.int32)
        whole[: len(prompt) + len(tokens)] = np.concatenate([prompt, tokens])
        table = np.asarray(jax.nn.log_softmax(plain.logits(CONFIG, params(), whole)), np.float64)
        entropy = -(np.exp(table) * table).sum(axis=-1)[len(prompt) - 1 :][: len(tokens)]
        expected = np.where(mask, entropy, 0.0)
        np.testing.assert_allclose(found.entropy[0, j, : len(tokens)], expected, atol=1e-5)


def test_log_probs_are_those_of_a_distribution():
    batch, layout, _ = step()
    found = np.asarray(packed_logprobs(params(), batch, layout))
    assert (found[np.asarray(batch.mask)] < 0).all()
    np.testing.assert_array_equal(found[~np.asarray(batch.mask)], 0.0)


def test_scoring_through_the_cache_gives_the_same():
    batch, _, _ = step()
    found = jax.jit(score_responses, static_argnums=0)(decoder(), params(), *asked(batch))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, plain_logprobs(), atol=1e-5)


def test_what_stands_in_the_padding_changes_nothing():
    batch, layout, _ = step()
    assert (layout.group < 0).any()
    altered = layout._replace(
        tokens=jnp.where(layout.group < 0, 39, layout.tokens),
        position=jnp.where(layout.group < 0, 7, layout.position),
        source=jnp.where(layout.slot < 0, 3, layout.source),
        target=jnp.where(layout.slot < 0, 5, layout.target),
    )
    before, after = (packed_logprobs(params(), batch, x) for x in (layout, altered))
    np.testing.assert_array_equal(before, after)


def test_longer_rows_and_other_company_change_nothing():
    # The first two groups alone, one to a row, in longer rows: the same to rounding.
    batch, layout, groups = step()
    whole = packed_logprobs(params(), batch, layout)
    pair = InMemory([TABLE[group] for group in groups[:2]])
    plan = make_plan(pair.lengths, batch_size=2, num_steps=1, shards=2, align=64)
    fewer, rows = jax.tree.map(lambda x: jnp.asarray(x[0]), build_step(pair, plan, 0))
    assert plan.shape.row_length > PLAN.shape.row_length or plan.shape.rows == 2
    found = packed_logprobs(params(), fewer, rows, reach=plan.shape.reach)
    for i, group in enumerate(plan.step(0).group[0]):
        size = found.shape[-1]
        np.testing.assert_allclose(found[i], whole[group, :, :size], atol=2e-6)


def test_tokens_of_another_prompt_change_nothing():
    batch, layout, _ = step()
    for i in range(2):
        others = (layout.group >= 0) & (layout.group != i)
        altered = layout._replace(tokens=jnp.where(others, 39 - layout.tokens, layout.tokens))
        before, after = (packed_logprobs(params(), batch, x) for x in (layout, altered))
        np.testing.assert_array_equal(before[i], after[i])
        assert not np.array_equal(before[i + 1], after[i + 1])


def test_a_token_off_the_mask_is_not_scored_but_is_read():
    # 7 8 9 with 8 unscored: its log-probability is 0, and 9 depends on it.
    def found(middle):
        table = InMemory([example([1, 2], [[7, middle, 9]], [[True, False, True]])])
        plan = make_plan(table.lengths, batch_size=1, num_steps=1, align=8)
        batch, layout = jax.tree.map(lambda x: jnp.asarray(x[0]), build_step(table, plan, 0))
        return np.asarray(packed_logprobs(params(), batch, layout))[0, 0]

    one, other = found(8), found(20)
    assert one[1] == other[1] == 0.0
    assert one[0] == other[0]
    assert one[2] != other[2]
    alone = plain.logprobs(CONFIG, params(), [1, 2], np.array([7, 8, 9]))
    np.testing.assert_allclose(one, np.asarray(alone) * [1, 0, 1], atol=1e-5)


# --- Gradients


def weights():
    """So that every token pulls differently, some up and some down."""
    return jax.random.normal(jax.random.key(1), step()[0].mask.shape)


@functools.cache
def plain_gradient():
    groups = step()[2]

    def total(params):
        terms = []
        for i, group in enumerate(groups):
            for j, tokens, mask in responses_of(group):
                alone = plain.logprobs(CONFIG, params, TABLE[group].prompt, tokens)
                terms.append(jnp.sum(alone * mask * weights()[i, j, : len(tokens)]))
        return sum(terms)

    return jax.grad(total)(params())


@pytest.mark.parametrize("scan_layers", [True, False])
@pytest.mark.parametrize("remat", ["none", "attention", "elementwise", "block"])
def test_gradients_of_every_parameter_are_those_of_the_plain_computation(remat, scan_layers):
    batch, layout, _ = step()
    model = decoder(remat=remat, scan_layers=scan_layers)

    def total(params):
        found = packed_logprobs(params, batch, layout, model=model, reach=PLAN.shape.reach)
        return jnp.sum(weights() * found)

    found = jax.jit(jax.grad(total))(params())
    expected = plain_gradient()
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        scale = np.abs(y).max()
        assert scale > 0
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4 * scale)


def test_gradients_through_the_cache_are_the_same():
    batch, _, _ = step()

    def total(params):
        found = score_responses(decoder(), params, *asked(batch))
        return jnp.sum(weights() * found)

    found = jax.jit(jax.grad(total))(params())
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(plain_gradient()), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4 * np.abs(y).max())


def test_bfloat16_arithmetic_stays_close_and_gives_float32():
    batch, layout, _ = step()
    model = decoder(dtype="bfloat16")
    found = packed_logprobs(params(), batch, layout, model=model)
    assert found.dtype == jnp.float32
    # bfloat16 keeps 8 bits: logits of the order of 3 are off by some hundredths.
    np.testing.assert_allclose(found, plain_logprobs(), atol=0.15)
