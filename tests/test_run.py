"""A whole run: it learns, leaves the files it promises, and refuses what would spoil it."""

import dataclasses
import json
import math
import shutil

import jax
import numpy as np
import pytest
from transformers import AutoTokenizer

from alignax import jobs, measuring, programs
from alignax.config import Evaluation
from alignax.core.errors import BadInput
from alignax.data.plan import alike, make_plan
from alignax.data.tokenise import TokenLimits
from alignax.forecast import Boxes
from alignax.generate.reward_functions import Function
from alignax.generate.rewards import Rewards
from alignax.generate.rollout import Rollout
from alignax.methods import DPO, GRPO, PPO, SFT
from alignax.models import pretrained
from alignax.run import Run
from alignax.train.compilations import Compilations
from alignax.train.loop import Loop
from alignax.train.optim import Optim
from alignax.train.sharding import Mesh
from tests.run_files import arrays, held_out, lines, updates
from tests.tiny_model import experiment as tiny
from tests.tiny_model import model_directory

ONE = Mesh(data=1)
# The names that TRL gives them.
TRL = {"rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies",
       "logps/chosen", "logps/rejected", "loss", "grad_norm", "learning_rate"}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run of DPO on one device, left as it was by everyone who looks at it."""
    folder = tmp_path_factory.mktemp("run")
    experiment = tiny(folder, mesh=ONE)
    jobs.train(experiment, quiet=True)
    return experiment, folder / "run"


def test_dpo_learns_what_tells_the_chosen_answers_from_the_rejected(run):
    _, output = run
    margins = [line["rewards/margins"] for line in updates(output)]
    assert margins[-1] > 1.0 > abs(margins[0])
    assert updates(output)[-1]["loss"] < 0.5 * math.log(2)
    before, after = held_out(output)[0], held_out(output)[6]
    # Policy and reference are one at first, so no held-out pair is ranked at all.
    assert before["eval_rewards/accuracies"] == 0.0
    assert after["eval_rewards/accuracies"] >= 7 / 8
    assert after["eval_logps/chosen"] - before["eval_logps/chosen"] > (
        after["eval_logps/rejected"] - before["eval_logps/rejected"]
    )


def test_the_first_loss_is_ln_2_and_so_is_the_held_out_one(run):
    _, output = run
    assert updates(output)[0]["step"] == 1
    assert updates(output)[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert held_out(output)[0]["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_metrics_have_the_names_of_trl_and_a_line_for_every_update(run):
    _, output = run
    assert [line["step"] for line in updates(output)] == [1, 2, 3, 4, 5, 6]
    for line in updates(output):
        assert set(line) >= TRL
    for line in held_out(output).values():
        assert set(line) >= {f"eval_{n}" for n in TRL - {"grad_norm", "learning_rate"}}
        assert line["eval_loss/low"] <= line["eval_loss"] <= line["eval_loss/high"]


def test_learning_rates_warm_up_and_fall_as_configured(run):
    # Of 6 updates, 0.1 x 6 rounded up is 1 to warm up; then 5/6, 4/6, ... 1/6 of 0.01.
    rates = [line["learning_rate"] for line in updates(run[1])]
    np.testing.assert_allclose(rates, 0.01 * np.array([6, 5, 4, 3, 2, 1]) / 6, rtol=1e-6)


def test_the_promised_files_are_there(run):
    _, output = run
    found = {path.name for path in output.iterdir()}
    assert found == {
        *("metrics.jsonl", "timings.jsonl", "trainer_state.json", "tensorboard", "export"),
        "card.json",
        *("samples-0.jsonl", "samples-6.jsonl"),
        *("checkpoint-4", "checkpoint-6"),  # the two newest of 2, 4, 6
    }
    state = json.loads((output / "trainer_state.json").read_text())
    assert state["global_step"] == 6
    assert state["log_history"] == lines(output / "metrics.jsonl")
    assert any("tfevents" in path.name for path in (output / "tensorboard").iterdir())
    assert [line["step"] for line in lines(output / "timings.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert all(line["tokens_per_second"] > 0 for line in lines(output / "timings.jsonl"))


def test_an_offline_run_compiles_nothing_once_its_first_update_is_launched(run):
    first, *others = lines(run[1] / "timings.jsonl")
    assert first["programs_compiled"] > 0
    assert [line["programs_compiled"] for line in others] == [0] * 5


def test_samples_before_and_after_answer_the_same_prompts(run):
    _, output = run
    before, after = (lines(output / f"samples-{step}.jsonl") for step in (0, 6))
    assert [row["prompt"] for row in before] == [row["prompt"] for row in after]
    assert len(before) == 4
    assert "Is 3 a number? Really? Really? Really?" in before[3]["prompt"]
    assert all(len(row["completions"]) == len(row["ended"]) == 1 for row in after)


def test_the_export_holds_the_last_checkpoints_parameters_bit_for_bit(run):
    experiment, output = run
    stored = {
        tuple(name.split("/")[1:]): x
        for name, x in arrays(output / "checkpoint-6").items()
        if name.split("/")[0] == "params"
    }
    exported = jax.tree_util.tree_leaves_with_path(pretrained.load(output / "export").params)
    assert len(exported) == len(stored)
    for path, leaf in exported:
        name = tuple(str(part.key) for part in path)
        assert leaf.dtype == stored[name].dtype == np.float32
        np.testing.assert_array_equal(leaf, stored[name], strict=True)
    first = pretrained.load(experiment.model.model_name_or_path).params
    assert any(
        not np.array_equal(a, b) for a, (_, b) in zip(jax.tree.leaves(first), exported, strict=True)
    )


def test_transformers_reads_the_exports_tokenizer_and_template(run):
    experiment, output = run
    turns = [{"role": "user", "content": "Is 7 a number?"}]
    ids = [
        AutoTokenizer.from_pretrained(directory).apply_chat_template(turns)["input_ids"]
        for directory in (output / "export", experiment.model.model_name_or_path)
    ]
    assert ids[0] == ids[1]


def test_the_same_settings_and_seed_give_the_same_bytes_and_another_seed_does_not(run, tmp_path):
    experiment, output = run
    again = dataclasses.replace(experiment, output_dir=str(tmp_path / "again"))
    jobs.train(again, quiet=True)
    for name in ("metrics.jsonl", "trainer_state.json", "samples-0.jsonl", "samples-6.jsonl"):
        assert (tmp_path / "again" / name).read_bytes() == (output / name).read_bytes()
    one, two = (arrays(folder / "checkpoint-6") for folder in (output, tmp_path / "again"))
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], strict=True)
    other = dataclasses.replace(experiment, output_dir=str(tmp_path / "other"), seed=1)
    jobs.train(other, quiet=True)
    assert updates(tmp_path / "other")[0]["logps/chosen"] != updates(output)[0]["logps/chosen"]


def test_sft_lowers_the_loss_on_the_chosen_answers(tmp_path):
    """The same files: SFT takes prompt and chosen of them."""
    jobs.train(tiny(tmp_path, mesh=ONE, method=SFT()), quiet=True)
    losses = [line["loss"] for line in updates(tmp_path / "run")]
    # A random model of 320 tokens begins near ln 320 = 5.77 a token.
    assert losses[0] == pytest.approx(math.log(320), rel=0.1)
    assert losses[-1] < 0.8 * losses[0]
    evaluated = held_out(tmp_path / "run")
    assert evaluated[6]["eval_loss"] < 0.8 * evaluated[0]["eval_loss"]


@pytest.mark.parametrize(
    ("dtype", "longest", "within", "beyond"),
    [("float32", 4096, 0.0009, 0.0011), ("bfloat16", 256, 0.09, 0.11),
     ("bfloat16", 1024, 0.19, 0.21)],
)  # fmt: skip
def test_margins_of_rounding_grow_with_the_root_of_the_tokens(
    dtype, longest, within, beyond, tmp_path
):
    made = tiny(tmp_path, mesh=ONE)
    model = dataclasses.replace(made.model, dtype=dtype)
    run = Run(dataclasses.replace(made, model=model), quiet=True)
    run.plan = make_plan(Boxes(8, longest, 2).lengths, batch_size=1, num_steps=1)
    look = jobs.check_first_step(run)
    look({"rewards/margins": -within, "loss": 0.7})
    with pytest.raises(BadInput, match="policy and reference to agree"):
        look({"rewards/margins": beyond, "loss": 0.7})


def test_a_tampered_reference_cache_is_refused_before_the_second_update(run, tmp_path):
    experiment, output = run
    shutil.copytree(output.parent / "cache", tmp_path / "cache")
    data = dataclasses.replace(experiment.data, cache_dir=str(tmp_path / "cache"))
    experiment = dataclasses.replace(experiment, data=data, output_dir=str(tmp_path / "run"))
    # Half a nat more for the first half of the tokens, so that some pair's two sums part.
    for path in (tmp_path / "cache").glob("ref_logprobs-*.npy"):
        values = np.load(path)
        values[: len(values) // 2] += 0.5
        np.save(path, values)
    with pytest.raises(BadInput) as raised:
        jobs.train(experiment, quiet=True)
    error = raised.value
    assert error.where == "step 1"
    assert error.expected.startswith("policy and reference to agree")
    assert "mean margin " in error.got
    assert "data.cache_dir" in error.remedy
    assert updates(tmp_path / "run") == []
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    assert not (tmp_path / "run" / "export").exists()


def test_another_experiment_in_the_same_directory_is_refused_by_its_first_difference(
    run, monkeypatch
):
    experiment, output = run
    # Before anything is read for it; None cannot be called.
    monkeypatch.setattr(pretrained, "load", None)
    files = sorted(path for path in output.rglob("*") if path.is_file())
    before = {path: path.read_bytes() for path in files}
    method = dataclasses.replace(experiment.method, beta=0.25)
    optim = dataclasses.replace(experiment.optim, learning_rate=2e-2)
    data = dataclasses.replace(experiment.data, limits=TokenLimits(max_length=255))
    for changes, name, old, new in (
        ({"method": method, "optim": optim}, "method.beta", "0.5", "0.25"),
        ({"data": data}, "data.limits.max_length", "256", "255"),
        ({"seed": 7}, "seed", "0", "7"),
    ):
        with pytest.raises(BadInput) as raised:
            jobs.train(dataclasses.replace(experiment, **changes), quiet=True)
        assert raised.value.where == name
        assert f"{name} = {old}" in raised.value.expected
        assert raised.value.got == new
        assert "another output_dir" in raised.value.remedy
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_resumed_in_the_middle_of_an_epoch_meets_the_same_groups(run, tmp_path):
    """Three steps are an epoch: step 4 leaves the second one after a third."""
    experiment, output = run
    resumed = tmp_path / "resumed"
    shutil.copytree(output, resumed)
    for name in ("checkpoint-6", "export"):
        shutil.rmtree(resumed / name)
    jobs.train(dataclasses.replace(experiment, output_dir=str(resumed)), quiet=True)
    for name in ("metrics.jsonl", "trainer_state.json", "export/model.safetensors"):
        assert (resumed / name).read_bytes() == (output / name).read_bytes()


def test_changed_data_in_the_same_file_is_refused(tmp_path):
    """The position is a number of steps: in other data it would be another place."""
    experiment = tiny(tmp_path, mesh=ONE, loop=Loop(batch_size=8, max_steps=2))
    jobs.train(experiment, quiet=True)
    train = tmp_path / "train.jsonl"
    train.write_text(train.read_text().replace("Is 5 a number?", "Is five a number?"))
    with pytest.raises(BadInput, match=r"(?s)^contents of data\.train: .*another output_dir"):
        jobs.train(experiment, quiet=True)


def test_settings_that_change_no_number_may_change_on_the_way(run, tmp_path, capsys):
    experiment, output = run
    loop = dataclasses.replace(experiment.loop, save_steps=3, keep=1, logging_steps=2)
    changed = dataclasses.replace(experiment, loop=loop, tensorboard=False)
    (tmp_path / "moved").symlink_to(output, target_is_directory=True)
    jobs.train(dataclasses.replace(changed, output_dir=str(tmp_path / "moved")))
    assert "finished already, all 6 steps" in capsys.readouterr().out


def test_runs_of_one_process_share_their_update_but_for_numbers_that_are_zero(tmp_path):
    """Two strengths and rates are one program; a term that is left out makes another."""

    def compiled(name, rate, **numbers):
        experiment = tiny(
            tmp_path,
            method=DPO(**numbers),
            mesh=ONE,
            optim=Optim(learning_rate=rate),
            loop=Loop(batch_size=8, max_steps=2),
            evaluation=Evaluation(num_prompts=0),
            output_dir=str(tmp_path / name),
        )
        with Compilations() as found:
            jobs.train(experiment, quiet=True)
        return found.programs["update"]

    programs._compiled_step.cache_clear()
    assert compiled("one", 1e-2, beta=0.5) == 1
    assert compiled("two", 3e-3, beta=0.1) == 0
    assert compiled("three", 3e-3, beta=0.1, label_smoothing=0.1) == 1
    assert compiled("four", 1e-2, beta=0.2, label_smoothing=0.2) == 0


def test_runs_of_other_seeds_and_lengths_share_their_update_and_learn_what_they_would_alone(
    tmp_path,
):
    def made(name, steps, seed):
        return tiny(
            tmp_path,
            mesh=ONE,
            optim=Optim(learning_rate=1e-2, warmup_steps=1, lr_scheduler_type="linear"),
            loop=Loop(batch_size=8, max_steps=steps),
            evaluation=Evaluation(num_prompts=0),
            seed=seed,
            output_dir=str(tmp_path / name),
        )

    run = Run(made("", 5, 1), quiet=True)
    plans = [run.like(made("", steps, seed)).plan for steps in (2, 5) for seed in (1, 2)]
    shape = alike(plans)[0].shape
    programs._compiled_step.cache_clear()
    compiled = []
    for name, steps, seed in [("short", 2, 1), ("long", 5, 2), ("alone", 5, 2)]:
        if name == "alone":
            programs._compiled_step.cache_clear()
        with Compilations() as found:
            jobs.train(made(name, steps, seed), quiet=True, shape=shape)
        compiled.append(found.programs["update"])
    assert compiled == [1, 0, 1]
    assert [x["loss"] for x in updates(tmp_path / "long")] == [
        x["loss"] for x in updates(tmp_path / "alone")
    ]


def test_prompts_and_ends_that_the_model_has_no_row_for_are_refused_before_it_answers(tmp_path):
    made, name = tiny(tmp_path), "generation_config.json"
    settings = json.loads((tmp_path / "model" / name).read_text())
    (tmp_path / "model" / name).write_text(json.dumps(settings | {"eos_token_id": [2, 320]}))
    rewards = Rewards(parts=(Function(function=len),))
    sampled = dataclasses.replace(
        made, method=GRPO(), rollout=Rollout(rewards=rewards, max_new_tokens=8)
    )
    for asked in (
        lambda: measuring.sampled(Run(made, quiet=True)),
        lambda: Run(sampled, quiet=True).prompts("train"),
        lambda: Run(sampled, quiet=True).preflight(),
    ):
        with pytest.raises(BadInput, match=r"^expected every token id within the model's vocabulary"
                           r"; got ids \[320\] for 320 rows, which end a turn"):  # fmt: skip
            asked()
    # A letter is 5 and its byte: "I" is 78, "s" 120, and the end of a turn 2.
    shutil.rmtree(tmp_path / "model")
    model_directory(tmp_path / "model", vocab_size=100)
    with pytest.raises(
        BadInput, match=r"^train.jsonl:1: expected .*; got ids \[\d+.* for 100 rows:"
    ):
        jobs.train(sampled, quiet=True)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_critic_that_cannot_read_the_policys_ids_is_refused_before_anything_is_allocated(
    tmp_path, monkeypatch
):
    rewards = Rewards(parts=(Function(function=len),))
    made = tiny(tmp_path, method=PPO(), rollout=Rollout(rewards=rewards, max_new_tokens=8))
    monkeypatch.setattr(pretrained, "load", None)
    critic = model_directory(tmp_path / "critic", vocab_size=284)  # of 285 that the tokenizer has
    model = dataclasses.replace(made.model, critic_name_or_path=str(critic))
    made = dataclasses.replace(made, model=model)
    with pytest.raises(BadInput, match=r"^model.critic_name_or_path: expected a model with a row "
                       r"for each of the 285 ids of .*; got 284 rows in "):  # fmt: skip
        jobs.train(made, quiet=True)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    shutil.rmtree(critic)
    model_directory(critic, vocab_size=285)
    assert len(Run(made, quiet=True).decoders) == 2
