"""A run that would succeed, what is spoilt in it, and how a command that refuses it must speak."""

import json
import pathlib
import shutil

import pytest

from alignax.cli import main
from alignax.models import pretrained
from tests.tiny_model import write_pairs

CONFIG = """
import pathlib
import alignax
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
PAIR = {"prompt": "Is 2 a number?", "chosen": "yes", "rejected": "no"}
LONG = json.dumps(PAIR | {"prompt": "Is 2 a number? " * 40})


def make_ready(folder: pathlib.Path, model: pathlib.Path) -> pathlib.Path:
    """A run that would succeed: a copy of the model, 24 pairs, a config."""
    shutil.copytree(model, folder / "model")
    write_pairs(folder / "train.jsonl", 24)
    (folder / "config.py").write_text(CONFIG)
    return folder


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
    """At most whole prepared data."""
    drafts = [p for p in (folder / "cache").glob("*") if p.name.startswith(".")]
    return not (folder / "run").exists() and drafts == []


def forbid_weights(monkeypatch):
    """Fails where weights are read: an error found before the run must come before them."""

    def load(*_, **__):
        raise AssertionError("the weights were read")

    monkeypatch.setattr(pretrained, "load", load)


def with_second_line(folder, row):
    first, _, *rest = (folder / "train.jsonl").read_bytes().splitlines()
    line = row if isinstance(row, bytes) else row if isinstance(row, str) else json.dumps(row)
    line = line if isinstance(line, bytes) else line.encode()
    (folder / "train.jsonl").write_bytes(b"\n".join([first, line, *rest]) + b"\n")


def without(name):
    return lambda folder: (folder / "model" / name).unlink()
