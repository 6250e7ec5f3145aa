"""Weights in and out of the Hugging Face layout, without torch.

`load` reads a directory (config.json, safetensors) or a hub id straight into possibly sharded
arrays: every host reads the bytes of its own shards and no others. `save` writes a directory that
transformers and vLLM load as they would the original, or nothing at all.
"""

import dataclasses
import hashlib
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from alignax.core.errors import BadInput
from alignax.core.processes import fetch, is_first
from alignax.core.types import Params
from alignax.models import files
from alignax.models.completeness import check
from alignax.models.config import DecoderConfig, draw_score
from alignax.models.families import FAMILIES, TOLD, from_hugging_face, places, tensor_shapes
from alignax.models.kernels import at, put, whole
from alignax.models.settings import described_as, write_settings
from alignax.models.stored import SCORE, Stored

MAX_SHARD_BYTES = 5 * 10**9  # as the hub's own tools cut them
_TEXT_FILES = ["*.json", "*.jinja", "*.model", "merges.txt"]
_HUB_FILES = [*_TEXT_FILES, "*.safetensors"]

log = logging.getLogger(__name__)


class Pretrained(NamedTuple):
    """A model as it was found.

    Fields:
        family: its model_type, one of `families.FAMILIES`.
        dtype: of the numbers in the files; the parameters are float32 unless asked otherwise.
        directory: where it lies; its tokenizer too.
    """

    config: DecoderConfig
    params: Params
    family: str
    dtype: str
    directory: Path


def load(
    directory: str | Path,
    *,
    dtype: str = "float32",
    shardings: Params | None = None,
    num_scores: int | None = None,
    seed: int = 0,
) -> Pretrained:
    """Reads a model's configuration and weights.

    Args:
        directory: a directory, or a hub id such as `owner/name`.
        dtype: of the parameters. float32 holds bfloat16 and float16 weights exactly.
        shardings: a `jax.sharding.Sharding` for every parameter, in their structure; the default
            device where None.
        num_scores: outputs of the `score` head, 0 for a language model; as the directory has it
            where None. A language model is given a new head in place of its vocabulary's.
        seed: draws that new head.

    Raises:
        BadInput: something is missing, mis-shaped or unreadable, or not computed by the decoder,
            or the directory has another head.
    """
    directory = locate(directory)
    raw = _read_config(directory)
    config, is_new = _with_head(raw, directory, num_scores)
    params: dict[str, Any] = {}
    with files.open_checkpoint(directory) as checkpoint:
        is_new = is_new and SCORE not in checkpoint.tensors
        if is_new:  # drawn only when the files have shown that the width is true
            shape = (config.num_scores, config.width)
            checkpoint.add(SCORE, np.broadcast_to(np.float32(0.0), shape))
        check(checkpoint, config, raw["model_type"])
        if is_new:
            log.info("%s: a new score head, outputs: %d, seed: %d", directory, num_scores, seed)
            checkpoint.add(SCORE, np.asarray(draw_score(jax.random.key(seed), config)))
        for place in places(config, raw["model_type"]):
            sharding = None if shardings is None else at(shardings, place.path)
            put(params, place.path, _read(place, checkpoint, files.DTYPES[dtype], sharding))
        stored = checkpoint.dtype(FAMILIES[raw["model_type"]].names.dropped)
        assert stored is not None  # `check` has found tensors that have one
        return Pretrained(config, params, raw["model_type"], stored, directory)


def read_config(directory: str | Path, num_scores: int | None = None) -> DecoderConfig:
    """The shape of a model, without its weights; `num_scores` as in `load`."""
    directory = locate(directory)
    return _with_head(_read_config(directory), directory, num_scores)[0]


class Header(NamedTuple):
    """A model as its files describe it, no weight read.

    Fields:
        family: its model_type. name: of transformers' class.
        dtypes: of the numbers of each parameter in the files, by its path.
        files: that hold the weights, with their sizes in bytes.
    """

    config: DecoderConfig
    family: str
    name: str
    dtypes: dict[tuple[str, ...], str]
    files: dict[str, int]
    directory: Path


