"""Every command, on the tiny model; every refusal leaves exit code 2 and no trace."""

import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys

import pytest
from rich.console import Console

from alignax import options as options_lib
from alignax import run as run_module
from alignax import sample
from alignax.cli import _glibc, main
from alignax.commands import COMMANDS
from alignax.evaluate.stats import Estimate
from alignax.models import pretrained
from tests.tiny_model import model_directory

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = """
import pathlib
from tests.tiny_model import experiment as tiny

def experiment():
    return tiny(pathlib.Path(__file__).parent)
"""


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


def refused(capsys, *arguments):
    """What stands on stderr when a command is refused."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert "Traceback" not in printed
    return printed


def flat(text):
    """Without the line breaks and the spaces that the width of the terminal brings."""
    return " ".join(text.split())


# --- What the command line says of itself


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command_once(arguments, capsys):
    main(arguments)
    printed = capsys.readouterr().out
    for name in COMMANDS:
        assert sum(line.startswith(f"  {name} ") for line in printed.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_help_does_not_wait_for_jax(arguments):
    code = (
        f"import sys; from alignax.cli import main; main({arguments}); "
        "sys.exit(sorted({'jax', 'transformers', 'tyro'} & set(sys.modules)) or 0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_package_is_a_command_too():
    command = [sys.executable, "-m", "alignax", "--help"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "\n  train " in done.stdout


@pytest.mark.skipif(_glibc() < (2, 35), reason="glibc gives large pages since 2.35")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.arena_max=2", "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
    ],
)
def test_the_command_starts_over_in_large_pages_with_the_same_words_and_number(given, expected):
    """Unless somebody has said which; options of Python's own stay too."""
    code = (
        "import os, sys; from alignax import cli; print(os.getpid(), flush=True); "
        "cli._run = lambda words: print(os.environ['GLIBC_TUNABLES'], sys.flags.dev_mode, words); "
        "cli.command()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("GLIBC_TUNABLES", None)
    environment |= {} if given is None else {"GLIBC_TUNABLES": given}
    command = [sys.executable, "-X", "dev", "-W", "ignore", "-c", code, "train", "two words"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *numbers, last = done.stdout.splitlines()
    assert last == f"{expected} True ['train', 'two words']"
    assert len(numbers) == (1 if given == expected else 2)
    assert len(set(numbers)) == 1


@pytest.mark.parametrize("command", options_lib.COMMANDS)
def test_the_help_of_a_command_lists_its_own_options_without_a_config(command, capsys):
    main([command, "--help"])
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: alignax {command}")
    for name in options_lib.COMMANDS[command].options:
        assert f"\n  {name}" in printed


def test_every_command_has_its_options_in_the_help_and_on_the_page():
    assert set(options_lib.COMMANDS) == {"methods", *COMMANDS}
    page = (ROOT / "docs" / "commands.md").read_text()
    for command, (_, options, _) in options_lib.COMMANDS.items():
        sections = [x for x in page.split("\n## ") if x.startswith(f"`alignax {command} ")]
        assert len(sections) == bool(options)
        for name in options:
            assert any(f"`{name}{end}" in sections[0] for end in " `"), f"{command} {name}"


def test_what_a_model_directory_takes_is_told_without_settings(tmp_path, capsys):
    main(["sample", str(tmp_path), "--help"])
    printed = capsys.readouterr().out
    assert "--temperature X" in printed
    assert "--loop.max-steps" not in printed


@pytest.mark.parametrize(
    ("command", "own"), [("train", "--grid"), ("plan", "--topology"), ("sample", "--top-k")]
)
def test_the_help_of_a_config_lists_its_settings_too_and_ends_well(command, own, fresh, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, str(fresh), own, "1", "--help"])
    assert not stopped.value.code
    printed = capsys.readouterr().out
    for name in (
        own, "--method.beta", "--loop.max-steps", "--data.limits.max-length", "--seed"
    ):  # fmt: skip
        assert name in printed


# --- What is refused

REFUSED = {
    "unknown command": (
        ["trian", "{config}"],
        "command line: expected a command: methods, train, rerun, plan, prepare, show, sample, "
        "evaluate, export, score, compare, report; got trian. Did you mean train?",
    ),
    "unknown command like none": (["zzz"], "got zzz. alignax --help explains them."),
    "no config": (["train"], "expected a config file after the command; got nothing."),
    "an option in its place": (["train", "--seed"], "after the command; got --seed."),
    "missing config": (
        ["train", "{folder}/tinny.py"],
        "tinny.py: expected a Python config file; got no such file. Did you mean {folder}/tiny.py?",
    ),
    "missing config like none": (
        ["train", "{folder}/zzz.py"],
        "got no such file. configs/ holds examples.",
    ),
    "misspelt setting": (
        ["train", "{config}", "--method.betta", "0.2"],
        "command line: expected a setting; DPO has beta, label_smoothing; got method.betta. "
        "Did you mean method.beta?",
    ),
    "setting of another room": (
        ["train", "{config}", "--beta=0.2"],
        "got beta. Did you mean method.beta?",
    ),
    "setting like none": (
        ["train", "{config}", "--data.zzz", "1"],
        "got data.zzz. alignax train CONFIG --help lists them all.",
    ),
    "part of a setting that has none": (
        ["train", "{config}", "--seed.zzz", "1"],
        "expected a setting's name; got seed.zzz.",
    ),
    "misspelt setting of a model directory": (
        ["sample", "{folder}", "--prompt", "Hi", "--temprature", "0"],
        "got --temprature 0.",
    ),
    "nothing trained yet": (
        ["evaluate", "{config}"],
        "run: expected a run with a checkpoint; got none. Train first",
    ),
    "nothing to export": (["export", "{config}"], "expected a run with a checkpoint; got none."),
    "no such example": (
        ["show", "{config}", "--index", "24"],
        "--index: expected an index from 0 to 23; got 24. Examples are counted from 0.",
    ),
    "no held-out data": (
        ["show", "{config}", "--split", "eval", "--data.eval", "None"],
        "data.eval: expected held-out data; got none. Set data.eval.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_with_three_parts(name, fresh, capsys):
    arguments, wanted = REFUSED[name]
    places = {"config": str(fresh), "folder": str(fresh.parent)}
    printed = refused(capsys, *(argument.format(**places) for argument in arguments))
    assert wanted.format(**places) in flat(printed)
    assert not (fresh.parent / "run").exists()


def test_a_value_of_the_wrong_type_is_refused_by_name(fresh, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", str(fresh), "--loop.max-steps", "many"])
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert "loop.max-steps" in printed
    assert "error: command line: expected values of the settings' own types" in printed
    assert "Traceback" not in printed


# --- What each command does


def test_train_says_what_it_found_what_it_does_and_what_became_of_it(trained):
    path, printed = trained
    for part in (
        "preference, plain text, explicit prompt",
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected --prompt TEXT, or --data FILE and --to FILE"),
        (["--data", "p.jsonl"], "expected --prompt TEXT, or --data FILE and --to FILE"),
        (["--prompt", "x", "--top-p", "0"], "command line.top_p: expected a number above 0"),
    ],
)
def test_sampling_that_cannot_work_is_refused(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["sample", str(model_directory(tmp_path / "model")), *arguments])
    assert message in capsys.readouterr().err
