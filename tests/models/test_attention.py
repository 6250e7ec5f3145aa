"""Packed rows, shared prompts and caches are arrangements: none of them changes a number."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.models.attention import Stretch, packed_attention, stretches
from alignax.models.config import DecoderConfig
from alignax.models.transformer import Decoder
from tests.models.rows import layout

CONFIG = DecoderConfig(
    vocab_size=50,
    width=16,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    mlp_width=24,
    init_scale=0.3,
)
GROUPS = [
    ([1, 2, 3, 4, 5], [[6, 7, 8], [9, 10], [11, 12, 13, 14]]),
    ([21, 22], [[23, 24, 25, 26, 27, 28]]),
    ([31, 32, 33, 34, 35, 36, 37], [[38], [39, 40, 41]]),
]
windows = pytest.mark.parametrize("window", [None, 4], ids=["all", "window"])


@functools.cache
def decoder(window):
    kind = dataclasses.replace(CONFIG.kinds[0], window=window)
    model = Decoder(config=dataclasses.replace(CONFIG, kinds=(kind,)))
    return model, model.init(jax.random.key(0)), jax.jit(model.packed, static_argnames="reach")


def tokens_of(group):
    return len(group[0]) + sum(len(response) for response in group[1])


def hidden(window, rows, length, **kwargs):
    _, params, packed = decoder(window)
    return np.asarray(packed(params, layout(rows, length), **kwargs))


# Row 0 holds groups at 0 to 13 and 14 to 21, row 1 one at 0 to 10. So a block that begins at 12
# still looks back to 0, and one at 16 only to 14.
REACH = {4: (0, 4, 8, 12, 2, 6, 0), 16: (0, 2), 128: (0,)}


@pytest.mark.parametrize(("block", "reach"), [*REACH.items(), (4, None)], ids=str)
@windows
def test_blocks_reach_and_window_give_what_a_dense_mask_gives(window, block, reach):
    rows = layout([GROUPS[:2], GROUPS[2:]], 25)
    keys = jax.random.split(jax.random.key(1), 3)
    heads = (4, 2, 2)
    query, key, value = (
        jax.random.normal(k, (2, 25, h, 8)) for k, h in zip(keys, heads, strict=True)
    )
    found = packed_attention(
        query,
        key,
        value,
        rows.group,
        rows.response,
        rows.position,
        reach=reach,
        window=window,
        block=block,
    )
    group, response, position = (np.asarray(x) for x in (rows.group, rows.response, rows.position))
    q, k, v = (np.asarray(x, np.float64) for x in (query, key, value))
    for n, i in zip(*np.nonzero(group >= 0), strict=True):
        seen = [
            j
            for j in range(i + 1)
            if group[n, j] == group[n, i]
            and response[n, j] in (0, response[n, i])
            and (window is None or position[n, i] - position[n, j] < window)
        ]
        for h in range(4):
            weight = np.exp(k[n, seen, h // 2] @ q[n, i, h] / np.sqrt(8))
            expected = weight / weight.sum() @ v[n, seen, h // 2]
            np.testing.assert_allclose(found[n, i, h], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("reach", "most", "expected"),
    [
        # 3 blocks of 128 + 64 keys each meet 576 together.
        ((0, 64, 64, 64), 576, [Stretch(0, 1, 128, 0), Stretch(128, 3, 128, 64)]),
        (
            (0, 64, 64, 64),
            575,
            [Stretch(0, 1, 128, 0), Stretch(128, 1, 128, 64), Stretch(256, 2, 128, 64)],
        ),
        # To look 64 too far in one block costs 64 keys, another stretch as much as 256.
        ((0, 64, 128, 128), 10**6, [Stretch(0, 1, 128, 0), Stretch(128, 3, 128, 128)]),
        # To look 256 too far in two blocks costs 512.
        ((0, 0, 0, 256), 10**6, [Stretch(0, 3, 128, 0), Stretch(384, 1, 128, 256)]),
        (None, 10**6, [Stretch(128 * i, 1, 128, 128 * i) for i in range(4)]),
    ],
    ids=["together", "no more than room", "a little in vain", "too much in vain", "causal"],
)
def test_blocks_that_reach_about_as_far_are_one_run(reach, most, expected):
    assert stretches(512, 128, reach, most) == expected


def test_the_last_block_of_a_row_that_is_no_multiple_is_its_own_run():
    assert stretches(300, 128, (0, 0, 0), 10**6) == [Stretch(0, 2, 128, 0), Stretch(256, 1, 44, 0)]


@windows
def test_packed_rows_equal_the_same_groups_one_by_one(window):
    packed = hidden(window, [GROUPS], 40, reach=(0,))[0]
    at = 0
    for group in GROUPS:
        alone = hidden(window, [[group]], tokens_of(group))[0]
        np.testing.assert_allclose(packed[at : at + len(alone)], alone, atol=1e-5)
        at += len(alone)


@windows
def test_a_shared_prompt_equals_every_response_with_a_prompt_of_its_own(window):
    prompt, responses = GROUPS[0]
    shared = hidden(window, [[(prompt, responses)]], 16)[0]
    at = len(prompt)
    for response in responses:
        whole = hidden(window, [[(prompt + response, [])]], 16)[0]
        np.testing.assert_allclose(shared[: len(prompt)], whole[: len(prompt)], atol=1e-5)
        expected = whole[len(prompt) : len(prompt) + len(response)]
        np.testing.assert_allclose(shared[at : at + len(response)], expected, atol=1e-5)
        at += len(response)


@pytest.mark.parametrize("steps", [(1,) * 6, (3, 1, 2), (6,)], ids=str)
@windows
def test_cached_decoding_equals_the_uncached_rows(window, steps):
    model, params, _ = decoder(window)
    prompts = [[1, 2, 3, 4, 5], [6, 7]]
    responses = np.random.default_rng(0).integers(0, 50, (2, 3, 6))
    padded = jnp.array([[1, 2, 3, 4, 5, 49], [6, 7, 48, 47, 46, 45]])
    last, cache = model.prefill(params, padded, jnp.array([5, 2]), num_responses=3, max_response=8)
    found = []
    for start, size in zip(np.cumsum([0, *steps]), steps, strict=False):
        states, cache = model.extend(
            params, cache, jnp.asarray(responses[:, :, start : start + size])
        )
        found.append(states)
    found = np.concatenate(found, axis=2)
    np.testing.assert_array_equal(cache.filled, 6)
    for b, prompt in enumerate(prompts):
        row = hidden(window, [[(prompt, responses[b].tolist())]], 24)[0]
        np.testing.assert_allclose(last[b], row[len(prompt) - 1], atol=1e-5)
        expected = row[len(prompt) : len(prompt) + 18].reshape(3, 6, -1)
        np.testing.assert_allclose(found[b], expected, atol=1e-5)


@windows
@pytest.mark.parametrize("changed", ["response", "group", "padding", "later token"])
def test_tokens_out_of_sight_change_nothing(window, changed):
    _, params, packed = decoder(window)
    rows = layout([GROUPS], 40)
    group, response = np.asarray(rows.group[0]), np.asarray(rows.response[0])
    watched = (group == 0) & (response == 1)  # the first response of the first group
    other = {
        "response": (group == 0) & (response > 1),
        "group": group > 0,
        "padding": group < 0,
        "later token": np.arange(40) > np.flatnonzero(watched)[1],
    }[changed]
    if changed == "later token":
        watched &= np.arange(40) <= np.flatnonzero(watched)[1]
    assert other.any()
    altered = rows._replace(tokens=jnp.where(jnp.asarray(other)[None], 44, rows.tokens))
    before, after = (np.asarray(packed(params, r))[0, watched] for r in (rows, altered))
    np.testing.assert_array_equal(before, after)


def test_a_row_of_padding_alone_has_finite_values_and_gradients():
    model, params, _ = decoder(None)
    rows = layout([GROUPS[:1], []], 16)
    value, gradient = jax.value_and_grad(lambda p: model.packed(p, rows).sum())(params)
    assert np.isfinite(value)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
