"""Tokenizers and chat templates from files."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from alignax.core.errors import BadInput


def read_template(path: Path, where: str = "data.chat_template") -> str:
    """The text of a chat template in a file."""
    try:
        return path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            "a file with a chat template",
            f"{getattr(error, 'strerror', None) or error}: {path}",
            "Give the path of a Jinja template, or leave it out for the tokenizer's own.",
            where=where,
        ) from error


@contextlib.contextmanager
def _panics() -> Iterator[None]:
    """Says in words that the tokenizers' library, in Rust, panicked; which is no `Exception`."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise BadInput(
            "a tokenizer.json that fits together",
            f"a panic of the library tokenizers: {error}",
            "Copy it from where the model came from.",
            where="tokenizer",
        ) from error


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model directory."""
    try:
        with _panics():
            # Left out, transformers asks at the terminal whether to run the code that came with it.
            tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
            opening(tokenizer)  # some of what is wrong comes out at the first text
        return tokenizer
    # What is wrong with a file is told by errors of many kinds.
    except Exception as error:
        raise BadInput(
            "a tokenizer beside the weights (tokenizer.json, tokenizer_config.json)",
            (str(error).strip() or type(error).__name__).splitlines()[0],
            "Copy it from where the model came from.",
            where=str(directory),
        ) from error


def check_same_ids(directory: Path, other: Path, *, rows: tuple[int, int], where: str) -> None:
    """Refuses a model that is to read another one's ids, and has no row for some or means others.

    Tokens that were added to a vocabulary may differ: chat models give names to reserved ones.
    What an embedding has behind its tokenizer's ids is no text, and differs among sizes of a
    family. Of a directory without a tokenizer no more than its rows is known.

    Args:
        directory: of the model whose ids are read.
        other: of the one that reads them.
        rows: of their embeddings.
        where: the setting that names the other.

    Raises:
        BadInput: with the number of ids, or the first token that has another id.
    """
    own: Any = load_tokenizer(directory)
    vocab, added = own.get_vocab(), own.get_added_vocab()
    count = min(rows[0], max(vocab.values()) + 1)
    remedy = "Take a model with the same tokenizer, or leave it out."
    if rows[1] < count:
        raise BadInput(
            f"a model with a row for each of the {count:,} ids of {directory}",
            f"{rows[1]:,} rows in {other}",
            remedy,
            where=where,
        )
    if not any((other / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        return
    meant = load_tokenizer(other).get_vocab()
    for token, i in sorted(vocab.items(), key=lambda item: item[1]):
        if token not in added and meant.get(token) != i:
            raise BadInput(
                f"a model that reads the ids of {directory}, in which {token!r} is {i:,}",
                f"{meant[token]:,} in {other}" if token in meant else f"no such token in {other}",
                remedy,
                where=where,
            )


def end_ids(directory: Path) -> tuple[int, ...]:
    """The ids that end a response, as the model's generation config names them.

    Where there is none, as config.json does: so transformers has it.
    """
    for name in ("generation_config.json", "config.json"):
        if not (directory / name).is_file():
            continue
        is_models = name == "config.json"
        try:
            named = GenerationConfig.from_pretrained(directory, name, _from_model_config=is_models)
        except OSError:
            continue
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise _no_end_ids(str(error).partition("\n")[0], directory / name) from error
        found = named.eos_token_id
        ids = found if isinstance(found, list) else [] if found is None else [found]
        if not all(type(i) is int for i in ids):
            raise _no_end_ids(f"eos_token_id = {found!r:.200}", directory / name)
        return tuple(ids)
    return ()


def _no_end_ids(got: str, path: Path) -> BadInput:
    expected, remedy = "whole numbers that end a response", "Fetch the file again."
    return BadInput(expected, got, remedy, where=str(path))


def encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, nothing added before or after."""
    if not texts:
        return []
    with _panics():
        # Not verbose: what is longer than the model is the affair of `TokenLimits`.
        found = tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, verbose=False
        )
    return found["input_ids"]


def opening(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What a tokenizer puts before a text by itself, such as BOS, and not what it puts after."""
    ids, (bare,) = tokenizer("a")["input_ids"], encode(tokenizer, ["a"])
    starts = range(len(ids) - len(bare) + 1)
    return next((ids[:i] for i in starts if ids[i : i + len(bare)] == bare), [])
