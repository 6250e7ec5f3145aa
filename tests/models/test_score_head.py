"""Rewards are the score head's outputs where each response ends, as transformers has them."""

import dataclasses
import functools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from alignax.data.pipeline import InMemory, build_step
from alignax.data.plan import make_plan
from alignax.models import pretrained
from alignax.models.families import from_hugging_face, tensor_shapes
from alignax.models.outputs import outputs
from alignax.models.transformer import Decoder
from alignax.train import sharding
from tests.golden.make_family_logits import weights
from tests.golden.make_score_logits import CASES, OF_FAMILIES, groups
from tests.models import plain
from tests.tiny_batch import CONFIG, example, random_table

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "score_logits.npz")
CONFIGS = json.loads(str(GOLDEN["configs"]))
MODEL = Decoder(config=dataclasses.replace(CONFIG, num_scores=2))
TABLE = random_table(6, responses=3, longest=9)
ATTRIBUTES = (6, 3, 2)  # prompts, responses, outputs


@functools.cache
def params():
    return jax.jit(MODEL.init)(jax.random.key(0))


def packed(table, **settings):
    """The one micro-batch of one step, and which group of the table each of its prompts is."""
    plan = make_plan(table.lengths, batch_size=len(table), num_steps=1, align=8, **settings)
    batch, layout = jax.tree.map(lambda x: jnp.asarray(x[0]), build_step(table, plan, 0))
    return batch, layout, plan.step(0).group[0]


@functools.cache
def step():
    return packed(TABLE)


@functools.partial(jax.jit, static_argnames="model")
def run(params, batch, layout, model=MODEL):
    return outputs(model, params, batch, layout)


def alone(params, prompt, response):
    """[2]: the outputs after one prompt and one response, `score` as the vocabulary."""
    return plain.after(CONFIG, params | {"head": params["score"]}, [*prompt, *response])


def attributes_alone(params):
    """[b, k, c], every response run on its own."""
    examples = [TABLE[group] for group in step()[2]]
    return jnp.stack(
        [jnp.stack([alone(params, x.prompt, tokens) for tokens, _ in x.split()]) for x in examples]
    )


@pytest.mark.parametrize("case", CONFIGS)
def test_attributes_are_the_logits_of_the_reference_classifier(case, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[case]))
    config = from_hugging_face(CONFIGS[case], case)
    shapes = tensor_shapes(config, CONFIGS[case]["model_type"])
    assert sorted(shapes) == GOLDEN[f"{case}/names"].tolist()
    save_file({n: weights(case, n, s) for n, s in shapes.items()}, tmp_path / "model.safetensors")
    found = pretrained.load(tmp_path)
    assert found.config.num_scores == (CASES | OF_FAMILIES)[case]["num_labels"]
    batch, layout, order = packed(InMemory([example(*group) for group in groups()]))
    attributes = run(found.params, batch, layout, model=Decoder(config=found.config)).attributes
    expected = GOLDEN[f"{case}/logits"].reshape(2, 2, -1)[order]
    np.testing.assert_allclose(attributes, expected, atol=1e-5, rtol=0)


def test_packed_rows_give_the_attributes_of_each_response_alone():
    batch, layout, _ = step()
    assert any(len(set(row[row >= 0].tolist())) > 2 for row in np.asarray(layout.group))
    found = run(params(), batch, layout)
    assert (found.attributes.shape, found.attributes.dtype) == (ATTRIBUTES, jnp.float32)
    np.testing.assert_allclose(found.attributes, attributes_alone(params()), atol=1e-5)


def test_the_reward_is_the_first_attribute_and_no_token_has_a_log_probability():
    batch, layout, _ = step()
    found = run(params(), batch, layout)
    np.testing.assert_array_equal(found.rewards, found.attributes[..., 0])
    np.testing.assert_array_equal(found.logprobs, np.zeros(batch.mask.shape, np.float32))


def test_a_last_token_that_is_not_scored_is_read():
    batch, layout, _ = packed(InMemory([example([1, 2], [[7, 8, 9]], [[True, False, False]])]))
    found = run(params(), batch, layout)
    np.testing.assert_allclose(
        found.attributes[0, 0], alone(params(), [1, 2], [7, 8, 9]), atol=1e-5
    )


def test_a_response_that_ends_with_its_row_is_read():
    # 2 tokens, 4 and 2 fill a row of 8.
    batch, layout, _ = packed(InMemory([example([1, 2], [[7, 8, 9, 3], [4, 5]])]))
    assert layout.group.tolist() == [[0] * 8]
    found = run(params(), batch, layout)
    np.testing.assert_allclose(found.attributes[0, 1], alone(params(), [1, 2], [4, 5]), atol=1e-5)


