"""What makes an update fit that does not: the nearest change, alone before with others."""

import contextlib
import dataclasses
import types

import pytest

from alignax import commands, planning
from alignax import topology as topologies
from alignax.core.errors import BadInput
from alignax.forecast import Boxes, Bytes, Forecast
from alignax.planning import candidates, described, nearest_that_fits
from alignax.topology import CHIPS, GIB, Topology
from alignax.train.sharding import Mesh
from tests.tiny_model import experiment as tiny

FSDP = "--mesh.data 1 --mesh.fsdp 4"
REMAT = "--model.remat block"
TWO, FOUR = (f"--loop.gradient-accumulation-steps {n}" for n in (2, 4))
SLICE = Topology("v5e:2x2", [types.SimpleNamespace(platform="tpu")] * 4, CHIPS["v5e"])
BOXES = Boxes(32, 16, 2)


@pytest.fixture
def made(tmp_path):
    """Sixteen pairs on four devices, in copies and in parts, nothing computed again."""
    (tmp_path / "model").mkdir()  # which is not looked into
    made = tiny(tmp_path, mesh=Mesh(data=2, fsdp=2))
    return dataclasses.replace(
        made,
        model=dataclasses.replace(made.model, remat="none"),
        loop=dataclasses.replace(made.loop, batch_size=16),
    )


def words(changes):
    return [change.words for change in changes]


def test_changes_come_alone_in_order_of_what_they_cost_and_then_together(made):
    expected = [[FSDP], [REMAT], [TWO], [FOUR], [FSDP, REMAT], [FSDP, REMAT, TWO],
                [FSDP, REMAT, FOUR]]  # fmt: skip
    assert [words(changes) for changes in candidates(made, 4)] == expected


def test_a_change_that_is_made_already_is_none(made):
    made = dataclasses.replace(made, mesh=Mesh(data=1, fsdp=4))
    made = dataclasses.replace(made, model=dataclasses.replace(made.model, remat="block"))
    assert [words(changes) for changes in candidates(made, 4)] == [[TWO], [FOUR]]


def of(needed: float, changes=()) -> Forecast:
    """A forecast of so many GiB a chip, of the 16 that there are."""
    memory = Bytes(0, 0, 0, 0, 0, temporary=0, total=int(needed * GIB))
    return Forecast(SLICE, changes, memory, memory.total, 1e12, 64, [], 1.0, 0.5, 0.25)


def planned(monkeypatch, needed):
    """What `nearest_that_fits` finds where an update takes as much as `needed` says."""
    tried = []

    def forecast(experiment, topology, boxes, changes=()):
        tried.append(experiment)
        return of(needed(experiment), changes)

    monkeypatch.setattr(planning, "forecast", forecast)
    return tried


def test_an_update_that_fits_is_not_changed(monkeypatch, made):
    tried = planned(monkeypatch, lambda experiment: 15.0)
    assert nearest_that_fits(made, SLICE, BOXES) == (of(15.0), None)
    assert tried == [made]


def test_the_first_change_that_makes_it_fit_is_made_alone(monkeypatch, made):
    """Micro-batches do it here, and nothing is said of changes that do not."""
    steps = lambda experiment: experiment.loop.gradient_accumulation_steps  # noqa: E731
    tried = planned(monkeypatch, lambda experiment: 40.0 / steps(experiment))
    first, change = nearest_that_fits(made, SLICE, BOXES)
    assert (first.needed, change.changes) == (40 * GIB, (FOUR,))
    assert (tried[-1].mesh, tried[-1].model) == (made.mesh, made.model)
    assert f"[bold]fits with[/] {FOUR}:" in described(first, change)


def test_changes_are_made_together_where_none_is_enough(monkeypatch, made):
    def needed(experiment):
        parts, again = experiment.mesh.data == 1, experiment.model.remat == "block"
        return 40.0 - 15.0 * parts - 12.0 * again

    planned(monkeypatch, needed)
    assert nearest_that_fits(made, SLICE, BOXES)[1] == of(13.0, (FSDP, REMAT))


def test_a_change_that_cannot_be_is_passed_over(monkeypatch, made):
    def needed(experiment):
        if experiment.mesh.data == 1:
            raise BadInput("a size that divides", "4", "Set another.")
        return 10.0 if experiment.model.remat == "block" else 40.0

    planned(monkeypatch, needed)
    assert nearest_that_fits(made, SLICE, BOXES)[1] == of(10.0, (REMAT,))


def test_where_nothing_makes_it_fit_that_is_said(monkeypatch, made):
    planned(monkeypatch, lambda experiment: 40.0)
    found = nearest_that_fits(made, SLICE, BOXES)
    assert found == (of(40.0), None)
    assert described(*found)[-2:] == [
        "[bold]v5e:2x2[/]: [red]does not fit[/], 40.00 of 16.0 GiB",
        "No change of mesh.fsdp, remat or micro-batches makes it fit.",
    ]


@pytest.mark.parametrize(
    ("needed", "ends"),
    [(15.0, contextlib.nullcontext()), (40.0, pytest.raises(SystemExit, match=r"^1$"))],
)
def test_the_commands_exit_code_says_whether_it_fits(monkeypatch, needed, ends, made):
    """Of the config as it is, whatever a change would do."""
    planned(monkeypatch, lambda x: 10.0 if x.model.remat == "block" else needed)
    monkeypatch.setattr(topologies, "prepare", lambda name: None)
    monkeypatch.setattr(topologies, "topology", lambda name: SLICE)
    monkeypatch.setattr(commands, "_experiment", lambda path, overrides, command: made)
    with ends:
        commands._plan("config.py", ["--topology", "v5e:2x2"])
