"""A profile of a few updates: where their time went, by part of the model."""

import dataclasses
import gzip
import json
from types import SimpleNamespace
from typing import NamedTuple

import jax
import pytest

from alignax import cli, jobs
from alignax.config import configs_directory
from alignax.core.errors import BadInput
from alignax.methods import GRPO
from alignax.train import compilations
from alignax.train.loop import Loop
from alignax.train.profile import (
    BESIDE,
    OTHER,
    PARTS,
    Operation,
    Profile,
    operations,
    programs_of,
    shares,
)
from tests.test_online_runs import setup as sampling
from tests.tiny_model import experiment as tiny

LINES = """HloModule jit_update, is_scheduled=true
%fused_computation (param_0: f32[8,8]) -> f32[8,8] {
  ROOT %dot.1 = f32[8,8]{1,0} dot(%param_0, %param_0), metadata={op_name="jit(update)/jvp()/while/body/projections/attention/dot_general" stack_frame_id=2}
}
  %dot.2 = f32[8,8]{1,0} dot(%x, %y), metadata={op_name="jit(update)/transpose(jvp(head))/dot_general"}
  %fusion.3 = (f32[8]{0}, f32[8]{0}) fusion(%x), kind=kLoop, metadata={op_name="jit(update)/transpose(jvp())/while/body/rematted_computation/mlp/mul"}
  %mul.4 = f32[8]{0} multiply(%x, %y), metadata={op_name="jit(update)/optimiser/mul"}
  %copy.5 = f32[8]{0} copy(%x)
  ROOT %while.6 = (s32[], f32[8]{0}) while(%tuple), condition=%c, body=%b, metadata={op_name="jit(update)/jvp()/while"}
"""  # noqa: E501


def test_an_operation_is_of_the_innermost_part_that_it_was_traced_in():
    assert programs_of(LINES) == {
        ("jit_update", "dot.1"): ("attention", "forward"),
        ("jit_update", "dot.2"): ("head", "backward"),
        ("jit_update", "fusion.3"): ("mlp", "recomputed"),
        ("jit_update", "mul.4"): ("optimiser", ""),
        ("jit_update", "copy.5"): (OTHER, ""),
    }  # the loop itself does no work beside its operations


class Event(NamedTuple):
    """One of a trace, as `jax.profiler.ProfileData` has it."""

    stats: list[tuple[str, str]]
    start_ns: float = 1.0
    end_ns: float = 2.0


def test_operations_of_other_programs_are_not_the_updates_though_they_are_called_alike():
    told = [("jit_update", "dot.1"), ("jit_draw", "dot.1"), ("jit_update", "while.6")]
    events = [Event([("hlo_module", module), ("hlo_op", name)]) for module, name in told]
    line = SimpleNamespace(events=[*events, Event([("core", "1")])])
    data = SimpleNamespace(planes=[SimpleNamespace(name="/host:CPU", lines=[line])])
    found = [x.part for x in operations(data, programs_of(LINES))]
    assert found == ["attention", BESIDE]


