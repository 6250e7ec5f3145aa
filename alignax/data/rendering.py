"""One chat template, at work on conversations: what it writes, and how it opens and closes turns.

A template is a program that came with a model. It may refuse, fail, or do what no training can
use; all of that is told in the same three parts as a bad row.
"""

import dataclasses
import functools
import itertools
import json
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from transformers import PreTrainedTokenizerBase

from alignax.core.errors import BadInput
from alignax.core.records import Message
from alignax.data import beside
from alignax.data.bad_rows import BadRow
from alignax.data.confined import TEMPLATES, Told
from alignax.data.joining import REACH
from alignax.data.tokenizers import encode

PROBE = "Answer-7f3a"  # content that no template writes by itself
QUESTION = (Message("user", "Question"),)
ARGUMENTS = {"zq7f": "zq3a"}  # of a call


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
            turns: with the tools that the first of them tells of.
            origin: `file:line`, for errors.
            ask: whether the header of an answer goes after it.

        Raises:
            BadRow: the template refuses the conversation, or fails.
        """
        tools = turns[0].tools if turns else ""
        messages = [self.message(turn, origin) for turn in turns]
        told = self._told(messages, ask, **({"tools": json.loads(tools)} if tools else {}))
        if told.text is None:
            place = f" (line {told.line} of the template)" if told.line else ""
            wordless = any("content" not in turn for turn in messages)
            hint = ' (to some templates content must be text: "", not null)' if wordless else ""
            raise BadRow(
                "refused by the chat template",
                "a conversation that the chat template accepts",
                f"turns by {', '.join(turn.role for turn in turns)}: {told.error}{place}",
                f"Mend the row{hint}, or set on_bad_row='drop'.",
                where=origin,
            )
        return told.text

    def _told(self, messages: list[dict[str, Any]], ask: bool, **more: Any) -> Told:
        return TEMPLATES.render(
            self.text,
            {
                "tools": None,
                "documents": None,
                **self.tokenizer.special_tokens_map,
                **self.options,
                **more,
                "messages": messages,
                "add_generation_prompt": ask,
            },
        )

    def message(self, turn: Message, origin: str) -> dict[str, Any]:
        """A turn as the template is given it.

        Arguments of calls have the form that it can write. Thoughts have the names that templates
        read beside their own, as transformers gives them (5.24, `_alias_reasoning_fields`).

        Raises:
            BadRow: it takes objects, and arguments are a string that holds none.
        """
        found = turn.as_dict()
        thoughts = next((found[key] for key in beside.THOUGHTS if key in found), None)
        if thoughts is not None:
            found = {"thinking": thoughts, **found, "reasoning_content": thoughts}
        if not found.get("tool_calls"):
            return found
        calls = [self._call(call, origin) for call in found["tool_calls"]]
        return found | {"tool_calls": calls}

    def _call(self, call: dict[str, Any], origin: str) -> dict[str, Any]:
        if isinstance(call.get("function"), dict):
            return call | {"function": self._call(call["function"], origin)}
        arguments = call.get("arguments")
        if isinstance(arguments, dict) and self.arguments == "string":
            return call | {"arguments": json.dumps(arguments, ensure_ascii=False)}
        if not isinstance(arguments, str) or self.arguments != "object":
            return call
        try:
            parsed = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            parsed = None
        if not isinstance(parsed, dict):
            raise BadRow(
                "tool calls",
                "arguments that are an object, or one written as JSON in a string",
                f"{arguments[:60]!r} of {call.get('name')}",
                "Mend the call, remove the row, or set on_bad_row='drop'.",
                where=origin,
            )
        return call | {"arguments": parsed}

    def check_texts(self, turns: tuple[Message, ...], origin: str) -> None:
        """Refuses turns, or tools, that have a special token written out in a text.

        The tokenizer would take it for the token itself and end or open a turn there.

        Raises:
            BadRow: with the token.
        """
        end = self.closing.token
        for turn in turns:
            texts = [turn.content]
            if turn.more or turn.tools:
                given = self.message(turn, origin), json.loads(turn.tools or "[]")
                texts += [text for value in given for text in beside.strings(value)]
            found = next(filter(None, map(self._special.search, texts)), None)
            ends = end is not None and any(end in text for text in texts)
            token = found.group() if found else end if ends else None
            if token:
                raise BadRow(
                    "special token in the text",
                    "text without the tokenizer's special tokens",
                    f"{token} in a turn of the {turn.role}",
                    "Remove it, or set on_bad_row='drop'.",
                    where=origin,
                )

    @functools.cached_property
    def _special(self) -> re.Pattern[str]:
        return special_tokens(self.tokenizer)

    @functools.cached_property
    def arguments(self) -> Literal["object", "string", "either"]:
        """What arguments of a call may be: a template may write a string in quotes, or fail."""
        text = json.dumps(ARGUMENTS)
        as_object, as_string = self._called(ARGUMENTS), self._called(text)
        if as_object == as_string:
            return "either"
        # A template that joins strings fails, or shows the object as Python does.
        good = "zq7f" in as_object and "zq3a" in as_object and str(ARGUMENTS) not in as_object
        return "object" if good or text not in as_string else "string"

    def _called(self, arguments: Any) -> str:
        """The text of a call; "" if it is not written, with any content."""
        function = {"name": "zq1f", "arguments": arguments}
        call = {"id": "zq7f00000", "type": "function", "function": function}
        asked = [turn.as_dict() for turn in QUESTION]
        for said in ({"content": ""}, {}, {"content": PROBE}):
            turn = {"role": "assistant", **said, "tool_calls": [call]}
            text = self._told([*asked, turn], ask=False).text
            if text and "zq1f" in text:
                return text
        return ""

    def writes(self, key: str) -> bool:
        """Whether the thoughts of a last answer are written, under this key of its message."""
        turn = Message("assistant", "A", json.dumps({key: PROBE}))
        try:
            return PROBE in self.render((*QUESTION, turn), "", ask=False)
        except BadRow:
            return False

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
