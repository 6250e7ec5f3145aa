"""Adapters in the layout of the `peft` package, without it and without torch.

    adapter_config.json          rank, alpha, targets and what else the settings say
    adapter_model.safetensors    lora_A [rank, inputs] and lora_B [outputs, rank] of every layer,
                                 and for DoRA lora_magnitude_vector [outputs]
    chat_template_kwargs.json    what the chat template is told, where there is anything to tell

What the tensors are called is in `peft_names`.
"""

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from alignax.core.errors import BadInput
from alignax.core.processes import fetch, is_first
from alignax.core.types import Params
from alignax.models import files, pretrained
from alignax.models.kernels import at, plain
from alignax.models.lora import Adapter, LoRA
from alignax.models.peft_names import PREFIX, TENSORS, check, module_names, tensors_of
from alignax.models.settings import replace_template, template_options
from alignax.models.stored import SCORE
from alignax.models.transformer import Decoder

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


def save(
    directory: str | Path,
    params: Params,
    adapter: Adapter,
    *,
    base: str,
    source: str | Path | None = None,
    chat_template: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    card: str | None = None,
) -> None:
    """Writes a directory that `PeftModel.from_pretrained` loads; an earlier export is replaced.

    Every process of a run calls this, and the first one writes.

    Args:
        params: of the adapter.
        base: what the adapter belongs to, as whoever loads it will find it: a path or a hub id.
        source: the base's directory, whose family, tokenizer and template the adapter has.
        chat_template, chat_template_kwargs, card: as in `pretrained.save`. What is told has a file
            of its own, for `peft` may refuse a key in its config that it does not know.

    Raises:
        BadInput: a family without such a layout, or a directory that cannot be written.
    """
    source = pretrained.locate(base if source is None else source)
    family = family_of(source)
    check(adapter.decoder.config, family)
    tensors = {}
    for name, path, kind, layer in tensors_of(adapter, family):
        param = at(params["layers"], path)[kind]
        tensors[name] = _to_stored(fetch(param)[layer], kind, adapter.contract(path))
    if "score" in params:
        tensors[PREFIX + SCORE] = fetch(params["score"])
    if is_first():
        with files.replacing(Path(directory), card=card is not None) as new:
            for name in files.TOKENIZER_FILES:
                if (source / name).is_file():
                    shutil.copyfile(source / name, new / name)
            if chat_template is not None:
                replace_template(new, chat_template)
            told = dict(chat_template_kwargs or {})
            if told or template_options(source):  # else the base's would be read
                files.write_json(new / files.OPTIONS, told)
            if card is not None:
                (new / "README.md").write_text(files.marked(card), encoding="utf-8")
            files.write_json(new / CONFIG, _described(adapter, base, family))
            save_file(tensors, new / WEIGHTS, metadata={"format": "pt"})
            (new / WEIGHTS).chmod(0o666 & new.stat().st_mode)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("alignax adapter export")


def _described(adapter: Adapter, base: str, family: str) -> dict[str, Any]:
    settings, scored = adapter.settings, bool(adapter.decoder.config.num_scores)
    alpha = settings.alpha
    names = module_names(adapter.decoder.config, family)
    targets = {names["/".join(path)].split(".")[-1] for path in adapter.paths}
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if scored else "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": settings.rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": settings.dropout,
        "target_modules": sorted(targets),
        "use_rslora": settings.rslora,
        "use_dora": settings.dora,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "modules_to_save": ["score"] if scored else None,
    }


def _to_stored(x: np.ndarray, kind: str, contract: int) -> np.ndarray:
    """One layer's array as PEFT has it."""
    match kind:
        case "a":
            x = x.reshape(-1, x.shape[-1]).T
        case "b":
            x = x.reshape(x.shape[0], -1).T
        case _:
            x = x.reshape(-1)
    # safetensors writes the memory as it lies: a transposed view would be stored wrong.
    return np.ascontiguousarray(x, np.float32)


