"""A run that is started again in its own folder: what it adds there, and what it finds missing."""

import dataclasses
import shutil

import pytest

from alignax import jobs
from alignax.config import Evaluation
from alignax.rerun import compare
from alignax.train.loop import Loop
from tests.test_run import held_out, lines
from tests.tiny_model import experiment as tiny

QUIET = Evaluation(num_prompts=0)


def nothing_held_out(folder, **changes):
    made = tiny(folder, evaluation=QUIET, **changes)
    return dataclasses.replace(made, data=dataclasses.replace(made.data, eval=None))


def steps(output):
    return [line["step"] for line in lines(output / "metrics.jsonl")]


@pytest.fixture(scope="module")
def unmeasured(tmp_path_factory):
    """A finished run with nothing held out, and what made it."""
    folder = tmp_path_factory.mktemp("unmeasured")
    made = nothing_held_out(folder, loop=Loop(batch_size=8, max_steps=3, save_steps=1, keep=9))
    jobs.train(made, quiet=True)
    return folder / "run", made


def test_where_nothing_is_held_out_only_updates_have_lines_however_often_it_is_started(unmeasured):
    output, made = unmeasured
    before = (output / "metrics.jsonl").read_bytes()
    assert steps(output) == [1, 2, 3]
    jobs.train(made, quiet=True)
    assert (output / "metrics.jsonl").read_bytes() == before


def test_a_run_resumed_where_an_evaluation_was_due_and_measured_nothing_has_the_same_log(tmp_path):
    loop = Loop(batch_size=8, max_steps=3, eval_steps=2, save_steps=1, keep=9)
    made, output = nothing_held_out(tmp_path, loop=loop), tmp_path / "run"
    jobs.train(made, quiet=True)
    before = (output / "metrics.jsonl").read_bytes()
    shutil.rmtree(output / "checkpoint-3")
    jobs.train(made, quiet=True)  # goes on from step 2, at which one was due
    assert (output / "metrics.jsonl").read_bytes() == before


def test_a_log_with_more_lines_is_told_by_the_step_of_the_first_of_them(unmeasured, tmp_path):
    output, _ = unmeasured
    other = tmp_path / "run"
    shutil.copytree(output, other)
    log = other / "metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:1]))
    found = compare(output, other)
    assert (found.lines, found.first) == (1, (2, "lines of metrics", 3, 1))
    assert compare(other, output).first == (2, "lines of metrics", 1, 3)
    log.unlink()
    assert compare(output, other).first == (1, "lines of metrics", 3, 0)


def test_the_empty_lines_of_earlier_versions_are_no_difference(unmeasured, tmp_path):
    output, _ = unmeasured
    other = tmp_path / "run"
    shutil.copytree(output, other)
    log = other / "metrics.jsonl"
    log.write_text('{"step": 0}\n' + log.read_text() + '{"step": 3}\n')
    found = compare(other, output)
    assert (found.lines, found.first) == (3, None)


def test_a_finished_run_whose_log_is_gone_measures_its_end_again(tmp_path):
    made = tiny(tmp_path, loop=Loop(batch_size=8, max_steps=2), evaluation=QUIET)
    jobs.train(made, quiet=True)
    output = tmp_path / "run"
    last = held_out(output)[2]
    (output / "metrics.jsonl").unlink()
    jobs.train(made, quiet=True)
    assert held_out(output) == {2: last}
