"""Whole runs that train an adapter: the base stays as it is, and is the reference."""

import dataclasses
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from alignax import jobs
from alignax.core.errors import BadInput
from alignax.methods import GRPO, KTO, PPO, RewardModel
from alignax.models import pretrained
from alignax.models.lora import LoRA
from alignax.run import Run
from alignax.train.loop import Loop
from alignax.train.optim import Optim
from alignax.train.sharding import Mesh
from tests.run_files import arrays, held_out, updates
from tests.test_online_runs import setup
from tests.tiny_model import experiment as tiny
from tests.tiny_model import model_directory

ONE = Mesh(data=1)
SETTINGS = LoRA(rank=4, alpha=8.0, dropout=0.1)
FILES = ("metrics.jsonl", "trainer_state.json", "export/model.safetensors", "samples-0.jsonl",
         "samples-6.jsonl")  # fmt: skip


def weights(directory):
    return load_file(directory / "model.safetensors")


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A run of DPO, its folder, the base's file before it; arrays read for it, and copies then."""
    folder, kept, read = tmp_path_factory.mktemp("adapter"), [], pretrained.load
    experiment = tiny(folder, adapter=SETTINGS, mesh=ONE)

    def load(*arguments, **settings):
        found = read(*arguments, **settings)
        kept.append((found.params, jax.tree.map(np.array, found.params)))
        return found

    before = weights(folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained, "load", load)
        jobs.train(experiment, quiet=True)
    return experiment, folder, before, kept


@pytest.fixture(scope="module")
def run(watched):
    """One run of DPO, left as it was by everyone who looks at it."""
    return watched[:2]


def test_the_first_loss_is_ln_2_and_the_last_far_below(run):
    losses = [line["loss"] for line in updates(run[1] / "run")]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[-1] < 0.5 * math.log(2)
    found = held_out(run[1] / "run")
    assert found[0]["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert found[6]["eval_rewards/accuracies"] >= 7 / 8


def test_a_checkpoint_holds_the_adapter_its_moments_and_nothing_of_the_base(run):
    """Two layers; the query's A is [2, 32, 4] and its B [2, 4, 4, 8]."""
    found = arrays(run[1] / "run" / "checkpoint-6")
    params = {name: x for name, x in found.items() if name.startswith("params/")}
    assert len(params) == 2 * 7
    assert params["params/layers/attention/query/a"].shape == (2, 32, 4)
    assert params["params/layers/attention/query/b"].shape == (2, 4, 4, 8)
    # Adam's two moments of each; beside these only counts.
    size = sum(x.size for x in params.values())
    assert sum(x.size for x in found.values() if x.size > 1) == 3 * size


def test_the_base_is_unchanged_bit_for_bit(watched):
    """The arrays that were read for it, after all updates; and its files."""
    _, folder, before, kept = watched
    (now, then), *others = kept
    assert not others, "the base was read more than once"
    jax.tree.map(np.testing.assert_array_equal, now, then)
    after = weights(folder / "model")
    assert all(np.array_equal(after[name], x) for name, x in before.items())


def test_the_export_is_the_base_with_the_last_checkpoints_adapter_merged(run):
    folder = run[1]
    found = arrays(folder / "run" / "checkpoint-6")
    base, exported = weights(folder / "model"), weights(folder / "run" / "export")
    assert base.keys() == exported.keys()
    moved = {name for name, x in base.items() if not np.array_equal(exported[name], x)}
    assert moved == {name for name in base if name.endswith("_proj.weight")}
    for ours, theirs in (("mlp/gate", "mlp.gate_proj"), ("attention/out", "self_attn.o_proj")):
        a, b = (found[f"params/layers/{ours}/{x}"][1] for x in "ab")
        update = 2.0 * a.reshape(-1, 4).astype(np.float64) @ b.reshape(4, -1)
        name = f"model.layers.1.{theirs}.weight"
        np.testing.assert_allclose(exported[name], base[name] + update.T, atol=1e-6, rtol=1e-6)


def test_a_resumed_run_ends_like_an_unbroken_one_bit_for_bit_dropout_and_all(run, tmp_path):
    experiment, folder = run
    shutil.copytree(folder / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    shutil.rmtree(tmp_path / "run" / "export")
    again = dataclasses.replace(experiment, output_dir=str(tmp_path / "run"))
    jobs.train(again, quiet=True)
    for name in FILES:
        assert (tmp_path / "run" / name).read_bytes() == (folder / "run" / name).read_bytes(), name
    one, two = (arrays(x / "run" / "checkpoint-6") for x in (folder, tmp_path))
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], strict=True)


