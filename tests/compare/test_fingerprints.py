"""By what a stored result is known to be of the comparison at hand: settings, files, code."""

import dataclasses
import importlib
import pathlib
import sys

import pytest

from alignax import Function
from alignax.compare import fingerprints
from alignax.compare.cells import Cell
from tests.compare.test_settings import made_in


@pytest.fixture
def comparison(tmp_path):
    return made_in(tmp_path)


def test_what_decides_a_result_is_in_its_fingerprint_and_its_place_is_not(tmp_path):
    here = made_in(tmp_path / "here")
    cell = Cell(purpose="final", entry="dpo", seed=7, steps=6)
    found = fingerprints.of(here, cell)
    assert found == fingerprints.of(made_in(tmp_path / "there"), cell)
    assert found != fingerprints.of(here, dataclasses.replace(cell, seed=8))
    other = dataclasses.replace(here, gold=Function(function="elsewhere:gold"))
    assert found != fingerprints.of(other, cell)
    with (tmp_path / "here" / "train.jsonl").open("a") as file:
        file.write('{"prompt": "more", "chosen": "a", "rejected": "b"}\n')
    assert found != fingerprints.of(here, cell)


def test_all_files_of_a_folder_of_data_are_in_the_fingerprint(tmp_path):
    comparison = made_in(tmp_path / "here")
    train = tmp_path / "here" / "train.jsonl"
    parts = [tmp_path / "hub" / "data" / f"train-{i}-of-2.jsonl" for i in (0, 1)]
    parts[0].parent.mkdir(parents=True)
    for part in parts:
        part.write_text(train.read_text())
    cell = Cell(purpose="final", entry="dpo", seed=7, steps=6)
    for source in (tmp_path / "hub", tmp_path / "hub" / "data" / "*"):
        data = dataclasses.replace(comparison.base.data, train=str(source))
        base = dataclasses.replace(comparison.base, data=data)
        changed = dataclasses.replace(comparison, base=base)
        found = fingerprints.of(changed, cell)
        with parts[1].open("a") as file:
            file.write('{"prompt": "more", "chosen": "a", "rejected": "b"}\n')
        assert found != fingerprints.of(changed, cell)


def test_settings_of_data_that_say_nothing_are_as_where_nobody_could_say(comparison, monkeypatch):
    cell = Cell(purpose="final", entry="dpo", seed=7, steps=6)
    found = fingerprints.of(comparison, cell)
    data = dataclasses.replace(comparison.base.data, columns={"prompt": "question"})
    base = dataclasses.replace(comparison.base, data=data)
    assert fingerprints.of(dataclasses.replace(comparison, base=base), cell) != found
    to_json = fingerprints.to_json

    def earlier(settings):
        said = to_json(settings)
        for name in ("scored_turns", "columns"):
            said.get("data", {}).pop(name, None)
        return said

    monkeypatch.setattr(fingerprints, "to_json", earlier)
    assert fingerprints.of(comparison, cell) == found


def test_what_a_cell_begins_from_and_is_judged_by_is_in_its_fingerprint_too(comparison, tmp_path):
    cell = Cell(purpose="final", entry="dpo", seed=7, steps=6)
    second = dataclasses.replace(comparison.entries[1], name="second", after="dpo, strong")
    chain = Cell(purpose="final", entry="second", seed=7, steps=6)
    comparison = dataclasses.replace(comparison, entries=(*comparison.entries, second))
    found = {x: fingerprints.of(comparison, x) for x in (cell, chain)}
    loop = dataclasses.replace(comparison.proxy.loop, max_steps=5)
    proxy = dataclasses.replace(comparison.proxy, loop=loop)
    judged = dataclasses.replace(comparison, proxy=proxy)
    assert all(fingerprints.of(judged, x) != found[x] for x in found)
    # The one that it begins from changes, and the cell's own settings do not.
    begun = dataclasses.replace(comparison.entries[1], settings={"method.beta": 0.8})
    entries = (comparison.entries[0], begun, second)
    changed = dataclasses.replace(comparison, entries=entries)
    assert fingerprints.of(changed, chain) != found[chain]
    assert fingerprints.of(changed, cell) == found[cell]
    config = pathlib.Path(comparison.base.model.model_name_or_path) / "config.json"
    config.write_text(config.read_text() + " ")
    assert fingerprints.of(comparison, cell) != found[cell]


def test_code_of_others_is_in_the_fingerprint_of_what_it_decides(comparison, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    code = "from alignax import DPO\nclass Mine(DPO):\n    scale = 1\n"
    path = tmp_path / "somebodys_method.py"
    path.write_text(code)
    mine = importlib.import_module("somebodys_method").Mine()
    entry = dataclasses.replace(comparison.entries[0], name="mine", method=mine)
    comparison = dataclasses.replace(comparison, entries=(*comparison.entries, entry))
    theirs, ours = (Cell(purpose="final", entry=name, seed=7, steps=6) for name in ("mine", "dpo"))
    before = [fingerprints.of(comparison, cell) for cell in (theirs, ours)]
    path.write_text(code.replace("1", "2"))
    after = [fingerprints.of(comparison, cell) for cell in (theirs, ours)]
    assert after[0] != before[0]
    assert after[1] == before[1]
