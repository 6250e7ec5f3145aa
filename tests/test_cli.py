"""What the command line says of itself, and what it refuses with exit code 2 and no trace.

What each command does is in `test_commands.py`.
"""

import importlib.metadata
import os
import pathlib
import shlex
import subprocess
import sys

import pytest

from alignax import options as options_lib
from alignax.cli import _glibc, main
from alignax.commands import COMMANDS
from alignax.config import load
from alignax.overrides import override
from tests.command_line import CONFIG, flat, refused
from tests.tiny_model import model_directory

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def fresh(tmp_path):
    """A config file that nothing has been done with; beside it one with a wrong setting."""
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    (tmp_path / "wrong.py").write_text(
        CONFIG.replace("    return ", "    made = ")
        + "    object.__setattr__(made.data, 'on_bad_row', 'dorp')\n    return made\n"
    )
    return path


# --- What the command line says of itself


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command_once(arguments, capsys):
    main(arguments)
    printed = capsys.readouterr().out
    assert "\nfor example:\n  alignax train configs/quickstart.py " in printed
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


@pytest.mark.parametrize("safe", [False, True])
def test_an_import_path_may_be_of_the_folder_that_the_command_is_run_in(tmp_path, safe):
    """As it may with `python -m`; the script alone begins without that folder."""
    (tmp_path / "my_package.py").write_text("ENTRY = 1\n")
    (tmp_path / "jax").mkdir()  # a folder of that name is not the module
    command = "from alignax.cli import command; command()"
    words = ["compare", str(ROOT / "configs/compare_tiny.py"), "--add", "my_package:ENTRIES"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1" if safe else ""}
    script = tmp_path / "elsewhere" / "alignax"  # as installed: Python looks in the script's folder
    script.parent.mkdir()
    script.write_text(command)
    done = subprocess.run([sys.executable, str(script), *words], env=environment, cwd=tmp_path,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 2
    expected = "No module named 'my_package'" if safe else "Did you mean ENTRY?"
    assert expected in done.stderr


@pytest.mark.parametrize("word", ["--version", "-V", "version"])
def test_its_version_is_the_packages(word, capsys):
    main([word])
    assert capsys.readouterr().out.startswith(f"alignax {importlib.metadata.version('alignax')}, ")


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
    assert set(options_lib.COMMANDS) == set(COMMANDS)
    page = (ROOT / "docs" / "commands.md").read_text()
    for command, (_, _, options, _) in options_lib.COMMANDS.items():
        sections = [x for x in page.split("\n## ") if x.startswith(f"`alignax {command} ")]
        assert len(sections) == bool(options)
        for name in options:
            assert any(f"`{name}{end}" in sections[0] for end in " `"), f"{command} {name}"


def test_help_of_a_command_can_be_asked_for_in_front_of_it(capsys):
    main(["train", "--help"])
    expected = capsys.readouterr().out
    main(["help", "train"])
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("command", options_lib.COMMANDS)
def test_the_example_of_a_command_is_in_its_help_and_names_what_there_is(command, capsys):
    first, example, _, settings = options_lib.COMMANDS[command]
    main([command, "--help"])
    assert f"For example: alignax {command} {example}" in capsys.readouterr().out
    path, *words = shlex.split(example)
    others = options_lib.parser(command).parse_known_args(words)[1]
    if path.startswith("configs/"):
        assert (ROOT / path).is_file()
    if settings and path.endswith(".py"):
        override(load(ROOT / path), others)
    else:
        assert others == []
    assert not first.startswith("CONFIG") or path.endswith(".py") or command == "sample"


def test_options_that_stand_in_place_of_a_config_are_not_listed_beside_one(fresh, capsys):
    main(["train", "--help"])
    assert "\n  --eval-data FILE" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", str(fresh), "--help"])
    printed = capsys.readouterr().out
    for name in ("--method NAME", "--data FILE", "--eval-data FILE", "--model DIRECTORY"):
        assert name not in printed
    assert "\n  --distributed" in printed


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
    "no config": (
        ["train"],
        "expected CONFIG or --method NAME after alignax train; got nothing. For example: alignax "
        "train configs/quickstart.py",
    ),
    "no comparison": (
        ["compare"],
        "expected COMPARISON after alignax compare; got nothing. For example: alignax compare "
        "configs/compare_tiny.py",
    ),
    "no folder": (
        ["rerun"],
        "expected OUTPUT_DIR after alignax rerun; got nothing. For example: alignax rerun "
        "runs/quickstart",
    ),
    "an option in its place": (["train", "--seed"], "after alignax train; got --seed."),
    "a config and a method": (
        ["train", "{config}", "--method", "dpo"],
        "expected CONFIG or --method NAME; got both, {config} and --method. Leave one of them out",
    ),
    "a method's name as a config": (
        ["train", "rrhf"],
        "expected a config file; got the name of a method, rrhf. Did you mean --method rrhf?",
    ),
    "a method's name as a model": (["show", "rrhf"], "Did you mean --method rrhf?"),
    "data as with a method": (
        ["train", "{config}", "--data", "mine.jsonl"],
        "expected no --data beside a config; got --data with {config}. Write --data.train "
        "mine.jsonl; or alignax train --method NAME --data mine.jsonl.",
    ),
    "held-out data as with a method": (
        ["evaluate", "{config}", "--eval-data=mine.jsonl"],
        "Write --data.eval mine.jsonl; or alignax evaluate --method NAME --eval-data mine.jsonl.",
    ),
    "a model as with a method": (
        ["train", "{config}", "--model"],
        "Write --model.model-name-or-path VALUE; or alignax train --method NAME --model VALUE.",
    ),
    "one of two methods": (["train", "--method", "dppo"], "Did you mean dpo or ppo?"),
    "an unknown method to explain": (["methods", "dppo"], "Did you mean dpo or ppo?"),
    "missing config": (
        ["train", "{folder}/tinny.py"],
        "tinny.py: expected a Python config file; got no such file. Did you mean {folder}/tiny.py?",
    ),
    "missing config like none": (
        ["train", "{folder}/zzz.py"],
        "got no such file. Those in {configs} are examples; alignax methods lists what --method "
        "takes in place of one.",
    ),
    "misspelt setting": (
        ["train", "{config}", "--method.betta", "0.2"],
        "command line: expected a setting; DPO has beta, label_smoothing, average, nll_weight; "
        "got method.betta. "
        "Did you mean method.beta?",
    ),
    "setting of another room": (
        ["train", "{config}", "--beta=0.2"],
        "got beta. Did you mean method.beta?",
    ),
    "setting like none": (
        ["train", "{config}", "--data.zzz", "1"],
        "got data.zzz. alignax train {config} --help lists them all.",
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
    "a sweep of anything but training": (
        ["prepare", "{config}", "--grid", "method.beta=1,2"],
        "command line: expected prepare of one run; got --grid. It goes with train alone.",
    ),
    "more tokens than the model has positions": (
        ["prepare", "{config}", "--data.limits.max-length", "1024"],
        "data.limits.max_length: expected at most the model's 512 positions; got 1024. Give "
        "--data.limits.max-length 512, or set it in the config.",
    ),
    "settings of another type, where nothing is trained": (
        ["show", "{folder}/wrong.py"],
        "data.on_bad_row: expected one of refuse, drop; got 'dorp'. Did you mean 'drop'?",
    ),
    "the same beside overrides": (
        ["sample", "{folder}/wrong.py", "--seed", "1"],
        "data.on_bad_row: expected one of refuse, drop; got 'dorp'.",
    ),
    "no held-out data": (
        ["show", "{config}", "--split", "eval", "--data.eval", "None"],
        "data.eval: expected held-out data; got none. Set data.eval.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_with_three_parts(name, fresh, capsys, monkeypatch):
    arguments, wanted = REFUSED[name]
    places = {"config": str(fresh), "folder": str(fresh.parent), "configs": str(ROOT / "configs")}
    monkeypatch.chdir(fresh.parent)
    printed = refused(capsys, *(argument.format(**places) for argument in arguments))
    assert wanted.format(**places) in flat(printed)
    assert not (fresh.parent / "run").exists()


def test_a_value_of_the_wrong_type_is_refused_by_name(fresh, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", str(fresh), "--loop.max-steps", "many"])
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert "loop.max-steps" in printed
    assert "For full helptext, see alignax train " in printed
    assert "error: command line: expected values of the settings' own types" in printed
    assert "Traceback" not in printed


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


@pytest.mark.parametrize("command", COMMANDS)
def test_a_ctrl_c_ends_a_command_in_one_line(command, capsys, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, command, stopped)
    with pytest.raises(SystemExit, match="130"):
        main([command, "anything"])
    assert capsys.readouterr().err == "interrupted\n"
