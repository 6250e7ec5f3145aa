"""The chat formats of the families, each with a tiny tokenizer that has the family's own quirks.

The templates are written here, to the formats that the models were published with; `{% generation
%}` marks what the assistant says, so that transformers itself can tell which tokens those are.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tests.tiny import MERGES, _byte_letters

Q, A = {"role": "user", "content": "Is it so?"}, {"role": "assistant", "content": "It is, yes."}


class Family(NamedTuple):
    """A format.

    Fields:
        tokenizer: makes one of the family's kind, with the template in it.
        asked: what the template makes of the question `Q`, the header of the answer included.
        answered: what then belongs to the answer `A`.
        system: whether a system message is taken.
        turns: whether an answer may have several turns: earlier ones are not rewritten.
        options: what the template is told.
    """

    tokenizer: Callable[[], PreTrainedTokenizerFast]
    asked: str
    answered: str
    system: bool = True
    turns: bool = True
    options: Mapping[str, Any] = MappingProxyType({})


def byte_level(
    special: Sequence[str], template: str | None, *, bos: str | None = None, eos: str,
    adds_bos: bool = False, added: Sequence[str] = (), pad: str | None = None, newer: bool = True,
) -> PreTrainedTokenizerFast:  # fmt: skip
    """Byte-level BPE. Two newlines are one token, as in most vocabularies of this kind.

    Args:
        newer: newlines stay together, and go with the punctuation before them, as with Llama 3 and
            Qwen; with GPT-2 the last of them goes alone where a word follows.
    """
    merges = (*MERGES, "Ċ Ċ", "ĊĊ Ċ")
    words = [*special, *_byte_letters(), *(merge.replace(" ", "") for merge in merges)]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={word: i for i, word in enumerate(words)},
            merges=[tuple(merge.split(" ")) for merge in merges],
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if newer:
        words_and_lines = Regex(r" ?\w+| ?[^\s\w]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(words_and_lines, "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in special])
    tokenizer.add_tokens([AddedToken(word, special=False) for word in added])
    return _finished(tokenizer, template, bos, eos, adds_bos, pad)


def spaces(
    special: Sequence[str], template: str | None, *, bos: str, eos: str, adds_bos: bool = True,
    prepend: bool = True, swallow: Sequence[str] = (),
) -> PreTrainedTokenizerFast:  # fmt: skip
    """SentencePiece's ways: ▁ for a space, bytes for what is unknown.

    Args:
        prepend: a space is put before a text, and behind a special token.
        swallow: special tokens that take the white space behind them.
    """
    letters = [chr(code) for code in range(33, 127)]
    pieces = [f"▁{letter}" for letter in letters]
    words = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters, *pieces]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={word: i for i, word in enumerate(words)},
            merges=[("▁", letter) for letter in letters],
            byte_fallback=True,
            unk_token="<unk>",
        )
    )
    replace = normalizers.Replace(" ", "▁")
    first = normalizers.Sequence([normalizers.Prepend("▁"), replace])
    tokenizer.normalizer = first if prepend else replace
    tokenizer.add_special_tokens(
        [AddedToken(w, special=True, normalized=False, rstrip=w in swallow) for w in special]
    )
    return _finished(tokenizer, template, bos, eos, adds_bos, None)


def _finished(
    tokenizer: Tokenizer, template: str | None, bos: str | None, eos: str, adds_bos: bool,
    pad: str | None,
) -> PreTrainedTokenizerFast:  # fmt: skip
    if adds_bos:
        assert bos is not None
        ids = [(bos, tokenizer.token_to_id(bos))]
        tokenizer.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token=pad,
        chat_template=template,
    )  # fmt: skip


def said(text: str) -> str:
    """An expression of Jinja that the assistant says."""
    return "{% generation %}{{- " + text + " -}}{% endgeneration %}"


def chatml(default: str = "", think: str = "", ask: str = "") -> str:
    """ChatML: `default` is a system message of the template's own, `think` begins an answer."""
    first = "{{- '<|im_start|>system\\n" + default + "<|im_end|>\\n' -}}"
    return (
        ("{%- if messages[0].role != 'system' -%}" + first + "{%- endif -%}" if default else "")
        + "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\n' -}}"
        "{%- if m.role == 'assistant' -%}" + think + said("m.content + '<|im_end|>'")
        + "{{- '\n' -}}{%- else -%}{{- m.content + '<|im_end|>\n' -}}{%- endif -%}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}" + ask + "{%- endif -%}"
    )  # fmt: skip


