"""What XLA makes of decoding: nothing is copied or computed anew that stays as it is."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core import axes
from alignax.generate import slots
from alignax.generate.sampler import Sampler, advance, start
from alignax.models.config import Experts, LayerKind
from alignax.models.rotary import Rope
from alignax.models.transformer import Decoder
from tests.tiny_batch import CONFIG, decoder, params

PROMPTS, LENGTH, PLACES = 5, 9, 11  # numbers that no other array has


def begun(width, model=None):
    sampler = Sampler(num_samples=width, max_new_tokens=PLACES)
    tokens = jnp.arange(PROMPTS * LENGTH).reshape(PROMPTS, LENGTH) % CONFIG.vocab_size
    whole, ids = jnp.full(PROMPTS, LENGTH), jnp.arange(PROMPTS)
    state = start(
        model or decoder(),
        params(),
        jax.random.key(0),
        tokens,
        whole,
        ids,
        sampler=sampler,
        places=PLACES,
    )
    return sampler, state


@functools.cache
def parts_of(width):
    """The compiled loop that draws tokens, as text, in its parts; without what runs once."""
    sampler, state = begun(width)
    run = jax.jit(
        lambda weights, state, steps: advance(
            decoder(), weights, state, jnp.array([99]), steps, jnp.int32(0), sampler=sampler
        ),
        donate_argnums=1,
    )
    weights = decoder().unstack(params())
    program = run.lower(weights, state, jnp.int32(3)).compile().as_text()
    parts = re.split(r"\n(?=%|ENTRY)", program)
    return [x for x in parts if not x.startswith(("ENTRY", "%wrapped_copy"))]


@pytest.mark.parametrize("width", [1, 4])
def test_a_token_more_writes_the_cache_once_and_copies_none_of_it(width):
    size = PROMPTS * width * CONFIG.kv_heads * PLACES * CONFIG.head_dim
    written = copied = 0
    for line in "\n".join(parts_of(width)).splitlines():
        shape = re.search(r" = f32\[([\d,]+)\]\S* (copy|dynamic-update-slice)\(", line)
        if shape and math.prod(map(int, shape[1].split(","))) == size:
            written += shape[2] != "copy"
            copied += shape[2] == "copy"
    assert (written, copied) == (2 * CONFIG.layers, 0)  # keys and values of each layer


def test_sines_are_computed_once_for_all_layers_and_looked_up():
    assert len(re.findall(r" (?:sine|cosine)\(", "\n".join(parts_of(4)))) <= 2


@pytest.mark.parametrize(
    "kinds",
    [
        (LayerKind(),),
        (LayerKind(window=4), LayerKind(rope=Rope(theta=1e6))),  # as Gemma 3
        (LayerKind(), LayerKind(rope=None)),  # as SmolLM3
        (LayerKind(rope=None),),
    ],
    ids=["one rope", "two ropes", "one and none", "none"],
)
def test_extending_with_tables_and_without_gives_the_same(kinds):
    model = Decoder(config=dataclasses.replace(CONFIG, kinds=kinds))
    _, state = begun(2, model)
    tokens = jnp.full((PROMPTS, 2, 1), 7)
    plain, cache = model.extend(params(), state.cache, tokens)
    tables = model.tables(LENGTH + PLACES)
    found, lean = model.extend(params(), state.cache.without_ones(), tokens, tables)
    np.testing.assert_allclose(found, plain, atol=1e-6)
    for one, two in zip(jax.tree.leaves(lean.with_ones()), jax.tree.leaves(cache), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"qkv_bias": True, "out_bias": True, "mlp_bias": True},
        {"qk_norm": "head"},
        {"gated": False, "parallel": True},
        {"experts": Experts(count=4, per_token=2)},
    ],
    ids=str,
)
def test_products_that_read_the_same_states_are_one_when_joined(changes):
    model = Decoder(config=dataclasses.replace(CONFIG, **changes))
    given = jax.tree.map(lambda x: x + 0.1, model.init(jax.random.key(0)))  # biases begin at 0
    apart, joined = (model.unstack(given, joined=x) for x in (False, True))
    ones = {name for layer in joined["layers"] for part in layer.values() for name in part}
    assert "joined" in ones
    assert not ones & {"query", "key", "value"}
    assert ("gate" in ones) == ("experts" in changes)
    _, state = begun(2)
    tokens = jnp.full((PROMPTS, 2, 1), 7)
    expected, cache = model.extend(apart, state.cache, tokens)
    found, same = model.extend(joined, state.cache, tokens)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for one, two in zip(jax.tree.leaves(same), jax.tree.leaves(cache), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_products_are_joined_on_one_gpu_alone(monkeypatch):
    assert "query" in decoder().unstack(params())["layers"][0]["attention"]
    monkeypatch.setattr(axes, "device_kind", lambda: "NVIDIA H100 80GB HBM3")
    assert "query" not in decoder().unstack(params())["layers"][0]["attention"]


def test_responses_are_moved_where_a_step_gets_a_fifth_cheaper():
    # 16 + 16 (4 + 0.35) = 85.6 tokens; of single responses 32 are 59.2, and 48 are 80.8.
    assert slots.cost(16, 4) == pytest.approx(85.6)
    assert slots.worth_moving(16, 4) == 32
    # 16 + 16 x 1.35 = 37.6; 12 are 32.2, and 8 are 26.8.
    assert slots.worth_moving(16, 1) == 8
