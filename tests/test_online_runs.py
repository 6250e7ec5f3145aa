"""Whole runs that sample what they learn from: they learn, resume, and run any method."""

import dataclasses
import functools
import json
import pathlib
import shutil
import signal

import jax
import numpy as np
import pytest

from alignax import jobs
from alignax.core.errors import BadInput
from alignax.core.records import Prompt
from alignax.generate.reward_functions import Function
from alignax.generate.rewards import Rewards
from alignax.generate.rollout import Rollout
from alignax.generate.server import Server
from alignax.methods import DAPO, DPO, GRPO, KTO, PPO, RAFT, RRHF, RejectionSampling
from alignax.train.compilations import Compilations
from alignax.train.loop import Interrupted, Loop
from alignax.train.sharding import Mesh
from tests.generate.servers import Running
from tests.run_files import lines, updates
from tests.test_offline_runs import checkpoints
from tests.tiny_model import experiment as tiny
from tests.tiny_model import write_rows


def share_of_even_ids(completion_ids, **_):
    """A reward that any policy can learn: tokens with even numbers."""
    return [sum(i % 2 == 0 for i in ids) / len(ids) for ids in completion_ids]


def nothing(completions, **_):
    return [1.0] * len(completions)


def setup(folder, method, reward=share_of_even_ids, *, loop=None, rollout=None, **changes):
    made = tiny(
        folder,
        method=method,
        mesh=changes.pop("mesh", Mesh(data=1)),
        loop=Loop(**({"batch_size": 8, "max_steps": 4, "save_steps": 1, "keep": 9} | (loop or {}))),
        rollout=Rollout(
            rewards=Rewards(parts=(Function(function=reward),)),
            **({"max_new_tokens": 8, "slots": 64, "kept": 2} | (rollout or {})),
        ),
        **changes,
    )
    for path, count in ((made.data.train, 24), (made.data.eval, 8)):
        write_rows(pathlib.Path(path), count, Prompt)
    return made


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """A run of ten rounds, what was compiled for it, and the shapes of its updates' arrays."""
    folder, shapes, make = tmp_path_factory.mktemp("grpo"), [], jobs.make_compiled_step

    def making(*arguments):
        step = make(*arguments)

        def noting(state, *arrays):
            shapes.append(tuple(x.shape for x in jax.tree.leaves(arrays)))
            return step(state, *arrays)

        return noting

    with pytest.MonkeyPatch.context() as patch, Compilations() as compiled:
        patch.setattr(jobs, "make_compiled_step", making)
        jobs.train(setup(folder, GRPO(num_samples=8, beta=0.0), loop={"max_steps": 10}), quiet=True)
    return folder / "run", compiled, shapes


@pytest.fixture(scope="module")
def learnt(counted):
    return counted[0]


def test_reward_rises_on_its_own_samples_and_on_held_out_prompts(learnt):
    rewards = [line["reward"] for line in updates(learnt)]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.1
    found = [line["eval_sampled/reward"] for line in lines(learnt / "metrics.jsonl")
             if "eval_sampled/reward" in line]  # fmt: skip
    assert len(found) == 2
    assert found[1] > found[0]


def test_sampler_and_trainer_agree_to_rounding_at_every_update(learnt):
    assert all(line["sampling/logp_difference"] < 1e-5 for line in updates(learnt))


def test_rounds_compile_one_update_for_each_shape_of_the_ladder_that_they_meet(counted):
    output, compiled, shapes = counted
    assert len(shapes) == 10
    assert compiled.programs["update"] == len(set(shapes)) <= 3
    told = [line["programs_compiled"] for line in lines(output / "timings.jsonl")]
    assert told[-2:] == [0, 0]  # nothing is new any more


@pytest.mark.parametrize(("shapes", "most"), [("longest", 1), ("halves", 2)])
def test_rounds_of_few_shapes_compile_few_updates_and_learn_the_same(
    tmp_path, learnt, shapes, most
):
    with Compilations() as compiled:
        method = GRPO(num_samples=8, beta=0.0)
        rollout, loop = {"shapes": shapes}, {"max_steps": 10}
        jobs.train(setup(tmp_path, method, rollout=rollout, loop=loop), quiet=True)
    assert compiled.programs["update"] <= most  # none, where another test has left it in memory
    found, fitted = (updates(x) for x in (tmp_path / "run", learnt))
    for name in ("loss", "reward", "grad_norm", "num_tokens"):
        np.testing.assert_allclose(
            [x[name] for x in found], [x[name] for x in fitted], rtol=1e-4, atol=1e-6, err_msg=name
        )


def test_samples_are_kept_as_json_lines_with_their_rewards(learnt):
    rows = lines(learnt / "rollouts.jsonl")
    assert [row["step"] for row in rows] == [s for s in range(1, 11) for _ in range(2)]
    assert all(len(row["completions"]) == len(row["rewards"]) == 8 for row in rows)
    assert {row["prompt"].split("?")[0][:2] for row in rows} == {"Is"}


