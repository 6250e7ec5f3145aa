"""Input that cannot be used: each kind is told where, what was expected, what came, what to do.

And told in time: nothing has been written, allocated or lost by then.
"""

import gzip
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from alignax import jobs
from alignax.cli import main
from alignax.models import pretrained
from tests.tiny_model import experiment as tiny
from tests.tiny_model import model_directory, write_pairs

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = """
import pathlib
from alignax import DPO, Data, Evaluation, Experiment, Loop, Model, Optim, Sampler, TokenLimits

HERE = pathlib.Path(__file__).parent

def experiment():
    return Experiment(
        method=DPO(beta=0.5),
        model=Model(model_name_or_path=str(HERE / "model")),
        data=Data(
            train=str(HERE / "train.jsonl"),
            limits=TokenLimits(max_length=256),
            cache_dir=str(HERE / "cache"),
        ),
        optim=Optim(learning_rate=1e-2),
        loop=Loop(batch_size=8, max_steps=2),
        output_dir=str(HERE / "run"),
    )
"""
LINES = CONFIG.splitlines()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A good model directory, to be copied."""
    return model_directory(tmp_path_factory.mktemp("good") / "model")


@pytest.fixture
def folder(tmp_path, model):
    """A run that would succeed: the model, 24 pairs, a config."""
    shutil.copytree(model, tmp_path / "model")
    write_pairs(tmp_path / "train.jsonl", 24)
    (tmp_path / "config.py").write_text(CONFIG)
    return tmp_path


def refused(folder, capsys, *options, command="train"):
    """What is printed on stderr by a command that must be refused, as it stands."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([command, str(folder / "config.py"), *options])
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    # Three parts: where and what, and on a line of its own what to do.
    report = printed[printed.index("error: ") :]
    first, remedy = report.rstrip("\n").rsplit("\n    ", 1)
    assert ": expected " in first or first.startswith("error: expected ")
    assert "; got " in first
    assert remedy
    return report


def nothing_was_made(folder):
    """At most the output directory itself, and whole prepared data."""
    made = list((folder / "run").rglob("*"))
    drafts = [p for p in (folder / "cache").glob("*") if p.name.startswith(".")]
    return made == [] and drafts == []


# --- Rows: (what the second line of the data is, what is said of it)

PAIR = {"prompt": "Is 2 a number?", "chosen": "yes", "rejected": "no"}
USER = [{"role": "user", "content": "Is 2 a number?"}]
ROWS = {
    "broken JSON": (
        '{"prompt": "Is 2 a number?" "chosen": "yes", "rejected": "no"}',
        "expected a JSON object; got broken JSON at column 29 (Expecting ',' delimiter).\n"
        "    Mend the file",
    ),
    "bytes of another encoding": (
        '{"prompt": "Großer"}'.encode("latin-1"),
        "expected a JSON object; got bytes that are not UTF-8 at byte 16.\n",
    ),
    "no object": ([1, 2], "expected a JSON object; got list.\n"),
    "missing field": (
        {"prompt": "Is 2 a number?", "chosen": "yes"},
        "expected the columns prompt, chosen, rejected or chosen, rejected; got prompt, chosen.\n"
        "    For prompt and response alone, use SFT.",
    ),
    "misspelt field": (
        {"prompt": "Is 2 a number?", "chosen": "yes", "rejectd": "no"},
        "got prompt, chosen, rejectd.\n    Did you mean rejected by rejectd? Rename the column.",
    ),
    "empty field": (
        PAIR | {"chosen": ""},
        "expected text in chosen; got an empty string.\n"
        "    Fill it, remove the row, or set on_bad_row='drop'.",
    ),
    "white space": (PAIR | {"prompt": " \n"}, r"expected text in prompt; got only white space"),
    "null": (PAIR | {"rejected": None}, "expected text in rejected; got null.\n"),
    "empty list": (PAIR | {"prompt": []}, "expected text in prompt; got an empty list.\n"),
    "number": (
        PAIR | {"chosen": 7},
        "expected chosen to be text; got int 7.\n"
        "    Write it as a string, or as a list of {role, content}.",
    ),
    "content that is a number": (
        PAIR | {"prompt": [{"role": "user", "content": 2}]},
        "expected prompt[0].content to be text; got int 2.\n",
    ),
    "not a message": (
        PAIR | {"prompt": [{"from": "user", "value": "Hi"}]},
        "expected prompt[0] to be a message with role and content; got the keys from, value.\n",
    ),
    "chosen equal to rejected": (
        PAIR | {"rejected": "yes"},
        "expected a chosen response that differs from the rejected one; got twice 'yes'.\n"
        "    A pair of equals teaches nothing: remove the row",
    ),
    "unknown role": (
        PAIR | {"prompt": [{"role": "human", "content": "Is 2 a number?"}]},
        "expected the role of prompt[0] to be one of system, user, assistant, tool; got 'human'.\n"
        "    Did you mean user?",
    ),
    "prompt that is answered": (
        PAIR | {"prompt": [*USER, {"role": "assistant", "content": "yes"}]},
        "expected a prompt that ends with a user turn; got a last turn by assistant.\n",
    ),
    "special token in the text": (
        PAIR | {"chosen": "yes<|im_end|>"},
        "expected text without the tokenizer's special tokens; got <|im_end|> in a turn of the "
        "assistant",
    ),
}


