"""Answers of a finished run are read back as they were, whatever is in them."""

import dataclasses

import pytest

from alignax import Function, jobs
from alignax.compare import measure
from alignax.run import Run
from alignax.train.loop import Loop
from tests.compare.test_settings import made_in, refused
from tests.data.test_json_lines import ENDS
from tests.tiny_model import experiment as tiny


def length(completions, **_):
    return [float(len(text)) for text in completions]


@pytest.mark.parametrize("quiet", [True, False], ids=["quiet", "with its table of answers"])
def test_answers_with_ends_of_lines_in_them_are_counted_as_one(quiet, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "decode", lambda run, ids: f"a{ENDS}b")
    made = tiny(tmp_path, loop=Loop(batch_size=8, max_steps=1, eval_steps=1))
    made = dataclasses.replace(
        made,
        evaluation=dataclasses.replace(
            made.evaluation, prompts=made.data.eval, num_prompts=8, answers="always"
        ),
    )
    jobs.train(made, quiet=quiet)
    rule = Function(function=length)
    rows = measure.rows(Run(made, quiet=True), dict.fromkeys(("gold", "proxy"), rule))
    assert [row["step"] for row in rows] == [0, 1]
    assert rows[1]["prompts"]["gold"] == [2.0 + len(ENDS)] * 8
    assert rows[1]["texts"] == [f"a{ENDS}b"] * 8


@pytest.mark.parametrize("settings", [{"temperature": 0.7}, {"top_p": 0.95}], ids=str)
def test_answers_of_which_no_divergence_is_known_are_refused(settings, tmp_path):
    base = made_in(tmp_path).base
    sampler = dataclasses.replace(base.evaluation.sampler, **settings)
    evaluation = dataclasses.replace(base.evaluation, sampler=sampler)
    base = dataclasses.replace(base, evaluation=evaluation)
    said = refused(made_in(tmp_path), base=base)
    assert "base.evaluation.sampler: expected answers drawn from the policy itself" in said
