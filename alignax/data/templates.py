"""Chat templates by name, for models that come without one.

A format is a fact about a family of models; the Jinja here is written for alignax. Every template
writes BOS where, and only where, the tokenizer itself would put one before a text, so that a model
sees at the start of a conversation what it saw at the start of every text.
"""

import dataclasses
import difflib
import logging
from collections.abc import Mapping
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from alignax.core.errors import BadInput
from alignax.data.tokenizers import opening, read_template

BOS = "@BOS@"  # where a template may write BOS

log = logging.getLogger("alignax")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Named:
    """A template that has a name.

    Fields:
        jinja: its text, with `BOS` where that may be written.
        tokens: special tokens of its own. Without them in the vocabulary they are split to pieces.
        shape: what a question and its answer look like, on one line.
    """

    jinja: str
    tokens: tuple[str, ...] = ()
    shape: str


# Sets `system`, its text or "", and `turns`, the rest; refuses what is not user, assistant, user...
_ALTERNATE = """\
{%- set has_system = messages[0]['role'] == 'system' -%}
{%- set system = messages[0]['content'] | trim if has_system else '' -%}
{%- set turns = messages[1:] if has_system else messages -%}
{%- for turn in turns -%}
{%- if turn['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}
{{- raise_exception('this template takes turns of user and assistant, the user first') -}}
{%- endif -%}
{%- endfor -%}
"""

# Refuses roles beside these three.
_THREE_ROLES = """\
{%- for turn in messages -%}
{%- if turn['role'] not in ('system', 'user', 'assistant') -%}
{{- raise_exception('this template has no role ' ~ turn['role']) -}}
{%- endif -%}
{%- endfor -%}
"""


def _ask(header: str) -> str:
    return "{%- if add_generation_prompt -%}{{- '" + header + "' -}}{%- endif -%}"


def _each_turn(body: str, turns: str = "messages") -> str:
    return "{%- for turn in " + turns + " -%}\n" + body + "\n{%- endfor -%}\n"


NAMED: Mapping[str, Named] = {
    "chatml": Named(
        jinja=BOS
        + _each_turn(
            r"{{- '<|im_start|>' ~ turn['role'] ~ '\n' ~ turn['content'] ~ '<|im_end|>\n' -}}"
        )
        + _ask(r"<|im_start|>assistant\n"),
        tokens=("<|im_start|>", "<|im_end|>"),
        shape="<|im_start|>user⏎Q<|im_end|>⏎<|im_start|>assistant⏎A<|im_end|>",
    ),
    "llama3": Named(
        jinja=BOS
        + _each_turn(
            r"{{- '<|start_header_id|>' ~ turn['role'] ~ '<|end_header_id|>\n\n' -}}"
            "\n{{- turn['content'] | trim ~ '<|eot_id|>' -}}"
        )
        + _ask(r"<|start_header_id|>assistant<|end_header_id|>\n\n"),
        tokens=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        shape="<|start_header_id|>user<|end_header_id|>⏎⏎Q<|eot_id|>...assistant...A<|eot_id|>",
    ),
    "gemma": Named(
        jinja=_ALTERNATE
        + BOS
        + _each_turn(
            "{%- set role = 'model' if turn['role'] == 'assistant' else 'user' -%}\n"
            "{%- set before = system ~ '\\n\\n' if loop.first and system else '' -%}\n"
            r"{{- '<start_of_turn>' ~ role ~ '\n' ~ before -}}"
            "\n{{- turn['content'] | trim ~ '<end_of_turn>\\n' -}}",
            "turns",
        )
        + _ask(r"<start_of_turn>model\n"),
        tokens=("<start_of_turn>", "<end_of_turn>"),
        shape="<start_of_turn>user⏎Q<end_of_turn>⏎<start_of_turn>model⏎A<end_of_turn>",
    ),
    "phi3": Named(
        jinja=_THREE_ROLES
        + BOS
        + _each_turn(r"{{- '<|' ~ turn['role'] ~ '|>\n' ~ turn['content'] ~ '<|end|>\n' -}}")
        + _ask(r"<|assistant|>\n"),
        tokens=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        shape="<|user|>⏎Q<|end|>⏎<|assistant|>⏎A<|end|>",
    ),
    "llama2": Named(
        jinja=_ALTERNATE
        + _each_turn(
            "{%- if turn['role'] == 'user' -%}\n"
            "{%- set before = '<<SYS>>\\n' ~ system ~ '\\n<</SYS>>\\n\\n' -%}\n"
            f"{BOS}"
            "{{- '[INST] ' ~ (before if loop.first and system else '') -}}\n"
            "{{- turn['content'] | trim ~ ' [/INST]' -}}\n"
            "{%- else -%}\n"
            "{{- ' ' ~ turn['content'] | trim ~ ' ' ~ eos_token -}}\n"
            "{%- endif -%}",
            "turns",
        ),
        shape="[INST] Q [/INST] A EOS, each pair with its own BOS",
    ),
    "mistral": Named(
        jinja=_ALTERNATE
        + BOS
        + _each_turn(
            "{%- if turn['role'] == 'user' -%}\n"
            "{{- '[INST] ' ~ (system ~ '\\n\\n' if loop.first and system else '') -}}\n"
            "{{- turn['content'] | trim ~ ' [/INST]' -}}\n"
            "{%- else -%}\n"
            "{{- ' ' ~ turn['content'] | trim ~ eos_token -}}\n"
            "{%- endif -%}",
            "turns",
        ),
        shape="[INST] Q [/INST] A EOS, one BOS before all",
    ),
    "zephyr": Named(
        jinja=_THREE_ROLES
        + BOS
        + _each_turn(r"{{- '<|' ~ turn['role'] ~ '|>\n' ~ turn['content'] ~ eos_token ~ '\n' -}}")
        + _ask(r"<|assistant|>\n"),
        shape="<|user|>⏎Q EOS⏎<|assistant|>⏎A EOS",
    ),
    "tulu": Named(
        jinja=_THREE_ROLES
        + BOS
        + _each_turn(
            r"{{- '<|' ~ turn['role'] ~ '|>\n' ~ turn['content'] -}}"
            "\n{{- (eos_token if turn['role'] == 'assistant' else '') ~ '\\n' -}}"
        )
        + _ask(r"<|assistant|>\n"),
        shape="<|user|>⏎Q⏎<|assistant|>⏎A EOS",
    ),
    "plain": Named(
        jinja=_THREE_ROLES
        + BOS
        + _each_turn(
            r"{{- turn['role'] | capitalize ~ ':\n' ~ turn['content'] | trim -}}"
            "\n{{- (eos_token if turn['role'] == 'assistant' else '') ~ '\\n\\n' -}}"
        )
        + _ask(r"Assistant:\n"),
        shape="User:⏎Q⏎⏎Assistant:⏎A EOS, in words that every vocabulary has",
    ),
}


