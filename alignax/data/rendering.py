"""One chat template, at work on conversations: what it writes, and how it opens and closes turns.

A template is a program that came with a model. It may refuse, fail, or do what no training can
use; all of that is told in the same three parts as a bad row.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from alignax.core.errors import BadInput
from alignax.core.records import Message
from alignax.data.bad_rows import BadRow
from alignax.data.confined import TEMPLATES
from alignax.data.joining import REACH
from alignax.data.tokenizers import encode

PROBE = "Answer-7f3a"  # content that no template writes by itself
QUESTION = (Message("user", "Question"),)


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
class Template:
    """A chat template of one tokenizer.

    Fields:
        text: in Jinja.
        options: what it is told beside the conversation.
    """

    tokenizer: PreTrainedTokenizerBase
    text: str
    options: Mapping[str, Any]

    def render(self, turns: tuple[Message, ...], origin: str, *, ask: bool) -> str:
        """The text of a conversation.

        Args:
            origin: `file:line`, for errors.
            ask: whether the header of an answer goes after it.

        Raises:
            BadRow: the template refuses the conversation, or fails.
        """
        told = TEMPLATES.render(
            self.text,
            {
                "tools": None,
                "documents": None,
                **self.tokenizer.special_tokens_map,
                **self.options,
                "messages": [turn._asdict() for turn in turns],
                "add_generation_prompt": ask,
            },
        )
        if told.text is None:
            place = f" (line {told.line} of the template)" if told.line else ""
            raise BadRow(
                "refused by the chat template",
                "a conversation that the chat template accepts",
                f"turns by {', '.join(turn.role for turn in turns)}: {told.error}{place}",
                "Mend the row, or set on_bad_row='drop'.",
                where=origin,
            )
        return told.text

    @functools.cached_property
    def header(self) -> str:
        """The end of a prompt: what is written before an answer."""
        return self.render(QUESTION, "", ask=True)[-REACH:]

    @functools.cached_property
    def closing(self) -> Closing:
        """What is written after an answer."""
        text = self.render((*QUESTION, Message("assistant", PROBE)), "", ask=False)
        _, probe, closing = text.rpartition(PROBE)
        if not probe:
            raise BadRow(
                "refused by the chat template",
                "a template that writes what the assistant said",
                f"one that leaves it out: {closing[:60]!r}",
                "Mend the template.",
                where="",
            )
        found = _control(self.tokenizer).search(closing)
        if not found:
            return Closing("", closing, None)
        return Closing(closing[: found.end()], closing[found.end() :], found.group())

    @functools.cached_property
    def dated(self) -> bool:
        """Whether it asks for the day's date, and would fail where nobody told it."""
        blind = dataclasses.replace(self, options={**self.options, "strftime_now": None})
        asked = (QUESTION, (Message("system", "Instruction"), *QUESTION))
        return "strftime_now" in self.text and any(
            self._renders(turns) and not blind._renders(turns) for turns in asked
        )

    def _renders(self, turns: tuple[Message, ...]) -> bool:
        try:
            self.render(turns, "", ask=True)
        except BadRow:
            return False
        return True

    def check(self) -> None:
        """Refuses a template that works for no conversation, before any row is blamed for it.

        Raises:
            BadInput: it cannot be rendered, or writes BOS twice in a row.
        """
        try:
            _ = self.closing
            asked = self.render(QUESTION, "", ask=True)
        except BadRow as error:
            raise BadInput(
                "a chat template that renders a question and its answer",
                error.got,
                "Mend it, or give another as data.chat_template.",
                where="chat template",
            ) from error
        (ids,) = encode(self.tokenizer, [asked])
        bos = self.tokenizer.bos_token_id
        if bos is not None and any(a == b == bos for a, b in itertools.pairwise(ids)):
            raise BadInput(
                "a chat template that writes BOS once",
                f"{self.tokenizer.bos_token} twice in a row",
                "Take one of them out of the template.",
                where="chat template",
            )


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Finds any special token that is written out in a text."""
    added = tokenizer.added_tokens_decoder.values()
    tokens = {token.content for token in added if token.special}
    return _any_of(tokens | set(tokenizer.all_special_tokens))


def _control(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Finds special tokens, and added ones that are not marked as special, but for spaces."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    seen = {token for token in added if token.strip()}
    return _any_of(seen | set(tokenizer.all_special_tokens))


def _any_of(tokens: set[str]) -> re.Pattern[str]:
    """Finds any of these; of two at one place, the longer one."""
    longest_first = sorted(filter(None, tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
