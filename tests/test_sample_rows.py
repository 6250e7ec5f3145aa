"""What `alignax sample` keeps of a row, which rows it takes, which options it refuses."""

import json

import pytest

from alignax.cli import main
from alignax.core.errors import BadInput
from alignax.data.responses import without_responses
from alignax.sample import answer, sample
from tests.data.tool_families import TOOL_FAMILIES
from tests.tiny_model import model_directory

FAST = ("--max-new-tokens", "4")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(model_directory(tmp_path_factory.mktemp("model") / "model"))


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def refused(capsys, *arguments):
    with pytest.raises(SystemExit, match="2"):
        main(list(arguments))
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "kept"),
    [
        ({"completions": ["a", "b"], "scores": [1.0, 2.0], "answer": "4"}, {"answer": "4"}),
        ({"responses": ["a"], "models": ["x"], "sources": ["y"], "id": 7}, {"id": 7}),
        ({"chosen": "a", "rejected": "b", "margin": 1, "score_chosen": 2, "score_rejected": 1}, {}),
        ({"completion": "a", "score": 1.0, "label": True, "attributes": {"wit": 3}}, {}),
        ({"response": "a", "helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 1,
          "verbosity": 1}, {}),
        ({"messages": [], "score": 1.0}, {}),
        ({"completions": ["a"], "ended": [True], "tools": [{}]}, {"tools": [{}]}),
        # Without responses these describe the prompt: a rule may ask for them.
        ({"label": "positive", "score": 3, "complexity": 2},
         {"label": "positive", "score": 3, "complexity": 2}),
        # Parquet has null for what is not there.
        ({"response": None, "label": True}, {"response": None, "label": True}),
        # But these would be read as of the new completions.
        ({"scores": [1.0, 2.0], "sources": ["x"], "note": None}, {"note": None}),
    ],
)  # fmt: skip
def test_columns_of_responses_that_were_there_do_not_stand_beside_new_ones(row, kept):
    assert without_responses(row) == kept


def test_other_columns_are_kept_null_or_not_and_none_is_added(model, tmp_path):
    source = write(
        tmp_path / "in.jsonl",
        {"prompt": "Is it?", "completions": ["old"], "scores": [1.0], "note": None},
        {"prompt": "Is it not?", "answer": "no"},
    )
    sample(model, source, tmp_path / "out.jsonl", quiet=True, max_new_tokens=4)
    first, second = lines(tmp_path / "out.jsonl")
    assert first.keys() == {"prompt", "note", "completions", "ended"}
    assert first["note"] is None
    assert first["completions"] != ["old"]
    assert second.keys() == {"prompt", "answer", "completions", "ended"}


def test_tools_and_calls_of_a_prompt_are_kept_as_they_were(tmp_path):
    model = model_directory(tmp_path / "model", max_positions=2048)
    TOOL_FAMILIES["qwen 3"].tokenizer().save_pretrained(model)
    call = {"function": {"name": "f", "arguments": {"z": 1, "a": None}}}
    prompt = [{"role": "user", "content": "Is it?"}, {"role": "assistant", "tool_calls": [call]},
              {"role": "tool", "content": "yes", "name": "f"}]  # fmt: skip
    row = {"prompt": prompt, "tools": [{"name": "f"}]}
    sample(model, write(tmp_path / "in.jsonl", row), tmp_path / "out.jsonl", quiet=True,
           max_new_tokens=4)  # fmt: skip
    (found,) = lines(tmp_path / "out.jsonl")
    assert json.dumps({name: found[name] for name in row}) == json.dumps(row)


def test_columns_that_are_kept_are_not_said_to_be_ignored(model, tmp_path, capsys):
    row = {"prompt": "Is it?", "answer": "no", "completion": "old"}
    sample(model, write(tmp_path / "in.jsonl", row), tmp_path / "out.jsonl", max_new_tokens=4)
    assert "columns: prompt; kept: answer; ignored: completion\n" in capsys.readouterr().out


def test_tokens_that_the_model_has_no_row_for_are_refused(tmp_path):
    directory = model_directory(tmp_path / "m", vocab_size=100)
    where = write(tmp_path / "in.jsonl", {"prompt": "A"}, {"prompt": "A~"})
    plain = {"template": "none", "max_new_tokens": 4}
    message = r"every token id within the model's vocabulary; got ids \[131\] for 100 rows: '~'"
    # "A" is 5 + 65, "~" is 5 + 126.
    with pytest.raises(BadInput, match=f"^in.jsonl:2: expected {message}"):
        sample(directory, where, tmp_path / "out.jsonl", quiet=True, **plain)
    with pytest.raises(BadInput, match=f"^expected {message}"):
        answer(directory, ["A", "A~"], **plain)
    assert not (tmp_path / "out.jsonl").exists()


