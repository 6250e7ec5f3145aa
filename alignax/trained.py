"""What a run has left to measure and export: the policy of a checkpoint, or of a sweep's member.

Settings by which it would be read as another model than was trained are refused: the reference,
the strength of a loss or a chat template would be others, and nothing would look wrong.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from alignax import facts
from alignax.core.errors import BadInput
from alignax.core.types import Params, TrainState
from alignax.data.chat import renderer_hash
from alignax.members import Sweep, directory
from alignax.run import Run
from alignax.saved import CODE, code_of, first_difference, to_json
from alignax.train import optim, sharding
from alignax.train.checkpoint import Checkpoints
from alignax.train.checkpoint_names import resolve, saved_experiment
from alignax.train.step import init_state

_ROOMS = ("method", "adapter", "model")
_TEXT = ("type", "template", "chat_template", "chat_template_kwargs")
# What may differ all the same: what a policy is asked for, and what the machine at hand can do.
_FREE = ("method.target", "model.attention", "model.scan_layers")


class Place(NamedTuple):
    """Where the checkpoints of a run are.

    Fields:
        settings: that they were saved by, as JSON; None where no record of any can be read.
        member: which one of a sweep's members, counted from 0; None where it is no member.
        members: how many the sweep has.
    """

    folder: Path
    settings: dict[str, Any] | None
    member: int | None = None
    members: int = 1


def newest(run: Run, step: int | None = None, *, base: bool = True) -> tuple[int, Params]:
    """What the newest whole checkpoint, or one, has of the policy, and the updates until then.

    Args:
        run: whose output_dir is that of a run, or of a member of a sweep.
        base: whether the weights that the run began from are to be those of its training. They
            are read for that.

    Raises:
        BadInput: no checkpoint, one of another model or of a whole sweep, or one that was trained
            by another method, model, adapter or template.
    """
    place = find(Path(run.experiment.output_dir))
    if place.settings is not None:
        _refuse_another(run, place.settings, base)
    abstract, axes, shardings = run.trained
    optimizer = optim.make_optimizer(run.experiment.optim, 1, axes)
    make = lambda params: init_state(params, optimizer)  # noqa: E731
    places = sharding.state(run.mesh, shardings, optimizer, abstract)
    if place.member is not None:
        axes_of_all = TrainState(None, 0, 0)  # type: ignore[arg-type]
        make = jax.vmap(make, in_axes=None, out_axes=axes_of_all, axis_size=place.members)  # type: ignore[arg-type]
        places = TrainState(places.step, *jax.tree.map(sharding.stacked, places[1:]))
    wanted = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        jax.eval_shape(make, abstract),
        places,
    )
    with Checkpoints(place.folder) as checkpoints:
        found = checkpoints.restore(wanted, step)
    if found is None:
        raise BadInput(
            "a run with a checkpoint",
            "none",
            "Train first, or give the run's own output_dir.",
            where=run.experiment.output_dir,
        )
    params = found.state.params
    if place.member is not None:
        take = jax.jit(lambda tree, i: jax.tree.map(lambda x: x[i], tree), out_shardings=shardings)
        params = take(params, place.member)
    return found.step, run.policy(params)


def find(output: Path) -> Place:
    """Where the checkpoints are of what was trained into a folder.

    Raises:
        BadInput: they are of a whole sweep.
    """
    output = Path(str(resolve(output)))
    saved = saved_experiment(output)
    if saved is None:
        return next(_as_member(output), Place(output, None))
    if "sweep" in saved:
        names = [name for name, _ in _members(saved)]
        raise BadInput(
            "a run of its own, or a member of a sweep",
            f"a sweep of {len(names)}: {', '.join(names[:3])}{', ...' * (len(names) > 3)}",
            f"Give the output_dir of a member, such as {output / names[0]}, with its settings.",
            where=str(output),
        )
    return Place(output, saved)


def folder_of_export(run: Run, step: int, *, asked: bool) -> Path:
    """Where a run's weights are written that says nothing of it.

    Returns:
        `export` in output_dir, by which a finished run is known; `export-N` for an update N that
        was asked for, or is not the run's last.

    Raises:
        BadInput: the run reads from there.
    """
    output = Path(run.experiment.output_dir)
    ended = not asked and facts.ends_at(output, step)
    folder = output / ("export" if ended else f"export-{step}")
    refuse_what_is_read(run, folder)
    return folder


def newest_export(output: Path) -> Path | None:
    """`export` of a finished run, else the `export-N` of the latest update; None for neither."""
    if (output / "export").is_dir():
        return output / "export"
    found = {int(x.name[7:]): x for x in output.glob("export-*") if x.name[7:].isdigit()}
    return found[max(found)] if found else None


def refuse_what_is_read(run: Run, directory: Path) -> None:
    """Refuses to write over a model or an adapter that the run itself is made of.

    Raises:
        BadInput: naming the setting that says so.
    """
    settings = run.experiment
    read = {
        "model.model_name_or_path": run.model_dir,
        "model.critic_name_or_path": settings.model.critic_name_or_path,
        "adapter.adapter_name_or_path": settings.adapter and settings.adapter.adapter_name_or_path,
    }
    for i, part in enumerate(settings.rollout.rewards.parts):
        read[f"rollout.rewards.parts.{i}.directory"] = getattr(part, "directory", None)
    for name, path in read.items():
        if path is not None and _whole(path) == _whole(directory):
            raise BadInput(
                "a directory that the run does not read from",
                f"that of {name}",
                "Choose another: an export replaces the whole of it.",
                where=str(directory),
            )


def _whole(path: str | Path) -> Path:
    return Path(path).expanduser().resolve()


def _as_member(output: Path) -> Iterator[Place]:
    """The folder's place in the sweep that it is a member of, if it is one of any."""
    folder = output
    while "=" in folder.name:  # as `members.directory` names them
        folder = folder.parent
        saved = saved_experiment(folder)
        if saved is None or "sweep" not in saved:
            continue
        members, own = _members(saved), output.relative_to(folder).as_posix()
        for i, (name, settings) in enumerate(members):
            if name == own:
                yield Place(folder, settings, i, len(members))