def test_dropout_is_drawn_anew_at_every_update_and_by_the_seed(run, tmp_path):
    """A is the same before any update, so what differs in B after two is what was left out."""
    experiment, _ = run
    loop = Loop(batch_size=8, max_steps=2)
    found = []
    for name, dropout, seed in (("none", 0.0, 0), ("some", 0.1, 0), ("same", 0.1, 0)):
        adapter = dataclasses.replace(SETTINGS, dropout=dropout)
        changed = dataclasses.replace(
            experiment, adapter=adapter, seed=seed, loop=loop, output_dir=str(tmp_path / name)
        )
        jobs.train(changed, quiet=True)
        found.append(arrays(tmp_path / name / "checkpoint-2")["params/layers/mlp/up/b"])
    none, some, same = found
    assert np.abs(none - some).max() > 1e-4
    np.testing.assert_array_equal(some, same)


def test_a_base_with_other_weights_is_refused_when_the_run_goes_on(run, tmp_path):
    experiment, folder = run
    model = folder / "model"
    shutil.copytree(model, tmp_path / "model")
    shutil.rmtree(model)
    model_directory(model, init_scale=0.2)
    try:
        with pytest.raises(BadInput) as error:
            jobs.train(experiment, quiet=True)
    finally:
        shutil.rmtree(model)
        shutil.copytree(tmp_path / "model", model)
    assert error.value.where == "contents of model.model_name_or_path"


def test_micro_batches_and_meshes_change_nothing_but_rounding(tmp_path):
    """Without dropout, by plain gradient descent on all data at once; DoRA has norms to gather."""

    def losses(name, mesh, accumulation=1):
        jobs.train(
            tiny(
                tmp_path,
                adapter=LoRA(rank=4, alpha=8.0, dora=True),
                mesh=mesh,
                loop=Loop(batch_size=24, max_steps=3, gradient_accumulation_steps=accumulation),
                optim=Optim(learning_rate=0.5, optimizer="sgd", lr_scheduler_type="constant"),
                output_dir=str(tmp_path / name),
            ),
            quiet=True,
        )
        return [line["loss"] for line in updates(tmp_path / name)]

    whole = losses("whole", ONE)
    assert whole[0] > whole[1] > whole[2]
    np.testing.assert_allclose(losses("micro", ONE, accumulation=2), whole, atol=1e-5)
    eight = losses("eight", Mesh(data=2, fsdp=2, tensor=2))
    np.testing.assert_allclose(eight, whole, atol=1e-5)


def test_settings_that_cannot_be_are_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "load", None)
    for adapter, where in (
        (LoRA(rank=0), "adapter.rank"),
        (LoRA(targets=("attention/querry",)), "adapter.targets"),
        (LoRA(adapter_name_or_path=str(tmp_path)), str(tmp_path / "adapter_config.json")),
    ):
        with pytest.raises(BadInput) as error:
            jobs.train(tiny(tmp_path, adapter=adapter), quiet=True)
        assert error.value.where == where


# --- Methods that sample, and those with other heads


def test_a_method_that_samples_learns_and_reads_its_base_once(tmp_path, monkeypatch):
    """Sampler, reference and policy have one base between them."""
    calls, read = [], pretrained.load
    monkeypatch.setattr(pretrained, "load", lambda *a, **k: calls.append(1) or read(*a, **k))
    experiment = setup(
        tmp_path, GRPO(num_samples=8, beta=0.05), loop={"max_steps": 10},
        adapter=LoRA(rank=8, alpha=16.0), optim=Optim(learning_rate=3e-2),
    )  # fmt: skip
    jobs.train(experiment, quiet=True)
    assert len(calls) == 1
    lines = updates(tmp_path / "run")
    rewards = [line["reward"] for line in lines]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.05
    # Merged for decoding, beside the base in the update: the two agree to rounding.
    assert all(line["sampling/logp_difference"] < 1e-5 for line in lines)
    found = jobs.evaluate(experiment, quiet=True)
    assert found["eval_sampled/kl"].mean > 0


