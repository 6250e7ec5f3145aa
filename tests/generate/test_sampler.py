"""The sampler: what it draws, what it says of it, and that nothing else decides it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.errors import BadInput
from alignax.generate.sampler import Sampler, choose, sample
from alignax.models.outputs import score_responses
from alignax.models.transformer import Decoder
from tests.models import plain
from tests.tiny_batch import CONFIG, decoder, params

PROMPTS = [[5, 9, 3], [7, 1, 2, 8, 4, 6], [11, 12]]
NEVER = np.array([99], np.int32)  # no such token: nothing ends


@functools.cache
def compiled(model, sampler):
    return jax.jit(functools.partial(sample, model, sampler=sampler))


def draw(sampler, prompts=PROMPTS, ids=None, end=NEVER, seed=0, width=6, model=None):
    padded = np.zeros((len(prompts), width), np.int32)
    for row, prompt in zip(padded, prompts, strict=True):
        row[: len(prompt)] = prompt
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    ids = np.arange(len(prompts), dtype=np.int32) if ids is None else np.array(ids, np.int32)
    run = compiled(model or decoder(), sampler)
    found = run(params(), jax.random.key(seed), padded, lengths, ids, end)
    return found, padded, lengths


def test_greedy_takes_the_likeliest_token_of_the_uncached_forward_pass():
    found, _, _ = draw(Sampler(max_new_tokens=6, temperature=0.0))
    for prompt, tokens, logprobs in zip(
        PROMPTS, found.tokens[:, 0], found.logprobs[:, 0], strict=True
    ):
        for i in range(6):
            logits = plain.after(CONFIG, params(), [*prompt, *tokens[:i].tolist()])
            assert int(logits.argmax()) == int(tokens[i])
            expected = float(jax.nn.log_softmax(logits).max())
            assert float(logprobs[i]) == pytest.approx(expected, abs=1e-5)


def test_the_log_probs_of_samples_are_those_of_scoring_them_untempered_and_untruncated():
    found, padded, lengths = draw(
        Sampler(num_samples=3, max_new_tokens=7, temperature=1.3, top_p=0.9, top_k=20)
    )
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
    again, _, _ = draw(sampler, width=9)  # padded otherwise
    np.testing.assert_array_equal(again.tokens, together.tokens)
    other, _, _ = draw(sampler, seed=1)
    assert not np.array_equal(other.tokens, together.tokens)
    assert not np.array_equal(together.tokens[:, 0], together.tokens[:, 1])


def test_every_place_sample_and_prompt_number_draws_for_itself():
    # So hot that all 40 tokens are as likely: what is drawn is the noise alone. Twelve places that
    # draw for themselves hold 10 or 11 different tokens, and two responses agree in 0.3 of them.
    sampler = Sampler(num_samples=2, max_new_tokens=12, temperature=1e6)
    found = np.asarray(draw(sampler, [PROMPTS[0]] * 3, ids=[0, 1, 0])[0].tokens)
    for response in found.reshape(6, 12):
        assert len(set(response.tolist())) >= 6
    np.testing.assert_array_equal(found[0], found[2])
    for one, other in ((found[0, 0], found[0, 1]), (found[0, 0], found[1, 0])):
        assert (one == other).sum() <= 4


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


class Counting(Decoder):
    """Counts, while the program runs, how often it is extended by a token."""

    extended = 0

    def extend(self, *arguments):
        jax.debug.callback(lambda: setattr(Counting, "extended", Counting.extended + 1))
        return super().extend(*arguments)


def test_decoding_stops_as_soon_as_all_have_ended():
    sampler, model = Sampler(num_samples=2, max_new_tokens=12), Counting(config=CONFIG)
    every = np.arange(CONFIG.vocab_size, dtype=np.int32)  # whatever comes first ends it
    found, _, _ = draw(sampler, end=every, model=model)
    jax.effects_barrier()
    assert Counting.extended <= 1
    np.testing.assert_array_equal(found.lengths, 1)
    assert np.asarray(found.ended).all()
    np.testing.assert_array_equal(found.tokens[:, :, 1:], 0)
    draw(sampler, model=model, end=np.full(CONFIG.vocab_size, 99, np.int32))
    jax.effects_barrier()
    assert Counting.extended >= 11  # the twelfth token needs no further pass


# Probabilities 0.5, 0.3, 0.15, 0.05.
LOGITS = jnp.log(jnp.array([0.3, 0.05, 0.5, 0.15]))


def draws(sampler, logits=LOGITS, count=4000):
    """How often each token is drawn."""
    keys = jax.random.split(jax.random.key(0), (100, count // 100))
    logits = jnp.broadcast_to(logits, (100, count // 100, logits.size))
    run = jax.jit(functools.partial(choose, sampler=sampler))
    return np.bincount(np.asarray(run(keys, logits)[0]).ravel(), minlength=logits.shape[-1])


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
        ({"top_k": 4}, [0, 1, 2, 3]),
        ({"top_k": 100}, [0, 1, 2, 3]),
        # After top_k the two left have 0.625 and 0.375 of what is left.
        ({"top_k": 2, "top_p": 0.6}, [2]),
        ({"top_k": 2, "top_p": 0.7}, [0, 2]),
        # Of the likeliest's 0.5: 0.1 is 0.05, 0.31 is 0.155.
        ({"min_p": 0.09}, [0, 1, 2, 3]),
        ({"min_p": 0.11}, [0, 2, 3]),
        ({"min_p": 0.31}, [0, 2]),
        ({"min_p": 1.0}, [2]),
        # top_p is a share of all, what min_p leaves out included: 0.8 of 1 is not 0.9.
        ({"min_p": 0.31, "top_p": 0.9}, [0, 2]),
        ({"min_p": 0.31, "top_p": 0.4}, [2]),
    ],
)
def test_truncation_keeps_the_tokens_it_should(settings, kept):
    assert np.flatnonzero(draws(Sampler(**settings))).tolist() == kept


def test_each_distribution_is_truncated_by_itself():
    rows = jnp.stack([LOGITS, LOGITS[::-1], jnp.zeros(4)])
    keys = jax.random.split(jax.random.key(0), (3, 400))
    logits = jnp.broadcast_to(rows[:, None], (3, 400, 4))
    found = choose(keys, logits, sampler=Sampler(top_p=0.7))[0]
    # 0.5 + 0.3; the same turned round; of four equal ones none is likelier than another.
    assert [sorted(set(x.tolist())) for x in found] == [[0, 2], [1, 3], [0, 1, 2, 3]]


def test_tokens_that_reach_top_p_exactly_are_enough():
    found = draws(Sampler(top_p=0.5), jnp.log(jnp.array([0.5, 0.25, 0.25])))
    assert found.tolist() == [4000, 0, 0]


def test_equally_likely_tokens_are_kept_together():
    found = draws(Sampler(top_p=0.5), jnp.log(jnp.array([0.4, 0.3, 0.3])))
    assert (found > 0).tolist() == [True, True, True]
    found = draws(Sampler(top_k=2), jnp.log(jnp.array([0.4, 0.2, 0.2, 0.2])))
    assert (found > 0).all()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.3, 0.05, 0.5, 0.15]),
        # At temperature 2 the weights are the roots: 0.5477, 0.2236, 0.7071, 0.3873 over 1.8657.
        ({"temperature": 2.0}, [0.29356, 0.11985, 0.37900, 0.20759]),
        # 0.3 and 0.5 are left of 0.8.
        ({"top_p": 0.7}, [0.375, 0.0, 0.625, 0.0]),
        ({"top_k": 2}, [0.375, 0.0, 0.625, 0.0]),
        # Of 0.95: three are kept, and one token in twenty is drawn again.
        ({"top_p": 0.9}, [0.31579, 0.0, 0.52632, 0.15789]),
        # Roots, cut: 0.5477 and 0.7071 over 1.2548.
        ({"temperature": 2.0, "top_p": 0.6}, [0.43649, 0.0, 0.56351, 0.0]),
    ],
)
def test_draws_follow_the_distribution(settings, expected):
    count, share = 20_000, np.array(expected)
    found = draws(Sampler(**settings), count=count) / count
    # Four standard deviations of a binomial share.
    assert (np.abs(found - share) <= 4 * np.sqrt(share * (1 - share) / count)).all()


def test_a_low_temperature_is_the_greedy_limit():
    assert draws(Sampler(temperature=0.01)).tolist() == [0, 0, 4000, 0]
    assert draws(Sampler(temperature=0.0)).tolist() == [0, 0, 4000, 0]


def test_a_large_vocabulary_is_drawn_from_in_proportion():
    # 1,000 tokens, no multiple of a block; the last as likely as all others together.
    logits = jnp.zeros(1000).at[999].set(jnp.log(999.0))
    found = draws(Sampler(), logits, count=20_000)
    assert abs(found[999] / 20_000 - 0.5) <= 4 * np.sqrt(0.25 / 20_000)
    assert (found[:999] > 0).sum() > 950  # each is drawn 10 times on average
    # Cut to two tokens out of 1,000: drawn again until it is one of them.
    sharp = jnp.zeros(1000).at[jnp.array([17, 500])].set(jnp.array([0.2, 0.1]))
    found = draws(Sampler(top_k=2), sharp)
    assert np.flatnonzero(found).tolist() == [17, 500]
    share = 1 / (1 + np.exp(-0.1))
    assert abs(found[17] / 4000 - share) <= 4 * np.sqrt(share * (1 - share) / 4000)


def test_the_log_prob_of_a_token_is_that_of_the_whole_distribution():
    keys = jax.random.split(jax.random.key(0), (1, 50))
    logits = jnp.broadcast_to(LOGITS + 300.0, (1, 50, 4))
    token, logprob = choose(keys, logits, sampler=Sampler(temperature=0.5, top_p=0.7))
    np.testing.assert_allclose(logprob, LOGITS[token], rtol=1e-4)  # float32 at 300


@pytest.mark.parametrize("top_p", [1.0, 0.6])
def test_a_tempered_sampler_draws_the_same_and_says_log_probs_at_its_temperature(top_p):
    roots = np.sqrt([0.3, 0.05, 0.5, 0.15])
    expected = np.log(roots / roots.sum())
    keys = jax.random.split(jax.random.key(0), (1, 50))
    logits = jnp.broadcast_to(LOGITS + 30.0, (1, 50, 4))
    settings = {"temperature": 2.0, "top_p": top_p}
    token, logprob = choose(keys, logits, sampler=Sampler(**settings), tempered=True)
    np.testing.assert_allclose(logprob, expected[token], atol=2e-5)
    plain, _ = choose(keys, logits, sampler=Sampler(**settings))
    np.testing.assert_array_equal(token, plain)


def test_a_tempered_sampler_that_is_greedy_says_log_probs_at_1():
    keys = jax.random.split(jax.random.key(0), (1, 1))
    sampler = Sampler(temperature=0.0)
    token, logprob = choose(keys, LOGITS[None, None], sampler=sampler, tempered=True)
    assert token.item() == 2
    np.testing.assert_allclose(logprob.item(), np.log(0.5), rtol=1e-5)


def test_the_first_sample_is_greedy_where_asked_and_the_others_are_not():
    found, _, _ = draw(Sampler(num_samples=3, max_new_tokens=8, greedy_first=True))
    greedy, _, _ = draw(Sampler(max_new_tokens=8, temperature=0.0))
    free, _, _ = draw(Sampler(num_samples=3, max_new_tokens=8))
    np.testing.assert_array_equal(found.tokens[:, 0], greedy.tokens[:, 0])
    np.testing.assert_array_equal(found.tokens[:, 1:], free.tokens[:, 1:])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_p": 0.0}, r"sampler.top_p: expected a number above 0 and at most 1; got 0.0"),
        ({"temperature": -1.0}, r"sampler.temperature: expected a number of at least 0"),
        ({"max_new_tokens": 0}, r"sampler.max_new_tokens: expected a number of at least 1"),
    ],
)
def test_settings_that_draw_nothing_are_refused(settings, message):
    with pytest.raises(BadInput, match=message):
        Sampler(**settings).check()


def test_a_policy_that_has_diverged_draws_something_and_does_not_hang():
    logits = jnp.full((1, 2, 4), jnp.nan)
    keys = jax.random.split(jax.random.key(0), (1, 2))
    for sampler in (Sampler(top_p=0.9), Sampler(top_k=2), Sampler(top_p=0.9, top_k=2, min_p=0.1)):
        assert choose(keys, logits, sampler=sampler)[0].shape == (1, 2)