def _members(saved: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The folder and the settings of each member, in the order of their states."""
    grid = {name: tuple(values) for name, values in saved["sweep"]["grid"].items()}
    sweep, first = Sweep(seeds=saved["sweep"]["seeds"], grid=grid), saved["seed"]
    found = []
    for point in sweep.points():
        settings = saved
        for name, value in point.items():
            room, last = name.split(".")
            settings = settings | {room: settings[room] | {last: value}}
        for seed in range(first, first + sweep.seeds):
            found.append((directory(point, seed), settings | {"seed": seed}))
    return found


def _refuse_another(run: Run, saved: dict[str, Any], base: bool) -> None:
    """Refuses settings that make another model, or another measure, of what was trained."""
    wanted = to_json(run.experiment) | {"method": to_json(run.method)} | code_of(run.method)
    different = first_difference(_part(saved), _part(wanted), _FREE)
    if different is None:
        digests = {"tokenizer and chat template": lambda: renderer_hash(run.renderer)}
        if base:
            digests["model.model_name_or_path"] = lambda: run.reference_fingerprint
        for name, digest in digests.items():
            old = saved.get(f"contents of {name}")
            if old is not None and old != (new := digest()[: len(old)]):
                different = f"contents of {name}", old, new
    if different is not None:
        name, old, new = different
        raise BadInput(
            f"{old!r}, by which {run.experiment.output_dir} was trained",
            repr(new),
            "Undo the edit of the file: what was trained is of other code."
            if name.startswith(CODE)
            else "Give the settings that `alignax train` was given: in the config file, or as the "
            "same flags again.",
            where=name,
        )


def _part(settings: dict[str, Any]) -> dict[str, Any]:
    """Of an experiment as JSON, what says which model it is and how it is prompted."""
    data = {name: x for name, x in settings["data"].items() if name in _TEXT}
    rooms = (*_ROOMS, CODE)
    return {room: settings[room] for room in rooms if room in settings} | {"data": data}