ROUNDS = {
    "ppo": (PPO(refresh=4, epochs=2), {}),
    "best of all rounds": (RejectionSampling(num_samples=4, refresh=2), {}),
    "pairs of samples": (DPO(beta=0.5), {"refresh": 3, "num_samples": 4, "replay": "all"}),
}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Trains a case of `ROUNDS` once: to be looked at, and copied."""

    @functools.cache
    def trained(case):
        method, rollout = ROUNDS[case]
        folder = tmp_path_factory.mktemp("unbroken")
        made = setup(folder, method, rollout=rollout, loop={"max_steps": 5})
        jobs.train(made, quiet=True)
        return made, pathlib.Path(made.output_dir)

    return trained


@pytest.mark.parametrize("case", ROUNDS)
def test_a_run_stopped_within_a_round_and_resumed_equals_an_unbroken_one(case, unbroken, tmp_path):
    made, whole = unbroken(case)
    for stopped in (1, 3):
        again = tmp_path / f"again-{stopped}"
        shutil.copytree(whole, again)
        for path in checkpoints(again):
            if int(path.name.split("-")[1]) > stopped:
                shutil.rmtree(path)
        shutil.rmtree(again / "export")
        jobs.train(dataclasses.replace(made, output_dir=str(again)), quiet=True)
        for name in ("metrics.jsonl", "rollouts.jsonl", "export/model.safetensors"):
            assert (again / name).read_bytes() == (whole / name).read_bytes()


@pytest.fixture(scope="module")
def rejection(tmp_path_factory):
    """Three rounds that each meet the best answers of all before; nothing is held out."""
    folder = tmp_path_factory.mktemp("rejection")
    made = setup(folder, RejectionSampling(num_samples=4, refresh=3),
                 loop={"max_steps": 8, "keep": 1})  # fmt: skip
    made = dataclasses.replace(made, data=dataclasses.replace(made.data, eval=None))
    jobs.train(made, quiet=True)
    return made


def test_a_round_is_kept_as_long_as_a_checkpoint_goes_on_from_it(rejection, tmp_path):
    """Of a run asked to stop within its second round, while the first one's best are met again."""
    whole, calls = pathlib.Path(rejection.output_dir), []

    def reward(completion_ids, **_):
        calls.append(1)
        if len(calls) == 2:  # the draws of step 4
            signal.raise_signal(signal.SIGTERM)
        return share_of_even_ids(completion_ids)

    # What a resumed run is compared by, and what metrics are called by.
    reward.__qualname__ = reward.__name__ = share_of_even_ids.__name__
    rewards = Rewards(parts=(Function(function=reward),))
    broken = dataclasses.replace(
        rejection,
        rollout=dataclasses.replace(rejection.rollout, rewards=rewards),
        output_dir=str(tmp_path / "broken"),
    )
    folder = tmp_path / "broken" / "rounds"
    with pytest.raises(Interrupted):
        jobs.train(broken, quiet=True)
    assert [path.name for path in checkpoints(tmp_path / "broken")] == ["checkpoint-4"]
    assert [path.name for path in folder.iterdir()] == ["round-000001.npz"]
    (folder / ".round-000001.npz.tmp").write_bytes(b"what a kill would have left")
    jobs.train(broken, quiet=True)
    assert [path.name for path in folder.iterdir()] == ["round-000002.npz"]
    for name in ("metrics.jsonl", "rollouts.jsonl", "export/model.safetensors"):
        assert (tmp_path / "broken" / name).read_bytes() == (whole / name).read_bytes()


def test_ppo_as_llama_2s_last_round_begins_from_what_rejection_sampling_left(rejection, tmp_path):
    left = pathlib.Path(rejection.output_dir) / "export"
    last = dataclasses.replace(
        rejection,
        method=PPO(refresh=2, epochs=1, beta=0.1, entropy_weight=0.01),
        model=dataclasses.replace(rejection.model, model_name_or_path=str(left)),
        loop=dataclasses.replace(rejection.loop, max_steps=2),
        output_dir=str(tmp_path / "ppo"),
    )
    jobs.train(last, quiet=True)
    first, second = updates(tmp_path / "ppo")
    # Policy and reference are both what was left, and so is what samples: the distance is of the
    # sampler's own log-probabilities (tests/generate/test_rounds.py), and not of what is learnt by.
    assert first["kl"] == pytest.approx(0.0, abs=1e-5)
    assert first["sampling/logp_difference"] < 1e-5
    assert 0.0 < first["entropy"] < np.log(320)  # of the words that there are
    assert np.isfinite(second["loss"])
    assert (tmp_path / "ppo" / "export" / "model.safetensors").read_bytes() != (
        left / "model.safetensors"
    ).read_bytes()