def test_rows_with_a_defect_are_left_out_where_that_is_asked_for(model, tmp_path, capsys):
    source = write(tmp_path / "in.jsonl", {"prompt": "Is it?"}, {"prompt": ""})
    arguments = ["sample", model, "--data", source, "--to", str(tmp_path / "out.jsonl"), *FAST]
    assert "in.jsonl:2: expected text in prompt" in refused(capsys, *arguments)
    main([*arguments, "--on-bad-row", "drop"])
    assert "1 empty field (in.jsonl:2)" in " ".join(capsys.readouterr().out.split())
    assert [row["prompt"] for row in lines(tmp_path / "out.jsonl")] == ["Is it?"]


def test_the_config_says_what_becomes_of_rows_with_a_defect(model, tmp_path, capsys):
    rows = [{"prompt": "Is it?"}, {"prompt": ""}, {"prompt": "Is it not? " * 60}]
    source, train = write(tmp_path / "in.jsonl", *rows), tmp_path / "train.jsonl"
    write(train, {"prompt": "p", "completion": "x"})
    (tmp_path / "own.py").write_text(
        "from alignax import SFT, Data, Experiment, Model\n\n\n"
        "def experiment():\n"
        f"    return Experiment(method=SFT(), model=Model(model_name_or_path={model!r}),\n"
        f"                      data=Data(train={str(train)!r}), output_dir='nowhere')\n"
    )
    arguments = ["sample", str(tmp_path / "own.py"), "--data", source, *FAST]
    drop = ("--data.on-bad-row", "drop")
    assert "in.jsonl:2: expected text in prompt" in refused(
        capsys, *arguments, "--to", str(tmp_path / "a.jsonl")
    )
    # One has no text, and one more than the model's 512 positions less 4.
    printed = refused(capsys, *arguments, "--to", str(tmp_path / "a.jsonl"), *drop)
    assert "at most 10.0% of the prompts to be dropped; got 2 of 3" in printed
    assert "or lower --max-new-tokens, or take these prompts out of the file." in printed
    main([*arguments, "--to", str(tmp_path / "a.jsonl"), *drop, "--data.max-dropped-share", "0.7"])
    assert [row["prompt"] for row in lines(tmp_path / "a.jsonl")] == ["Is it?"]
    assert "in.jsonl:2: expected text in prompt" in refused(
        capsys, *arguments, "--to", str(tmp_path / "b.jsonl"), *drop, "--on-bad-row", "refuse"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "x", "--data", "in.jsonl", "--to", "out.jsonl"],
         "command line: expected no --data beside --prompt; got --data --to.\n"
         "    Answer prompts in one call and a file of them in another."),
        (["--prompt", "x", "--on-bad-row", "drop"], "no --on-bad-row beside --prompt"),
        (["--prompt", "x", "--served=tiny"],
         "command line: expected no --served beside a model that answers itself; got --served.\n"
         "    It names the model of a --server: give its URL too."),
        (["--prompt", "x", "--evaluation.sampler.top_k=5"],
         "command line: expected no --evaluation.sampler.top-k beside the options of sample; got "
         "--evaluation.sampler.top-k.\n    They say how answers are drawn"),
        (["--prompt", "x", "--max-new-tokens", "0"],
         "command line.max_new_tokens: expected a number of at least 1; got 0"),
        (["--prompt", "x", "--seed", "4294967296"],
         "command line.seed: expected a number of 32 bits; got 4294967296"),
        (["--data", "in.jsonl", "--to", "out.jsonl", "--max-new-tokens", "512"],
         "--max-new-tokens: expected fewer new tokens than the model's 512 positions; got 512.\n"
         "    Lower --max-new-tokens, so that prompts have room."),
    ],
)  # fmt: skip
def test_options_that_cannot_be_followed_are_refused(arguments, message, model, capsys):
    assert message in refused(capsys, "sample", model, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--whole-numbers", "--max-length", "1"],
         "command line: expected no --whole-numbers beside a function; got --whole-numbers "
         "--max-length.\n    Only a model takes it: leave it out."),
        (["--template=none"], "expected no --template beside a function"),
    ],
)  # fmt: skip
def test_a_function_takes_no_option_of_a_model(arguments, message, tmp_path, capsys):
    judge = f"{tmp_path}/judge.py:judge"
    words = ["score", judge, "--data", "in.jsonl", "--to", "out.jsonl", *arguments]
    assert message in refused(capsys, *words)


@pytest.mark.parametrize("option", ["--batch-size", "--max-length"])
def test_a_size_of_none_scores_nothing(option, model, capsys):
    words = ["score", model, "--data", "in.jsonl", "--to", "out.jsonl", option, "0"]
    assert f"{option}: expected a positive number; got 0.\n    Change it." in refused(
        capsys, *words
    )