def test_what_is_not_valid_has_no_attributes_and_pulls_at_nothing():
    batch, layout, _ = step()
    batch = batch._replace(valid=batch.valid.at[2, 1].set(False))
    found = run(params(), batch, layout)
    np.testing.assert_array_equal(found.attributes[2, 1], 0.0)
    others = np.ones(ATTRIBUTES, bool)
    others[2, 1] = False
    expected = np.asarray(attributes_alone(params()))
    np.testing.assert_allclose(found.attributes[others], expected[others], atol=1e-5)
    gradient = jax.grad(lambda p: run(p, batch, layout).attributes[2, 1].sum())(params())
    for x in jax.tree.leaves(gradient):
        np.testing.assert_array_equal(x, 0.0)


def test_rows_of_nothing_but_padding_give_zeros_and_zero_gradients():
    batch, layout, _ = step()
    layout = layout._replace(
        group=jnp.full_like(layout.group, -1),
        response=jnp.zeros_like(layout.response),
        position=jnp.zeros_like(layout.position),
    )

    def total(params):
        found = run(params, batch, layout)
        return found.attributes.sum() + found.rewards.sum(), found

    gradient, found = jax.grad(total, has_aux=True)(params())
    np.testing.assert_array_equal(found.attributes, 0.0)
    for x in jax.tree.leaves(gradient):
        np.testing.assert_array_equal(x, 0.0)


def test_gradients_of_every_parameter_are_those_of_the_plain_computation():
    batch, layout, _ = step()
    pull = jax.random.normal(jax.random.key(1), ATTRIBUTES)  # up for some, down for others
    found = jax.grad(lambda p: jnp.sum(pull * run(p, batch, layout).attributes))(params())
    expected = jax.grad(lambda p: jnp.sum(pull * attributes_alone(p)))(params())
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        scale = np.abs(y).max()
        assert scale > 0
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4 * scale)


def test_bfloat16_arithmetic_stays_close_and_gives_float32():
    batch, layout, _ = step()
    found = run(params(), batch, layout, model=dataclasses.replace(MODEL, dtype="bfloat16"))
    assert found.attributes.dtype == jnp.float32
    # bfloat16 keeps 8 bits: outputs of the order of 1 are off by some hundredths.
    np.testing.assert_allclose(found.attributes, attributes_alone(params()), atol=0.1)


@pytest.mark.parametrize("mesh", [sharding.Mesh(), sharding.Mesh(fsdp=2, tensor=2)])
def test_rows_on_several_devices_give_the_same(mesh):
    mesh = sharding.make_mesh(mesh)
    batch, layout, _ = packed(random_table(8), shards=sharding.shards(mesh))
    expected = run(params(), batch, layout)
    lie = sharding.parameters(mesh, MODEL.abstract(), MODEL.axes())
    rows = sharding.rows(mesh)
    batch, layout = jax.device_put((batch, layout), rows)
    assert len({str(s.index) for s in layout.tokens.addressable_shards}) == sharding.shards(mesh)
    with jax.set_mesh(mesh):
        found = run(jax.device_put(params(), lie), batch, layout)
    np.testing.assert_allclose(found.attributes, expected.attributes, atol=1e-5)


def test_a_score_head_takes_the_place_of_the_vocabularys():
    # 40 * 16 of the embedding and 2 * 16 of the score head; no second table of 40 * 16.
    assert params()["score"].shape == (2, 16)
    assert "head" not in params()
    language_model = dataclasses.replace(MODEL.config, num_scores=0)
    assert MODEL.num_params == Decoder(config=language_model).num_params - 40 * 16 + 2 * 16
    assert MODEL.num_params == sum(x.size for x in jax.tree.leaves(params()))
    tied = dataclasses.replace(MODEL.config, tied=True)
    assert Decoder(config=tied).num_params == MODEL.num_params
    assert jax.tree.structure(Decoder(config=tied).abstract()) == jax.tree.structure(params())


def test_a_score_head_begins_with_a_variance_of_one_over_width_plus_one():
    config = dataclasses.replace(CONFIG, width=99, num_scores=500)
    score = np.asarray(jax.jit(Decoder(config=config).init)(jax.random.key(3))["score"])
    # 49,500 draws with a deviation of 0.1, not cut: known to 0.3%, and one in 370 beyond 3.
    assert math.isclose(score.std(), 0.1, rel_tol=0.02)
    assert abs(score.mean()) < 0.002
    assert 0.001 < (np.abs(score) > 0.3).mean() < 0.005
