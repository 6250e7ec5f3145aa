"""Whether an output_dir holds an earlier start of this very run: what is compared, and how."""

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignax import facts
from alignax.core.errors import BadInput
from alignax.data.chat import renderer_hash
from alignax.data.sources import content_hash
from alignax.models import files
from alignax.run import Run
from alignax.saved import CODE, code_of, first_difference, to_json
from alignax.train.checkpoint_names import saved_experiment

CONTENTS, REWARDS = "contents of ", "rollout.rewards: "


def settings(run: Run) -> dict[str, Any]:
    """The experiment as JSON, with a digest of what its files held: a path alone may not say.

    Digests come last, because a setting that differs often changes them too.
    """
    contents = {"model.model_name_or_path": run.reference_fingerprint}
    for name in ("train", "eval"):
        source = getattr(run.experiment.data, name)
        if source is None:
            continue
        if run.experiment.rollout:
            split = getattr(run.experiment.data, f"{name}_split")
            contents[f"data.{name}"] = content_hash(source, split=split)
        else:
            contents[f"data.{name}"] = getattr(run, f"{name}_data").fingerprint
    if run.experiment.rollout:  # what is prepared has it in its fingerprint
        contents["tokenizer and chat template"] = renderer_hash(run.renderer)
    rewards = run.experiment.rollout.rewards
    for name, part in zip(rewards.names, rewards.parts, strict=True):
        contents[f"{REWARDS}{name}"] = part.fingerprint()
    digests = {f"{CONTENTS}{name}": x[:16] for name, x in contents.items() if x}
    said = to_json(dataclasses.replace(run.experiment, method=run.method))
    return said | code_of(run.method) | digests


def refuse_another(run: Run, wanted: dict[str, Any], members: Sequence[Run] = ()) -> None:
    """Refuses an output_dir that holds what a run of other settings has left.

    Args:
        wanted: the settings that checkpoints are to be saved by.
        members: of a sweep; what they keep stands in folders of their own.
    """
    output = Path(run.experiment.output_dir)
    found = saved_experiment(output)
    if found is not None:
        _refuse(run, output, found, wanted, "set it back to go on with the old one")
        return
    # One that ended before it learnt anything begins anew, with the settings that mend it too.
    if not any(_has_learnt(Path(one.experiment.output_dir)) for one in (run, *members)):
        return
    # And one that ended before its first checkpoint; what another has left is not its own.
    unknown = []
    for one in (run, *members):
        folder = Path(one.experiment.output_dir)
        kept = files.read_json(folder / facts.FILE).get("settings")
        if kept is not None:
            swept = {"sweep": wanted["sweep"]} if one is run and "sweep" in wanted else {}
            remedy = "move what is there away: it has no checkpoint to go on from"
            _refuse(one, folder, kept, facts.settings(one) | swept, remedy)
        elif one is not run or not members:  # a sweep's own folder has no card
            unknown.append(str(folder))
    left = [name for name in ("metrics.jsonl", "export") if _is_there(output / name)]
    if left and unknown:
        raise BadInput(
            "a folder in which no other run has left anything",
            f"{' and '.join(left)}, and neither a checkpoint nor {facts.FILE} in {unknown[0]}",
            "Give the new run another output_dir, or move what is there away.",
            where=str(output),
        )


def _has_learnt(folder: Path) -> bool:
    """Whether there is an export, or an update in the log; a line that is cut off is none."""
    if _is_there(folder / "export"):
        return True
    log = folder / "metrics.jsonl"
    steps = []
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else ():
        with contextlib.suppress(ValueError, AttributeError):
            steps.append(json.loads(line).get("step"))
    return any(isinstance(step, int) and step >= 1 for step in steps)


def _is_there(path: Path) -> bool:
    return path.exists() and (path.is_dir() or path.stat().st_size > 0)


def _refuse(
    run: Run, folder: Path, found: dict[str, Any], wanted: dict[str, Any], or_else: str
) -> None:
    """Raises where settings differ in what decides a run's numbers."""
    different = first_difference(found, wanted)
    if different is not None:
        name, old, new = different
        if changed := _code_at(run, name):
            raise BadInput(
                f"the code of {changed[0]} that the run in {folder} was begun with",
                "another: this file, or one that it imports, has been edited since",
                f"Give the new run another output_dir, or {or_else}.",
                where=changed[1],
            )
        raise BadInput(
            f"the settings of the run that {folder} holds: {name} = {old!r}",
            f"{new!r}",
            f"Give the new run another output_dir, or {or_else}.",
            where=name,
        )


def _code_at(run: Run, name: str) -> tuple[str, str] | None:
    """Whose code a difference is in, and in which file; None where it is in a setting."""
    kind = type(run.method)
    if name.startswith(CODE):
        return kind.__name__, name.removeprefix(CODE).removeprefix(".") or kind.__module__
    rewards = run.experiment.rollout.rewards
    for one, part in zip(rewards.names, rewards.parts, strict=True):
        place = getattr(part, "function", None)
        if name == f"{CONTENTS}{REWARDS}{one}" and isinstance(place, str):
            return one, place.rpartition(":")[0]
    return None