def test_a_round_that_is_lost_is_missed_by_name(unbroken, tmp_path):
    made, whole = unbroken("ppo")
    shutil.copytree(whole, tmp_path / "run")
    made = dataclasses.replace(made, output_dir=str(tmp_path / "run"))
    for path in checkpoints(tmp_path / "run")[1:]:  # what is left is in the middle of a round
        shutil.rmtree(path)
    for path in (tmp_path / "run" / "rounds").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadInput, match=r"a whole checkpoint; got .*/rounds/round-000000.npz: "):
        jobs.train(made, quiet=True)


@pytest.mark.parametrize("method", [RRHF(), KTO(beta=0.5)], ids=lambda m: type(m).__name__)
def test_a_method_for_data_runs_on_samples(method, tmp_path):
    made = setup(tmp_path, method, rollout={"num_samples": 4}, loop={"max_steps": 2})
    jobs.train(made, quiet=True)
    found = updates(tmp_path / "run")
    assert all(line["groups_kept"] > 0 for line in found)
    assert all(np.isfinite(line["loss"]) for line in found)


def test_devices_and_micro_batches_change_nothing_but_rounding(tmp_path):
    one = setup(tmp_path, GRPO(num_samples=4, beta=0.1), loop={"max_steps": 2})
    jobs.train(one, quiet=True)
    many = dataclasses.replace(
        one,
        mesh=Mesh(data=2, fsdp=2, tensor=2),
        loop=dataclasses.replace(one.loop, gradient_accumulation_steps=2),
        output_dir=str(tmp_path / "many"),
    )
    jobs.train(many, quiet=True)
    for a, b in zip(updates(tmp_path / "many"), updates(tmp_path / "run"), strict=True):
        for name in ("loss", "reward", "grad_norm"):
            assert a[name] == pytest.approx(b[name], abs=2e-3)


def test_a_server_that_dies_stops_the_run_cleanly_and_with_another_it_goes_on(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    loop = {"max_steps": 3, "save_steps": None}
    made = setup(tmp_path, RAFT(num_samples=2, refresh=1, epochs=1), loop=loop)
    made = dataclasses.replace(made, data=dataclasses.replace(made.data, template="none"))

    def served(output, after=99):
        """The run, answered by a server that dies once it has answered so many rounds."""
        running = Running("tests.generate.sampling_server", str(tmp_path / "model"))
        rounds = []

        def reward(completion_ids, **_):
            rounds.append(1)
            if len(rounds) == after:
                running.stop()
            return share_of_even_ids(completion_ids)

        # The name is what a resumed run is compared by.
        reward.__qualname__ = "reward"
        server = Server(url=running.url, model="tiny", retries=1, backoff=0.1, parallel=2)
        rollout = dataclasses.replace(
            made.rollout, server=server, rewards=Rewards(parts=(Function(function=reward),))
        )
        try:
            jobs.train(
                dataclasses.replace(made, rollout=rollout, output_dir=str(tmp_path / output)),
                quiet=True,
            )
        finally:
            running.stop()

    served("whole")
    # Held-out answers before the first update come from our own sampler, and are round one.
    with pytest.raises(BadInput, match=r"run the same command again"):
        served("broken", after=3)
    assert [line["step"] for line in updates(tmp_path / "broken")] == [1, 2]
    assert [path.name for path in checkpoints(tmp_path / "broken")] == ["checkpoint-2"]
    served("broken")
    for name in ("metrics.jsonl", "rollouts.jsonl", "export/model.safetensors"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


# --- Bad input


def test_a_method_that_samples_needs_a_reward(tmp_path):
    made = dataclasses.replace(setup(tmp_path, GRPO()), rollout=Rollout())
    with pytest.raises(BadInput, match="GRPO learns from its own samples"):
        jobs.train(made, quiet=True)


def test_a_methods_own_number_of_samples_is_set_at_the_method(tmp_path):
    made = setup(tmp_path, GRPO(), rollout={"num_samples": 1})
    with pytest.raises(BadInput, match=r"method.num_samples to say how many, for GRPO.*\n.*Set"):
        jobs.train(made, quiet=True)


def test_prompts_that_leave_no_room_to_answer_are_refused(tmp_path):
    made = setup(tmp_path, GRPO(), rollout={"max_new_tokens": 256})
    with pytest.raises(BadInput, match=r"expected data.limits.max_length above rollout.max_new"):
        jobs.train(made, quiet=True)


def test_rewards_that_teach_nothing_are_reported_with_what_to_do(tmp_path):
    made = setup(tmp_path, DAPO(num_samples=2), nothing, rollout={"max_draws": 2})
    with pytest.raises(BadInput, match=r"none in 2 drawings of \d+ prompts: \d+ nothing to learn"):
        jobs.train(made, quiet=True)


def test_a_reward_that_is_no_number_stops_the_run_with_the_text(tmp_path):
    def broken(completions, **_):
        return [float("nan")] * len(completions)

    made = setup(tmp_path, GRPO(num_samples=2), broken)
    with pytest.raises(BadInput, match=r"nan for the completion '.*' to the prompt 'Is \d+ a"):
        jobs.train(made, quiet=True)
    assert json.loads((tmp_path / "train.jsonl").read_text().splitlines()[0])
