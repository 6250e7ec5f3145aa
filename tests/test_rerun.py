"""A finished run is repeated from its own record, and every difference is named."""

import json
import shutil

import pytest

from alignax import facts
from alignax.cli import main
from alignax.config import load
from alignax.core.errors import BadInput
from alignax.rerun import command, compare, rerun
from alignax.run import Run

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
    (around,) = record["around"]
    assert around["devices"] == "8 x cpu"
    assert around["processes"] == 1
    assert set(around["versions"]) - {"libtpu"} == {  # where that is installed
        *("alignax", "jax", "jaxlib", "flax", "optax", "numpy"),
        *("orbax-checkpoint", "tokenizers", "transformers"),
    }


def test_a_run_keeps_what_was_around_each_process_that_found_it_changed(ran, monkeypatch):
    path, run = ran
    kept = (run / "card.json").read_text()
    (first,) = json.loads(kept)["around"]
    for processes in (2, 2, 1):
        monkeypatch.setattr(facts, "around", lambda n=processes: first | {"processes": n})
        facts.keep(Run(load(path), quiet=True), lambda name: 0, None)
    record = json.loads((run / "card.json").read_text())
    (run / "card.json").write_text(kept)
    assert record["around"] == [first, first | {"processes": 2}]
    assert record["arguments"] == [str(path), "--method.beta", "0.25"]


def test_the_same_settings_give_the_same_bits_again_and_each_rerun_makes_every_update(ran, capsys):
    _, run = ran
    for _ in range(2):
        main(["rerun", str(run)])
        printed = capsys.readouterr().out
        assert "the same to the bit: 4 lines of metrics, exported weights" in printed
        assert "finished already" not in printed
        assert not (run / "rerun" / "left").exists()
        (run / "rerun" / "left").write_text("by the rerun before")


def test_the_first_number_that_differs_is_named_and_so_is_what_else_does(ran, tmp_path):
    _, run = ran
    other = tmp_path / "other"
    shutil.copytree(run, other, ignore=shutil.ignore_patterns("rerun"))
    log, record = other / "metrics.jsonl", other / "card.json"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    was, rows[1]["loss"] = rows[1]["loss"], 7.0
    log.write_text("\n".join(map(json.dumps, rows)) + "\n")
    facts = json.loads(record.read_text())
    older = json.loads(json.dumps(facts["around"][0]))
    older["versions"]["jax"] = "0.1"
    facts["around"].insert(0, older)  # the run was begun by another process
    record.write_text(json.dumps(facts))
    weights = other / "export" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    found = compare(run, other)
    assert not found.same
    assert (found.lines, found.first) == (1, (1, "loss", was, 7.0))
    ((name, one, two),) = found.surroundings
    assert name == "versions jax"
    assert two == f"0.1, then {one}"
    log.write_text((run / "metrics.jsonl").read_text())
    assert compare(run, other).first is None
    assert not compare(run, other).same  # one byte of the weights


def test_a_config_that_has_changed_since_is_refused(ran):
    path, run = ran
    with pytest.raises(
        BadInput, match=r"method.beta: expected method.beta as the run had it: 0.25"
    ):
        rerun(load(path), run)


@pytest.mark.parametrize("words", [["x.py", "--seeds=3"], ["x.py", "--grid", "method.beta=1,2"]])
def test_a_member_of_a_sweep_is_refused(tmp_path, words):
    (tmp_path / "card.json").write_text(json.dumps({"arguments": words}))
    with pytest.raises(BadInput, match="expected a run of its own; got a member of a sweep"):
        command(tmp_path)


def test_a_run_without_a_command_on_record_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"expected a run that `alignax train` has begun"):
        command(tmp_path)
