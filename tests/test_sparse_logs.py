"""Logs with a line every so many updates: what was drawn between two lines is in the second."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from alignax import jobs
from alignax.methods import GRPO
from alignax.train.unlogged import Unlogged
from tests.test_online_runs import setup
from tests.test_run import updates

# Of draws, which are the same however often they are logged.
MEANS = ("reward", "completions/mean_length", "rewards/share_of_even_ids/mean")
COUNTS = ("num_generated_tokens", "prompts_drawn", "groups_kept")


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """Five updates, a line each, and what made them: two drawn for at a time, or one."""
    folder, found = tmp_path_factory.mktemp("dense"), {}
    for refresh in (1, 2):
        made = setup(
            folder, GRPO(num_samples=2, beta=0.0, refresh=refresh), loop={"max_steps": 5},
            output_dir=str(folder / f"run-{refresh}"),
        )  # fmt: skip
        data = dataclasses.replace(made.data, eval=None)
        found[refresh] = dataclasses.replace(made, data=data)
        jobs.train(found[refresh], quiet=True)
    return folder, found


def sparse(dense, refresh, every, name):
    folder, made = dense
    loop = dataclasses.replace(made[refresh].loop, logging_steps=every)
    output = folder / f"sparse-{refresh}-{every}-{name}"
    return dataclasses.replace(made[refresh], output_dir=str(output), loop=loop), output


def test_no_drawing_is_lost_where_lines_are_fewer_than_updates(dense):
    """Drawings are those of updates 1, 3 and 5; lines are those of 2, 4 and 5."""
    made, output = sparse(dense, 2, 2, "whole")
    jobs.train(made, quiet=True)
    each = updates(dense[0] / "run-2")
    assert ["prompts_drawn" in line for line in each] == [True, False, True, False, True]
    found = updates(output)
    assert [line["step"] for line in found] == [2, 4, 5]
    for name in (*MEANS, *COUNTS):
        assert [line[name] for line in found] == [each[i][name] for i in (0, 2, 4)], name
    assert [line["loss"] for line in found] == [each[i]["loss"] for i in (1, 3, 4)]


def test_several_drawings_between_two_lines_are_one_mean_and_their_counts_add_up(dense):
    """Every update is drawn for; lines are those of 3 and 5."""
    made, output = sparse(dense, 1, 3, "whole")
    jobs.train(made, quiet=True)
    each, found = updates(dense[0] / "run-1"), updates(output)
    assert [line["step"] for line in found] == [3, 5]
    for line, part in zip(found, (each[:3], each[3:]), strict=True):
        for name in MEANS:
            np.testing.assert_allclose(line[name], np.mean([x[name] for x in part]), rtol=1e-6)
        for name in COUNTS:
            assert line[name] == sum(x[name] for x in part)
        longest = max(x["completions/max_length"] for x in part)
        assert line["completions/max_length"] == longest


def test_a_run_stopped_between_two_lines_has_the_log_of_an_unbroken_one(dense):
    made, output = sparse(dense, 1, 3, "stopped")
    jobs.train(made, quiet=True)
    for stopped in (1, 2, 4):
        again = output.with_name(f"{output.name}-{stopped}")
        shutil.copytree(output, again)
        for path in again.glob("checkpoint-*"):
            if int(path.name.split("-")[1]) > stopped:
                shutil.rmtree(path)
        record = json.loads((again / f"checkpoint-{stopped}" / "alignax.json").read_text())
        assert len(record["position"]["unlogged"]) == stopped % 3  # drawings since line 3, or none
        jobs.train(dataclasses.replace(made, output_dir=str(again)), quiet=True)
        assert (again / "metrics.jsonl").read_bytes() == (output / "metrics.jsonl").read_bytes()


def test_one_drawing_is_logged_to_the_bit_and_nothing_is_held_afterwards():
    held, drawing = Unlogged(), {"reward": -0.0, "num_generated_tokens": 7.0}
    held.add({})
    held.add(drawing)
    assert str(held.taken()) == str(drawing)  # the sign of 0 too
    assert (held.taken(), held.position()) == ({}, {})