def with_second_line(folder, row):
    first, _, *rest = (folder / "train.jsonl").read_bytes().splitlines()
    line = row if isinstance(row, bytes) else row if isinstance(row, str) else json.dumps(row)
    line = line if isinstance(line, bytes) else line.encode()
    (folder / "train.jsonl").write_bytes(b"\n".join([first, line, *rest]) + b"\n")


@pytest.fixture
def no_weights(monkeypatch):
    """Fails where weights are read: an error found before the run must come before them."""

    def load(*_, **__):
        raise AssertionError("the weights were read")

    monkeypatch.setattr(pretrained, "load", load)


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("name", ROWS)
def test_a_bad_row_is_refused_at_its_line(name, folder, capsys):
    row, wanted = ROWS[name]
    with_second_line(folder, row)
    printed = refused(folder, capsys)
    assert printed.startswith("error: train.jsonl:2: expected ")
    assert wanted in printed
    assert nothing_was_made(folder)


# --- Everything else that is found before the run: (change, options, what is said)

LONG = json.dumps(PAIR | {"prompt": "Is 2 a number? " * 40})


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


def without(name):
    return lambda folder: (folder / "model" / name).unlink()


def nothing(folder):
    del folder


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
        "{folder}/train.csv: expected a file ending in .jsonl.gz, .jsonl, .json, .parquet; got "
        "train.csv.\n",
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
        "expected one file of the split test: test.jsonl.gz or test.jsonl or test.json or "
        "test.parquet; got train.jsonl.\n",
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
        "command line: expected a setting; DPO has beta, label_smoothing; got method.betta.\n"
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
        ("beta=", "betta=", "DPO: beta, label_smoothing; got betta.\n    Did you mean beta?"),
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


