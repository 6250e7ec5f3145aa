"""Tiny tokenizers for tests, made on the spot: any text encodes, and ids can be worked by hand.

In all of them the byte with value x has the id `FIRST_BYTE + x`, so "A" is 5 + 65 = 70. Merges
join lower-case letters only: capitals, digits and punctuation are one token each.
"""

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

FIRST_BYTE = 5  # ids below it are special tokens
MERGES = (
    *("t h", "h e", "i n", "e r", "a n", "o n", "r e", "e n", "o u", "i s", "o r", "a l", "s t"),
    *("th e", "in g", "an d", "y ou", "th is", "Ġ the", "Ġ and", "Ġ you", "Ġ a", "Ġ s", "Ġ w"),
)
SMOLLM2_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim }}{{ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def chatml_tokenizer(template: str | None = SMOLLM2_TEMPLATE) -> PreTrainedTokenizerFast:
    """SmolLM2's ways: ids 0, 1, 2 as there, BOS opens every turn, EOS closes it, none added."""
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|spare_3|>", "<|spare_4|>")
    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_level(special),
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        chat_template=template,
    )


def llama3_tokenizer(
    template: str | None = LLAMA3_TEMPLATE, *, special_end: bool = True
) -> PreTrainedTokenizerFast:
    """Llama 3's ways: BOS (0) written by the template and also added by the tokenizer; turns end
    with <|eot_id|> (1), which is not the eos token (4), and which not every tokenizer of such a
    template calls special."""
    special = (
        *("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
        "<|end_of_text|>",
    )
    tokenizer = _byte_level(special, plain=() if special_end else ("<|eot_id|>",))
    tokenizer.post_processor = TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>",
        chat_template=template,
    )


def space_tokenizer() -> PreTrainedTokenizerFast:
    """Llama 2's ways: a space is put before any text, BOS (1) is added, EOS is 2, no template."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    words += [chr(code) for code in range(ord("a"), ord("z") + 1)] + ["▁a", "▁b"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={word: i for i, word in enumerate(words)},
            merges=[("▁", "a"), ("▁", "b")],
            byte_fallback=True,
            unk_token="<unk>",
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in words[:3]])
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def byte_ids(text: str) -> list[int]:
    """The ids of a text that no merge touches."""
    return (np.frombuffer(text.encode(), np.uint8).astype(int) + FIRST_BYTE).tolist()


def _byte_level(special: tuple[str, ...], plain: tuple[str, ...] = ()) -> Tokenizer:
    assert len(special) == FIRST_BYTE
    words = [*special, *_byte_letters(), *(merge.replace(" ", "") for merge in MERGES)]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={word: i for i, word in enumerate(words)},
            merges=[tuple(merge.split(" ")) for merge in MERGES],
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = [AddedToken(word, special=word not in plain) for word in special]
    tokenizer.add_tokens(words)
    return tokenizer


def _byte_letters() -> list[str]:
    """The letter that stands for each byte in byte-level BPE: itself where it can be printed."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
