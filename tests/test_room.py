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
