"""Repeats a finished run and says whether every number came out the same, to the bit."""

import dataclasses
import hashlib
import json
import shlex
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from rich.markup import escape

from alignax import earlier, facts, jobs
from alignax.config import Experiment
from alignax.core import processes
from alignax.core.errors import BadInput
from alignax.models import files
from alignax.run import Run
from alignax.saved import first_difference
from alignax.train.checkpoint_names import resolve, saved_experiment, steps


class Comparison(NamedTuple):
    """What two runs of the same settings have in common.

    Fields:
        lines: of metrics that are the same, before the first that is not.
        first: step, name and both values of the first number that differs; None where none does.
        weights: whether the exported weights are the same bytes.
        surroundings: name and both values of all that differs around the runs: versions, devices.
    """

    lines: int
    first: tuple[int, str, Any, Any] | None
    weights: bool
    surroundings: list[tuple[str, str | None, str | None]]

    @property
    def same(self) -> bool:
        """Whether both runs are the same to the bit."""
        return self.first is None and self.weights


def command(directory: Path) -> list[str]:
    """The words of the line that started a run, after `alignax train`."""
    found = files.read_json(directory / facts.FILE).get("arguments")
    if found is None:
        raise BadInput(
            "a run that `alignax train` has begun",
            "no command on record",
            "Only such a run can be repeated; one begun from Python is to be called again, and a "
            "sweep to be trained again.",
            where=str(directory / facts.FILE),
        )
    swept = next((word for word in found if word.partition("=")[0] in ("--seeds", "--grid")), None)
    if swept is not None:
        raise BadInput(
            "a run of its own",
            f"a member of a sweep: {shlex.join(found)}",
            "Its numbers are a single run's to rounding alone. Train the sweep again into another "
            "output_dir, and compare the members' files.",
            where=str(directory / facts.FILE),
        )
    return found


def rerun(experiment: Experiment, directory: Path, *, quiet: bool = False) -> Comparison:
    """Trains again, into `directory`/rerun, and compares.

    A rerun that was interrupted goes on; one that has ended makes room for the new one.

    Args:
        experiment: what the run's command says today.
        directory: of the run, which must be finished.

    Raises:
        BadInput: where the settings or the data are no longer those of the run.
    """
    again = dataclasses.replace(experiment, output_dir=str(directory / "rerun"), wandb=None)
    before = saved_experiment(directory)
    newest = max(steps(resolve(directory)), default=0)
    unfinished = (
        "no checkpoint" if before is None
        else "no exported weights" if not _exported(directory)
        else None if facts.ends_at(directory, newest) else f"one that is at step {newest}"
    )  # fmt: skip
    if before is None or unfinished is not None:
        raise BadInput(
            "a finished run",
            unfinished or "",
            "Run its command to the end first.",
            where=str(directory),
        )
    different = first_difference(before, earlier.settings(Run(again, quiet=True)))
    if different is not None:
        name, old, new = different
        raise BadInput(
            f"{name} as the run had it: {old!r}",
            repr(new),
            "Set it back; the config file or the data have changed since.",
            where=name,
        )
    with processes.first_before_others():
        if processes.is_first() and _exported(directory / "rerun"):
            shutil.rmtree(directory / "rerun")
    jobs.train(again, quiet=quiet)
    return compare(directory, directory / "rerun")


def compare(one: Path, other: Path) -> Comparison:
    """Compares two finished runs, line by line and byte by byte."""
    logs = [_log(path) for path in (one, other)]
    lines, first = 0, None
    for a, b in zip(*logs, strict=False):
        if a != b:
            first = _first(json.loads(a), json.loads(b))
            break
        lines += 1
    if first is None and len(logs[0]) != len(logs[1]):
        longer = max(logs, key=len)
        step = json.loads(longer[lines])["step"]
        first = (step, "lines of metrics", len(logs[0]), len(logs[1]))
    around = [_around(path) for path in (one, other)]
    names = dict.fromkeys([*around[0], *around[1]])
    unlike = [(n, around[0].get(n), around[1].get(n)) for n in names]
    return Comparison(
        lines, first, _weights(one) == _weights(other), [x for x in unlike if x[1] != x[2]]
    )


def _log(run: Path) -> list[str]:
    """The lines of metrics; those of a step alone, which earlier versions wrote, say nothing."""
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [line for line in lines if len(json.loads(line)) > 1]


def _around(run: Path) -> dict[str, str]:
    """What was around a run, by name; several values where its processes differed in them."""
    found: dict[str, dict[str, None]] = {}
    for one in files.read_json(run / facts.FILE).get("around", []):
        for name, value in _flat(one).items():
            found.setdefault(name, {})[str(value)] = None
    return {name: ", then ".join(values) for name, values in found.items()}


def _exported(run: Path) -> bool:
    return any((run / "export").glob("*.safetensors"))


def _first(a: dict[str, Any], b: dict[str, Any]) -> tuple[int, str, Any, Any]:
    name = next(n for n in {**a, **b} if a.get(n) != b.get(n))
    return a["step"], name, a.get(name), b.get(name)


def _weights(run: Path) -> dict[str, str]:
    found = {}
    for path in sorted((run / "export").glob("*.safetensors")):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        name = f"{prefix}{name}"
        found |= _flat(value, f"{name} ") if isinstance(value, dict) else {name: value}
    return found


def describe(found: Comparison) -> str:
    """A few lines for people."""
    said = [f"[green]✓[/] the same to the bit: {found.lines} lines of metrics, exported weights"]
    if found.first is not None:
        step, name, old, new = found.first
        said = [
            f"[red]✗[/] {found.lines} lines of metrics are the same; then, at step {step}, "
            f"{escape(name)} is {escape(str(new))}, and was {escape(str(old))}"
        ]
    elif not found.weights:
        said = [f"[red]✗[/] all {found.lines} lines of metrics are the same, the weights are not"]
    said += [escape(f"  {name}: {new}, and was {old}") for name, old, new in found.surroundings]
    return "\n".join(said) if processes.is_first() else ""
