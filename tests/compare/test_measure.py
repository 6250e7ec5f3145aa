"""Answers of a finished run are read back as they were, whatever is in them."""

import dataclasses
import json
import pathlib

import pytest

from alignax import Data, Function, jobs
from alignax.compare import measure, worker
from alignax.compare.cells import Cell
from alignax.compare.peaks import Peaks
from alignax.core.errors import BadInput
from alignax.run import Run
from alignax.train.loop import Loop
from tests.compare.test_settings import made_in, refused
from tests.data.test_json_lines import ENDS
from tests.tiny_model import experiment as tiny


def length(completions, **_):
    return [float(len(text)) for text in completions]


@pytest.mark.parametrize("quiet", [True, False], ids=["quiet", "with its table of answers"])
def test_answers_with_ends_of_lines_in_them_are_counted_as_one(quiet, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "decode_all", lambda run, ids: [f"a{ENDS}b"] * len(ids))
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


def test_a_gold_reward_that_counts_tokens_is_refused_and_not_given_none():
    count = Function(function=lambda completion_ids: [float(len(ids)) for ids in completion_ids])
    with pytest.raises(BadInput, match="Texts of a file have no token ids"):
        measure.scored(count, ["p"], [["a", "bb"]], {})


def letters(prompts, completions, answer, **_):
    """Of the answer, how many are in the completion."""
    return [sum(x in text for x in a) for text, a in zip(completions, answer, strict=True)]


GOLD = Function(function=letters)


def test_the_gold_reward_is_given_the_columns_of_its_prompts(tmp_path):
    found = measure.scored(GOLD, ["p", "q"], [["a", "ab"], ["c", ""]], {"answer": ["ab", "c"]})
    assert found.tolist() == [[1, 2], [1, 0]]
    made = tiny(tmp_path, loop=Loop(batch_size=8, max_steps=1, eval_steps=1))
    with_answers(made.data.eval)
    evaluation = dataclasses.replace(
        made.evaluation, prompts=made.data.eval, num_prompts=8, answers="always"
    )
    made = dataclasses.replace(made, evaluation=evaluation)
    jobs.train(made, quiet=True)
    (first, _) = measure.rows(Run(made, quiet=True), dict.fromkeys(("gold", "proxy"), GOLD))
    expected = [sum(x in text for x in str(i)) for i, text in enumerate(first["texts"])]
    assert first["text_gold"] == expected


def with_answers(path, answer=str):
    path = pathlib.Path(path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [row | {"answer": answer(i)} for i, row in enumerate(rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_labels_are_judged_with_the_columns_of_their_rows(tmp_path):
    path = tmp_path / "pairs.jsonl"
    pairs = [("ab", "a", "ab"), ("c", "a", "c"), ("a", "c", "c")]
    rows = [dict(zip(("chosen", "rejected", "answer"), x, strict=True)) for x in pairs]
    path.write_text("".join(json.dumps({"prompt": "p"} | row) + "\n" for row in rows))
    # ab has both letters of its answer and a one; c has its own; a has none of c, and c has.
    assert measure.labels(Data(train=str(path)), GOLD) == {
        "told_apart": 3, "wrong": 1, "own_told_apart": 3, "own_wrong": 1,
    }  # fmt: skip


def test_a_gold_reward_does_not_judge_a_part_of_an_answer(tmp_path):
    answer = {"role": "assistant", "content": "a", "reasoning_content": "So."}
    row = {"prompt": [{"role": "user", "content": "p"}], "chosen": [answer], "rejected": "b"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(BadInput, match=r"pairs.jsonl:1: .* all text.* with reasoning_content"):
        measure.labels(Data(train=str(tmp_path / "pairs.jsonl")), Function(function=length))


def test_a_gold_reward_without_its_column_is_refused_before_anything_is_trained(tmp_path):
    made = dataclasses.replace(made_in(tmp_path), gold=GOLD)
    files = [pathlib.Path(x) for x in (made.base.data.train, made.test)]
    for path in files:
        with pytest.raises(BadInput) as error:
            worker.run(made, Cell(purpose="proxy"), tmp_path, Peaks())
        assert str(error.value).startswith(
            f"{path}: rewards: letters: expected columns for the arguments of letters: answer; got "
            "prompts, completions and the columns chosen, rejected.\n    Add the "
        )
        assert not (tmp_path / "cells").exists()
        with_answers(path)
    measure.check(made)


def test_an_answer_that_cannot_be_judged_is_not_to_be_masked():
    with pytest.raises(BadInput) as error:
        measure.scored(GOLD, ["p"], [["a"]], {"answer": [None]})
    assert "got TypeError: " in str(error.value)
    assert str(error.value).endswith("\n    Mend the reward: a comparison leaves no answer out.")


@pytest.mark.parametrize(
    ("field", "value", "where"),
    [("gold", "rule.py:f", "gold"), ("measures", {"short": "rule.py:f"}, "measures.short")],
)
def test_a_known_reward_that_is_none_is_refused_when_the_comparison_is_read(
    field, value, where, tmp_path
):
    made = made_in(tmp_path)
    object.__setattr__(made, field, value)  # past the checks of these tests
    with pytest.raises(BadInput) as error:
        made.check()
    assert str(error.value) == (
        f"{where}: expected rewards; got 'rule.py:f' (str).\n"
        '    Write Function(function="rule.py:f").'
    )


@pytest.mark.parametrize("settings", [{"temperature": 0.7}, {"top_p": 0.95}], ids=str)
def test_answers_of_which_no_divergence_is_known_are_refused(settings, tmp_path):
    base = made_in(tmp_path).base
    sampler = dataclasses.replace(base.evaluation.sampler, **settings)
    evaluation = dataclasses.replace(base.evaluation, sampler=sampler)
    base = dataclasses.replace(base, evaluation=evaluation)
    said = refused(made_in(tmp_path), base=base)
    assert "base.evaluation.sampler: expected answers drawn from the policy itself" in said