def choose(value: str | None, tokenizer: PreTrainedTokenizerBase, where: str) -> str | None:
    """The text of the template that a setting asks for; None for the tokenizer's own.

    Args:
        value: a name of `NAMED`, the path of a Jinja file, or a template itself, which is told by
            its braces.
        where: the setting's name, for errors.

    Raises:
        BadInput: no such name or file.
    """
    if value is None or "{{" in value or "{%" in value:
        return value
    if value not in NAMED:
        if not _is_file(value):
            near = difflib.get_close_matches(value, NAMED, n=1)
            raise BadInput(
                f"a chat template's name ({', '.join(NAMED)}), the path of a Jinja file, or the "
                "template itself",
                f"{value!r:.200}, which is no name and no file",
                f"Did you mean {near[0]}?" if near else "Leave it out for the tokenizer's own.",
                where=where,
            )
        return read_template(Path(value), where)
    named = NAMED[value]
    if missing := [token for token in named.tokens if not has_token(tokenizer, token)]:
        log.warning(
            "%s: the vocabulary has no %s, so the template %s spends several tokens on each of "
            "them, and answers end with %s. For such a model plain is the better choice.",
            where, " ".join(missing), value, tokenizer.eos_token,
        )  # fmt: skip
    return named.jinja.replace(BOS, "{{- bos_token -}}" if _adds_bos(tokenizer) else "")


def _is_file(value: str) -> bool:
    """Whether there is such a file; one that may not be read is told of by who opens it."""
    try:
        return Path(value).expanduser().is_file()
    except PermissionError:
        return True
    except (OSError, RuntimeError):  # longer than a name can be, or the home of no user
        return False


def suggestion(tokenizer: PreTrainedTokenizerBase) -> str:
    """The name that a vocabulary speaks for: the template whose tokens it has; plain for none."""
    for name, named in NAMED.items():
        if named.tokens and all(has_token(tokenizer, token) for token in named.tokens):
            return name
    return "plain"


def has_token(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    """Whether a special token's text is one token when it stands in a text."""
    return token in {added.content for added in tokenizer.added_tokens_decoder.values()}


def _adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    bos = tokenizer.bos_token_id
    return bos is not None and bos in opening(tokenizer)
