"""What a Hugging Face directory says beside its weights: what ends a text, what fills it up."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignax.core.errors import BadInput
from alignax.models import files
from alignax.models.config import DecoderConfig
from alignax.models.families import FAMILIES, TOLD, to_hugging_face

log = logging.getLogger(__name__)


def described_as(
    config: DecoderConfig,
    source: Path | None,
    raw: Mapping[str, Any],
    family: str | None = None,
    dtype: str | None = None,
    *,
    labels: tuple[str, ...] = (),
    ranges: tuple[tuple[float, float], ...] = (),
) -> dict[str, Any]:
    """The config.json of an export, its `model_type` and `torch_dtype` included.

    Args:
        source, family, dtype, labels, ranges: as in `pretrained.save`.
        raw: the config.json of `source`; empty where there is none.

    Raises:
        BadInput: the layout has no place for what the decoder does, or the dtype is no name in
            `files.DTYPES`.
    """
    plainest = "mistral" if config.kind(0).window else "llama"
    family = str(family or raw.get("model_type") or plainest)
    dtype = dtype or _source_dtype(source, raw)
    if dtype not in files.DTYPES:
        known = ", ".join(files.DTYPES)
        raise BadInput(f"a dtype: {known}", repr(dtype), "Choose one of these.", where="dtype")
    if source is not None and raw.get("pad_token_id") is None and config.num_scores:
        raw = {**raw, "pad_token_id": tokenizer_id(source, "pad_token")}
    return to_hugging_face(config, family, raw, labels, ranges) | {"torch_dtype": dtype}


def _source_dtype(source: Path | None, raw: Mapping[str, Any]) -> str:
    if source is None:
        return "float32"
    said = raw.get("torch_dtype") or raw.get("dtype") or "float32"
    family = FAMILIES.get(str(raw.get("model_type")))
    try:
        with files.open_checkpoint(source) as checkpoint:
            return checkpoint.dtype(family.names.dropped if family else ()) or said
    except BadInput:  # a source for its tokenizer only
        return said


def write_settings(
    directory: Path,
    config: dict[str, Any],
    source: Path | None,
    *,
    eos: tuple[int, ...] = (),
    chat_template: str | None = None,
) -> None:
    """Writes config.json, generation_config.json and the tokenizer's files of `source`.

    Config, generation config and tokenizer often name different ids as the end of a text, and
    then what stops depends on who asks. Here the first two get all of them.

    Args:
        chat_template: takes the place of the source's.
    """
    generation: dict[str, Any] = {}
    if source is not None:
        generation = files.read_json(source / "generation_config.json")
        copy_tokenizer(source, directory)
    if chat_template is not None:
        replace_template(directory, chat_template)
    ids: list[int] = []
    for found in (generation.get("eos_token_id"), config.get("eos_token_id"), *eos):
        ids += [] if found is None else found if isinstance(found, list) else [found]
    end = tokenizer_id(directory, "eos_token")
    ids = list(dict.fromkeys(ids if end is None else [*ids, end]))
    if ids:
        config = config | {"eos_token_id": ids if len(ids) > 1 else ids[0]}
    if "id2label" in config:
        config = config | {"pad_token_id": _padding(directory, config["pad_token_id"], ids)}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        unsaid = name == "eos_token_id" or generation.get(name) is None
        if unsaid and config.get(name) is not None:
            generation[name] = config[name]
    files.write_json(directory / "config.json", config)
    files.write_json(directory / "generation_config.json", generation)


def sizes(directory: Path) -> tuple[int | None, int | None]:
    """Positions and rows of the embedding by a config.json, of any family; None where it has none.

    Of a model with a text model inside, that one's.

    Raises:
        BadInput: they are no positive whole numbers, or the file cannot be read.
    """
    path = directory / "config.json"
    said = files.read_json(path)
    inner = said.get("text_config")
    said = inner if isinstance(inner, dict) else said
    positions = "max_position_embeddings"
    if positions not in said and "n_positions" in said:
        positions = "n_positions"
    for name in (positions, "vocab_size"):
        value = said.get(name)
        if value is not None and (type(value) is not int or value < 1):
            raise BadInput(
                f"{name}, a positive whole number",
                f"{value!r:.200}",
                "Fetch or write the file again.",
                where=str(path),
            )
    return said.get(positions), said.get("vocab_size")


def template_options(directory: Path, base: Path | None = None) -> dict[str, Any]:
    """What the model's chat template was told in training, as `config.Data.chat_template_kwargs`;
    empty where config.json does not say.

    Args:
        base: of an adapter that the directory holds; what it says counts where the adapter, whose
            file is `files.OPTIONS`, says nothing.

    Raises:
        BadInput: what it says is no object of words, whole numbers and truth values.
    """
    path = directory / files.OPTIONS
    if base is None or not path.is_file():
        path = (base or directory) / "config.json"
        said = files.read_json(path).get(TOLD) or {}
    else:
        said = files.read_json(path)
    if isinstance(said, dict) and all(isinstance(x, bool | int | str) for x in said.values()):
        return said
    raise BadInput(
        f"{TOLD} as an object with a string, a whole number, true or false for each name",
        f"{said!r:.200}",
        f"Mend {path.name}, or take the key out.",
        where=str(path),
    )


def copy_tokenizer(source: Path, directory: Path) -> None:
    """Copies the tokenizer's files that there are, without what they say of code beside them.

    No code is copied, and none has been run: the tokenizer of training is one of transformers' own.
    """
    for name in files.TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, directory / name)
    settings = files.read_json(directory / "tokenizer_config.json")
    if settings.pop("auto_map", None) is not None:
        files.write_json(directory / "tokenizer_config.json", settings)


def replace_template(directory: Path, chat_template: str) -> None:
    """Writes the one template, and removes those at the two other places that are read."""
    (directory / files.TEMPLATE).write_text(chat_template, encoding="utf-8")
    (directory / "chat_template.json").unlink(missing_ok=True)
    settings = files.read_json(directory / "tokenizer_config.json")
    if settings.pop("chat_template", None) is not None:
        files.write_json(directory / "tokenizer_config.json", settings)


def _padding(directory: Path, pad: int | None, ends: list[int]) -> int | None:
    """An id to pad with that ends no response, written into the tokenizer's settings too.

    transformers' classifiers read the last token that is not padding. Where padding is the
    end-of-turn token, as it often is, they would pass over the token that the reward was learnt at.
    """
    if pad is not None and pad not in ends:
        return pad
    settings = files.read_json(directory / "tokenizer_config.json")
    tokens = files.read_json(directory / "tokenizer.json").get("added_tokens") or ()
    special = {token["content"]: token["id"] for token in tokens if token.get("special")}
    unknown = settings.get("unk_token")
    unknown = unknown.get("content") if isinstance(unknown, dict) else unknown
    order = sorted(special, key=lambda name: (name != unknown, special[name]))
    free = [name for name in order if special[name] not in ends]
    free = [name for name in free if name != settings.get("bos_token")] or free
    if not free:
        log.warning("%s: no special token is free for padding, and the end of a text pads: "
                    "transformers reads padded batches one token early", directory)  # fmt: skip
        return ends[0] if pad is None and ends else pad
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        found = files.read_json(directory / name)
        if found:
            files.write_json(directory / name, found | {"pad_token": free[0]})
    return special[free[0]]


def tokenizer_id(directory: Path, name: str) -> int | None:
    """The id of the tokenizer's own token of that name, such as eos_token, where it has one."""
    settings = files.read_json(directory / "tokenizer_config.json")
    token = settings.get(name) or files.read_json(directory / "special_tokens_map.json").get(name)
    token = token.get("content") if isinstance(token, dict) else token
    if token is None:
        return None
    tokenizer = files.read_json(directory / "tokenizer.json")
    ids = {t["content"]: t["id"] for t in tokenizer.get("added_tokens") or ()}
    vocab = (tokenizer.get("model") or {}).get("vocab") or {}
    for i, t in (settings.get("added_tokens_decoder") or {}).items():
        ids.setdefault(t["content"], int(i))
    return ids.get(token, vocab.get(token) if isinstance(vocab, dict) else None)
