"""Room that a run asks for before it begins: on the disk, and for answers to held-out prompts."""

import dataclasses
import json
import math
import pathlib
import shutil

import jax
import pytest

from alignax import jobs, measuring
from alignax.config import Evaluation
from alignax.core.errors import BadInput
from alignax.generate.sampler import Sampler
from alignax.methods import GRPO
from alignax.run import Run
from alignax.train.loop import Loop
from tests.test_online_runs import setup
from tests.tiny_model import experiment as tiny


@pytest.mark.parametrize(("there", "fit"), [(0, 3), (1, 2), (2, 1), (5, 1)])
def test_room_is_asked_for_checkpoints_that_are_not_there_and_one_at_least(
    there, fit, tmp_path, monkeypatch
):
    """Two are kept and a third is written beside them."""
    made = tiny(tmp_path, loop=Loop(batch_size=8, max_steps=6, keep=2))
    for step in range(there):
        (tmp_path / "run" / f"checkpoint-{step}").mkdir(parents=True)
    run = Run(made, quiet=True)
    # Parameters and two moments of 4 bytes.
    size = 12 * sum(math.prod(x.shape) for x in jax.tree.leaves(run.trained[0]))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=fit * size))
    jobs.begin(run)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=fit * size - 1))
    with pytest.raises(BadInput, match=f"expected {fit * size:,} bytes of free disk space"):
        jobs.begin(run)


def long_row(path, number, row):
    """A row in the middle of a file whose prompt has 300 tokens or more, of the model's 512."""
    rows = path.read_text().splitlines()
    rows[number] = json.dumps(row | {"prompt": "Q" * 300})
    path.write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize("sampled", [False, True])
def test_a_held_out_prompt_without_room_for_its_answer_is_refused_before_anything_is_computed(
    sampled, tmp_path, monkeypatch
):
    """A model of 512 positions, answers of 256 tokens: prompts may have 256."""
    evaluation = Evaluation(num_prompts=4, sampler=Sampler(max_new_tokens=256))
    if sampled:  # its own samples are shorter
        made = setup(tmp_path, GRPO(), rollout={"max_new_tokens": 8}, evaluation=evaluation)
    else:
        made = tiny(tmp_path, evaluation=evaluation)
    limits = dataclasses.replace(made.data.limits, max_length=480)
    made = dataclasses.replace(made, data=dataclasses.replace(made.data, limits=limits))
    answers = {} if sampled else {"chosen": "yes", "rejected": "no"}
    assert made.data.eval is not None
    long_row(pathlib.Path(made.data.eval), 2, answers)
    monkeypatch.setattr(Run, "initial_params", lambda run: pytest.fail("it has begun"))
    with pytest.raises(BadInput) as error:
        jobs.train(made, quiet=True)
    told = str(error.value)
    assert told.startswith(
        "test.jsonl:3: expected held-out prompts of at most 256 tokens: the model has "
        "512 positions, and evaluation.sampler.max_new_tokens are 256; got 3"
    )
    assert told.endswith(
        "Lower evaluation.sampler.max_new_tokens; or set data.limits.max_prompt_length, by which "
        "longer ones are left out and counted."
    )
    limits = dataclasses.replace(limits, max_prompt_length=256)
    data = dataclasses.replace(made.data, limits=limits, max_dropped_share=0.2)  # 1 of 8
    left = measuring.sampled(Run(dataclasses.replace(made, data=data), quiet=True))
    assert left is not None
    assert len(left.prompts) == 4
    # Those that are not answered need no room.
    few = dataclasses.replace(evaluation, num_prompts=2)
    assert measuring.sampled(Run(dataclasses.replace(made, evaluation=few), quiet=True)) is not None
