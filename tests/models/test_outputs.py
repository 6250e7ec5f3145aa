"""Packed, shared, chunked and gathered log-probs are those of each response alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.data.pipeline import build_step
from alignax.data.plan import make_plan
from alignax.models.outputs import outputs, score_responses
from tests.tiny_batch import decoder, groups, model_fn, params, plain_logprobs


def one_step(count=8, shards=1):
    made = groups(count)
    plan = make_plan(made.lengths, batch_size=count, shards=shards, align=8)
    batch, layout = jax.tree.map(lambda x: x[0], build_step(made, plan, 0))
    order = plan.step(0).group[0]
    return [made[i] for i in order], batch, layout, plan.shape.reach


@functools.cache
def expected():
    examples, batch, _, _ = one_step()
    table = np.zeros(batch.mask.shape, np.float32)
    for i, example in enumerate(examples):
        for j, (tokens, mask) in enumerate(example.split()):
            alone = np.asarray(plain_logprobs(params(), example.prompt, tokens))
            table[i, j, : len(tokens)] = np.where(mask, alone, 0.0)
    return table


def test_a_packed_step_scores_every_response_as_if_it_were_alone():
    _, batch, layout, reach = one_step()
    found = jax.jit(functools.partial(outputs, decoder(), reach=reach))(params(), batch, layout)
    np.testing.assert_allclose(found.logprobs, expected(), atol=1e-5)


def test_the_cache_scores_responses_as_the_rows_do():
    _, batch, _, _ = one_step()
    found = jax.jit(functools.partial(score_responses, decoder()))(
        params(), batch.prompts, batch.prompt_lengths, batch.responses, batch.mask
    )
    np.testing.assert_allclose(found, expected(), atol=1e-5)


def test_chunks_of_any_size_give_the_same():
    _, batch, layout, _ = one_step()
    for tokens in (1, 7, 1000):
        chunked = functools.partial(outputs, decoder(), chunk_bytes=4 * 64 * tokens)
        found = jax.jit(chunked)(params(), batch, layout)
        np.testing.assert_allclose(found.logprobs, expected(), atol=1e-5)


def test_longer_rows_and_other_groups_tokens_change_nothing():
    _, batch, layout, _ = one_step()
    row = layout.group.shape[1]
    pad = lambda x, fill: jnp.pad(x, ((0, 0), (0, 40)), constant_values=fill)  # noqa: E731
    longer = layout._replace(
        tokens=pad(layout.tokens, 9),
        group=pad(layout.group, -1),
        response=pad(layout.response, 0),
        position=pad(layout.position, 0),
    )
    assert longer.tokens.shape[1] == row + 40
    found = jax.jit(model_fn)(params(), batch, longer).logprobs
    np.testing.assert_allclose(found, expected(), atol=1e-5)
    others = jnp.where(layout.group == 0, layout.tokens, (layout.tokens + 5) % 64)
    changed = jax.jit(model_fn)(params(), batch, layout._replace(tokens=others)).logprobs
    np.testing.assert_allclose(changed[0], expected()[0], atol=1e-5)


@pytest.mark.parametrize("remat", ["none", "attention", "block"])
def test_gradients_are_those_of_the_plain_computation(remat):
    examples, batch, layout, reach = one_step()
    weight = jax.random.normal(jax.random.key(1), batch.mask.shape)

    def packed(p):
        found = outputs(decoder(remat), p, batch, layout, reach=reach).logprobs
        return jnp.sum(found * weight)

    def plain(p):
        total = 0.0
        for i, example in enumerate(examples):
            for j, (tokens, mask) in enumerate(example.split()):
                alone = plain_logprobs(p, example.prompt, tokens)
                total += jnp.sum(jnp.where(mask, alone * weight[i, j, : len(tokens)], 0.0))
        return total

    found, wanted = jax.jit(jax.grad(packed))(params()), jax.jit(jax.grad(plain))(params())
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        scale = float(jnp.abs(y).max())
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5 * scale)