def read_header(directory: str | Path) -> Header:
    """What a model's files say of themselves.

    Raises:
        BadInput: as `load` does, but for what only the numbers could tell.
    """
    directory = locate(directory)
    raw = _read_config(directory)
    config = from_hugging_face(raw, str(directory / "config.json"))
    with files.open_checkpoint(directory) as checkpoint:
        check(checkpoint, config, raw["model_type"])
        found = checkpoint.tensors
        parameters = places(config, raw["model_type"])
        dtypes = {place.path: found[place.names[0]].dtype for place in parameters}
    sizes = {path.name: path.stat().st_size for path in files.weight_files(directory)}
    name = next(iter(raw.get("architectures") or ()), "no architecture named")
    return Header(config, raw["model_type"], name, dtypes, sizes, directory)


def save(
    directory: str | Path,
    params: Params,
    config: DecoderConfig,
    *,
    source: str | Path | None = None,
    family: str | None = None,
    dtype: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    eos: tuple[int, ...] = (),
    labels: tuple[str, ...] = (),
    ranges: tuple[tuple[float, float], ...] = (),
    chat_template: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    card: str | None = None,
) -> None:
    """Writes a directory that transformers and vLLM load; an earlier export there is replaced.

    Every process of a run calls this, and the first one writes.

    Args:
        source: the model that training began from. Its tokenizer and chat template are copied,
            and so are the settings that are not the decoder's.
        family: the layout; the source's where None, or else the plainest that fits.
        dtype: of the numbers in the files; the source's where None, or else float32.
        eos: ids that end a response, beside those that the source names.
        labels: names of the `score` head's outputs; LABEL_0 and so on where there are none.
        ranges: of these outputs, as `Needs.score_ranges`.
        chat_template: takes the place of the source's.
        chat_template_kwargs: what it is told (`settings.template_options` reads it again).
        card: the text of README.md, without the mark that says whose it is.

    Raises:
        BadInput: the directory holds something else, cannot be written, or the disk is full.
    """
    source = None if source is None else locate(source)
    raw = {} if source is None else _read_config(source)
    described = described_as(config, source, raw, family, dtype, labels=labels, ranges=ranges)
    family, dtype = str(described["model_type"]), str(described["torch_dtype"])
    described |= {TOLD: dict(chat_template_kwargs)} if chat_template_kwargs else {}
    parameters = places(config, family)
    if is_first():
        shapes = tensor_shapes(config, family)
        with files.replacing(Path(directory), card=card is not None) as new:
            write_settings(new, described, source, eos=eos, chat_template=chat_template)
            if card is not None:
                (new / "README.md").write_text(files.marked(card), encoding="utf-8")
            written = tensors(params, parameters)
            files.write_weights(new, shapes, written, dtype=dtype, max_shard_bytes=max_shard_bytes)
    else:
        for _ in tensors(params, parameters):
            pass  # takes its part in gathering
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("alignax export")


def check_export(
    source: str | Path,
    config: DecoderConfig,
    *,
    labels: tuple[str, ...] = (),
    ranges: tuple[tuple[float, float], ...] = (),
) -> None:
    """Refuses what `save` with this source would refuse to describe. Nothing is written.

    Raises:
        BadInput: the source's layout has no place for what the decoder does, or no dtype that can
            be written.
    """
    source = locate(source)
    described_as(config, source, _read_config(source), labels=labels, ranges=ranges)


