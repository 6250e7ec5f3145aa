"""A GGUF file, llama.cpp's format, to a Hugging Face directory: weights, tokenizer, settings.

Quantised tensors are expanded to the numbers that they stand for. The rows of queries and keys
change places: llama.cpp turns neighbouring pairs of a head together, Hugging Face the first half
against the second.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alignax.core.errors import BadInput
from alignax.models import files
from alignax.models.config import DecoderConfig, LayerKind
from alignax.models.families import tensor_shapes, to_hugging_face
from alignax.models.gguf_header import check_header
from alignax.models.gguf_tokenizer import write_tokenizer
from alignax.models.pretrained import MAX_SHARD_BYTES
from alignax.models.rotary import LinearScaling, Rope
from alignax.models.settings import write_settings

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def convert(gguf_path: str | Path, directory: str | Path, *, dtype: str = "bfloat16") -> None:
    """Writes the model of a GGUF file as a directory that `load` and transformers read.

    Args:
        gguf_path: a file of the architecture `llama`, of any quantisation that gguf knows.
        directory: made whole or not at all; an earlier export there is replaced.
        dtype: of the numbers written.

    Raises:
        BadInput: the package gguf is absent, or the file is not one that can be converted.
    """
    path = Path(gguf_path)
    with _opened(path) as (metadata, tensors):
        config = _config(metadata, tensors, str(path))
        shapes = tensor_shapes(config, "llama")
        _check(shapes, tensors, str(path))
        described = to_hugging_face(config, "llama") | {"torch_dtype": dtype}
        for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
            described[f"{ours}_token_id"] = metadata.get(f"tokenizer.ggml.{theirs}_token_id")
        with files.replacing(Path(directory)) as new:
            write_tokenizer(new, metadata, str(path))
            write_settings(new, described, None)
            files.write_weights(
                new,
                shapes,
                (
                    (name, _tensor(name, shape, tensors, config, str(path)))
                    for name, shape in shapes.items()
                ),
                dtype=dtype,
                max_shard_bytes=MAX_SHARD_BYTES,
            )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The metadata of a GGUF file, and its tensors by name, mapped and not yet read."""
    try:
        import gguf
    except ModuleNotFoundError as error:
        remedy = "Install it: pip install -e '.[gguf]' in the clone."
        raise BadInput("the package gguf", "none", remedy, where=str(path)) from error
    try:
        check_header(path)
        reader = gguf.GGUFReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    except (OSError, ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        remedy = "Fetch the file again; the download was perhaps cut short."
        raise BadInput("a GGUF file", str(error) or "another", remedy, where=str(path)) from error
    yield metadata, {tensor.name: tensor for tensor in reader.tensors}


def _config(metadata: Mapping[str, Any], tensors: Mapping[str, Any], where: str) -> DecoderConfig:
    architecture = metadata.get("general.architecture")
    _require(architecture == "llama", "the architecture llama", repr(architecture), where)
    heads, width = (
        _integer(metadata, "attention.head_count", where),
        _integer(metadata, "embedding_length", where),
    )
    layers = _integer(metadata, "block_count", where)
    head_dim = _integer(metadata, "attention.key_length", where, width // heads)
    rotated = _integer(metadata, "rope.dimension_count", where, head_dim)
    experts = metadata.get("llama.expert_count", 0)
    # What the files that name no type, and those with the older key of the factor, mean by it.
    scaling = metadata.get("llama.rope.scaling.type", "linear")
    _require(rotated == head_dim, f"rotary positions on all {head_dim} of a head", rotated, where)
    _require(experts == 0, "one MLP a layer", f"{experts} experts", where)
    _require(scaling in ("none", "linear"), "rope scaling none or linear", repr(scaling), where)
    # Llama 3.1's scaling is stored as finished factors, from which its settings cannot be told.
    _require("rope_freqs.weight" not in tensors, "unscaled frequencies", "rope_freqs", where)
    _require(layers <= len(tensors), f"tensors of {layers:,} layers", f"{len(tensors)}", where)
    embedding = tensors.get("token_embd.weight")
    _require(
        embedding is not None and len(embedding.shape) == 2,
        "token_embd.weight, a matrix", "none" if embedding is None else embedding.shape, where,
    )  # fmt: skip
    older = _decimal(metadata, "rope.scale_linear", where, 0.0)
    factor = _decimal(metadata, "rope.scaling.factor", where, older) or 1.0  # 0: not scaled
    _require(0 < factor < math.inf, "a rope scaling factor above 0", factor, where)
    rope = Rope(
        theta=_decimal(metadata, "rope.freq_base", where, 10_000.0),
        scaling=LinearScaling(factor=factor) if scaling == "linear" and factor != 1 else None,
    )
    bias = "blk.0.attn_q.bias" in tensors
    return DecoderConfig(
        vocab_size=int(embedding.shape[1]),  # pyright: ignore[reportOptionalMemberAccess]
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=_integer(metadata, "attention.head_count_kv", where, heads),
        head_dim=head_dim,
        mlp_width=_integer(metadata, "feed_forward_length", where),
        max_positions=_integer(metadata, "context_length", where),
        kinds=(LayerKind(rope=rope),),
        norm_eps=_decimal(metadata, "attention.layer_norm_rms_epsilon", where, 1e-5),
        tied="output.weight" not in tensors,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias="blk.0.ffn_gate.bias" in tensors,
        init_scale=1 / math.sqrt(width),  # not in the file; what SmolLM2 was begun with
    )


def _require(condition: bool, expected: str, got: Any, where: str) -> None:
    if not condition:
        remedy = "alignax cannot convert this file; choose other weights."
        raise BadInput(expected, str(got), remedy, where=where)


def _integer(metadata: Mapping[str, Any], key: str, where: str, absent: int | None = None) -> int:
    value = metadata.get(f"llama.{key}", absent)
    good = type(value) is int and value > 0
    _require(good, f"llama.{key}, above 0, in the metadata", repr(value), where)
    return int(value)  # pyright: ignore[reportArgumentType]


def _decimal(metadata: Mapping[str, Any], key: str, where: str, absent: float) -> float:
    """The decimal that a float32 was written from: 1e-05, and not 9.999999747378752e-06."""
    value = metadata.get(f"llama.{key}", absent)
    _require(type(value) in (int, float), f"llama.{key}, a number", repr(value), where)
    return float(str(np.float32(value)))


def _gguf_name(name: str) -> str:
    stem, kind = name.rsplit(".", 1)
    if not stem.startswith("model.layers."):
        return f"{_NAMES[stem]}.{kind}"
    layer, part = stem.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{_NAMES[part]}.{kind}"


def _check(shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Any], where: str) -> None:
    remedy = "The file is not a plain Llama; alignax cannot convert it."
    for name, shape in shapes.items():
        if _gguf_name(name) not in tensors:
            raise BadInput(f"the tensor {_gguf_name(name)}", "none", remedy, where=where)
        found = tuple(int(n) for n in reversed(tensors[_gguf_name(name)].shape))
        if found != shape:
            expected = f"{_gguf_name(name)} of shape {list(shape)}"
            raise BadInput(expected, f"{list(found)}", remedy, where=where)
    extra = sorted(set(tensors) - {_gguf_name(name) for name in shapes})
    if extra:
        got = f"{len(extra)} others, {', '.join(extra[:3])} among them"
        raise BadInput("the tensors of a plain Llama", got, remedy, where=where)


def _tensor(
    name: str, shape: tuple[int, ...], tensors: Mapping[str, Any], config: DecoderConfig, where: str
) -> np.ndarray:
    from gguf import quants

    tensor = tensors[_gguf_name(name)]
    try:
        x = quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)
    except NotImplementedError as error:
        raise BadInput(
            "tensors of a kind that the package gguf can expand",
            f"{_gguf_name(name)} of {tensor.tensor_type.name}",
            "Take the file in another quantisation.",
            where=where,
        ) from error
    heads = {"q_proj": config.heads, "k_proj": config.kv_heads}.get(name.split(".")[-2])
    if heads is None:
        return x
    pairs = x.reshape(heads, config.head_dim // 2, 2, *shape[1:])
    return pairs.swapaxes(1, 2).reshape(shape)
