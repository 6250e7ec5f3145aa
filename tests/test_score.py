"""What is judged of a row, whatever its form, and what is not scored and counted instead."""

import json
import math

import numpy as np
import pytest

from alignax import score as score_module
from alignax.cli import main
from alignax.core.errors import BadInput
from alignax.core.records import Group, Message, Scored
from alignax.data.bad_rows import BadRow
from alignax.data.responses import last_answer, to_judge
from alignax.data.sources import load_records
from alignax.generate.scoring import Scorer
from alignax.score import score, score_by
from tests.generate.test_reward_models import SYSTEM, alone, reward_model
from tests.tiny import chatml_tokenizer
from tests.tiny_model import model_directory

USER, OTHER = Message("user", "2+2?"), Message("user", "And 3+3?")
FOUR, SIX = Message("assistant", "4"), Message("assistant", "6")


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    return reward_model(tmp_path_factory.mktemp("judge") / "one", chatml_tokenizer())


@pytest.fixture
def rule(tmp_path):
    """A function that tells what it is asked about, and gives each completion its length."""
    (tmp_path / "rule.py").write_text(
        "SEEN = []\n"
        "def rule(prompts, completions):\n"
        "    text = lambda x: x if isinstance(x, str) else [turn['content'] for turn in x]\n"
        f"    with open({str(tmp_path / 'seen')!r}, 'a') as file:\n"
        "        for prompt, completion in zip(prompts, completions):\n"
        "            print(text(prompt), text(completion), file=file)\n"
        "    return [len(str(text(one))) for one in completions]\n"
    )
    return f"{tmp_path}/rule.py:rule"


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def as_rows(*turns):
    return [turn.as_dict() for turn in turns]


@pytest.mark.parametrize(
    ("row", "prompt", "responses"),
    [
        ({"prompt": "p", "completions": ["x"]}, "p", ("x",)),
        ({"prompt": "p", "responses": ["x", ""]}, "p", ("x", "")),
        ({"prompt": "p", "completions": ["x", "y"], "scores": [1.0]}, "p", ("x", "y")),
        ({"prompt": "p", "completion": ""}, "p", ("",)),
        ({"prompt": "p", "response": "x", "completions": None}, "p", ("x",)),
        ({"prompt": "p", "chosen": "x", "rejected": "y"}, "p", ("x", "y")),
        # What an earlier judge has left is nothing to the next one.
        ({"prompt": "p", "chosen": "x", "rejected": "y", "score_chosen": math.nan,
          "score_rejected": 1.0, "margin": "wide"}, "p", ("x", "y")),
        ({"prompt": as_rows(USER), "completions": [""]}, (USER,), ((Message("assistant", ""),),)),
        ({"messages": as_rows(USER, FOUR, OTHER, SIX)}, (USER, FOUR, OTHER), ((SIX,),)),
        ({"messages": as_rows(USER, FOUR, OTHER)}, (USER,), ((FOUR, OTHER),)),
    ],
)  # fmt: skip
def test_one_response_or_more_are_judged_and_an_empty_one_too(row, prompt, responses):
    expected = Group(
        prompt=prompt, responses=responses, scores=(0.0,) * len(responses), origin="f:1"
    )
    assert to_judge(row, "f:1") == expected


@pytest.mark.parametrize(
    "row",
    [
        {"completions": [" 4", "6", ""]},
        {"completion": " 4"},
        {"chosen": " 4", "rejected": " 6"},
    ],
)
def test_a_dialogue_is_judged_as_it_is_learnt_from(row):
    row |= {"prompt": "\n\nHuman: 2+2?\n\nAssistant:"}
    group = to_judge(row, "f:1", chat=True)
    assert group.prompt == (USER,)
    assert group.responses[0] == (FOUR,)
    assert to_judge(row, "f:1").prompt == row["prompt"]
    for answers in ({"completions": ["4"]}, {"chosen": "4", "rejected": "6"}):
        told = {"prompt": "p", "tools": [{"name": "f"}], **answers}
        assert to_judge(told, "f:1", chat=True).prompt[0].tools == '[{"name": "f"}]'
        assert to_judge(told, "f:1").prompt == "p"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "completions": []},
         "f:1: expected at least one response in completions; got an empty list.\n"
         "    Remove the row, or set on_bad_row='drop'."),
        ({"prompt": "p", "completions": ["x", None]},
         "f:1: expected text in completions[1]; got null.\n"
         "    Fill it, remove the row, or set on_bad_row='drop'."),
    ],
)  # fmt: skip
def test_a_row_without_a_response_says_what_it_lacks(row, message):
    with pytest.raises(BadRow) as refused:
        to_judge(row, "f:1")
    assert str(refused.value) == message


