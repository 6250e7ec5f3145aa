"""What each command does, on the tiny model."""

import contextlib
import io
import json

import pytest
from rich.console import Console

from alignax import run as run_module
from alignax import sample
from alignax.cli import main
from alignax.evaluate.stats import Estimate
from alignax.models import pretrained
from tests.command_line import CONFIG, flat, refused
from tests.tiny_model import model_directory


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A config file whose run has ended, and what the run printed."""
    path = tmp_path_factory.mktemp("cli") / "tiny.py"
    path.write_text(CONFIG)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main(["train", str(path)])
    return path, printed.getvalue()


@pytest.fixture
def fresh(tmp_path):
    """A config file that nothing has been done with."""
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return path


def test_train_says_what_it_found_what_it_does_and_what_became_of_it(trained):
    path, printed = trained
    for part in (
        "preference, plain text, rendered as chat, explicit prompt",
        "rows: 24; records: 24",
        "✓ no empty prompt or response",
        "plan: 6 steps of 8 groups",
        "2.00 epochs of 24 groups",
        "✓ policy equals reference before the first update: loss 0.6931",
        "held out",
        "Is 0 a number?",
        f"exported: {path.parent / 'run' / 'export'}",
    ):
        assert part in flat(printed), part
    for name in ("loss", "rewards/margins", "rewards/accuracies", "sampled/kl"):
        assert f" {name} " in printed
    assert "before: policy and reference are the same" in flat(printed)


def test_train_again_does_nothing_more_and_says_so(trained, capsys):
    path, _ = trained
    before = (path.parent / "run" / "metrics.jsonl").read_bytes()
    main(["train", str(path)])
    printed = flat(capsys.readouterr().out)
    assert "finished already, all 6 steps" in printed
    for part in ("rewards/margins", "sampled/kl", "Is 0 a number?"):  # the same table, from the log
        assert part in printed
    assert (path.parent / "run" / "metrics.jsonl").read_bytes() == before


def test_prepare_lays_out_the_plan_and_trains_nothing(fresh, capsys, monkeypatch):
    monkeypatch.setattr("alignax.run.console", Console(width=200))
    main(["prepare", str(fresh), "--loop.max-steps", "2", "--loop.gradient-accumulation-steps=2"])
    printed = flat(capsys.readouterr().out)
    assert "train: " in printed
    assert "held out: " in printed
    assert "✓ exactly one end-of-turn token, scored, at the end of every response" in printed
    # 2 steps of 8 are 16 of 24: two thirds of an epoch, and 8 are left.
    assert "plan: 2 steps of 8 groups" in printed
    assert "0.67 epochs of 24 groups, 8 not met" in printed
    assert not (fresh.parent / "run").exists()


def test_show_marks_scored_tokens_and_no_others(trained, capsys, monkeypatch):
    path, _ = trained
    terminal = Console(force_terminal=True, color_system="standard", width=400)
    monkeypatch.setattr(run_module, "console", terminal)
    main(["show", str(path), "--index", "1", "--split", "eval"])
    printed = capsys.readouterr().out
    # Row 1: "It is, yes" for "Well, no", to "Is 1 a number? Really?"
    head, prompt, *answers = printed.split("\x1b[4m")
    green, dim = "\x1b[1;32m", "\x1b[2m"
    assert "test.jsonl:2" in head
    assert green not in prompt
    assert f"{dim}R" in prompt
    heads = [answer.split("\x1b")[0] for answer in answers]
    assert [head.startswith(f"response {i}, ") for i, head in enumerate(heads, 1)] == [True, True]
    assert [head[-7:] for head in heads] == ["score 1", "score 0"]
    assert f"{green}y" in answers[0]
    assert f"{green}W" in answers[1]
    for answer in answers:  # the end-of-turn token is scored, and reversed
        assert "\x1b[1;7;32m<|im_end|>" in answer


def test_show_marks_scored_tokens_without_colours_too(trained, capsys, monkeypatch):
    path, _ = trained
    monkeypatch.setattr(run_module, "console", Console(color_system=None, width=400))
    main(["show", str(path), "--index", "1", "--split", "eval"])
    _, prompt, *answers = capsys.readouterr().out.split(" tokens")
    assert "¦" in prompt
    assert "│" not in prompt
    for answer in answers:
        assert "│" in answer
        assert "¦" not in answer


def test_show_breaks_no_line_where_spaces_would_be_lost(trained, capsys, monkeypatch):
    path, _ = trained
    printed = []
    for width in (20, 400):
        monkeypatch.setattr(run_module, "console", Console(color_system=None, width=width))
        main(["show", str(path), "--index", "1", "--split", "eval"])
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


def test_sample_answers_each_prompt_from_the_export_the_same_way_twice(trained, capsys):
    path, _ = trained
    command = ["sample", str(path), "--prompt", "Is [red] 1 a number?", "--prompt", "And 2?",
               "--num-samples", "2", "--max-new-tokens", "4"]  # fmt: skip
    printed = []
    for _ in range(2):
        main(command)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert printed[0].startswith("Is [red] 1 a number?\n")
    assert "\nAnd 2?\n" in printed[0]


def test_sample_says_which_model_answers_where_nothing_is_exported_yet(trained, caplog, tmp_path):
    path, _ = trained
    nowhere = str(tmp_path / "not_run")
    main(["sample", str(path), "--output-dir", nowhere, "--prompt", "Hi", "--max-new-tokens", "1"])
    assert f"there is no {nowhere}/export yet: " in caplog.text
    assert "answers, from which the config begins" in caplog.text


def test_sample_takes_a_model_directory_too(trained, capsys):
    path, _ = trained
    arguments = ["--prompt", "Hello", "--max-new-tokens", "3", "--temperature", "0"]
    main(["sample", str(path.parent / "run" / "export"), *arguments])
    exported = capsys.readouterr().out
    main(["sample", str(path), *arguments])
    assert capsys.readouterr().out == exported
    assert exported.startswith("Hello\n")
    assert len(exported.splitlines()) >= 2


def test_sample_asks_a_file_of_prompts_as_the_method_asks(trained, tmp_path):
    path, _ = trained
    source = tmp_path / "prompts.jsonl"
    source.write_text(json.dumps({"prompt": "Is 1 a number?"}) + "\n")
    settings = {"max_new_tokens": 6, "temperature": 0.0, "quiet": True}
    export = path.parent / "run" / "export"
    sample.sample(
        export, str(source), tmp_path / "asked", ask=lambda prompt: f"{prompt} Yes?", **settings
    )
    (asked,) = map(json.loads, (tmp_path / "asked").read_text().splitlines())
    assert asked["prompt"] == "Is 1 a number?"
    ((expected,),) = sample.answer(
        export, ["Is 1 a number? Yes?"], max_new_tokens=6, temperature=0.0
    )
    assert asked["completions"][0].strip() == expected


def test_evaluate_prints_the_logs_last_estimates_with_their_intervals(trained, capsys):
    path, _ = trained
    main(["evaluate", str(path)])
    printed = flat(capsys.readouterr().out)
    log = (path.parent / "run" / "metrics.jsonl").read_text().splitlines()
    last = next(x for x in map(json.loads, reversed(log)) if "eval_loss" in x)
    assert last["step"] == 6
    for name in ("loss", "rewards/margins", "rewards/accuracies", "logps/chosen", "sampled/kl"):
        mean, low, high = (last[f"eval_{name}{end}"] for end in ("", "/low", "/high"))
        n = 4 if name.startswith("sampled") else 8
        assert f"{name} {n} {Estimate(mean, low, high, n)}" in printed


def test_export_writes_the_newest_checkpoint_where_it_is_told(trained, tmp_path, capsys):
    path, _ = trained
    main(["export", str(path), "--to", str(tmp_path / "there")])
    assert f"exported: {tmp_path / 'there'}" in "".join(capsys.readouterr().out.splitlines())
    first = path.parent / "run" / "export"
    assert {p.name: p.read_bytes() for p in first.iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "there").iterdir()
    }
    assert pretrained.load(tmp_path / "there").family == "llama"


def test_export_does_not_replace_what_is_no_export(trained, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    printed = refused(capsys, "export", trained[0], "--to", tmp_path)
    assert "thesis.tex" in printed
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_answers_of_a_file_become_ranked_lists_with_a_functions_scores(tmp_path):
    model = model_directory(tmp_path / "model")
    prompts, answers, scored = (tmp_path / f"{x}.jsonl" for x in ("prompts", "answers", "scored"))
    rows = [{"prompt": f"Is {i} a number?", "answer": str(i)} for i in range(3)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "judge.py").write_text(
        "def longest(completions, answer):\n"
        "    return [len(text) + int(a) for text, a in zip(completions, answer)]\n"
    )
    main(["sample", str(model), "--data", str(prompts), "--to", str(answers),
              "--num-samples", "3", "--max-new-tokens", "6", "--temperature", "1"])  # fmt: skip
    found = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [row["prompt"] for row in found] == [row["prompt"] for row in rows]
    assert all(len(row["completions"]) == len(row["ended"]) == 3 for row in found)
    main(["score", f"{tmp_path / 'judge.py'}:longest", "--data", str(answers),
              "--to", str(scored)])  # fmt: skip
    for i, line in enumerate(scored.read_text().splitlines()):
        row = json.loads(line)
        assert row["scores"] == [len(text) + i for text in row["completions"]]
        assert row["answer"] == str(i)