def test_a_critic_is_trained_whole_beside_the_adapter(tmp_path):
    jobs.train(setup(tmp_path, PPO(), loop={"max_steps": 2}, adapter=SETTINGS), quiet=True)
    found = arrays(tmp_path / "run" / "checkpoint-2")
    names = {name.split("/")[1] for name in found if name.startswith("params/")}
    assert names == {"policy", "critic"}
    assert "params/critic/embed" in found
    assert "params/policy/embed" not in found
    assert pretrained.load(tmp_path / "run" / "export").config.num_scores == 0


def test_a_reward_model_has_its_head_trained_beside_the_adapter(tmp_path):
    jobs.train(tiny(tmp_path, method=RewardModel(), adapter=SETTINGS, mesh=ONE), quiet=True)
    losses = [line["loss"] for line in updates(tmp_path / "run")]
    assert losses[-1] < 0.5 * losses[0]
    assert "params/score" in arrays(tmp_path / "run" / "checkpoint-6")
    assert pretrained.load(tmp_path / "run" / "export").config.num_scores == 1


def test_means_over_a_step_are_of_the_same_draws_as_its_losses(tmp_path):
    """KTO asks for one; in two micro-batches it is found in a pass of its own."""
    experiment = tiny(
        tmp_path, method=KTO(), adapter=SETTINGS, mesh=ONE,
        loop=Loop(batch_size=8, max_steps=2, gradient_accumulation_steps=2),
    )  # fmt: skip
    jobs.train(experiment, quiet=True)
    assert all(math.isfinite(line["loss"]) for line in updates(tmp_path / "run"))


def test_the_reference_is_the_very_arrays_of_the_base(run):
    experiment, _ = run
    work = Run(experiment, True)
    base = work.frozen.base
    assert work.initial_policy() is base
    whole = work.whole(work.initial_trained(work.initial_params()))
    kernel = whole["layers"]["mlp"]["up"]["kernel"]
    assert kernel.kernel is base["layers"]["mlp"]["up"]["kernel"]


# --- A base in few bits


@pytest.mark.parametrize("base", ["bfloat16", "int8", "nf4"])
def test_a_base_in_few_bits_is_the_reference_too(tmp_path, base):
    """So the first loss is ln 2, whatever was lost in rounding the base."""
    adapter = dataclasses.replace(SETTINGS, base=base)
    experiment = tiny(tmp_path, adapter=adapter, mesh=ONE)
    jobs.train(experiment, quiet=True)
    losses = [line["loss"] for line in updates(tmp_path / "run")]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[-1] < 0.5 * math.log(2)
    # What is exported computes what was trained.
    policy = pretrained.load(tmp_path / "run" / "export")
    run = Run(experiment, True)
    _, params = jobs.newest(run)
    tokens = jnp.arange(5, 37)[None]
    lengths = jnp.array([32])
    found, expected = (
        run.decoder.prefill(x, tokens, lengths, num_responses=1, max_response=1)[0]
        for x in (policy.params, run.frozen.join(params))
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)
    float32 = weights(tmp_path / "model")["model.layers.0.mlp.up_proj.weight"]
    a, b = (np.asarray(params["layers"]["mlp"]["up"][x][0]) for x in "ab")
    rest = (
        weights(tmp_path / "run" / "export")["model.layers.0.mlp.up_proj.weight"] - 2.0 * (a @ b).T
    )
    # Rounded to 8 bits of mantissa, to 1/254 or to a quarter of the largest, at most.
    share = {"bfloat16": 2**-8, "int8": 2**-7, "nf4": 0.2}[base]
    assert 0 < np.abs(rest - float32).max() <= share * np.abs(float32).max()


def test_a_run_on_a_base_in_few_bits_on_a_mesh_computes_the_same(tmp_path):
    def losses(name, mesh):
        experiment = tiny(
            tmp_path, adapter=LoRA(rank=4, alpha=8.0, base="nf4"), mesh=mesh,
            loop=Loop(batch_size=24, max_steps=2), output_dir=str(tmp_path / name),
            optim=Optim(learning_rate=0.5, optimizer="sgd", lr_scheduler_type="constant"),
        )  # fmt: skip
        jobs.train(experiment, quiet=True)
        return [line["loss"] for line in updates(tmp_path / name)]

    eight = losses("eight", Mesh(data=2, fsdp=2, tensor=2))
    np.testing.assert_allclose(eight, losses("one", ONE), atol=1e-5)
