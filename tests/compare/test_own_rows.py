"""An entry that makes its own data out of the model of another, as SteerLM's step 4 does."""

import dataclasses
import gzip
import json
import pathlib

import pytest

from alignax import BadInput, Mesh
from alignax.compare import cells, fingerprints, settings, worker
from alignax.compare.cells import Cell
from alignax.compare.settings import Comparison
from tests.compare.small import TINY

NAME = "steerlm, bootstrapped"
DATA = TINY.parent / "compare_tiny"


@pytest.fixture
def comparison() -> Comparison:
    found = settings.load(TINY)
    return dataclasses.replace(found, base=dataclasses.replace(found.base, mesh=Mesh(data=1)))


def made_by(comparison: Comparison, place: str | None) -> Comparison:
    entries = tuple(
        dataclasses.replace(x, own_rows=place) if x.name == NAME else x for x in comparison.entries
    )
    return dataclasses.replace(comparison, entries=entries)


def own(comparison: Comparison, folder: pathlib.Path, seed: int) -> list[dict]:
    """The rows that the entry makes, beginning from the comparison's own model."""
    cell = Cell(purpose="final", entry=NAME, seed=seed, steps=4)
    run = cells.experiment(comparison, cell, folder)
    run = dataclasses.replace(run, model=comparison.base.model)
    found = cells.with_own_rows(comparison, cell, run)
    assert found.data.train.startswith(str(folder))
    assert dataclasses.replace(found, data=run.data) == run
    return [json.loads(line) for line in pathlib.Path(found.data.train).read_text().splitlines()]


def test_steerlm_answers_every_prompt_anew_and_learns_how_its_answers_are_rated(
    comparison, tmp_path
):
    found = own(comparison, tmp_path / "one", seed=1)
    with gzip.open(DATA / "attributes.jsonl.gz", "rt") as file:
        given = [json.loads(line) for line in file]
    assert {row["prompt"] for row in found} == {row["prompt"] for row in given}
    assert 0.98 * len(given) < len(found) <= len(given)  # empty answers are left out
    assert all(row["completion"].strip() for row in found)
    assert {row["completion"] for row in found}.isdisjoint({row["completion"] for row in given})
    assert {name for row in found for name in row["attributes"]} == {
        "form",
        "kindness",
        "relevance",
    }
    assert {x for row in found for x in row["attributes"].values()} == {0, 1, 2, 3, 4}
    assert found == own(comparison, tmp_path / "again", seed=1)
    assert found != own(comparison, tmp_path / "two", seed=2)


def test_seeds_whose_rows_differ_share_the_shapes_of_batches_and_so_the_compiled_update(
    comparison, tmp_path
):
    """What others have fits their rows alone: their sums of tokens change it."""
    with gzip.open(DATA / "attributes.jsonl.gz", "rt") as file:
        rows = file.readlines()
    shapes = {"own": [], "given": []}
    for seed in (1, 2):
        data = tmp_path / f"{seed}.jsonl"
        data.write_text("".join(rows[seed::3]))
        cell = Cell(purpose="final", entry=NAME, seed=seed, steps=4)
        run = cells.experiment(comparison, cell, tmp_path)
        run = dataclasses.replace(
            run, model=comparison.base.model, data=dataclasses.replace(run.data, train=str(data))
        )
        shapes["own"].append(worker._shape(comparison, cell, run))
        shapes["given"].append(worker._shape(made_by(comparison, None), cell, run))
    assert shapes["own"][0] == shapes["own"][1]
    assert shapes["given"][0] != shapes["given"][1]


def test_an_entry_that_makes_nothing_keeps_the_data_of_all(comparison, tmp_path):
    cell = Cell(purpose="final", entry="dpo", seed=1, steps=4)
    run = cells.experiment(comparison, cell, tmp_path)
    assert cells.with_own_rows(comparison, cell, run) is run
    assert not list(tmp_path.iterdir())


def test_what_makes_the_rows_is_part_of_what_decides_the_result(comparison, tmp_path):
    path = tmp_path / "rows.py"
    path.write_text("def rows(run):\n    return []\n")
    mine = made_by(comparison, f"{path}:rows")
    cell = Cell(purpose="final", entry=NAME, seed=1, steps=4)
    found = fingerprints.of(mine, cell)
    assert found == fingerprints.of(mine, cell)
    path.write_text("def rows(run):\n    return [{}]\n")
    assert found != fingerprints.of(mine, cell)
    assert found != fingerprints.of(comparison, cell)
    path.write_text("import other_rows\n\ndef rows(run):\n    return other_rows.ROWS\n")
    path.with_name("other_rows.py").write_text("ROWS = []\n")
    found = fingerprints.of(mine, cell)
    path.with_name("other_rows.py").write_text("ROWS = [{}]\n")
    assert found != fingerprints.of(mine, cell)


def test_rows_out_of_no_model_or_by_no_function_are_refused(comparison, tmp_path):
    with pytest.raises(BadInput) as error:
        made_by(comparison, str(tmp_path / "none.py:rows")).check()
    assert f"{NAME}.own_rows" in str(error.value)
    assert "no such file" in str(error.value)
    alone = tuple(
        dataclasses.replace(x, after=None) if x.name == NAME else x for x in comparison.entries
    )
    with pytest.raises(BadInput) as error:
        dataclasses.replace(comparison, entries=alone).check()
    assert "an entry that makes its rows with the model of another" in str(error.value)
