"""From conversations to text, through the tokenizer's own chat template, and to token ids.

Which part of a response the assistant said is found by rendering the conversation turn by turn,
never by searching for its content: templates strip, indent and quote. Prompt and response are
tokenised apart, as they are when the response is sampled.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

import jinja2
from transformers import PreTrainedTokenizerBase

from alignax.core.errors import BadInput
from alignax.core.records import Message, Text
from alignax.data.bad_rows import BadRow

PROBE = "Answer-7f3a"  # content that no template writes by itself


class Segment(NamedTuple):
    """A piece of a response. What is scored is what the assistant said, end-of-turn included."""

    text: str
    scored: bool


class Rendered(NamedTuple):
    """The text of a prompt, and each response to it in pieces."""

    prompt: str
    responses: tuple[tuple[Segment, ...], ...]


class Closing(NamedTuple):
    """What a template writes after the content of the last assistant turn.

    Fields:
        end: up to and including the end-of-turn token. Empty if it writes none.
        after: the rest, such as a newline. No part of the response.
        token: the end-of-turn token.
    """

    end: str
    after: str
    token: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Renderer:
    """Renders prompts and responses for one tokenizer.

    In "chat" mode a plain string is one turn: of the user as a prompt, of the assistant as a
    response. In "none" mode strings are taken as they stand, the tokenizer's own special tokens
    go before a prompt and its eos after a response, and conversations are refused.

    Fields:
        tokenizer: a Hugging Face tokenizer.
        template: whether the chat template is used.
        chat_template: the text of a template that replaces the tokenizer's.
        extra_end_ids: further ids that end a turn, as in a model's generation config.
    """

    tokenizer: PreTrainedTokenizerBase
    template: Literal["chat", "none"] = "chat"
    chat_template: str | None = None
    extra_end_ids: tuple[int, ...] = ()

    def __post_init__(self):
        if self.template == "chat" and not (self.chat_template or self.tokenizer.chat_template):
            raise BadInput(
                "a tokenizer with a chat template",
                f"none in {self.tokenizer.name_or_path or type(self.tokenizer).__name__}",
                'Set data.template="none", or give a template file as data.chat_template.',
            )
        if not self.end_ids:
            raise BadInput(
                "a token that ends a turn",
                "a tokenizer without eos_token and a template that closes turns with none",
                "Set eos_token in tokenizer_config.json.",
            )

    def prompt(self, prompt: Text, origin: str = "") -> str:
        """The text before a response, the header of the assistant's turn included.

        Example (ChatML): user "Hi" -> "<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n"
        """
        if self.template == "none":
            return self._plain(prompt, origin)
        return self._render(self._turns(prompt, "user", origin), origin, ask=True)

    def render(self, prompt: Text, responses: Sequence[Text], origin: str = "") -> Rendered:
        """The text of a prompt and of the responses that go on from it.

        A response ends with the end-of-turn token of its last assistant turn; what follows that
        has nothing to be scored and is left out.

        Example (ChatML): assistant "A", user "B", assistant "C"
            scored  A<|im_end|>
            not     NEWLINE<|im_start|>user NEWLINE B<|im_end|>NEWLINE<|im_start|>assistant NEWLINE
            scored  C<|im_end|>

        Raises:
            BadRow: the template refuses a conversation, or writes it otherwise than its prompt.
        """
        text = self.prompt(prompt, origin)
        if self.template == "none":
            pieces = ((Segment(self._plain(response, origin), True),) for response in responses)
        else:
            before = self._turns(prompt, "user", origin)
            answers = (self._turns(response, "assistant", origin) for response in responses)
            pieces = (self._segments(text, before, answer, origin) for answer in answers)
        return Rendered(text, tuple(pieces))

    def prompt_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of rendered prompts, BOS included where one belongs, and never twice."""
        start = self._opening if self.template == "none" else []
        ids = self._encode(texts)
        return [row if row[: len(start)] == start else start + row for row in ids]

    def continuation_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts that go on where another ended: without BOS or a leading space."""
        anchor, count = self._anchor
        return [row[count:] for row in self._encode([anchor + text for text in texts])]

    @functools.cached_property
    def end_ids(self) -> frozenset[int]:
        """The ids that end a turn."""
        ids = {*self.extra_end_ids, self._eos_id}
        if self.template == "chat" and self._closing.token:
            ids.add(cast(int, self.tokenizer.convert_tokens_to_ids(self._closing.token)))
        return frozenset(i for i in ids if i is not None)

    @functools.cached_property
    def end_id(self) -> int:
        """The id that goes after a response that lacks an end: the tokenizer's eos, if any."""
        return self._eos_id if self._eos_id is not None else min(self.end_ids)

    @functools.cached_property
    def bos_at_start(self) -> bool | None:
        """Whether a prompt begins with BOS, to be found nowhere else.

        None where that cannot be said: the token also opens every turn (ChatML) or ends one.
        """
        bos, bos_id = self.tokenizer.bos_token, self.tokenizer.bos_token_id
        if bos is None:
            return False
        if bos_id in self.end_ids:
            return None
        if self.template == "none":
            return bos_id in self._opening
        turns = (Message("user", "A"), Message("assistant", "B"), Message("user", "C"))
        count = self._render(turns, "", ask=True).count(str(bos))
        return None if count > 1 else count == 1

    @property
    def _eos_id(self) -> int | None:
        return cast(int | None, self.tokenizer.eos_token_id)

    @functools.cached_property
    def _closing(self) -> Closing:
        turns = (Message("user", "Question"), Message("assistant", PROBE))
        closing = self._render(turns, "", ask=False).rpartition(PROBE)[2]
        found = self._special.search(closing)
        if not found:
            return Closing("", closing, None)
        return Closing(closing[: found.end()], closing[found.end() :], found.group())

    @functools.cached_property
    def _special(self) -> re.Pattern[str]:
        """Finds any special token that is written out in a text."""
        added = self.tokenizer.added_tokens_decoder.values()
        tokens = {token.content for token in added if token.special}
        tokens |= set(self.tokenizer.all_special_tokens)
        longest_first = sorted(filter(None, tokens), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    @functools.cached_property
    def _opening(self) -> list[int]:
        """What the tokenizer puts before a text by itself; what it puts after one is left out."""
        ids, (bare,) = self.tokenizer("a")["input_ids"], self._encode(["a"])
        starts = range(len(ids) - len(bare) + 1)
        return next((ids[:i] for i in starts if ids[i : i + len(bare)] == bare), [])

    @functools.cached_property
    def _anchor(self) -> tuple[str, int]:
        """A text to put before a continuation, and how many tokens of it to take away again.

        Tokenizers in the manner of SentencePiece put a space before any text, which is wrong for
        one that goes on where another ended. After a newline, which no piece merges with, they do
        not.
        """
        ids = self._encode(["a", "\n", "\na"])
        first = self.tokenizer.convert_ids_to_tokens(ids[0])[0]
        if first.startswith("▁") and ids[2][: len(ids[1])] == ids[1]:
            return "\n", len(ids[1])
        return "", 0

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        # Not verbose: what is longer than the model is the affair of `TokenLimits`.
        return self.tokenizer(
            list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]

    def _plain(self, text: Text, origin: str) -> str:
        if isinstance(text, str):
            return text
        raise BadInput(
            'plain strings, because data.template="none"',
            f"a conversation of {len(text)} turns",
            'Set data.template="chat".',
            where=origin or None,
        )

    def _turns(self, text: Text, role: str, origin: str) -> tuple[Message, ...]:
        turns = (Message(role, text),) if isinstance(text, str) else text
        for turn in turns:
            if found := self._special.search(turn.content):
                # The tokenizer would take it for the token itself and end or open a turn there.
                raise BadRow(
                    "special token in the text",
                    "text without the tokenizer's special tokens",
                    f"{found.group()} in a turn of the {turn.role}",
                    "Remove it, or set on_bad_row='drop'.",
                    where=origin,
                )
        return turns

    def _segments(
        self, opened: str, before: tuple[Message, ...], answer: tuple[Message, ...], origin: str
    ) -> tuple[Segment, ...]:
        """The pieces of one response to a prompt that was rendered as `opened`."""
        turns = before + answer
        said = [i for i in range(len(before), len(turns)) if turns[i].role == "assistant"]
        if not said:
            return ()
        whole = self._until_end(turns[: said[-1] + 1], origin)
        segments, position = [], len(opened)
        for i in said:
            header = opened if i == len(before) else self._render(turns[:i], origin, ask=True)
            until = whole if i == said[-1] else self._until_end(turns[: i + 1], origin)
            for part in (header, until):
                if not whole.startswith(part):
                    raise _rewritten(part, whole, origin)
            segments.append(Segment(whole[position : len(header)], False))
            segments.append(Segment(whole[len(header) : len(until)], True))
            position = len(until)
        return tuple(segment for segment in segments if segment.text)

    def _render(self, turns: tuple[Message, ...], origin: str, *, ask: bool) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                [turn._asdict() for turn in turns],
                chat_template=self.chat_template,
                tokenize=False,
                add_generation_prompt=ask,
            )
        except jinja2.TemplateError as error:
            raise BadRow(
                "refused by the chat template",
                "a conversation that the chat template accepts",
                f"turns by {', '.join(turn.role for turn in turns)}: {error}",
                "Mend the row, or set on_bad_row='drop'.",
                where=origin,
            ) from error
        assert isinstance(text, str), "one conversation, not tokenised, is one string"
        return text

    def _until_end(self, turns: tuple[Message, ...], origin: str) -> str:
        """A conversation that ends with an assistant turn, up to its end-of-turn token."""
        text = self._render(turns, origin, ask=False)
        if not text.endswith(self._closing.end + self._closing.after):
            raise BadRow(
                "end of turn not found",
                f"the template to close every assistant turn with {self._closing.end!r}",
                repr(text[-30:]),
                "Mend the row or the template, or set on_bad_row='drop'.",
                where=origin,
            )
        return text.removesuffix(self._closing.after)


def _rewritten(part: str, whole: str, origin: str) -> BadRow:
    same = next((i for i, (a, b) in enumerate(zip(part, whole, strict=False)) if a != b), 0)
    return BadRow(
        "rewritten by the chat template",
        f"a conversation to begin as its prompt does, with {part[same : same + 30]!r} "
        f"at character {same}",
        repr(whole[same : same + 30]),
        "The template rewrites earlier turns, so a prompt in training is not the prompt in use. "
        "Give another template as data.chat_template, or set on_bad_row='drop'.",
        where=origin,
    )