def test_of_several_turns_the_last_answer_is_judged_after_all_that_comes_before():
    assert last_answer((USER,), (FOUR, OTHER, SIX, USER)) == ((USER, FOUR, OTHER), "6")
    assert last_answer((USER,), (FOUR, OTHER)) == ((USER,), "4")
    assert last_answer("p", "x") == ("p", "x")


@pytest.mark.parametrize(
    "more", ['{"reasoning_content": "So."}', '{"tool_calls": [{"name": "f"}]}']
)
def test_a_function_is_not_given_a_part_of_an_answer(more, rule, tmp_path):
    answer = FOUR._replace(more=more)
    rows = [{"prompt": as_rows(USER), "completion": as_rows(x)} for x in (answer, FOUR)]
    source = write(tmp_path / "in.jsonl", *rows)
    with pytest.raises(BadRow, match=r"in.jsonl:1: expected answers that are all text"):
        score_by(rule, source, tmp_path / "out.jsonl", quiet=True)
    score_by(rule, source, tmp_path / "out.jsonl", on_bad_row="drop", quiet=True)
    (kept,) = lines(tmp_path / "out.jsonl")
    assert kept["completion"] == as_rows(FOUR)
    # What comes before an answer is no part of it.
    earlier = {"prompt": as_rows(USER, answer, OTHER), "completion": as_rows(SIX)}
    score_by(rule, write(tmp_path / "in.jsonl", earlier), tmp_path / "earlier.jsonl", quiet=True)


def test_a_function_judges_the_text_that_is_trained_on(rule, tmp_path):
    source = write(
        tmp_path / "in.jsonl",
        {"messages": as_rows(USER, FOUR, OTHER, Message("assistant", "six"))},
        {"messages": as_rows(USER, FOUR, Message("user", "Thank you."))},
    )
    score_by(rule, source, tmp_path / "out.jsonl", quiet=True)
    assert (tmp_path / "seen").read_text().splitlines() == [
        "['2+2?', '4', 'And 3+3?'] ['six']",
        "['2+2?'] ['4']",
    ]
    records, _ = load_records(str(tmp_path / "out.jsonl"), Scored)
    assert [record.prompt for record in records] == [(USER, FOUR, OTHER), (USER,)]
    assert [row["score"] for row in lines(tmp_path / "out.jsonl")] == [7.0, 5.0]  # of "['six']"


def test_what_sample_writes_at_its_defaults_can_be_scored(rule, judge, tmp_path):
    model = model_directory(tmp_path / "model")
    source = write(tmp_path / "prompts.jsonl", {"prompt": "Is it?"}, {"prompt": "Is it not?"})
    answers = tmp_path / "answers.jsonl"
    main(["sample", str(model), "--data", source, "--to", str(answers), "--max-new-tokens", "4"])
    assert [len(row["completions"]) for row in lines(answers)] == [1, 1]
    for i, scorer in enumerate((rule, judge)):
        main(["score", scorer, "--data", str(answers), "--to", str(tmp_path / f"{i}.jsonl")])
        assert [len(row["scores"]) for row in lines(tmp_path / f"{i}.jsonl")] == [1, 1]


@pytest.mark.parametrize("template", ["chat", "none"])
def test_an_empty_response_is_scored_at_its_end(judge, tmp_path, template, monkeypatch):
    tokenizer = chatml_tokenizer()
    source = write(tmp_path / "in.jsonl", {"prompt": "Q", "completions": ["A", ""]})
    score(judge, source, tmp_path / "out.jsonl", template=template, quiet=True)
    before, end = "Q", "<|im_end|>"
    if template == "chat":
        before = (
            f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n"
            "<|im_start|>assistant\n"
        )
    expected = [
        alone(judge, tokenizer(before + text + end, add_special_tokens=False)["input_ids"],
              monkeypatch)[0]
        for text in ("A", "")
    ]  # fmt: skip
    (row,) = lines(tmp_path / "out.jsonl")
    np.testing.assert_allclose(row["scores"], expected, atol=2e-5)


