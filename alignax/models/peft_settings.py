"""The settings of an adapter in PEFT's format, and the refusal of what is not computed."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from alignax.core.errors import BadInput
from alignax.models import files
from alignax.models.lora import LoRA
from alignax.models.peft_names import PREFIX, TENSORS

CONFIG, WEIGHTS = files.ADAPTER, "adapter_model.safetensors"
# Each key with the values under which it changes nothing that is computed.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "layer_replication": (None,),
    "trainable_token_indices": (None,),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None,),
    "use_qalora": (False, None),
    "use_bdlora": (None, False),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "velora_config": (None,),
    "monteclora_config": (None,),
}
# These ways to begin take the update off the base, which is then another one.
_MOVES_THE_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")


def read_settings(directory: str | Path) -> LoRA:
    """The settings of an adapter in PEFT's format.

    Its targets are read from the tensors that there are, whichever way its config says them.

    Raises:
        BadInput: there is none, it is of another kind, or it asks for something that is not
            computed.
    """
    directory = Path(directory).expanduser()
    where = str(directory / CONFIG)
    raw = files.read_json(directory / CONFIG)
    if not raw:
        raise BadInput(
            f"a directory with {CONFIG} and {WEIGHTS}",
            "no such file",
            'Give the directory that PEFT or a run with export="adapter" has written.',
            where=where,
        )
    begun = str(raw.get("init_lora_weights") or "").lower()
    found = [(k, raw[k]) for k, allowed in _NEUTRAL.items() if k in raw and raw[k] not in allowed]
    if raw.get("peft_type") != "LORA":
        found = [("peft_type", raw.get("peft_type"))]
    if begun.startswith(_MOVES_THE_BASE):
        found.append(("init_lora_weights", raw["init_lora_weights"]))
    saved = raw.get("modules_to_save") or ()
    heads = ("score", "classifier")
    if not isinstance(saved, list | tuple) or any(name not in heads for name in saved):
        found.append(("modules_to_save", raw["modules_to_save"]))
    # Without a magnitude in the file, a layer's is its norms, which are the base's to tell.
    if read_layers(directory) is not None and raw.get("use_dora"):
        found.append(("layers_to_transform beside use_dora", raw["layers_to_transform"]))
    if found:
        name, value = found[0]
        raise _not_plain(f"{name} = {value!r:.200}", where)
    numbers = {"r": raw.get("r"), "lora_alpha": raw.get("lora_alpha"),
               "lora_dropout": raw.get("lora_dropout") or 0.0}  # fmt: skip
    for name, value in numbers.items():
        # Not above what any adapter has, and so neither infinite nor NaN.
        kinds, kind = ((int,), "whole number") if name == "r" else ((int, float), "number")
        if type(value) not in kinds or not abs(value) < 2**20:
            got = f"{value!r:.200}"
            raise BadInput(f"{name}, a {kind}", got, "Fetch the file again.", where=where)
    tensors = read_tensors(directory)
    for name in tensors:
        if "lora_" in name and not re.search(r"\.\d+\.", name):  # the number of its block
            raise _not_plain(name, str(directory / WEIGHTS))
    settings = LoRA(
        rank=numbers["r"],
        alpha=float(numbers["lora_alpha"]),
        dropout=float(numbers["lora_dropout"]),
        targets=_targets(tensors),
        rslora=bool(raw.get("use_rslora")),
        dora=bool(raw.get("use_dora")),
    )
    settings.check(where)
    for name, tensor in tensors.items():
        if name.endswith(TENSORS["a"]) and tensor.shape[:1] != (settings.rank,):
            raise BadInput(
                f"{name} of rank {settings.rank}, as {CONFIG} has it",
                f"the shape {list(tensor.shape)}",
                "Take both files from one source.",
                where=str(directory / WEIGHTS),
            )
    return settings


def _not_plain(got: str, where: str) -> BadInput:
    return BadInput(
        "an adapter of the plain kind: LoRA, rsLoRA or DoRA, of linear layers of its blocks only",
        got,
        "alignax does not compute this; merge it with PEFT, and begin from the merged model.",
        where=where,
    )


def read_layers(directory: Path) -> frozenset[int] | None:
    """The numbers of the blocks that an adapter is of; None where it is of all.

    Raises:
        BadInput: its config says neither a number nor a list of them.
    """
    given = files.read_json(directory / CONFIG).get("layers_to_transform")
    if given in (None, []):
        return None
    listed = given if isinstance(given, list) else [given]
    if any(type(layer) is not int for layer in listed):
        raise BadInput(
            "layers_to_transform, a whole number or a list of them",
            f"{given!r:.200}",
            "Fetch the file again.",
            where=str(directory / CONFIG),
        )
    return frozenset(listed)


def _targets(tensors: Iterable[str]) -> tuple[str, ...]:
    names = [name for name in tensors if name.endswith(TENSORS["a"])]
    modules = [name.removeprefix(PREFIX).removesuffix("." + TENSORS["a"]) for name in names]
    # Of model.layers.3.self_attn.q_proj, what comes after the number.
    return tuple(sorted({module.split(".", 3)[-1] for module in modules}))


def read_tensors(directory: Path) -> dict[str, np.ndarray]:
    """All tensors of an adapter by their names.

    Raises:
        BadInput: the file is absent, or cannot be read.
    """
    path = directory / WEIGHTS
    try:
        with safe_open(path, framework="np") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise BadInput(
            "a complete safetensors file", str(error), "Fetch or write the file again.",
            where=str(path),
        ) from error  # fmt: skip
