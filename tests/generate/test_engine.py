"""The engine draws what the sampler draws, however it fills its slots."""

import functools

import jax
import numpy as np
import pytest

from alignax.core.errors import BadInput
from alignax.data.ladder import rung
from alignax.generate.engine import Engine
from alignax.generate.sampler import Sampler, sample
from alignax.train.compilations import Compilations
from tests.tiny_batch import CONFIG, decoder, params

DRAW = np.random.default_rng(0)
PROMPTS = [DRAW.integers(0, CONFIG.vocab_size, n) for n in (3, 17, 1, 8, 5, 11, 2, 9, 4)]
SAMPLER = Sampler(num_samples=4, max_new_tokens=24)
ENDS = (3, 17, 30)  # three of 40 tokens: lengths differ widely


@functools.cache
def expected(sampler=SAMPLER):
    """One whole batch, each prompt padded to the longest."""
    padded = np.zeros((len(PROMPTS), 17), np.int32)
    for row, prompt in zip(padded, PROMPTS, strict=True):
        row[: len(prompt)] = prompt
    lengths = np.array([len(p) for p in PROMPTS], np.int32)
    run = jax.jit(functools.partial(sample, decoder(), sampler=sampler))
    ids = np.arange(len(PROMPTS), dtype=np.int32)
    return run(params(), jax.random.key(5), padded, lengths, ids, np.array(ENDS, np.int32))


def engine(sampler=SAMPLER, **settings):
    settings = {"places": 8, "align": 4, "smallest": 8} | settings
    return Engine(model=decoder(), sampler=sampler, end_ids=ENDS, **settings)


def assert_same(found, expected, chosen=slice(None)):
    for name in ("tokens", "lengths", "ended"):
        np.testing.assert_array_equal(
            getattr(found, name), np.asarray(getattr(expected, name))[chosen]
        )
    np.testing.assert_allclose(found.logprobs, np.asarray(expected.logprobs)[chosen], atol=1e-5)


def test_the_lengths_of_this_case_differ():
    lengths = np.asarray(expected().lengths)
    assert lengths.min() <= 3
    assert lengths.max() == 24  # longer than the eight places at first: the ring must grow
    assert not np.asarray(expected().ended).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"slots": 64},  # all at once, and moved together as they end
        {"slots": 8, "width": 1},  # two prompts at a time: slots are refilled
        {"slots": 12, "width": 2, "places": 24},  # room for all from the start
        {"slots": 64, "fitted": False},  # never moved together
        {"slots": 12, "width": 1, "fitted": False},  # prompts filled up to as many each time
    ],
    ids=str,
)
def test_draws_the_same_however_slots_are_filled(settings):
    found = engine(**settings)(params(), jax.random.key(5), PROMPTS, range(len(PROMPTS)))
    assert_same(found, expected())


def test_what_is_not_fitted_is_compiled_once_for_all_calls():
    whole = engine(slots=8, places=24, fitted=False, align=8)  # no other test has these shapes
    with Compilations() as first:
        whole(params(), jax.random.key(5), PROMPTS, range(len(PROMPTS)))
    assert (first.programs["_start"], first.programs["_advance"]) == (1, 1)
    with Compilations() as later:
        whole(params(), jax.random.key(6), PROMPTS[1:], range(1, len(PROMPTS)))
    assert not later.programs["_start"] + later.programs["_advance"]


def test_a_prompt_is_known_by_its_number_alone():
    chosen = [6, 1, 3]
    prompts = [PROMPTS[i] for i in chosen]
    found = engine(slots=8)(params(), jax.random.key(5), prompts, chosen)
    assert_same(found, expected(), chosen)


def test_the_first_of_each_prompts_samples_is_greedy_where_asked_wherever_it_lies():
    sampler = Sampler(num_samples=4, max_new_tokens=24, greedy_first=True)
    for width in (1, 4):
        found = engine(sampler, slots=8, width=width)(
            params(), jax.random.key(5), PROMPTS, range(len(PROMPTS))
        )
        assert_same(found, expected(sampler))
    greedy = expected(Sampler(max_new_tokens=24, temperature=0.0))
    np.testing.assert_array_equal(found.tokens[:, :1], greedy.tokens)


def test_each_response_is_cut_at_its_own_limit():
    limits = np.resize([3, 24, 7, 30], (len(PROMPTS), 4))
    found = engine(slots=64)(
        params(), jax.random.key(5), PROMPTS, range(len(PROMPTS)), limits=limits
    )
    whole = np.asarray(expected().lengths)
    np.testing.assert_array_equal(found.lengths, np.minimum(whole, limits))
    kept = np.arange(24) < found.lengths[..., None]
    np.testing.assert_array_equal(found.tokens, np.where(kept, np.asarray(expected().tokens), 0))
    np.testing.assert_array_equal(found.ended, np.asarray(expected().ended) & (whole <= limits))


def test_a_prompt_that_leaves_no_room_to_answer_is_refused():
    prompts = [PROMPTS[0], np.zeros(CONFIG.max_positions, np.int64)]
    with pytest.raises(BadInput, match=r"prompt 1: expected prompts of 1 to \d+ tokens"):
        engine()(params(), jax.random.key(0), prompts, [0, 1])


def test_a_width_that_does_not_divide_the_samples_is_refused():
    with pytest.raises(BadInput, match="expected a width that divides 4 samples"):
        engine(width=3)(params(), jax.random.key(0), PROMPTS, range(len(PROMPTS)))


def test_rungs():
    assert [rung(n) for n in range(1, 18)] == [1, 2, 3, 4, 6, 6, 8, 8, *[12] * 4, *[16] * 4, 24]


def test_more_samples_than_slots_are_drawn_all_the_same():
    found = engine(slots=2)(params(), jax.random.key(5), PROMPTS[:2], [0, 1])
    assert_same(found, expected(), slice(0, 2))


def test_prompts_that_are_shorter_than_the_longest_find_the_programs_of_the_first_call():
    one_by_one = engine(longest=17, slots=4, places=24)

    def draw(chosen):
        with Compilations() as made:
            prompts = [PROMPTS[i] for i in chosen]
            found = one_by_one(params(), jax.random.key(5), prompts, chosen)
        assert_same(found, expected(), slice(chosen[0], chosen[-1] + 1))
        return made.programs["_advance"]

    assert draw([1, 2]) > 0  # of 17 tokens and 1
    assert draw([3, 4]) == 0  # of 8 and 5