# Only the answers after the last question show a thought, and these always, if an empty one.
QWEN3 = (
    "{%- set ns = namespace(last=0) -%}{%- for m in messages -%}{%- if m.role == 'user' -%}"
    "{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}"
    "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\n' -}}"
    "{%- if m.role == 'assistant' -%}"
    + said(
        "('<think>\n\n</think>\n\n' if loop.index0 > ns.last else '') + m.content + '<|im_end|>'"
    )
    + "{{- '\n' -}}{%- else -%}{{- m.content + '<|im_end|>\n' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}"
    "{%- if enable_thinking is defined and enable_thinking is false -%}"
    "{{- '<think>\n\n</think>\n\n' -}}{%- endif -%}{%- endif -%}"
)
# A system turn of facts about the model comes first, whatever is in the conversation.
SMOLLM3 = (
    "{%- set own = messages[0].role == 'system' -%}"
    "{{- '<|im_start|>system\n## Metadata\n\nReasoning Mode: ' -}}"
    "{{- ('/no_think' if enable_thinking is defined and not enable_thinking else '/think') -}}"
    "{{- '\n\n' + (messages[0].content if own else 'Be helpful.') + '<|im_end|>\n' -}}"
    "{%- for m in (messages[1:] if own else messages) -%}{{- '<|im_start|>' + m.role + '\n' -}}"
    "{%- if m.role == 'assistant' -%}"
    "{%- if enable_thinking is defined and not enable_thinking -%}"
    "{{- '<think>\n\n</think>\n' -}}{%- endif -%}"
    + said("m.content + '<|im_end|>'")
    + "{{- '\n' -}}{%- else -%}{{- m.content + '<|im_end|>\n' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}"
    "{%- if enable_thinking is defined and not enable_thinking -%}"
    "{{- '<think>\n\n</think>\n' -}}{%- endif -%}{%- endif -%}"
)
LLAMA2 = (
    "{%- set own = messages[0].role == 'system' -%}"
    "{%- for m in (messages[1:] if own else messages) -%}"
    "{%- if m.role == 'user' -%}{{- bos_token + '[INST] ' -}}"
    "{%- if loop.first and own -%}"
    "{{- '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' -}}{%- endif -%}"
    "{{- m.content | trim + ' [/INST]' -}}{%- else -%}"
    + said("' ' + m.content | trim + ' ' + eos_token")
    + "{%- endif -%}{%- endfor -%}"
)
MISTRAL = (
    "{%- set own = messages[0].role == 'system' -%}{{- bos_token -}}"
    "{%- for m in (messages[1:] if own else messages) -%}"
    "{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{- raise_exception('roles must alternate') -}}{%- endif -%}"
    "{%- if m.role == 'user' -%}{{- '[INST] ' -}}"
    "{{- (messages[0].content + '\n\n' if loop.first and own else '') + m.content + CLOSE -}}"
    "{%- else -%}" + said("' ' + m.content | trim + eos_token") + "{%- endif -%}{%- endfor -%}"
)
GEMMA = (
    "{%- set own = messages[0].role == 'system' -%}SYSTEM{{- bos_token -}}"
    "{%- for m in (messages[1:] if own else messages) -%}"
    "{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' -}}"
    "{{- messages[0].content + '\n\n' if loop.first and own else '' -}}"
    "{%- if m.role == 'assistant' -%}"
    + said("m.content | trim + '<end_of_turn>'")
    + "{{- '\n' -}}{%- else -%}{{- m.content | trim + '<end_of_turn>\n' -}}{%- endif -%}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<start_of_turn>model\n' -}}{%- endif -%}"
)
REFUSES = "{%- if own -%}{{- raise_exception('System role not supported') -}}{%- endif -%}"
# Two newlines behind each header; the turn of the system always comes first, with the date.
LLAMA32 = (
    "{{- bos_token + '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' -}}"
    "{{- date_string + '\n\n' -}}{%- set own = messages[0].role == 'system' -%}"
    "{{- (messages[0].content if own else '') + '<|eot_id|>' -}}"
    "{%- for m in (messages[1:] if own else messages) -%}"
    "{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' -}}"
    "{%- if m.role == 'assistant' -%}"
    + said("m.content | trim + '<|eot_id|>'")
    + "{%- else -%}{{- m.content | trim + '<|eot_id|>' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}{%- endif -%}"
)
LLAMA3 = "{{- bos_token -}}" + LLAMA32[LLAMA32.index("{%- for") :].replace(
    "(messages[1:] if own else messages)", "messages"
)
PHI3 = (
    "{%- for m in messages -%}{{- '<|' + m.role + '|>\n' -}}{%- if m.role == 'assistant' -%}"
    + said("m.content + '<|end|>'")
    + "{{- '\n' -}}{%- else -%}{{- m.content + '<|end|>\n' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- else -%}{{- eos_token -}}"
    "{%- endif -%}"
)
# No newline behind the last answer.
OLMO2 = (
    "{{- bos_token -}}{%- for m in messages -%}{{- '<|' + m.role + '|>\n' -}}"
    "{%- if m.role == 'assistant' -%}"
    + said("m.content + eos_token")
    + "{{- '' if loop.last else '\n' -}}{%- else -%}{{- m.content + '\n' -}}{%- endif -%}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- endif -%}"
)

IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
THINK = ("<think>", "</think>")  # added tokens that are not marked as special
HEADER3 = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>",
           "<|end_of_text|>")  # fmt: skip
SENTENCE = ("<unk>", "<s>", "</s>")
PHI = ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")


def _llama3(template: str) -> PreTrainedTokenizerFast:
    return byte_level(
        HEADER3, template, bos="<|begin_of_text|>", eos="<|end_of_text|>", adds_bos=True
    )


def _qwen(template: str) -> PreTrainedTokenizerFast:
    return byte_level(IM, template, eos="<|im_end|>", pad="<|endoftext|>", added=THINK)


def _smollm(template: str) -> PreTrainedTokenizerFast:
    return byte_level(IM, template, bos="<|im_start|>", eos="<|im_end|>", added=THINK)


def _gemma(template: str) -> PreTrainedTokenizerFast:
    special = ("<unk>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
    return spaces(special, template, bos="<bos>", eos="<eos>", prepend=False)


_IM_ASKED = "<|im_start|>user\nIs it so?<|im_end|>\n<|im_start|>assistant\n"
_SYSTEM = "<|im_start|>system\n{}<|im_end|>\n"
_HELPFUL = "You are a helpful assistant."
_NO_THOUGHT = "<think>\n\n</think>\n"
_HEADERS = (
    "<|start_header_id|>user<|end_header_id|>\n\nIs it so?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
_GEMMA_ASKED = "<bos><start_of_turn>user\nIs it so?<end_of_turn>\n<start_of_turn>model\n"

FAMILIES: dict[str, Family] = {
    "llama 2": Family(
        lambda: spaces(SENTENCE, LLAMA2, bos="<s>", eos="</s>"),
        "<s>[INST] Is it so? [/INST]",
        " It is, yes. </s>",
    ),
    "llama 3": Family(
        lambda: _llama3(LLAMA3), f"<|begin_of_text|>{_HEADERS}", "It is, yes.<|eot_id|>"
    ),
    "llama 3.2, which writes a date": Family(
        lambda: _llama3(LLAMA32),
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        f"Today Date: 26 Jul 2024\n\n<|eot_id|>{_HEADERS}",
        "It is, yes.<|eot_id|>",
        options={"date_string": "26 Jul 2024"},
    ),
    "smollm 2": Family(
        lambda: _smollm(chatml(_HELPFUL)),
        _SYSTEM.format(_HELPFUL) + _IM_ASKED,
        "It is, yes.<|im_end|>",
    ),
    "smollm 3": Family(
        lambda: _smollm(SMOLLM3),
        _SYSTEM.format("## Metadata\n\nReasoning Mode: /think\n\nBe helpful.") + _IM_ASKED,
        "It is, yes.<|im_end|>",
    ),
    "smollm 3 without thoughts": Family(
        lambda: _smollm(SMOLLM3),
        _SYSTEM.format("## Metadata\n\nReasoning Mode: /no_think\n\nBe helpful.")
        + _IM_ASKED
        + _NO_THOUGHT,
        "It is, yes.<|im_end|>",
        options={"enable_thinking": False},
    ),
    "mistral": Family(
        lambda: spaces(SENTENCE, MISTRAL.replace("CLOSE", "' [/INST]'"), bos="<s>", eos="</s>"),
        "<s>[INST] Is it so? [/INST]",
        " It is, yes.</s>",
    ),
    "mistral with markers of its own": Family(
        lambda: spaces(
            (*SENTENCE, "[INST]", "[/INST]"),
            MISTRAL.replace("CLOSE", "'[/INST]'"),
            bos="<s>",
            eos="</s>",
        ),
        "<s>[INST] Is it so?[/INST]",
        " It is, yes.</s>",
    ),
    "qwen 2.5": Family(
        lambda: _qwen(chatml(_HELPFUL)),
        _SYSTEM.format(_HELPFUL) + _IM_ASKED,
        "It is, yes.<|im_end|>",
    ),
    "qwen 3": Family(
        lambda: _qwen(QWEN3), _IM_ASKED, f"{_NO_THOUGHT}\nIt is, yes.<|im_end|>", turns=False
    ),
    "qwen 3 without thoughts": Family(
        lambda: _qwen(QWEN3),
        f"{_IM_ASKED}{_NO_THOUGHT}\n",
        "It is, yes.<|im_end|>",
        turns=False,
        options={"enable_thinking": False},
    ),
    "gemma 2": Family(
        lambda: _gemma(GEMMA.replace("SYSTEM", REFUSES)),
        _GEMMA_ASKED,
        "It is, yes.<end_of_turn>",
        system=False,
    ),
    "gemma 3": Family(
        lambda: _gemma(GEMMA.replace("SYSTEM", "")), _GEMMA_ASKED, "It is, yes.<end_of_turn>"
    ),
    "phi 3": Family(
        lambda: spaces(
            (*SENTENCE, *PHI), PHI3, bos="<s>", eos="<|endoftext|>", adds_bos=False, swallow=PHI
        ),
        "<|user|>\nIs it so?<|end|>\n<|assistant|>\n",
        "It is, yes.<|end|>",
    ),
    "olmo 2": Family(
        lambda: byte_level(("<|endoftext|>",), OLMO2, bos="<|endoftext|>", eos="<|endoftext|>"),
        "<|endoftext|><|user|>\nIs it so?\n<|assistant|>\n",
        "It is, yes.<|endoftext|>",
    ),
}


def gpt2() -> PreTrainedTokenizerFast:
    """GPT-2's and Pythia's ways: one special token for all purposes, no template."""
    end = "<|endoftext|>"
    return byte_level((end,), None, bos=end, eos=end, newer=False)