def family_of(directory: Path) -> str:
    """The model_type of a directory's config.json; empty where it says none."""
    return str(files.read_json(directory / "config.json").get("model_type") or "")


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
    if found:
        name, value = found[0]
        raise BadInput(
            "an adapter of the plain kind: LoRA, rsLoRA or DoRA, of linear layers only",
            f"{name} = {value!r:.200}",
            "alignax does not compute this; merge it with PEFT, and begin from the merged model.",
            where=where,
        )
    numbers = {"r": raw.get("r"), "lora_alpha": raw.get("lora_alpha"),
               "lora_dropout": raw.get("lora_dropout") or 0.0}  # fmt: skip
    for name, value in numbers.items():
        # Not above what any adapter has, and so neither infinite nor NaN.
        if type(value) not in (int, float) or not abs(value) < 2**20:
            got = f"{value!r:.200}"
            raise BadInput(f"{name}, a number", got, "Fetch the file again.", where=where)
    tensors = _tensors(directory)
    settings = LoRA(
        rank=int(numbers["r"]),
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


def _targets(tensors: Iterable[str]) -> tuple[str, ...]:
    names = [name for name in tensors if name.endswith(TENSORS["a"])]
    modules = [name.removeprefix(PREFIX).removesuffix("." + TENSORS["a"]) for name in names]
    # Of model.layers.3.self_attn.q_proj, what comes after the number.
    return tuple(sorted({module.split(".", 3)[-1] for module in modules}))


def _tensors(directory: Path) -> dict[str, np.ndarray]:
    path = directory / WEIGHTS
    try:
        with safe_open(path, framework="np") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise BadInput(
            "a complete safetensors file", str(error), "Fetch or write the file again.",
            where=str(path),
        ) from error  # fmt: skip


def load(directory: str | Path, adapter: Adapter, *, family: str) -> Params:
    """Reads an adapter's matrices, float32, in the structure of `adapter.abstract()`.

    Args:
        adapter: of the base that the matrices are for, with the settings of `read_settings`.
        family: of the base.

    Raises:
        BadInput: the adapter belongs to another base: its tensors are others or of other shapes.
    """
    directory = Path(directory).expanduser()
    tensors = _tensors(directory)
    tree = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), adapter.abstract())
    remedy = "The adapter belongs to another base: load it with the one that it was trained on."
    expected: set[str] = set()

    def take(name: str, shape: tuple[int, ...]) -> np.ndarray:
        expected.add(name)
        where = f"{directory / WEIGHTS}: {name}"
        if name not in tensors:
            raise BadInput(f"a tensor of the shape {list(shape)}", "none", remedy, where=where)
        if tensors[name].shape != shape:
            got = str(list(tensors[name].shape))
            raise BadInput(f"the shape {list(shape)}", got, remedy, where=where)
        return tensors[name].astype(np.float32)

    for name, path, kind, layer in tensors_of(adapter, family):
        mine = at(tree["layers"], path)[kind]
        shape = _to_stored(mine[layer], kind, adapter.contract(path)).shape
        found = take(name, shape)
        mine[layer] = (found if kind == "magnitude" else found.T).reshape(mine.shape[1:])
    if "score" in tree:
        tree["score"] = take(PREFIX + SCORE, tree["score"].shape)
    extra = [name for name in tensors if name not in expected]
    if extra:
        raise BadInput(
            f"tensors of the base's own layers: {len(expected)}",
            f"{len(extra)} others, {', '.join(extra[:3])} among them",
            remedy,
            where=str(directory / WEIGHTS),
        )
    return tree


def fingerprint(directory: str | Path) -> str:
    """SHA-256 over the contents of an adapter's two files."""
    whole = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        whole.update(hashlib.sha256((Path(directory).expanduser() / name).read_bytes()).digest())
    return whole.hexdigest()


def is_adapter(directory: str | Path) -> bool:
    """Whether a directory holds an adapter in PEFT's format."""
    return (Path(directory).expanduser() / CONFIG).is_file()


def base_of(directory: str | Path, *, weights: bool = True) -> Path:
    """Where the base of an adapter lies, by the adapter's own config; fetched where need be.

    Args:
        weights: as `pretrained.locate` has it.
    """
    raw = files.read_json(Path(directory).expanduser() / CONFIG)
    name = str(raw.get("base_model_name_or_path") or "")
    return pretrained.locate(name, weights=weights)


def load_merged(directory: str | Path, base: str | Path | None = None) -> pretrained.Pretrained:
    """Reads an adapter's base and merges the adapter into it.

    Args:
        base: the one that the adapter's config names where None.

    Raises:
        BadInput: as `read_settings`, `load` and `pretrained.load`.
    """
    settings = read_settings(directory)
    found = pretrained.load(base_of(directory) if base is None else base)
    adapter = Adapter(
        decoder=Decoder(config=found.config),
        settings=settings,
        aliases=module_names(found.config, found.family),
    )
    params = load(directory, adapter, family=found.family)
    return found._replace(params=plain(adapter.attach(found.params, params)))