def test_an_instant_is_shared_by_what_runs_in_it():
    # From 0 to 9 something runs from 1 to 7 and from 8 to 9, so 7 in all.
    ran = [
        Operation("mlp", "forward", 1.0, 5.0),  # alone, then one of two, then of three
        Operation("head", "forward", 2.0, 7.0),  # and alone from 5 to 7
        Operation("mlp", "forward", 4.0, 5.0),
        Operation("loss", "forward", 8.0, 12.0),  # ends after what is looked at
    ]
    assert shares(ran, 0.0, 9.0) == pytest.approx(
        {
            ("mlp", "forward"): 1 + 2 / 2 + 2 / 3,
            ("head", "forward"): 2 / 2 + 1 / 3 + 2,
            ("loss", "forward"): 1,
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a whole run, two of whose updates were traced."""
    folder = tmp_path_factory.mktemp("profile")
    made = tiny(folder, loop=Loop(batch_size=8, max_steps=4))
    made = dataclasses.replace(made, data=dataclasses.replace(made.data, eval=None))
    compilations.keep_apart_by_names()  # as the command line does
    try:
        jobs.train(made, quiet=True, profile=2)
    finally:
        jax.config.update("jax_compilation_cache_include_metadata_in_key", False)
    return folder / "run" / "profile"


def test_a_browser_opens_the_trace_and_the_table(folder):
    with gzip.open(folder / "trace.json.gz") as file:
        events = json.load(file)["traceEvents"]  # the form of chrome://tracing and Perfetto
    updates = [event for event in events if event.get("name") == "train"]
    assert len(updates) == 2
    assert "metadata" not in json.loads(gzip.decompress((folder / "trace.json.gz").read_bytes()))
    page = (folder / "steps.html").read_text()
    assert "<html" in page
    assert all(part in page for part in PARTS)


def test_every_part_of_a_step_is_found_in_what_ran(folder):
    (path,) = folder.glob("plugins/profile/*/*.xplane.pb")
    data = jax.profiler.ProfileData.from_file(str(path))
    names = {
        dict(event.stats).get("hlo_op")
        for plane in data.planes
        for line in plane.lines
        for event in line.events
    }
    assert len(names) > 20
    page = (folder / "steps.html").read_text()
    for part in ("projections", "attention", "mlp", "head"):
        (row,) = [line for line in page.splitlines() if f" {part} " in line]
        numbers = [float(word.rstrip("%")) for word in row.replace("│", " ").split()[1:]]
        # Forward, computed again (but for the head), backward, in all: seconds; then the share.
        assert len(numbers) == (4 if part == "head" else 5)
        assert numbers[-1] > 0.0


def test_a_run_that_samples_shows_its_drawing_beside_the_parts_of_its_updates(tmp_path):
    made = sampling(tmp_path, GRPO(num_samples=4, beta=0.0), loop={"max_steps": 4})
    compilations.keep_apart_by_names()
    try:
        jobs.train(made, quiet=True, profile=2)
    finally:
        jax.config.update("jax_compilation_cache_include_metadata_in_key", False)
    page = (tmp_path / "run" / "profile" / "steps.html").read_text()
    (row,) = [line for line in page.splitlines() if f" {BESIDE} " in line]
    assert float(row.replace("│", " ").split()[-1].rstrip("%")) > 0.0
    (row,) = [line for line in page.splitlines() if " mlp " in line]
    assert float(row.replace("│", " ").split()[-1].rstrip("%")) > 0.0


def test_a_run_too_short_to_be_warm_is_refused_before_it_begins(tmp_path):
    with pytest.raises(BadInput, match=r"--profile: expected 5 updates to come, 2 of them before"):
        jobs.train(tiny(tmp_path, loop=Loop(batch_size=8, max_steps=4)), quiet=True, profile=3)
    with pytest.raises(BadInput, match="expected at least 1 step"):
        Profile(tmp_path, steps=0)


def test_the_command_line_passes_the_number_of_updates_on_and_keeps_it_from_the_run(monkeypatch):
    asked = []
    monkeypatch.setattr(compilations, "keep_apart_by_names", lambda: None)
    monkeypatch.setattr(jobs, "train", lambda experiment, **how: asked.append(how))
    config = str(configs_directory() / "quickstart.py")
    for words in (["--profile"], ["--seed", "1", "--profile", "7"], []):
        cli.main(["train", config, *words])
    assert asked == [
        {"command": [config], "profile": 3},
        {"command": [config, "--seed", "1"], "profile": 7},
        {"command": [config], "profile": None},
    ]


def test_runs_side_by_side_are_not_traced(monkeypatch, capsys):
    monkeypatch.setattr(compilations, "keep_apart_by_names", lambda: None)
    with pytest.raises(SystemExit):
        cli.main(["train", str(configs_directory() / "quickstart.py"), "--seeds", "2", "--profile"])
    assert "--profile: expected --profile for one run; got --seeds or --grid" in (
        capsys.readouterr().err
    )
