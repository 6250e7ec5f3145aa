"""A reward model: a decoder with a score head, read at the last token of each response."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from alignax.core.errors import BadInput
from alignax.core.types import Batch
from alignax.data.pipeline import build_step
from alignax.data.plan import make_plan
from alignax.models import pretrained
from alignax.models.outputs import outputs
from alignax.models.stored import stored
from alignax.models.transformer import Decoder
from alignax.train import sharding
from tests.golden.make_llama_logits import weights
from tests.golden.make_score_logits import CASES, sequences
from tests.tiny_batch import CONFIG, Table, example, random_table
from tests.tiny_model import model_directory

GOLDEN = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden" / "score_logits.json").read_text()
)


def scorer(num_scores=1) -> Decoder:
    return Decoder(config=CONFIG.__class__(**{**vars(CONFIG), "num_scores": num_scores}))


def params_of(model, seed=0):
    return jax.jit(model.init)(jax.random.key(seed))


def of_table(model, params, table, **settings):
    """The outputs for all groups of a table, in one batch."""
    plan = make_plan(table.lengths, batch_size=len(table), num_steps=1, align=8, **settings)
    batch, layout = jax.tree.map(lambda x: jnp.asarray(x[0]), build_step(table, plan, 0))
    return outputs(model, params, batch, layout), plan.step(0).group[0], batch


def alone(model, params, ids):
    """The head's outputs at the last token of one sequence, in a row of its own."""
    table = Table([example(ids[:-1], [ids[-1:]])])
    plan = make_plan(table.lengths, batch_size=1, num_steps=1, align=1)
    _, layout = jax.tree.map(lambda x: jnp.asarray(x[0]), build_step(table, plan, 0))
    hidden = model.packed(params, layout)
    return hidden[0, len(ids) - 1] @ params["score"].T


