"""A token of every response in seven kernels a layer is what the blocks compute."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.generate.sampler import Sampler, advance, start
from alignax.models import decoding, few_rows, one_token
from alignax.models.config import DecoderConfig, Experts, LayerKind
from alignax.models.rotary import Rope
from alignax.models.transformer import Decoder
from tests.models.test_decoding import H100

CONFIG = DecoderConfig(
    vocab_size=97, width=128, layers=2, heads=4, kv_heads=2, head_dim=64, mlp_width=192, tied=True
)


@pytest.fixture
def served(monkeypatch):
    """Serves the kernels here, in float32 too, which tells more; each time they were asked for."""
    asked = []

    def layers(*arrays):
        asked.append(len(arrays[1]["layers"]))
        return one_token_layers(*arrays)

    one_token_layers, fits = one_token.layers, decoding.fits
    monkeypatch.setattr(decoding, "fits", lambda config, dtype: fits(config, "bfloat16"))
    monkeypatch.setattr(decoding, "served", lambda: True)
    monkeypatch.setattr(one_token, "layers", layers)
    monkeypatch.setattr(few_rows, "PROGRAMS", 16)
    assert few_rows.parts(512, 128) == 2  # attention adds parts up, too
    return asked


def drawn(model, params, *, joined, count=3):
    """Nine tokens of responses to three prompts of unequal lengths."""
    prompts, lengths = jnp.array([[3, 1, 4], [1, 5, 0], [2, 2, 2]]), jnp.array([3, 2, 3])
    sampler = Sampler(num_samples=count, max_new_tokens=9)
    key = jax.random.key(2)
    state = start(model, params, key, prompts, lengths, jnp.arange(3), sampler=sampler, places=9)
    run = jax.jit(functools.partial(advance, model, sampler=sampler))
    weights = model.unstack(params, joined=joined)
    return run(weights, state, jnp.array([99]), jnp.int32(9), jnp.int32(0))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kinds": (LayerKind(rope=None),)},
        {"attention_scale": 0.3, "activation": "gelu_tanh", "norm_eps": 0.1},
        {"kinds": (LayerKind(rope=Rope(theta=100.0)),), "tied": False, "embed_scale": 3.0},
        {"kv_heads": 4, "layers": 1},
    ],
    ids=str,
)
def test_responses_are_those_of_the_blocks(changes, served):
    model = Decoder(config=dataclasses.replace(CONFIG, **changes))
    params = model.init(jax.random.key(0))
    # Scales other than 1, or a norm that was left out would not be seen.
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: x + 0.1 * jnp.sin(jnp.arange(x.size)).reshape(x.shape)
        if path[-1].key == "scale" else x, params
    )  # fmt: skip
    found = drawn(model, params, joined=True)
    assert served == [model.config.layers]  # in a loop that is traced once
    expected = drawn(dataclasses.replace(model, attention="xla"), params, joined=False)
    assert len(served) == 1  # who asks for XLA has it
    np.testing.assert_array_equal(found.samples.tokens, expected.samples.tokens)
    for one, other in zip(
        jax.tree.leaves((found.samples.logprobs, found.hidden, found.cache)),
        jax.tree.leaves((expected.samples.logprobs, expected.hidden, expected.cache)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_one_response_to_a_prompt_too(served):
    model = Decoder(config=CONFIG)
    params = model.init(jax.random.key(0))
    found = drawn(model, params, joined=True, count=1)
    expected = drawn(dataclasses.replace(model, attention="xla"), params, joined=False, count=1)
    assert served == [2]
    np.testing.assert_array_equal(found.samples.tokens, expected.samples.tokens)
    np.testing.assert_allclose(found.hidden, expected.hidden, rtol=0, atol=1e-5)


def test_more_responses_than_the_kernels_take_are_computed_by_the_blocks(served, monkeypatch):
    monkeypatch.setattr(few_rows, "MOST_ROWS", 8)  # there are nine
    model = Decoder(config=CONFIG)
    drawn(model, model.init(jax.random.key(0)), joined=True)
    assert served == []


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning")
def test_a_layer_is_seven_kernels_on_nvidias_gpus():
    model = Decoder(config=CONFIG, dtype="bfloat16")
    params = jax.eval_shape(model.init, jax.random.key(0))
    weights = jax.eval_shape(functools.partial(model.unstack, joined=True), params)
    prefill = functools.partial(model.prefill, num_responses=4, max_response=9)
    shape = jax.ShapeDtypeStruct
    cache = jax.eval_shape(prefill, params, shape((2, 16), jnp.int32), shape((2,), jnp.int32))[1]
    with jax.sharding.use_abstract_mesh(H100):

        def step(weights, cache, tokens):
            return model.extend(weights, cache, tokens, model.tables(25))

        traced = jax.jit(step).trace(weights, cache, shape((2, 4, 1), jnp.int32))
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    # Layers that are alike are not merged: each call stands in the text, or in a function of its.
    assert text.count("xla.gpu.triton") == 7 * 2


TURNED = (jnp.zeros((1, 1, 1, 32)),) * 2


@pytest.mark.parametrize(
    "changes",
    [
        {"norm": "layer"},
        {"norm_offset": 1.0},
        {"norms": "around"},
        {"parallel": True},
        {"qkv_bias": True},
        {"out_bias": True},
        {"mlp_bias": True},
        {"qk_norm": "head"},
        {"experts": Experts(count=4, per_token=2)},
        {"gated": False},
        {"activation": "gelu"},
        {"kinds": (LayerKind(), LayerKind(rope=None))},
        {"width": 160},
        {"mlp_width": 200},
    ],
    ids=str,
)
def test_what_the_kernels_do_not_compute_is_left_to_the_blocks(changes):
    assert one_token.fits(CONFIG, 9, TURNED)
    assert not one_token.fits(dataclasses.replace(CONFIG, **changes), 9, TURNED)


def test_heads_that_turn_in_part_are_left_to_the_blocks():
    assert one_token.fits(CONFIG, 9, None)  # none turn
    assert not one_token.fits(CONFIG, 9, (jnp.zeros((1, 1, 1, 16)),) * 2)