def test_rows_with_a_defect_stop_the_work_or_are_left_out_and_counted(
    rule, judge, tmp_path, capsys
):
    source = write(
        tmp_path / "in.jsonl",
        {"prompt": "p", "completions": ["x"]},
        {"prompt": "p", "completions": []},
        {"prompt": "", "completions": ["x"]},
    )
    for scorer in (rule, judge):
        arguments = ["score", scorer, "--data", source, "--to", str(tmp_path / "out.jsonl")]
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        assert "in.jsonl:2: expected at least one response" in capsys.readouterr().err
        assert not (tmp_path / "out.jsonl").exists()
        main([*arguments, "--on-bad-row", "drop"])
        printed = " ".join(capsys.readouterr().out.split())
        assert "rows dropped: 1 no responses (in.jsonl:2); 1 empty field (in.jsonl:3)" in printed
        assert len(lines(tmp_path / "out.jsonl")) == 1
        (tmp_path / "out.jsonl").unlink()


def test_a_file_of_which_nothing_can_be_judged_is_refused(rule, tmp_path):
    source = write(tmp_path / "in.jsonl", {"prompt": "p", "completions": []})
    with pytest.raises(BadInput, match=r"at least one usable row; got none; dropped: 1 no resp"):
        score_by(rule, source, tmp_path / "out.jsonl", on_bad_row="drop", quiet=True)


def test_tokens_that_the_model_has_no_row_for_are_refused(tmp_path):
    tokenizer = chatml_tokenizer()
    directory = reward_model(tmp_path / "m", tokenizer)
    tokenizer.add_tokens([f"<added {i}>" for i in range(60)])  # behind its own 285, of 320 rows
    tokenizer.save_pretrained(directory)
    rows = [{"prompt": "p", "completion": f"<added {i}>"} for i in (34, 35)]
    source = write(tmp_path / "in.jsonl", *rows)
    with pytest.raises(BadInput, match=r"^in.jsonl:2: expected every token id within the model's "
                       r"vocabulary; got ids \[320\] for 320 rows: '<added 35>'"):  # fmt: skip
        score(directory, source, tmp_path / "out.jsonl", quiet=True)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_model_of_attributes_refuses_several_responses_wherever_they_stand(tmp_path):
    tokenizer = chatml_tokenizer()
    directory = reward_model(tmp_path / "two", tokenizer, outputs=2, labels=("wit", "depth"))
    source = write(
        tmp_path / "in.jsonl",
        {"prompt": "p", "completion": "x"},
        {"prompt": "p", "chosen": "x", "rejected": "y"},
    )
    with pytest.raises(BadInput) as refused:
        score(directory, source, tmp_path / "out.jsonl", quiet=True)
    assert str(refused.value) == (
        "in.jsonl:2: expected single responses, for a model of several attributes; got 2 to a "
        "prompt.\n    Give rows with prompt and completion."
    )


def test_a_length_above_the_models_positions_is_refused_before_the_work(judge, tmp_path):
    source = write(tmp_path / "in.jsonl", {"prompt": "p", "completion": "word " * 100})
    with pytest.raises(BadInput) as refused:
        score(judge, source, tmp_path / "out.jsonl", max_length=129)
    assert str(refused.value) == (
        "--max-length: expected a positive number, at most the model's 128; got 129.\n"
        "    Lower it, or leave it out."
    )


@pytest.mark.parametrize("arguments", ["completion_ids", "completion_ids, **others"])
def test_a_function_that_asks_for_token_ids_is_told_that_there_are_none(arguments, tmp_path):
    (tmp_path / "ids.py").write_text(
        f"def count({arguments}):\n    return map(len, completion_ids)"
    )
    source = write(tmp_path / "in.jsonl", {"prompt": "p", "completion": "x", "answer": "4"})
    with pytest.raises(BadInput) as refused:
        score_by(f"{tmp_path}/ids.py:count", source, tmp_path / "out.jsonl", quiet=True)
    assert str(refused.value) == (
        "rewards: count: expected columns for the arguments of count: completion_ids; got prompts, "
        "completions and the columns answer.\n    Texts of a file have no token ids: count in "
        "completions, or give the argument a default."
    )


def test_scores_are_written_as_the_shortest_decimals_of_their_float32(tmp_path):
    (tmp_path / "small.py").write_text(
        "def small(completions):\n    return [2e-8, 3e-8, 0.1, 1 / 3][: len(completions)]\n"
    )
    source = write(tmp_path / "in.jsonl", {"prompt": "p", "completions": ["a", "b", "c", "d"]})
    score_by(f"{tmp_path}/small.py:small", source, tmp_path / "out.jsonl", quiet=True)
    expected = '"scores": [2e-08, 3e-08, 0.1, 0.33333334]}'
    assert (tmp_path / "out.jsonl").read_text().strip().endswith(expected)