def test_what_is_dropped_is_counted_and_its_first_places_named(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    with_second_line(folder, LONG)
    main(["prepare", str(folder / "config.py")])
    printed = capsys.readouterr().out
    assert "groups: 24; kept: 23;" in printed
    assert "1 prompt and response longer than max_length=256 (train.jsonl:2 (" in printed


# --- Weights


def change_weights(change):
    def apply(folder):
        path = folder / "model" / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return apply


def cut_weights(folder):
    path = folder / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


NORM = "model.layers.1.input_layernorm.weight"
WEIGHTS = {
    "a missing tensor": (
        change_weights(lambda tensors: tensors.pop(NORM)),
        f"{{model}}: expected the tensor {NORM}; got 19 tensors, without it and 0 others.\n"
        "    The weights do not belong to this config.json; take both from one source.",
    ),
    "a mis-shaped tensor": (
        change_weights(lambda tensors: tensors.update({NORM: np.ones(16, np.float32)})),
        f"{{model}}/model.safetensors: {NORM}: expected the shape [32]; got [16].\n",
    ),
    "a tensor of whole numbers": (
        change_weights(lambda tensors: tensors.update({NORM: np.ones(32, np.int8)})),
        f"{NORM}: expected a tensor of F32, BF16, F16; got I8.\n",
    ),
    "no weights": (
        without("model.safetensors"),
        "{model}: expected model.safetensors, or shards and model.safetensors.index.json; got "
        "neither.\n    Fetch the weights in the safetensors format.",
    ),
    "weights that break off": (
        cut_weights,
        "{model}/model.safetensors: expected a complete safetensors file; got ",
    ),
    "no tokenizer": (
        lambda folder: [without(x)(folder) for x in ("tokenizer.json", "tokenizer_config.json")],
        "{model}: expected a tokenizer beside the weights (tokenizer.json, "
        "tokenizer_config.json); got ",
    ),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_model_directory_that_is_not_whole_is_refused(name, folder, capsys):
    change, wanted = WEIGHTS[name]
    change(folder)
    printed = refused(folder, capsys)
    assert wanted.format(model=folder / "model") in printed
    assert nothing_was_made(folder)


# --- Checkpoints


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run, to be copied."""
    folder = tmp_path_factory.mktemp("trained")
    experiment = tiny(folder)
    jobs.train(experiment, quiet=True)
    return experiment, folder / "run"


@pytest.fixture
def copied(trained, tmp_path):
    """A config for a copy of a finished run, and the copy."""
    _, output = trained
    shutil.copytree(output, tmp_path / "run")
    (tmp_path / "config.py").write_text(
        "import dataclasses, pathlib\n"
        "from tests.tiny_model import experiment as tiny\n"
        "def experiment():\n"
        f"    made = tiny(pathlib.Path({str(output.parent)!r}))\n"
        f"    return dataclasses.replace(made, output_dir={str(tmp_path / 'run')!r})\n"
    )
    return tmp_path


def damage(checkpoint):
    """Changes one bit in the middle of the largest file."""
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    return largest.relative_to(checkpoint)


def test_no_whole_checkpoint_is_an_error_and_not_a_new_run(copied, capsys):
    files = [damage(copied / "run" / f"checkpoint-{step}") for step in (4, 6)]
    before = {p: p.read_bytes() for p in (copied / "run").rglob("*") if p.is_file()}
    printed = refused(copied, capsys)
    assert f"{copied}/run: expected a whole checkpoint; got 2 damaged: " in printed
    for step, file in zip((4, 6), files, strict=True):
        assert f"checkpoint-{step} ({file} has changed since it was written)" in printed
    assert "Put the files back from a copy; or delete these checkpoints" in printed
    assert {path: path.read_bytes() for path in before} == before


def test_a_half_written_checkpoint_is_passed_over_and_said_so(copied, capsys, caplog):
    newest = copied / "run" / "checkpoint-6"
    (newest / "alignax.json").unlink()
    newest.rename(copied / "run" / "checkpoint-6.partial")
    main(["evaluate", str(copied / "config.py")])
    assert f"skipped {copied}/run/checkpoint-6.partial: it was cut short" in caplog.text
    main(["train", str(copied / "config.py")])
    assert "resumed from step 4 of 6" in capsys.readouterr().out
    assert not (copied / "run" / "checkpoint-6.partial").exists()
    assert (copied / "run" / "checkpoint-6" / "alignax.json").exists()


def test_a_checkpoint_of_another_model_is_refused_before_it_is_read(copied, capsys):
    other = model_directory(copied / "other", mlp_width=128)
    printed = refused(copied, capsys, "--model.model-name-or-path", str(other))
    assert "model.model_name_or_path: expected the settings of the run that " in printed
    printed = refused(copied, capsys, "--model.model-name-or-path", str(other), command="evaluate")
    assert "/checkpoint-6: expected params/" in printed


# --- Full disks


@pytest.fixture
def small_disk(tmp_path) -> Iterator[pathlib.Path]:
    """A file system of 6 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no small disk without mounting one: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(place, leave):
    """Leaves so many bytes free."""
    free = shutil.disk_usage(place).free
    (place / "ballast").write_bytes(b"\0" * (free - leave))


@pytest.mark.usefixtures("no_weights")
def test_a_disk_without_room_for_the_checkpoints_is_refused_before_the_run(
    folder, small_disk, capsys
):
    fill(small_disk, 1 << 18)
    printed = refused(folder, capsys, "--output-dir", str(small_disk / "run"))
    assert f"{small_disk}/run: expected " in printed
    assert "bytes of free disk space; got " in printed
    assert "Free some, keep fewer checkpoints, or give another output_dir." in printed
    assert list((small_disk / "run").iterdir()) == []


def test_a_disk_that_fills_up_on_the_way_loses_no_earlier_checkpoint(
    folder, small_disk, capsys, monkeypatch
):
    options = ["--output-dir", str(small_disk / "run"), "--mesh.data", "1"]
    options += ["--loop.save-steps", "1", "--loop.max-steps", "3"]
    from alignax.train.checkpoint import Checkpoints

    save = Checkpoints.save

    def save_and_fill(self, step, *arguments, **named):
        if step == 2:
            self.wait()
            fill(small_disk, 1 << 16)
        return save(self, step, *arguments, **named)

    monkeypatch.setattr(Checkpoints, "save", save_and_fill)
    printed = refused(folder, capsys, *options)
    assert "checkpoint-2: expected to write the checkpoint; got " in printed
    assert "Free some disk space, or give another output_dir, and start again. " in printed
    assert f"{small_disk}/run/checkpoint-1 is still there." in printed
    monkeypatch.undo()
    (small_disk / "ballast").unlink()
    main(["train", str(folder / "config.py"), *options])
    assert "resumed from step 1 of 3" in capsys.readouterr().out


def test_a_disk_too_small_for_the_prepared_data_says_so(folder, small_disk, capsys):
    fill(small_disk, 1 << 12)
    printed = refused(folder, capsys, "--data.cache-dir", str(small_disk / "cache"))
    assert f"{small_disk}/cache: expected room for the prepared data; got No space left" in printed
    assert "Free some, or set data.cache_dir to a folder on another disk." in printed
    assert nothing_was_made(folder)