@pytest.mark.parametrize("case", CASES)
def test_scores_are_those_of_transformers(case, tmp_path):
    config = GOLDEN[case]["config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    places = stored(pretrained.read_config(tmp_path))
    save_file(
        {name: weights(name, place.stored_shape) for place in places for name in place.names},
        tmp_path / "model.safetensors",
    )
    model = pretrained.load(tmp_path)
    assert model.config.num_scores == CASES[case]["num_labels"]
    rows = [(ids[:20], [ids[20:]]) for ids in sequences()]
    table = Table([example(prompt, answers) for prompt, answers in rows])
    found, group, _ = of_table(Decoder(config=model.config), model.params, table)
    np.testing.assert_allclose(
        found.attributes[:, 0], np.array(GOLDEN[case]["logits"])[group], rtol=2e-5, atol=2e-5
    )
    np.testing.assert_array_equal(found.rewards, found.attributes[..., 0])


def test_each_response_is_read_at_its_last_token_whether_that_is_scored_or_not():
    model, table = scorer(2), random_table(5, responses=3)
    first = table.examples[0]
    first.mask[first.response_lengths[0] - 1] = False  # of the first response, the last token
    params = params_of(model)
    found, groups, _ = of_table(model, params, table)
    for row, number in enumerate(groups):
        group = table[number]
        for j, (tokens, _) in enumerate(group.split()):
            expected = alone(model, params, np.concatenate([group.prompt, tokens]))
            np.testing.assert_allclose(found.attributes[row, j], expected, rtol=1e-4, atol=1e-5)


def test_log_probabilities_are_zero_and_absent_responses_score_zero_without_gradient():
    model = scorer()
    table = Table([example([1, 2], [[3, 4], [5]]), example([1], [[6, 7, 8]])])
    params = params_of(model)
    plan = make_plan(table.lengths, batch_size=2, num_steps=1, align=8)
    batch, layout = jax.tree.map(lambda x: jnp.asarray(x[0]), build_step(table, plan, 0))

    def absent(params):
        found = outputs(model, params, batch, layout)
        return jnp.sum(jnp.where(batch.valid, 0.0, found.rewards)), found

    slope, found = jax.grad(absent, has_aux=True)(params)
    np.testing.assert_array_equal(found.rewards[~batch.valid], 0.0)
    np.testing.assert_array_equal(found.logprobs, 0.0)
    assert np.all(found.rewards[batch.valid] != 0.0)
    assert all((x == 0.0).all() for x in jax.tree.leaves(slope))


def test_has_no_vocabulary_head_and_counts_its_own():
    model = scorer(3)
    assert "head" not in model.abstract()
    assert model.abstract()["score"].shape == (3, CONFIG.width)
    held = sum(x.size for x in jax.tree.leaves(model.abstract()))
    assert model.config.num_params == held


def test_a_language_model_becomes_a_reward_model_with_a_drawn_head(tmp_path):
    directory = model_directory(tmp_path / "model", width=64)
    found = [pretrained.load(directory, num_scores=50, seed=seed) for seed in (0, 0, 1)]
    one, same, other = (np.asarray(x.params["score"]) for x in found)
    np.testing.assert_array_equal(one, same)
    assert (one != other).all()
    # 50 x 64 draws: their deviation is within 5% of 1 / sqrt(65), four standard errors.
    np.testing.assert_allclose(one.std(), 65**-0.5, rtol=0.05)
    language = pretrained.load(directory)
    np.testing.assert_array_equal(found[0].params["embed"], language.params["embed"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_round_trip_is_exact_with_one_score_tensor_and_no_vocabulary_head(dtype, tmp_path):
    directory = model_directory(tmp_path / "model", tied=False)
    model = pretrained.load(directory, num_scores=2)
    places = {"source": directory, "dtype": dtype, "labels": ("wit", "depth")}
    pretrained.save(tmp_path / "out", model.params, model.config, **places)
    tensors = load_file(tmp_path / "out" / "model.safetensors") if dtype == "float32" else {}
    if tensors:
        assert tensors["score.weight"].shape == (2, 32)
        assert "lm_head.weight" not in tensors
    again = pretrained.load(tmp_path / "out")
    assert again.config == model.config
    as_stored = jax.tree.map(lambda x: x.astype(dtype).astype(jnp.float32), model.params)
    jax.tree.map(np.testing.assert_array_equal, again.params, as_stored)


def test_config_is_that_of_a_sequence_classifier(tmp_path):
    directory = model_directory(tmp_path / "model")
    model = pretrained.load(directory, num_scores=2)
    pretrained.save(
        tmp_path / "out", model.params, model.config, source=directory, labels=("wit", "depth")
    )
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["id2label"] == {"0": "wit", "1": "depth"}
    assert config["label2id"] == {"wit": 0, "depth": 1}
    # <|im_end|> (2) pads in this tokenizer, and ends the very turn that is to be read.
    tokenizer = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert (config["pad_token_id"], tokenizer["pad_token"]) == (0, "<|endoftext|>")


def test_another_number_of_scores_than_there_is_is_refused(tmp_path):
    directory = model_directory(tmp_path / "model", tied=False)
    model = pretrained.load(directory, num_scores=2)
    pretrained.save(tmp_path / "out", model.params, model.config, source=directory)
    for wanted, expected in ((3, "a score head of 3 outputs"), (0, "a vocabulary head")):
        with pytest.raises(BadInput) as refused:
            pretrained.load(tmp_path / "out", num_scores=wanted)
        assert f"expected {expected}; got a reward model with a score head of 2 outputs" in str(
            refused.value
        )


def test_a_head_loaded_over_a_mesh_is_the_head(tmp_path):
    directory = model_directory(tmp_path / "model")
    mesh = sharding.make_mesh(sharding.Mesh(data=1, fsdp=4, tensor=2))
    model = Decoder(config=pretrained.read_config(directory, num_scores=2))
    places = sharding.parameters(mesh, model.abstract(), model.axes())
    split = pretrained.load(directory, num_scores=2, shardings=places)
    whole = pretrained.load(directory, num_scores=2)
    jax.tree.map(np.testing.assert_array_equal, split.params, whole.params)


def test_rewards_are_the_same_over_four_devices():
    model, table = scorer(), random_table(8)
    params = params_of(model)
    expected, groups, _ = of_table(model, params, table)
    mesh = sharding.make_mesh(sharding.Mesh(data=2, fsdp=2, tensor=2))
    plan = make_plan(table.lengths, batch_size=8, num_steps=1, align=8, shards=4)
    batch, layout = build_step(table, plan, 0)
    with jax.set_mesh(mesh):
        arrays = jax.device_put((batch, layout), sharding.rows(mesh, leading=1))

        @jax.jit
        def run(params, batch: Batch, layout):
            batch, layout = jax.tree.map(lambda x: x[0], (batch, layout))
            return outputs(model, params, batch, layout).rewards

        found = run(params, *arrays)
    by_group = dict(zip(plan.step(0).group[0].tolist(), np.asarray(found), strict=True))
    for row, number in enumerate(groups.tolist()):
        np.testing.assert_allclose(by_group[number], expected.rewards[row], rtol=1e-4, atol=1e-5)
