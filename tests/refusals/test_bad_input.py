"""Input that cannot be used: each kind is told where, what was expected, what came, what to do.

And told in time: nothing has been written, allocated or lost by then. Single rows are in
`test_bad_rows.py`, weights and checkpoints in `test_bad_weights.py`, disks in `test_full_disks.py`.
"""

import gzip
import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.refusals.runs import (
    CONFIG,
    LONG,
    PAIR,
    nothing_was_made,
    refused,
    with_second_line,
    without,
)

ROOT = pathlib.Path(__file__).parents[2]
LINES = CONFIG.splitlines()


def change_data(text):
    return lambda folder: (folder / "train.jsonl").write_text(text)


def change_config(old, new):
    def change(folder):
        assert CONFIG.count(old) == 1
        (folder / "config.py").write_text(CONFIG.replace(old, new))

    return change


def line_of(text):
    """The line of the config that this stands on."""
    return next(number for number, line in enumerate(LINES, start=1) if text in line)


def cut_gzip(folder):
    whole = gzip.compress((folder / "train.jsonl").read_bytes())
    (folder / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])


def a_file(name, content=""):
    return lambda folder: (folder / name).write_text(content)


def nothing(folder):
    del folder


# What is done, with which options, and what is said of it.
BEFORE = {
    # Data
    "a group longer than the window": (
        lambda folder: with_second_line(folder, LONG),
        ["--data.limits.overlong", "refuse"],
        "train.jsonl:2: expected a group within the limits; got prompt and response longer than "
        "max_length=256 (",
    ),
    "too many groups longer than the window": (
        change_data("\n".join([json.dumps(PAIR)] * 3 + [LONG]) + "\n"),
        [],
        "expected at most 10.0% of the data to be dropped or cut; got 25.0%: dropped 1, cut 0 of "
        "4. First: train.jsonl:4 (",
    ),
    "a file without rows": (
        change_data("\n"),
        [],
        "train.jsonl (train): expected at least one usable row; got no rows.\n",
    ),
    "rows that are all bad": (
        change_data(json.dumps(PAIR | {"chosen": ""}) + "\n"),
        ["--data.on-bad-row", "drop"],
        "expected at least one usable row; got 1 rows, dropped: 1 empty field (train.jsonl:1).\n",
    ),
    "a suffix that is not known": (
        a_file("train.csv"),
        ["--data.train", "{folder}/train.csv"],
        "{folder}/train.csv: expected a file ending in .jsonl.gz, .jsonl, .ndjson.gz, .ndjson, "
        ".json, .parquet; got train.csv.\n",
    ),
    "a file that is not there": (
        nothing,
        ["--data.train", "{folder}/trian.jsonl"],
        "{folder}/trian.jsonl: expected a file or folder; got nothing there.\n"
        "    Nearest in {folder}: train.jsonl.",
    ),
    "a held-out file that is not there": (
        nothing,
        ["--data.eval", "{folder}/trainn.jsonl"],
        "{folder}/trainn.jsonl: expected a file or folder; got nothing there.\n",
    ),
    "a folder without the split": (
        nothing,
        ["--data.train", "{folder}", "--data.train-split", "test"],
        "expected one file of the split test: test.jsonl.gz or test.jsonl or test.ndjson.gz or "
        "test.ndjson or test.json or test.parquet, or parts such as test-00000-of-00002.parquet, "
        "there or in data/; got train.jsonl.\n",
    ),
    "a gzip file that breaks off": (
        cut_gzip,
        ["--data.train", "{folder}/cut.jsonl.gz"],
        "expected a whole gzip file; got one that breaks off here",
    ),
    "a Parquet file that is none": (
        a_file("train.parquet", "text"),
        ["--data.train", "{folder}/train.parquet"],
        "train.parquet: expected a Parquet file; got ",
    ),
    # Tokenizer and template
    "a tokenizer without a chat template": (
        without("chat_template.jinja"),
        [],
        "expected a tokenizer with a chat template; got none in {folder}/model.\n"
        '    Set data.chat_template="chatml" (its vocabulary has the tokens), or another of ',
    ),
    "a chat template that is not there": (
        nothing,
        ["--data.chat-template", "{folder}/zephyr.jinja"],
        "data.chat_template: expected a chat template's name (chatml, llama3, gemma, phi3, llama2, "
        "mistral, zephyr, tulu, plain), the path of a Jinja file, or the template itself; got "
        "'{folder}/zephyr.jinja', which is no name and no file.\n",
    ),
    "a chat template that is no template": (
        a_file("broken.jinja", "{{% for"),
        ["--data.chat-template", "{folder}/broken.jinja"],
        "chat template: expected a chat template that renders a question and its answer; got ",
    ),
    # Model directory
    "no such model": (
        nothing,
        ["--model.model-name-or-path", "{folder}/modle"],
        "{folder}/modle: expected a model directory or a hub id (owner/name); got no such "
        "directory.\n",
    ),
    "a model without a config": (
        without("config.json"),
        [],
        "{folder}/model: expected a config.json; got none, or an empty one.\n",
    ),
    "max_length beyond the model's positions": (
        nothing,
        ["--data.limits.max-length", "513"],
        "data.limits.max_length: expected at most the model's 512 positions; got 513.\n",
    ),
    # Settings
    "a misspelt setting on the command line": (
        nothing,
        ["--method.betta", "0.2"],
        "command line: expected a setting; DPO has beta, label_smoothing, average, nll_weight; "
        "got method.betta.\n"
        "    Did you mean method.beta?",
    ),
    "a config that is not Python": (
        change_config("def experiment():", "def experiment()"),
        [],
        f"{{folder}}/config.py:{line_of('def experiment')}: expected a Python config file; got "
        "expected ':': 'def experiment()'.\n    Mend the line.",
    ),
    "a config without an experiment": (
        change_config("def experiment():", "def experment():"),
        [],
        "{folder}/config.py: expected a function experiment() that returns an Experiment; got "
        "none.\n",
    ),
    "an experiment that is none": (
        change_config("return Experiment(", "return dict("),
        [],
        "expected experiment() to return an Experiment; got dict.\n",
    ),
    "no steps": (nothing, ["--loop.max-steps", "0"], "loop.max_steps: expected a positive number"),
    "a beta that would train against the pairs": (
        nothing,
        ["--method.beta", "-0.1"],
        "method.beta: expected a number above 0; got -0.1.\n    Change the setting.",
    ),
    "a grid with a beta of 0": (
        nothing,
        ["--grid", "method.beta=0.1,0"],
        "method.beta: expected a number above 0; got 0.0.\n    Change the setting.",
    ),
    "samples without a reward": (
        nothing,
        ["--rollout.refresh", "16"],
        "rollout.rewards: expected a reward beside rollout.refresh, for without any nothing is "
        "sampled; got none.\n",
    ),
    "a learning rate below 0": (
        nothing,
        ["--optim.learning-rate", "-1"],
        "optim.learning_rate: expected a finite number, 0 or above; got -1.0.\n",
    ),
    # Mesh
    "a batch that the mesh cannot split": (
        nothing,
        ["--mesh.data", "8", "--loop.batch-size", "12"],
        "loop.batch_size: expected a batch that 8 devices on the axes data and fsdp can split "
        "evenly; got 12 prompts in each of 1 micro-batches.\n    Use a multiple of 8.",
    ),
    "a batch that micro-batches cannot split": (
        nothing,
        ["--mesh.data", "1", "--loop.gradient-accumulation-steps", "3"],
        "loop.batch_size: expected a batch size that 3 micro-batches can split evenly; got 8 "
        "prompts.\n    Use a multiple of 3.",
    ),
    "a batch that the mesh cannot split, of samples": (
        change_config(
            "loop=Loop(",
            "rollout=alignax.Rollout(rewards=alignax.Rewards(\n"
            "            parts=(alignax.Function(function=len),))),\n"
            "        loop=Loop(",
        ),
        ["--mesh.data", "8", "--loop.batch-size", "12"],
        "loop.batch_size: expected a batch that 8 devices on the axes data and fsdp can split "
        "evenly; got 12 prompts in each of 1 micro-batches.\n    Use a multiple of 8.",
    ),
    "a mesh that the devices cannot fill": (
        nothing,
        ["--mesh.tensor", "3"],
        "mesh: expected axes whose product divides 8 devices, one of them -1 at most; got "
        "data=-1, fsdp=1, sequence=1, tensor=3.\n",
    ),
    # Directories
    "an output directory below a file": (
        nothing,
        ["--output-dir", "{folder}/train.jsonl/run"],
        "{folder}/train.jsonl/run: expected a directory that can be written; got "
        "NotADirectoryError: Not a directory.\n",
    ),
    "an output directory that Orbax cannot find again": (
        nothing,
        ["--output-dir", "{folder}/run[1]"],
        "output_dir: expected a path without the characters * ? [; got {folder}/run[1].\n",
    ),
    "a cache below a file": (
        nothing,
        ["--data.cache-dir", "{folder}/train.jsonl/cache"],
        "expected a folder to keep prepared data in; got Not a directory (NotADirectoryError).\n"
        "    Set data.cache_dir to a folder that can be written.",
    ),
}


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("name", BEFORE)
def test_is_refused_before_anything_is_read_or_made(name, folder, capsys):
    change, options, wanted = BEFORE[name]
    change(folder)
    printed = refused(folder, capsys, *(option.format(folder=folder) for option in options))
    assert wanted.format(folder=folder) in printed
    assert nothing_was_made(folder)


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        (
            "beta=",
            "betta=",
            "DPO: beta, label_smoothing, average, nll_weight; got betta.\n    Did you mean beta?",
        ),
        ("output_dir=", "output_dirs=", "; got output_dirs.\n    Did you mean output_dir?"),
    ],
)
def test_a_misspelt_setting_in_a_config_is_refused_at_its_line(old, new, wanted, folder):
    """In a process of its own: the checks of these tests would see the misspelling first."""
    change_config(old, new)(folder)
    code = f"from alignax.cli import main; main(['train', {str(folder / 'config.py')!r}])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    line = line_of("return Experiment(") if old == "output_dir=" else line_of(old)
    assert done.stderr.startswith(f"error: {folder}/config.py:{line}: expected a setting of ")
    assert wanted in done.stderr
    assert nothing_was_made(folder)