def test_a_models_scores_read_back_as_the_same_float32(judge, tmp_path, monkeypatch):
    tiny = np.array([2.0000001e-8], np.float32)
    monkeypatch.setattr(Scorer, "__call__", lambda self, groups, batch_size: iter([(0, 0, tiny)]))
    source = write(tmp_path / "in.jsonl", {"prompt": "p", "completion": "x"})
    score(judge, source, tmp_path / "out.jsonl", quiet=True)
    (row,) = lines(tmp_path / "out.jsonl")
    assert np.float32(row["score"]) == tiny[0]


def test_columns_that_are_replaced_are_counted(rule, judge, tmp_path, capsys):
    source = write(
        tmp_path / "in.jsonl",
        {"prompt": "p", "completion": "x", "score": 5},
        {"prompt": "p", "completion": "yy", "score": None},
        {"prompt": "p", "completions": ["x", "z"], "scores": [1.0, 2.0], "score": 7},
        {"prompt": "p", "completion": "zzz", "score": 4},
    )
    for scorer in (rule, judge):
        target = tmp_path / "out.jsonl"
        main(["score", scorer, "--data", source, "--to", str(target)])
        printed = capsys.readouterr().out.splitlines()
        assert [line for line in printed if line.startswith("replaced")] == [
            "replaced: score, which 2 of the rows had", "replaced: scores, which 1 of the rows had",
        ]  # fmt: skip
        assert lines(target)[2]["score"] == 7
        target.unlink()
    source = write(tmp_path / "new.jsonl", {"prompt": "p", "completion": "x"})
    main(["score", rule, "--data", source, "--to", str(target)])
    assert "replaced: " not in capsys.readouterr().out


@pytest.mark.parametrize("lost", [0, 1])  # rows that a kill in the middle of writing has not left
def test_scores_that_are_there_are_gone_on_from(lost, judge, tmp_path, monkeypatch, capsys):
    source = write(
        tmp_path / "in.jsonl",
        *({"prompt": f"Is {i}?", "completions": ["yes"] * (1 + i % 2)} for i in range(5)),
    )
    monkeypatch.setattr(score_module, "PORTION", 2)
    whole, target = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    score(judge, source, whole, quiet=True)
    work, asked = Scorer.__call__, []

    def scoring(self, groups, *, batch_size):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(groups))
        return work(self, groups, batch_size=batch_size)

    monkeypatch.setattr(Scorer, "__call__", scoring)
    words = ["score", judge, "--data", source, "--to", str(target)]
    with pytest.raises(SystemExit, match="130"):
        main(words)
    assert f"interrupted; 4 rows of {target} are kept: " in capsys.readouterr().err
    (left,) = tmp_path.glob(".out.jsonl.*.tmp")
    left.write_text("".join(left.read_text().splitlines(True)[: 4 - lost]))
    asked.clear()
    main(words)
    assert asked == ([2, 1] if lost else [1])
    assert target.read_bytes() == whole.read_bytes()
    assert "5 rows" in capsys.readouterr().out
    assert list(tmp_path.glob(".*")) == []


@pytest.fixture
def flaky(tmp_path):
    """A function that gives NaN to the text "bad", and counts its calls and who they were about."""
    (tmp_path / "flaky.py").write_text(
        "from pathlib import Path\n"
        f"HERE = Path({str(tmp_path)!r})\n"
        "def flaky(completions):\n"
        "    with open(HERE / 'asked', 'a') as file:\n"
        "        print(*completions, file=file)\n"
        "    if (HERE / 'down').exists() and 'e' in completions:\n"
        "        raise KeyboardInterrupt\n"
        "    return [float('nan') if x == 'bad' else ord(x[0]) - 96 for x in completions]\n"
    )
    return f"{tmp_path}/flaky.py:flaky"


def of_letters(tmp_path, texts):
    rows = [{"prompt": "p", "completion": text} for text in texts]
    return write(tmp_path / "in.jsonl", *rows)


