"""The tokenizer inside a GGUF file as tokenizer.json and its companions.

Only byte-level BPE, llama.cpp's model `gpt2`, in the pre-tokenisations listed below.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from alignax.core.errors import BadInput
from alignax.models import files

_CONTROL, _USER_DEFINED = 3, 4  # llama.cpp's kinds of token; 1 is an ordinary one


def _gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _smollm() -> pre_tokenizers.PreTokenizer:
    # Digits first. transformers leaves this step out when it reads a GGUF, and then a digit after
    # a newline or after two spaces gets other ids than the model was trained with.
    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([digits, _gpt2()])


PRE_TOKENIZERS: Mapping[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "gpt-2": _gpt2,
    "smollm": _smollm,
}


def write_tokenizer(directory: Path, metadata: Mapping[str, Any], where: str) -> None:
    """Writes tokenizer.json, tokenizer_config.json, special_tokens_map.json, chat_template.jinja.

    Args:
        metadata: of the GGUF file.
        where: its path, for errors.

    Raises:
        BadInput: the tokenizer is of another kind.
    """
    kind, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2" or not isinstance(pre, str) or pre not in PRE_TOKENIZERS:
        raise BadInput(
            f"a byte-level BPE tokenizer (gpt2) of the kinds {', '.join(PRE_TOKENIZERS)}",
            f"model {kind!r:.200}, pre-tokenizer {pre!r:.200}",
            "Take these weights from a directory in the Hugging Face layout instead.",
            where=where,
        )
    tokens = _list(metadata, "tokens", str, where)
    kinds = [1] * len(tokens)
    if "tokenizer.ggml.token_type" in metadata:
        kinds = _list(metadata, "token_type", int, where, len(tokens))
    names = {
        f"{role}_token": tokens[_id(metadata, key, len(tokens), where)]
        for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if f"tokenizer.ggml.{key}_token_id" in metadata
    }
    merges = _list(metadata, "merges", str, where)
    try:
        model = models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=[_pieces(merge) for merge in merges],
        )
    except Exception as error:  # of the package tokenizers, which has no other kind
        raise _wrong("merges of tokens that there are", str(error), where) from error
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[pre]()
    tokenizer.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, kinds, strict=True):
        if kind == _CONTROL:
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif kind == _USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, special=False, normalized=False)])
    if metadata.get("tokenizer.ggml.add_bos_token", False):
        bos_id = _id(metadata, "bos", len(tokens), where)
        bos = (tokens[bos_id], bos_id)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos[0]} $A", pair=f"{bos[0]} $A $B", special_tokens=[bos]
        )
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": metadata["llama.context_length"],
        "clean_up_tokenization_spaces": False,
    }
    files.write_json(directory / "tokenizer_config.json", settings | names)
    files.write_json(directory / "special_tokens_map.json", names)
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        (directory / "chat_template.jinja").write_text(template, encoding="utf-8")


def _list(
    metadata: Mapping[str, Any], name: str, kind: type, where: str, length: int | None = None
) -> list[Any]:
    found = metadata.get(f"tokenizer.ggml.{name}")
    if (
        not isinstance(found, list)
        or not all(isinstance(x, kind) for x in found)
        or (length is not None and len(found) != length)
    ):
        expected = f"tokenizer.ggml.{name}, a list of {kind.__name__} for every token"
        raise _wrong(expected, type(found).__name__, where)
    return found


def _id(metadata: Mapping[str, Any], name: str, count: int, where: str) -> int:
    found = metadata.get(f"tokenizer.ggml.{name}_token_id")
    if type(found) is not int or not 0 <= found < count:
        raise _wrong(f"tokenizer.ggml.{name}_token_id below {count}", f"{found!r:.200}", where)
    return found


def _wrong(expected: str, got: str, where: str) -> BadInput:
    return BadInput(expected, got, "Fetch the file again, or choose another.", where=where)


def _pieces(merge: str) -> tuple[str, str]:
    left, right = merge.split(" ")  # a space within a piece is written Ġ, so there is just one
    return left, right
