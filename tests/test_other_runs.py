"""An output_dir whose checkpoints are gone still holds a run, which no other one overwrites."""

import dataclasses
import json
import shutil

import pytest

from alignax import jobs, sweep
from alignax.config import Evaluation
from alignax.core.errors import BadInput
from alignax.generate.sampler import Sampler
from alignax.members import Sweep
from alignax.methods import DPO
from alignax.saved import first_difference, to_json
from alignax.train.loop import Loop
from tests.tiny_model import experiment as tiny

REMEDY = (
    "Give the new run another output_dir, or move what is there away: it has no checkpoint to go "
    "on from."
)


def short(folder, **changes):
    loop, evaluation = Loop(batch_size=8, max_steps=2), Evaluation(num_prompts=0)
    return tiny(folder, loop=loop, evaluation=evaluation, tensorboard=False, **changes)


def forget(output):
    for path in output.glob("checkpoint-*"):
        shutil.rmtree(path)


def contents(output):
    return {
        path.relative_to(output): path.read_bytes()
        for path in output.rglob("*")
        if path.is_file() and path.name != ".claim"
    }


@pytest.mark.parametrize(
    ("setting", "value"),
    [("num_prompts", 5), ("prompts", "other.jsonl"), ("sampler", Sampler(temperature=1.0))],
)
def test_what_was_measured_before_is_not_compared_with_another_measure_after(setting, value):
    old, new = (
        to_json(Evaluation(**x)) for x in ({"shown": 3}, {setting: value, "shown": 4})
    )  # fmt: skip
    different = first_difference({"evaluation": old}, {"evaluation": new})
    assert different is not None
    assert different[0].startswith(f"evaluation.{setting}")
    new[setting] = old[setting]
    assert first_difference({"evaluation": old}, {"evaluation": new}) is None


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """What a run has left beside its checkpoints, and what made it."""
    folder = tmp_path_factory.mktemp("left")
    made = short(folder)
    jobs.train(made, quiet=True)
    forget(folder / "run")
    return folder / "run", made


def test_another_run_is_refused_where_checkpoints_were_deleted_and_nothing_is_touched(left):
    output, made = left
    before = contents(output)
    with pytest.raises(BadInput) as error:
        jobs.train(dataclasses.replace(made, method=DPO(beta=0.25)), quiet=True)
    assert str(error.value) == (
        f"method.beta: expected the settings of the run that {output} holds: method.beta = 0.5; "
        f"got 0.25.\n    {REMEDY}"
    )
    with pytest.raises(BadInput, match="seed: expected the settings of the run"):
        jobs.train(dataclasses.replace(made, seed=1), quiet=True)
    with pytest.raises(BadInput, match="sweep: expected the settings of the run"):
        sweep.train(made, Sweep(seeds=2), quiet=True)
    assert contents(output) == before


def test_the_same_run_begins_anew_where_it_has_no_checkpoint(left, tmp_path):
    output, made = left
    again = tmp_path / "run"
    shutil.copytree(output, again)
    shutil.rmtree(again / "export")  # as one that was killed before its first save
    loop = dataclasses.replace(made.loop, logging_steps=2)  # what changes no number may differ
    jobs.train(dataclasses.replace(made, output_dir=str(again), loop=loop), quiet=True)
    weights = "export/model.safetensors"
    assert (again / weights).read_bytes() == (output / weights).read_bytes()


def test_a_run_that_ended_before_it_learnt_anything_may_be_mended(left, tmp_path):
    """As one of whom the first update asked for another dtype, or that ran out of memory."""
    output, made = left
    other = tmp_path / "run"
    shutil.copytree(output, other)
    shutil.rmtree(other / "export")
    lines = (other / "metrics.jsonl").read_text().splitlines(keepends=True)
    begun = [line for line in lines if json.loads(line)["step"] == 0]
    (other / "metrics.jsonl").write_text("".join(begun) + lines[-1][:9])  # cut off by the end
    changed = dataclasses.replace(made, method=DPO(beta=0.25), output_dir=str(other))
    jobs.train(changed, quiet=True)
    assert (other / "export").is_dir()


@pytest.mark.parametrize("kept", ["metrics.jsonl", "export"])
def test_a_run_that_left_no_word_of_its_settings_is_refused_too(kept, left, tmp_path):
    output, made = left
    other = tmp_path / "run"
    shutil.copytree(output, other)
    for path in other.iterdir():
        if path.name != kept:
            path.unlink() if path.is_file() else shutil.rmtree(path)
    with pytest.raises(BadInput) as error:
        jobs.train(dataclasses.replace(made, output_dir=str(other)), quiet=True)
    assert str(error.value) == (
        f"{other}: expected a folder in which no other run has left anything; got {kept}, and "
        f"neither a checkpoint nor card.json in {other}.\n"
        "    Give the new run another output_dir, or move what is there away."
    )


def test_a_sweep_without_a_checkpoint_begins_anew_and_another_one_is_refused(tmp_path):
    made, grid = short(tmp_path), {"method.beta": (0.1, 0.5)}
    sweep.train(made, Sweep(grid=grid), quiet=True)
    log = tmp_path / "run" / "metrics.jsonl"
    before = log.read_bytes()
    forget(tmp_path / "run")
    # Of other members: of one more, and of the same with another learning rate.
    with pytest.raises(BadInput, match=r"neither a checkpoint nor card.json in .*/beta=0.9/seed=0"):
        sweep.train(made, Sweep(grid={"method.beta": (0.1, 0.9)}), quiet=True)
    faster = dataclasses.replace(made, optim=dataclasses.replace(made.optim, learning_rate=0.1))
    with pytest.raises(BadInput, match=r"optim.learning_rate: expected the settings of the run"):
        sweep.train(faster, Sweep(grid=grid), quiet=True)
    with pytest.raises(BadInput, match=r"neither a checkpoint nor card.json"):
        jobs.train(made, quiet=True)  # one run in the sweep's folder
    assert log.read_bytes() == before
    sweep.train(made, Sweep(grid=grid), quiet=True)
    assert log.read_bytes() == before
