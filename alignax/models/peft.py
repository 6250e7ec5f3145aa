"""Adapters in the layout of the `peft` package, without it and without torch.

    adapter_config.json          rank, alpha, targets and what else the settings say
    adapter_model.safetensors    lora_A [rank, inputs] and lora_B [outputs, rank] of every layer,
                                 and for DoRA lora_magnitude_vector [outputs]
    chat_template_kwargs.json    what the chat template is told, where there is anything to tell

What the tensors are called is in `peft_names`, how the settings are read in `peft_settings`.
"""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from safetensors.numpy import save_file

from alignax.core.errors import BadInput
from alignax.core.processes import fetch, is_first
from alignax.core.types import Params
from alignax.models import files, pretrained
from alignax.models.kernels import at, plain
from alignax.models.lora import Adapter
from alignax.models.peft_names import PREFIX, check, check_read, module_names, tensors_of
from alignax.models.peft_settings import CONFIG, WEIGHTS, read_layers, read_settings, read_tensors
from alignax.models.settings import copy_tokenizer, replace_template, template_options
from alignax.models.stored import SCORE
from alignax.models.transformer import Decoder

log = logging.getLogger(__name__)


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
            copy_tokenizer(source, new)
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


def load(directory: str | Path, adapter: Adapter, *, family: str) -> Params:
    """Reads an adapter's matrices, float32, in the structure of `adapter.abstract()`.

    Blocks that its `layers_to_transform` leaves out have zeros: they change nothing, and learn
    nothing, for either matrix's gradient is a product with the other.

    Args:
        adapter: of the base that the matrices are for, with the settings of `read_settings`.
        family: of the base.

    Raises:
        BadInput: its tensors are not those of the base's layers, or are of other shapes; or they
            are of projections that the base's family fuses.
    """
    directory = Path(directory).expanduser()
    check_read(adapter, family, str(directory / WEIGHTS))
    tensors, layers = read_tensors(directory), read_layers(directory)
    tree = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), adapter.abstract())
    remedy = "The adapter belongs to another base: load it with the one that it was trained on."
    absent = (
        "Load it with the base that it was trained on. Where its target_modules leave blocks out, "
        "which alignax does not compute, merge it with PEFT, and begin from the merged model."
    )
    left_out: set[int] = set()
    expected: set[str] = set()

    def take(name: str, shape: tuple[int, ...]) -> np.ndarray:
        expected.add(name)
        where = f"{directory / WEIGHTS}: {name}"
        if name not in tensors:
            raise BadInput(f"a tensor of the shape {list(shape)}", "none", absent, where=where)
        if tensors[name].shape != shape:
            got = str(list(tensors[name].shape))
            raise BadInput(f"the shape {list(shape)}", got, remedy, where=where)
        return tensors[name].astype(np.float32)

    for name, path, kind, layer in tensors_of(adapter, family):
        if layers is not None and layer not in layers:
            left_out.add(layer)
            continue
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
            f"{remedy} What is saved beside its matrices alignax does not read.",
            where=str(directory / WEIGHTS),
        )
    if left_out:
        log.info("%s: layers_to_transform leaves %d of %d blocks as they are",
                 directory, len(left_out), adapter.decoder.config.layers)  # fmt: skip
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
