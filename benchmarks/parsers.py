"""The readers of strangers' files, for `fuzz`: a good input of each, its changes, the call."""

import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

from alignax.core.types import TrainState
from alignax.data import rendering
from alignax.data.bad_rows import Tally
from alignax.data.chat import Renderer
from alignax.data.confined import Confined
from alignax.data.rendering import Template
from alignax.data.tokenise import Example
from alignax.data.tokenizers import end_ids, load_tokenizer
from alignax.generate.kept import Kept
from alignax.generate.round_files import store, stored
from alignax.models import gguf, peft, pretrained, settings
from alignax.models.config import DecoderConfig
from alignax.models.lora import Adapter, LoRA
from alignax.models.transformer import Decoder
from alignax.train.checkpoint import Checkpoints
from alignax.train.checkpoint_names import saved_experiment
from benchmarks.hostile import (
    Change,
    Files,
    Parser,
    changed_bytes,
    changed_json,
    changed_safetensors,
    changed_template,
    files_of,
    one_of_files,
)
from benchmarks.row_parsers import packed_rows, parquet, rows
from tests.tiny import SMOLLM2_TEMPLATE, chatml_tokenizer
from tests.tiny_model import model_directory

SMALL = {"layers": 1, "width": 8, "heads": 2, "kv_heads": 1, "head_dim": 4, "mlp_width": 8}


def _model(folder: Path, *names: str) -> Files:
    found = files_of(model_directory(folder / "model", **SMALL))
    return {name: found[name] for name in names or found}


def weights(folder: Path) -> Parser:
    """model.safetensors beside a good config.json."""
    whole = _model(folder, "config.json", "model.safetensors")
    raw = whole["model.safetensors"]
    return Parser(
        whole,
        one_of_files(whole, {"model.safetensors": lambda draw: changed_safetensors(draw, raw)}),
        lambda path: pretrained.load(path, num_scores=1),
    )


def config(folder: Path) -> Parser:
    """config.json beside good weights."""
    whole = _model(folder, "config.json", "model.safetensors")
    tree = json.loads(whole["config.json"])
    spare = ("rope_parameters", "layer_types", "id2label", "num_labels", "sliding_window", "dtype",
             "partial_rotary_factor", "quantization_config", "num_experts", "auto_map")  # fmt: skip
    kinds = ("llama", "mistral", "smollm3", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3",
             "olmo2", "gpt2", "gpt_neox", "mixtral", "qwen3_moe")  # fmt: skip

    def changed(draw: Random) -> bytes:
        return changed_json(draw, tree | {"model_type": draw.choice(kinds)}, spare)

    return Parser(
        whole,
        one_of_files(whole, {"config.json": changed}),
        lambda path: pretrained.load(path),
    )


def index(folder: Path) -> Parser:
    """The names of shards, which could lead out of the folder."""
    whole = _model(folder, "config.json", "model.safetensors")
    tensors = load_file(folder / "model" / "model.safetensors")
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / file)
        whole[file] = (folder / file).read_bytes()
    del whole["model.safetensors"]
    tree = {"metadata": {}, "weight_map": {n: file for file, part in shards.items() for n in part}}
    whole["model.safetensors.index.json"] = json.dumps(tree).encode()
    change = one_of_files(whole, {"model.safetensors.index.json": lambda x: changed_json(x, tree)})
    return Parser(whole, change, pretrained.load)


def adapter(folder: Path) -> Parser:
    """adapter_config.json and adapter_model.safetensors."""
    base = model_directory(folder / "base", **SMALL)
    found = pretrained.load(base)
    decoder = Decoder(config=found.config)
    aliases = peft.module_names(found.config, found.family)
    made = Adapter(decoder=decoder, settings=LoRA(rank=2), aliases=aliases)
    peft.save(folder / "adapter", made.init(jax.random.key(0), found.params), made, base=str(base))
    whole = files_of(folder / "adapter")
    whole = {name: whole[name] for name in (peft.CONFIG, peft.WEIGHTS)}
    tree = json.loads(whole[peft.CONFIG])

    def read(path: Path) -> None:
        given = peft.read_settings(path)
        one = Adapter(decoder=decoder, settings=given, aliases=aliases)
        peft.load(path, one, family=found.family)

    changes = {
        peft.CONFIG: lambda x: changed_json(x, tree, ("rank_pattern", "layer_replication")),
        peft.WEIGHTS: lambda x: changed_safetensors(x, whole[peft.WEIGHTS]),
    }
    return Parser(whole, one_of_files(whole, changes), read)


def gguf_file(folder: Path) -> Parser:
    """A GGUF file, converted."""
    from tests.models.test_gguf import write

    shape = DecoderConfig(vocab_size=len(chatml_tokenizer()), tied=True, **SMALL)
    raw = write(folder / "m.gguf", shape).read_bytes()
    out = folder / "out"
    whole = {"m.gguf": raw}

    def read(path: Path) -> None:
        gguf.convert(path / "m.gguf", out)

    # Numbers of the model come first in the header; then the vocabulary; the tensors last.
    end = raw.index(b"tokenizer.ggml.tokens")
    tensors = raw.index(b"token_embd.weight") - 8

    def changed(draw: Random) -> Files:
        if draw.randrange(2):
            return {"m.gguf": changed_bytes(draw, raw, first=end + 64)}
        return {"m.gguf": raw[:tensors] + changed_bytes(draw, raw[tensors:], first=1000)}

    return Parser(whole, changed, read)


