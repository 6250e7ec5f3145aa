"""Tokenizers and chat templates from files."""

from pathlib import Path

from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from alignax.core.errors import BadInput


def read_template(path: Path) -> str:
    """The text of a chat template in a file."""
    try:
        return path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            "a file with a chat template",
            f"{getattr(error, 'strerror', None) or error}: {path}",
            "Give the path of a Jinja template, or leave it out for the tokenizer's own.",
            where="data.chat_template",
        ) from error


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model directory."""
    try:
        return AutoTokenizer.from_pretrained(directory)
    except (OSError, ValueError) as error:
        raise BadInput(
            "a tokenizer beside the weights (tokenizer.json, tokenizer_config.json)",
            str(error).splitlines()[0],
            "Copy it from where the model came from.",
            where=str(directory),
        ) from error


def end_ids(directory: Path) -> tuple[int, ...]:
    """The ids that end a response, as the model's generation config names them."""
    try:
        found = GenerationConfig.from_pretrained(directory).eos_token_id
    except OSError:
        return ()
    if found is None:
        return ()
    return tuple(found) if isinstance(found, list) else (found,)