@pytest.mark.parametrize("lost", [0, 1])  # rows that a kill in the middle of writing has not left
def test_a_function_that_was_stopped_is_asked_about_the_rest(
    lost, flaky, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(score_module, "ASKED", 2)
    source, target = of_letters(tmp_path, ["a", "bad", "bad", "d", "e"]), tmp_path / "out.jsonl"
    words = ["score", flaky, "--data", source, "--to", str(target), "--on-bad-row", "drop"]
    (tmp_path / "down").touch()
    with pytest.raises(SystemExit, match="130"):
        main(words)
    assert f"interrupted; 2 rows of {target} are kept: " in capsys.readouterr().err
    assert not target.exists()
    (left,) = tmp_path.glob(".out.jsonl.*.tmp")
    left.write_text("".join(left.read_text().splitlines(True)[: 4 - lost]))
    (tmp_path / "down").unlink()
    (tmp_path / "asked").unlink()
    main(words)
    # A portion that is there in part is asked about whole.
    assert (tmp_path / "asked").read_text().split("\n")[:-1] == ["bad d"] * lost + ["e"]
    assert [(row["completion"], row["score"]) for row in lines(target)] == [
        ("a", 1.0), ("d", 4.0), ("e", 5.0),
    ]  # fmt: skip
    printed = " ".join(capsys.readouterr().out.split())
    assert "rows dropped: 2 no number from flaky (in.jsonl:2, in.jsonl:3)" in printed
    assert "3 rows" in printed
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("other", ["code", "rows"])
def test_with_other_code_or_rows_a_function_begins_anew_and_that_is_said(
    other, flaky, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(score_module, "ASKED", 2)
    source, target = of_letters(tmp_path, ["a", "b", "e"]), tmp_path / "out.jsonl"
    (tmp_path / "down").touch()
    with pytest.raises(SystemExit, match="130"):
        main(["score", flaky, "--data", source, "--to", str(target)])
    (tmp_path / "down").unlink()
    if other == "code":
        code = (tmp_path / "flaky.py").read_text().replace("- 96", "- 95")
        (tmp_path / "edited.py").write_text(code)
        flaky = f"{tmp_path}/edited.py:flaky"
    else:
        of_letters(tmp_path, ["b", "c", "e"])
    main(["score", flaky, "--data", source, "--to", str(target)])
    assert [row["score"] for row in lines(target)] == [2.0, 3.0, 6.0 if other == "code" else 5.0]
    assert (
        f"begun anew: 2 rows of {target} were there, made from other settings, data or code"
        in capsys.readouterr().out
    )


def test_a_defect_on_the_way_keeps_what_was_scored_and_may_be_left_out_then(
    flaky, tmp_path, monkeypatch
):
    monkeypatch.setattr(score_module, "ASKED", 2)
    source, target = of_letters(tmp_path, ["a", "b", "bad", "e"]), tmp_path / "out.jsonl"
    with pytest.raises(BadInput, match="nan for the completion 'bad'"):
        score_by(flaky, source, target, quiet=True)
    (tmp_path / "down").touch()
    with pytest.raises(KeyboardInterrupt):
        score_by(flaky, source, target, on_bad_row="drop", quiet=True)
    assert (tmp_path / "asked").read_text().split("\n")[:-1] == ["a b", "bad e", "bad e"]
    (tmp_path / "down").unlink()
    score_by(flaky, source, target, on_bad_row="drop", quiet=True)
    assert [row["completion"] for row in lines(target)] == ["a", "b", "e"]


def test_rows_that_were_left_out_are_not_missing_unsaid_where_they_are_to_stop_the_work(
    flaky, tmp_path, monkeypatch
):
    monkeypatch.setattr(score_module, "ASKED", 2)
    source, target = of_letters(tmp_path, ["a", "bad", "e"]), tmp_path / "out.jsonl"
    (tmp_path / "down").touch()
    with pytest.raises(KeyboardInterrupt):
        score_by(flaky, source, target, on_bad_row="drop", quiet=True)
    (left,) = tmp_path.glob(".out.jsonl.*.tmp")
    with pytest.raises(BadInput) as refused:
        score_by(flaky, source, target, quiet=True)
    assert str(refused.value) == (
        "in.jsonl:2: expected a finite number for every completion; got no number from flaky.\n"
        f"    Give --on-bad-row drop again, or delete {left} to ask anew."
    )


def test_a_function_that_gave_no_number_at_all_is_asked_again(flaky, tmp_path):
    source, target = of_letters(tmp_path, ["bad", "bad"]), tmp_path / "out.jsonl"
    for _ in range(2):
        with pytest.raises(BadInput, match="got none: 2 flaky: nan"):
            score_by(flaky, source, target, on_bad_row="drop", quiet=True)
    assert (tmp_path / "asked").read_text().split("\n")[:-1] == ["bad bad", "bad bad"]
