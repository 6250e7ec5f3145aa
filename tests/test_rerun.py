"""A finished run is repeated from its own record, and every difference is named."""

import json
import shutil

import pytest

from alignax.cli import main
from alignax.config import load
from alignax.core.errors import BadInput
from alignax.rerun import command, compare, rerun

CONFIG = """
import dataclasses, pathlib
from alignax.config import Evaluation
from alignax.train.loop import Loop
from tests.tiny_model import experiment as tiny

def experiment():
    made = tiny(pathlib.Path(__file__).parent)
    return dataclasses.replace(
        made, tensorboard=False, evaluation=Evaluation(num_prompts=0),
        loop=Loop(batch_size=8, max_steps=2),
    )
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A config and the directory of its finished run, started with a changed setting."""
    path = tmp_path_factory.mktemp("rerun") / "tiny.py"
    path.write_text(CONFIG)
    main(["train", str(path), "--method.beta", "0.25"])
    return path, path.parent / "run"


def test_a_run_says_what_it_was_made_with(ran):
    path, run = ran
    record = json.loads((run / "card.json").read_text())
    assert record["arguments"] == [str(path), "--method.beta", "0.25"]
    assert record["around"]["devices"] == "8 x cpu"
    assert record["around"]["processes"] == 1
    assert set(record["around"]["versions"]) == {"alignax", "jax", "jaxlib", "optax"}


def test_the_same_settings_give_the_same_bits_again(ran, capsys):
    _, run = ran
    main(["rerun", str(run)])
    assert "the same to the bit: 4 lines of metrics, exported weights" in capsys.readouterr().out


def test_the_first_number_that_differs_is_named_and_so_is_what_else_does(ran, tmp_path):
    _, run = ran
    other = tmp_path / "other"
    shutil.copytree(run, other, ignore=shutil.ignore_patterns("rerun"))
    log, record = other / "metrics.jsonl", other / "card.json"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    was, rows[1]["loss"] = rows[1]["loss"], 7.0
    log.write_text("\n".join(map(json.dumps, rows)) + "\n")
    facts = json.loads(record.read_text())
    facts["around"]["versions"]["jax"] = "0.1"
    record.write_text(json.dumps(facts))
    weights = other / "export" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    found = compare(run, other)
    assert not found.same
    assert (found.lines, found.first) == (1, (1, "loss", was, 7.0))
    assert [x[0] for x in found.surroundings] == ["versions jax"]
    log.write_text((run / "metrics.jsonl").read_text())
    assert compare(run, other).first is None
    assert not compare(run, other).same  # one byte of the weights


def test_a_config_that_has_changed_since_is_refused(ran):
    path, run = ran
    with pytest.raises(
        BadInput, match=r"method.beta: expected method.beta as the run had it: 0.25"
    ):
        rerun(load(path), run)


def test_a_run_without_a_command_on_record_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"expected a run that `alignax train` has begun"):
        command(tmp_path)
