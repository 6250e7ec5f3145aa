"""Whether an output_dir holds an earlier start of this very run: what is compared, and how."""

import dataclasses
from pathlib import Path
from typing import Any

from alignax.core.errors import BadInput
from alignax.data.builder import renderer_hash
from alignax.data.sources import content_hash
from alignax.run import Run
from alignax.saved import first_difference, to_json
from alignax.train.checkpoint_names import saved_experiment


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
        contents[f"rollout.rewards: {name}"] = part.fingerprint()
    digests = {f"contents of {name}": x[:16] for name, x in contents.items() if x}
    return to_json(dataclasses.replace(run.experiment, method=run.method)) | digests


def refuse_another(output: Path, wanted: dict[str, Any]) -> None:
    """Refuses an output_dir that holds the checkpoints of other settings."""
    found = saved_experiment(output)
    different = None if found is None else first_difference(found, wanted)
    if different is not None:
        name, old, new = different
        raise BadInput(
            f"the settings of the run that {output} holds: {name} = {old!r}",
            f"{new!r}",
            "Give the new run another output_dir, or set it back to go on with the old one.",
            where=name,
        )
