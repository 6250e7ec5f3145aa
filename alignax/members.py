"""The members of a sweep: experiments that differ in seed and in numbers that a step may trace.

What is of the type `Scalar` is used by the loss or the optimiser alone, as a number: so all members
have the same text, the same shapes and one compiled program.
"""

import dataclasses
import itertools
import math
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from alignax.config import Experiment
from alignax.core import own_code
from alignax.core.errors import BadInput
from alignax.core.method import scalars
from alignax.core.setting_types import classes_of, is_settings, nearest

ROOMS = ("method", "optim")  # of an experiment; those that have settings of the type `Scalar`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """Which runs: every point of the grid, by every seed.

    Fields:
        seeds: how many; the experiment's own and those that follow it.
        grid: values of settings, by their dotted names; several are multiplied.
    """

    seeds: int = 1
    grid: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)

    def points(self) -> list[dict[str, float]]:
        """The grid, the last setting changing first; one empty point where there is none."""
        return [
            dict(zip(self.grid, values, strict=True))
            for values in itertools.product(*self.grid.values())
        ]

    def members(self, experiment: Experiment) -> list[Experiment]:
        """The experiments, the seeds of a point side by side.

        Each has an output_dir of its own below the given one, such as `beta=0.1/seed=3`.

        Raises:
            BadInput: what members cannot differ in; no seed; a value twice or not finite.
        """
        self._check(experiment)
        return [
            dataclasses.replace(
                changed(experiment, point),
                seed=seed,
                output_dir="/".join([experiment.output_dir, directory(point, seed)]),
            )
            for point in self.points()
            for seed in range(experiment.seed, experiment.seed + self.seeds)
        ]

    def _check(self, experiment: Experiment) -> None:
        if self.seeds < 1:
            raise BadInput("at least 1 seed", str(self.seeds), "Give more.", where="--seeds")
        known = sweepable(experiment)
        for name, values in self.grid.items():
            if name not in known:
                near = nearest(name, known)
                raise BadInput(
                    f"a number that runs of one program can differ in: {', '.join(known)}",
                    name,
                    f"Did you mean {near}? "
                    * (near is not None)
                    + "Other settings change text, shapes or the number of updates, and take runs "
                    "of their own." + _how_to_sweep(experiment, name),
                    where="--grid",
                )
            if not all(map(math.isfinite, values)) or len(set(values)) < max(1, len(values)):
                raise BadInput(
                    "finite numbers, each once",
                    ", ".join(f"{x:g}" for x in values) or "none",
                    f"For example --grid {name}=0.05,0.1,0.2.",
                    where=f"--grid {name}",
                )


def _how_to_sweep(experiment: Experiment, name: str) -> str:
    """For a number of a user's own method, which its loss alone may read: how it says so."""
    kind, (room, _, field) = type(experiment.method), name.partition(".")
    if room != "method" or own_code.is_own(kind):
        return ""
    if float not in classes_of(typing.get_type_hints(kind).get(field)):
        return ""
    return f" Where the loss alone reads it, annotate {kind.__name__}.{field} as alignax.Scalar."


def parsed(words: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """A grid from words such as `method.beta=0.05,0.1`.

    Raises:
        BadInput: a word of another form; a setting that comes twice.
    """
    grid: dict[str, tuple[float, ...]] = {}
    for word in words:
        name, equals, values = word.partition("=")
        name = name.replace("-", "_")
        try:
            numbers = tuple(float(x) for x in values.split(","))
        except ValueError:
            numbers = ()
        if not equals or not numbers or name in grid:
            raise BadInput(
                "a setting and numbers, each setting once",
                word,
                "For example --grid method.beta=0.05,0.1,0.2.",
                where="--grid",
            )
        grid[name] = numbers
    return grid


def sweepable(experiment: Experiment) -> list[str]:
    """The dotted names of the settings that members may differ in."""
    return [f"{room}.{name}" for room in ROOMS for name in scalars(getattr(experiment, room))]


def changed(experiment: Experiment, settings: Mapping[str, Any], where: str = "") -> Experiment:
    """The experiment with settings, whose numbers may be traced, in the place of its own.

    Args:
        settings: by their dotted names.
        where: they come from, for a message.

    Raises:
        BadInput: a name that is no setting.
    """
    for name, value in settings.items():
        experiment = _changed(experiment, name.split("."), value, f"{where}: {name}")
    return experiment


def _changed(inside: Any, path: list[str], value: Any, where: str) -> Any:
    name, *rest = path
    known = [field.name for field in dataclasses.fields(inside)] if is_settings(inside) else []
    if name not in known:
        near = nearest(name, known)
        raise BadInput(
            f"a setting; {type(inside).__name__} has {', '.join(known) or 'none'}",
            name,
            f"Did you mean {near}?" if near else "Rename or remove it.",
            where=where,
        )
    if rest:
        value = _changed(getattr(inside, name), rest, value, where)
    return dataclasses.replace(inside, **{name: value})


def directory(point: Mapping[str, float], seed: int) -> str:
    """Of a member, below the sweep's: a folder for each setting, named as data tools read it."""
    folders = [f"{name.split('.')[1]}={value}" for name, value in point.items()]
    return "/".join([*folders, f"seed={seed}"])
