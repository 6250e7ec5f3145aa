"""The sampler: what it draws, what it says of it, and that nothing else decides it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.generate.sampler import Sampler, choose, sample, truncate
from alignax.models.outputs import score_responses
from tests.tiny_batch import decoder, params, plain_table

PROMPTS = [[5, 9, 3], [7, 1, 2, 8, 4, 6], [11, 12]]
NEVER = np.array([99], np.int32)  # no such token: nothing ends


def draw(sampler, prompts=PROMPTS, ids=None, end=NEVER, seed=0):
    width = max(map(len, prompts))
    padded = np.zeros((len(prompts), width), np.int32)
    for row, prompt in zip(padded, prompts, strict=True):
        row[: len(prompt)] = prompt
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    ids = np.arange(len(prompts), dtype=np.int32) if ids is None else np.array(ids, np.int32)
    run = jax.jit(functools.partial(sample, decoder(), sampler=sampler))
    found = run(params(), jax.random.key(seed), padded, lengths, ids, end)
    return found, padded, lengths


def test_greedy_takes_the_likeliest_token_of_the_uncached_forward_pass():
    found, _, _ = draw(Sampler(max_new_tokens=6, temperature=0.0))
    for prompt, tokens, logprobs in zip(PROMPTS, found.tokens[:, 0], found.logprobs[:, 0],
                                        strict=True):  # fmt: skip
        for i in range(6):
            before = [*prompt, *tokens[:i].tolist()]
            every = plain_table(params(), before)[-1]
            assert int(every.argmax()) == int(tokens[i])
            assert float(every.max()) == pytest.approx(float(logprobs[i]), abs=1e-5)


def test_the_logprobs_of_samples_are_those_of_scoring_them():
    found, padded, lengths = draw(Sampler(num_samples=3, max_new_tokens=7, temperature=1.3))
    mask = np.arange(7) < np.asarray(found.lengths)[..., None]
    scored = jax.jit(functools.partial(score_responses, decoder()))(
        params(), padded, lengths, found.tokens, mask
    )
    np.testing.assert_allclose(found.logprobs, scored, atol=1e-5)


def test_a_prompt_gets_the_same_samples_in_any_batch_and_others_by_another_key():
    sampler = Sampler(num_samples=2, max_new_tokens=8)
    together, _, _ = draw(sampler)
    alone, _, _ = draw(sampler, [PROMPTS[1]], ids=[1])
    turned, _, _ = draw(sampler, PROMPTS[::-1], ids=[2, 1, 0])
    np.testing.assert_array_equal(alone.tokens[0], together.tokens[1])
    np.testing.assert_array_equal(turned.tokens[::-1], together.tokens)
    other, _, _ = draw(sampler, seed=1)
    assert not np.array_equal(other.tokens, together.tokens)
    assert not np.array_equal(together.tokens[:, 0], together.tokens[:, 1])


def test_a_response_ends_with_its_end_token_and_zeros_follow():
    free, _, _ = draw(Sampler(num_samples=4, max_new_tokens=12))
    end = int(free.tokens[0, 0, 3])  # a token that is certain to be drawn
    found, _, _ = draw(Sampler(num_samples=4, max_new_tokens=12), end=np.array([end], np.int32))
    for tokens, length, ended, logprobs in zip(
        *(np.asarray(x).reshape(12, -1) for x in
          (found.tokens, found.lengths, found.ended, found.logprobs)), strict=True
    ):  # fmt: skip
        length = int(length[0])
        assert bool(ended[0]) == (end in tokens[:length])
        assert end not in tokens[: length - 1]
        assert (tokens[length:] == 0).all()
        assert (logprobs[length:] == 0).all()
        if not ended[0]:
            assert length == 12


# Probabilities 0.5, 0.3, 0.15, 0.05.
LOGITS = jnp.log(jnp.array([0.3, 0.05, 0.5, 0.15]))


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"top_p": 1.0}, [0, 1, 2, 3]),
        ({"top_p": 0.96}, [0, 1, 2, 3]),
        ({"top_p": 0.9}, [0, 2, 3]),  # 0.5 + 0.3 = 0.8 is not enough; 0.95 is
        ({"top_p": 0.7}, [0, 2]),
        ({"top_p": 0.45}, [2]),
        ({"top_p": 1e-6}, [2]),
        ({"top_k": 3}, [0, 2, 3]),
        ({"top_k": 1}, [2]),
        # After top_k the two left have 0.625 and 0.375 of what is left.
        ({"top_k": 2, "top_p": 0.6}, [2]),
        ({"top_k": 2, "top_p": 0.7}, [0, 2]),
    ],
)
def test_truncation_keeps_the_tokens_it_should(settings, kept):
    found = truncate(LOGITS, **settings)
    assert np.flatnonzero(np.isfinite(found)).tolist() == kept


def test_equally_likely_tokens_are_kept_together():
    found = truncate(jnp.log(jnp.array([0.4, 0.3, 0.3])), top_p=0.5)
    assert np.isfinite(found).tolist() == [True, True, True]


def test_draws_follow_the_tempered_distribution():
    # At temperature 2 the weights are the roots: 0.5477, 0.2236, 0.7071, 0.3873, over 1.8657.
    keys = jax.random.split(jax.random.key(0), (100, 40))
    logits = jnp.broadcast_to(LOGITS, (100, 40, 4))
    drawn = choose(keys, logits, sampler=Sampler(temperature=2.0))
    shares = np.bincount(np.asarray(drawn).ravel(), minlength=4) / 4000
    # Five standard deviations of a share of 4,000 draws are at most 5 * 0.5 / sqrt(4000) = 0.04.
    np.testing.assert_allclose(shares, [0.2936, 0.1199, 0.3790, 0.2076], atol=0.04)
