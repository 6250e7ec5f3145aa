"""Settings as a checkpoint keeps them, and whether a run may go on under others."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignax.core import own_code
from alignax.core.setting_types import is_settings
from alignax.data.in_memory import is_written

# Under what name the digests of a method stand whose code is the user's own.
CODE = "code of the method"


def to_json(settings: Any) -> Any:
    """Settings as JSON; a dataclass carries its class's name under `type`, a function its own.

    A class that is `saved_as` another name carries that.
    """
    if is_settings(settings):
        fields = {f.name: to_json(getattr(settings, f.name)) for f in dataclasses.fields(settings)}
        kind = type(settings)
        return {"type": getattr(kind, "saved_as", kind.__name__), **fields}
    if isinstance(settings, tuple | list):
        return [to_json(x) for x in settings]
    if isinstance(settings, dict):
        return {name: to_json(value) for name, value in settings.items()}
    if callable(settings):
        name = getattr(settings, "__qualname__", type(settings).__qualname__)
        return f"{settings.__module__}:{name}"
    return settings


def code_of(method: Any) -> dict[str, Any]:
    """What of a method's code stands beside its settings: nothing of this package's own."""
    found = own_code.digests(type(method))
    return {CODE: dict(found)} if found else {}


# What may differ between a run and its continuation: none of it changes a number of the run by
# more than rounding (after which a sampler may draw another token), and all but the first four by
# not even that. What answers are measured by may not: before and after would be of two measures.
# What becomes of bad updates may
# differ too (with it `loop.save_steps`, to multiples of which a run rolls back), and how often is
# drawn for a round: a run that has stopped at one of those goes on by saying so.
_OFF = {"scored_turns": "all"}  # of settings that hold something where they are off
_FREE = (
    *("mesh", "loop.gradient_accumulation_steps", "rollout.shapes", "model.remat"),
    *("loop.on_bad_update", "loop.max_bad_updates", "loop.largest_grad_norm"),
    "rollout.max_draws",
    *("loop.logging_steps", "loop.save_steps", "loop.stall_seconds"),
    *("loop.keep", "output_dir", "tensorboard", "wandb", "data.cache_dir", "adapter.export"),
    *("rollout.server", "rollout.slots", "rollout.show_every"),
    *("evaluation.answers", "evaluation.shown"),
    *("method.lowest_rating", "method.highest_rating"),  # said of the export alone
)


def first_difference(
    old: dict[str, Any], new: dict[str, Any], others: Sequence[str] = ()
) -> tuple[str, Any, Any] | None:
    """The first setting in which two experiments, as JSON, differ in what decides their numbers.

    Args:
        others: settings that may differ too, by their dotted names.
    """
    free = {*_FREE, *others}
    if (new.get("adapter") or {}).get("dropout"):
        free.remove("loop.gradient_accumulation_steps")  # each micro-batch leaves other things out

    def walk(old: Any, new: Any, name: str) -> tuple[str, Any, Any] | None:
        if name in free or old == new or _is_one_file(old, new):
            return None
        if isinstance(old, dict) and isinstance(new, dict):
            for key in {**old, **new}:
                off = key in new and (not new[key] or new[key] == _OFF.get(key))
                if "type" in old and key not in old and off:
                    continue  # an earlier version did not have it, and it is off
                if key == CODE and key not in old:
                    continue  # an earlier version did not say
                inner = f"{name}.{key}" if name else key
                found = walk(old.get(key), new.get(key), inner)
                if found is not None:
                    return found
            return None
        return name, old, new

    return walk(old, new, "")


def _is_one_file(old: Any, new: Any) -> bool:
    """Whether these are the same rows in memory: data.cache_dir, where their files are, is free."""
    paths = isinstance(old, str) and isinstance(new, str)
    return paths and is_written(old) and Path(old).name == Path(new).name