def fingerprint(directory: str | Path) -> str:
    """SHA-256 over the contents of config.json and the weights: a key for what is made of them."""
    directory = locate(directory)
    whole = hashlib.sha256()
    for path in (directory / "config.json", *files.weight_files(directory)):
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def locate(name: str | Path, *, weights: bool = True) -> Path:
    """The directory of a model: itself, or the local copy of a hub id, fetched where need be.

    Args:
        weights: False where config and tokenizer will do: nothing else is fetched.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    remedy = "Give a directory with config.json and model.safetensors."
    if path.suffix == ".gguf" and path.is_file():
        remedy = "Convert the file with alignax.models.gguf.convert, and give the new directory."
    if path.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
        got = "a file" if path.exists() else "no such directory"
        raise BadInput("a model directory or a hub id (owner/name)", got, remedy, where=str(name))
    try:
        from huggingface_hub import snapshot_download

        wanted = _HUB_FILES if weights else _TEXT_FILES
        return Path(snapshot_download(str(name), allow_patterns=wanted))
    except Exception as error:  # the hub's client has a wide family of errors, its transport's too
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(
            "a model directory, or a hub id that can be fetched",
            f"no such directory, and from the hub: {type(error).__name__}: {reason}",
            f"{remedy} For a hub id, check its name, the connection and the package "
            "huggingface-hub. configs/quickstart/fetch_weights.py makes the default model.",
            where=str(name),
        ) from error


def _read_config(directory: Path) -> dict[str, Any]:
    raw = files.read_json(directory / "config.json")
    if not raw:
        got = "none, or an empty one"
        remedy = "Give the directory that holds a model's config.json and its weights."
        if (directory / files.ADAPTER).is_file():
            base = files.read_json(directory / files.ADAPTER).get("base_model_name_or_path")
            got = f"an adapter, of {base}"
            remedy = (
                f"Begin from its base and the adapter: --model.model-name-or-path {base} "
                f"--adapter.adapter-name-or-path {directory}."
            )
        raise BadInput("a config.json", got, remedy, where=str(directory))
    return raw


def _with_head(
    raw: dict[str, Any], directory: Path, num_scores: int | None
) -> tuple[DecoderConfig, bool]:
    """The config with the head asked for, and whether a language model is to be given it."""
    where = str(directory / "config.json")
    config = from_hugging_face(raw, where)
    found = config.num_scores
    if num_scores is None or num_scores == found:
        return config, False
    if found and num_scores:
        remedy = f"Ask for {found}, or begin from a language model: its head is made anew."
        raise BadInput(f"a score head of {num_scores} outputs", str(found), remedy, where=where)
    if found and not config.tied:
        raise BadInput(
            "a language model",
            "a sequence classifier, which has no vocabulary head",
            "Choose the language model that it was made from, or use its scores.",
            where=where,
        )
    return dataclasses.replace(config, num_scores=num_scores), not found


def _read(
    place: Stored,
    checkpoint: files.Checkpoint,
    dtype: np.dtype,
    sharding: jax.sharding.Sharding | None,
) -> jax.Array:
    whole = (slice(None),) * len(place.full_shape)
    if sharding is None:
        return jnp.asarray(place.read(whole, checkpoint.fetch, dtype))
    parts: dict[str, np.ndarray] = {}  # devices that hold copies of one part ask for each of them

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        index = index or ()
        if str(index) not in parts:
            parts[str(index)] = place.read(index, checkpoint.fetch, dtype)
        return parts[str(index)]

    return jax.make_array_from_callback(place.full_shape, sharding, part)


def tensors(params: Params, parameters: tuple[Stored, ...]) -> Iterator[tuple[str, np.ndarray]]:
    """The checkpoint's tensors, those of one name on the host at a time."""
    together: dict[tuple[str, ...], list[Stored]] = {}
    for place in parameters:
        together.setdefault(place.names, []).append(place)
    for names, sharing in together.items():
        arrays = [place.each(fetch(whole(at(params, place.path)))) for place in sharing]
        for i, name in enumerate(names):
            if sharing[0].part is None:
                yield name, sharing[0].to_stored(arrays[0][i])
                continue
            tensor = np.empty(sharing[0].stored_shape, arrays[0].dtype)
            for place, array in zip(sharing, arrays, strict=True):
                place.fill(tensor, array[i])
            yield name, tensor