def templates(folder: Path) -> Parser:
    """A chat template, rendered."""
    del folder
    tokenizer = chatml_tokenizer()
    rendering.TEMPLATES = Confined(seconds=1.0)  # so that those that never end are soon over

    def read(path: Path) -> None:
        text = (path / "chat.jinja").read_bytes().decode(errors="replace")
        Template(tokenizer=tokenizer, text=text, options={}).check()

    whole = {"chat.jinja": SMOLLM2_TEMPLATE.encode()}
    change = one_of_files(whole, {"chat.jinja": lambda x: changed_template(x, SMOLLM2_TEMPLATE)})
    return Parser(whole, change, read)


def tokenizers(folder: Path) -> Parser:
    """tokenizer.json and what stands beside it."""
    whole = _model(folder)
    del whole["model.safetensors"]
    trees = {name: json.loads(raw) for name, raw in whole.items() if name.endswith(".json")}
    spare = ("auto_map", "tokenizer_file", "vocab_file", "extra_special_tokens", "chat_template",
             "added_tokens_decoder", "pad_token", "tokenizer_class", "unk_token")  # fmt: skip
    changes: dict[str, Change] = {
        name: lambda draw, tree=tree: changed_json(draw, tree, spare)
        for name, tree in trees.items()
    }
    changes["chat_template.jinja"] = lambda draw: changed_template(draw, SMOLLM2_TEMPLATE)

    def read(path: Path) -> None:
        tokenizer = load_tokenizer(path)
        settings.tokenizer_id(path, "eos_token")
        Renderer(tokenizer=tokenizer, extra_end_ids=end_ids(path)).prompt("Is 2 a number?")

    return Parser(whole, one_of_files(whole, changes), read)


def checkpoints(folder: Path) -> Parser:
    """A run's checkpoint, its record with a checksum that is true or not."""
    state = TrainState(np.int32(3), {"w": np.ones((2, 3), np.float32)}, (np.zeros(3, np.float32),))
    state = jax.tree.map(jax.numpy.asarray, state)
    with Checkpoints(folder / "run") as made:
        made.save(3, state, position={"next_index": 3}, experiment={"seed": 1})
    whole = files_of(folder / "run")
    name = "checkpoint-3/alignax.json"
    tree = json.loads(whole[name])
    del tree["crc32"]
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state)

    def sealed(raw: bytes) -> bytes:
        try:
            found = json.loads(raw)
            found["crc32"] = zlib.crc32(json.dumps(found).encode())
            return json.dumps(found).encode()
        except (ValueError, TypeError, RecursionError):
            return raw

    others = sorted(set(whole) - {name})

    def changed(draw: Random) -> Files:
        """Another record with a true checksum; or another content, whose checksum it has."""
        if draw.randrange(2):
            record = changed_json(draw, tree, ("files", "leaves", "position"))
            return {**whole, name: sealed(record)}
        path = draw.choice(others)
        content, short = changed_bytes(draw, whole[path]), path.removeprefix("checkpoint-3/")
        told = tree["files"] | {short: [len(content), zlib.crc32(content)]}
        record = json.dumps(tree | {"files": told}).encode()
        return {**whole, path: content, name: sealed(record)}

    def read(path: Path) -> None:
        saved_experiment(path)
        with Checkpoints(path) as found:
            found.positions()
            found.restore(abstract)

    return Parser(whole, changed, read)


def rounds(folder: Path) -> Parser:
    """What a run had sampled, in a NumPy archive."""
    example = Example(
        prompt=np.arange(3, dtype=np.int32),
        responses=np.arange(5, dtype=np.int32),
        response_lengths=np.array([2, 3], np.int32),
        mask=np.ones(5, bool),
        scores=np.ones(2, np.float32),
        origin="",
    )
    kept = Kept([example, example], {"old_logprobs": [np.ones(5, np.float32)] * 2}, Tally())
    store(folder / "round-0.npz", [kept, kept])
    raw = (folder / "round-0.npz").read_bytes()
    objects = io.BytesIO()
    np.savez(objects, **{"0/prompt": np.array([{}, 1], object)})
    bomb = io.BytesIO()
    np.savez_compressed(bomb, **{"0/prompt": np.zeros(2**24)})
    packed = [raw, objects.getvalue(), bomb.getvalue()]
    change = one_of_files(
        {"round-0.npz": raw},
        {"round-0.npz": lambda draw: changed_bytes(draw, draw.choice(packed))},
    )
    return Parser({"round-0.npz": raw}, change, lambda path: stored(path / "round-0.npz"))


PARSERS: dict[str, Callable[[Path], Parser]] = {
    "safetensors": weights,
    "config.json": config,
    "safetensors index": index,
    "PEFT adapter": adapter,
    "GGUF": gguf_file,
    "JSON lines": rows,
    "gzip and JSON": packed_rows,
    "Parquet": parquet,
    "chat template": templates,
    "tokenizer": tokenizers,
    "checkpoint": checkpoints,
    "round": rounds,
}
