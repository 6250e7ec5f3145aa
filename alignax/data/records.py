"""From a row, as people write it, to a record: which columns mean what, and what makes a row bad.

Every text is a string or a list of {role, content}. Faults are of two kinds. A structural fault (a
column that is not there) is raised at once: every row would have it. A defect of one row (an empty
field, a chosen response that equals the rejected one) is a `BadRow`, which a caller may count and
drop.
"""

import dataclasses
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from alignax.core.errors import BadInput
from alignax.core.records import (
    ROLES,
    Demonstration,
    Message,
    Preference,
    Prompt,
    Record,
    Text,
)
from alignax.data.bad_rows import BadRow

# The column sets of each type of record, the fullest first: the first whose columns are all there
# is taken. Further columns are ignored.
COLUMNS: dict[type[Record], tuple[tuple[str, ...], ...]] = {
    Preference: (("prompt", "chosen", "rejected"), ("chosen", "rejected")),
    Demonstration: (
        ("messages",),
        ("prompt", "completion"),
        ("prompt", "response"),
        ("prompt", "chosen"),
    ),
    Prompt: (("prompt", "answer"), ("prompt",)),
}
USE_INSTEAD: dict[type[Record], str] = {
    Preference: "For chosen and rejected responses, use DPO or another method on pairs.",
    Demonstration: "For prompt and response alone, use SFT.",
    Prompt: "For prompts alone, use a method that samples its own responses.",
}
# Role names of other conventions, so that the nearest of ours can be offered.
FOREIGN_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "developer": "system",
    "function": "tool",
}
HH_MARK = re.compile(r"\n\n(Human|Assistant):")
HH_ROLES = {"Human": "user", "Assistant": "assistant"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """How the rows of a source are read, found from its first row.

    Fields:
        record: the type of record.
        columns: the columns that are read.
        conversational: whether the first row holds role/content lists.
    """

    record: type[Record]
    columns: tuple[str, ...]
    conversational: bool

    @property
    def implicit_prompt(self) -> bool:
        """Whether the prompt is what two conversations, or one's beginning, have in common."""
        return "prompt" not in self.columns

    def __str__(self) -> str:
        kind = "conversational" if self.conversational else "plain text"
        prompt = "implicit" if self.implicit_prompt else "explicit"
        return f"{self.record.__name__.lower()}, {kind}, {prompt} prompt"


def detect(row: Mapping[str, Any], record_type: type[Record], origin: str = "") -> Form:
    """The form of a source, from its first row.

    Args:
        row: its keys are the columns; its values tell conversations from strings.
        record_type: what the method learns from.
        origin: `file:line` of the row.

    Returns:
        Printed, for example, "preference, conversational, explicit prompt".

    Raises:
        BadInput: the columns make no record of this type.
    """
    for columns in COLUMNS[record_type]:
        if all(name in row for name in columns):
            conversational = any(
                isinstance(row[name], Sequence | Mapping) and not isinstance(row[name], str)
                for name in columns
            )
            return Form(record=record_type, columns=columns, conversational=conversational)
    raise _wrong_columns(tuple(row), record_type, origin)


def parse(row: Mapping[str, Any], form: Form, origin: str) -> Record:
    """One row as a record.

    Where one field of a row is a conversation and another a string, the string is one turn.

    Raises:
        BadRow: the content is defective.
        BadInput: a column of the form is not there.
    """
    for name in form.columns:
        if name not in row:
            raise _wrong_columns(tuple(row), form.record, origin)
    return _PARSERS[form.record](row, form, origin)


def _preference(row: Mapping[str, Any], form: Form, origin: str) -> Preference:
    chosen, rejected = (_text(row[name], name, origin) for name in ("chosen", "rejected"))
    if chosen == rejected:
        raise BadRow(
            "chosen equals rejected",
            "a chosen response that differs from the rejected one",
            f"twice {_brief(chosen)}",
            "A pair of equals teaches nothing: remove the row, or set on_bad_row='drop'.",
            where=origin,
        )
    if form.implicit_prompt:
        prompt, (chosen, rejected) = _common_prompt(chosen, rejected, origin)
    else:
        prompt = _text(row["prompt"], "prompt", origin)
        prompt, (chosen, rejected) = _same_kind(prompt, (chosen, rejected))
    _check_prompt(prompt, origin)
    _check_response(chosen, "chosen", origin)
    _check_response(rejected, "rejected", origin)
    return Preference(prompt=prompt, chosen=chosen, rejected=rejected, origin=origin)


def _demonstration(row: Mapping[str, Any], form: Form, origin: str) -> Demonstration:
    if form.implicit_prompt:
        turns = _as_turns(_text(row["messages"], "messages", origin), "user")
        first = next((i for i, turn in enumerate(turns) if turn.role == "assistant"), len(turns))
        prompt, response = turns[:first], turns[first:]
        name = "messages"
    else:
        name = form.columns[1]
        prompt = _text(row["prompt"], "prompt", origin)
        prompt, (response,) = _same_kind(prompt, (_text(row[name], name, origin),))
    # A conversation without an answer is told so, before it is told how its prompt should end.
    _check_response(response, name, origin)
    _check_prompt(prompt, origin)
    return Demonstration(prompt=prompt, response=response, origin=origin)


def _prompt(row: Mapping[str, Any], form: Form, origin: str) -> Prompt:
    prompt = _text(row["prompt"], "prompt", origin)
    _check_prompt(prompt, origin)
    answer = row["answer"] if "answer" in form.columns else None
    if answer is not None:
        answer = _string(answer, "answer", origin)
    return Prompt(prompt=prompt, answer=answer, origin=origin)


_PARSERS: dict[type[Record], Callable[[Mapping[str, Any], Form, str], Record]] = {
    Preference: _preference,
    Demonstration: _demonstration,
    Prompt: _prompt,
}


def _text(value: Any, name: str, origin: str) -> Text:
    """A field as a string or as a conversation, neither with an empty part."""
    if isinstance(value, str) or value is None or not isinstance(value, Sequence):
        return _string(value, name, origin)
    if not value:
        raise _empty(name, "an empty list", origin)
    return tuple(_message(turn, f"{name}[{i}]", origin) for i, turn in enumerate(value))


def _message(turn: Any, name: str, origin: str) -> Message:
    if not isinstance(turn, Mapping) or "role" not in turn or "content" not in turn:
        got = f"the keys {', '.join(map(str, turn))}" if isinstance(turn, Mapping) else _brief(turn)
        raise BadRow(
            "not a message",
            f"{name} to be a message with role and content",
            got,
            'Write each turn as {"role": ..., "content": ...}.',
            where=origin,
        )
    role = turn["role"]
    if role not in ROLES:
        near = difflib.get_close_matches(str(role).lower(), ROLES, n=1)
        offer = FOREIGN_ROLES.get(str(role).lower()) or (near[0] if near else "")
        raise BadRow(
            "unknown role",
            f"the role of {name} to be one of {', '.join(ROLES)}",
            repr(role),
            f"Did you mean {offer}?" if offer else "Rename the role.",
            where=origin,
        )
    if turn.get("tool_calls"):
        raise BadRow(
            "tool calls",
            f"{name} to be all text",
            "tool_calls",
            "Write the calls into content, as the model should print them.",
            where=origin,
        )
    return Message(role, _string(turn["content"], f"{name}.content", origin))


def _string(value: Any, name: str, origin: str) -> str:
    if value is None:
        raise _empty(name, "null", origin)
    if not isinstance(value, str):
        raise BadRow(
            "not text",
            f"{name} to be text",
            f"{type(value).__name__} {_brief(value)}",
            "Write it as a string, or as a list of {role, content}.",
            where=origin,
        )
    if not value.strip():
        raise _empty(
            name, "an empty string" if not value else f"only white space {value!r}", origin
        )
    return value


def _common_prompt(chosen: Text, rejected: Text, origin: str) -> tuple[Text, tuple[Text, Text]]:
    """The turns that two conversations share are the prompt; the rest of each is its response.

    Example:
        chosen     user A   assistant B   user C   assistant D
        rejected   user A   assistant B   user C   assistant E
        prompt     user A   assistant B   user C
    """
    both = [
        _hh_turns(text, origin) if isinstance(text, str) else text for text in (chosen, rejected)
    ]
    shared = 0
    while shared < min(map(len, both)) and both[0][shared] == both[1][shared]:
        shared += 1
    # An answer that both share was still an answer: the prompt ends before it.
    while shared and both[0][shared - 1].role == "assistant":
        shared -= 1
    return both[0][:shared], (both[0][shared:], both[1][shared:])


def _hh_turns(text: str, origin: str) -> tuple[Message, ...]:
    """The turns of a string of Anthropic's HH data. The white space around a turn is its markers'.

    Example:
        "\\n\\nHuman: Hi.\\n\\nAssistant: Hello."  ->  user "Hi.", assistant "Hello."
    """
    before, *rest = HH_MARK.split(text)
    if before.strip() or not rest:
        raise BadRow(
            "no prompt",
            r"a prompt column, or conversations '\n\nHuman: ...\n\nAssistant: ...'",
            _brief(text),
            "Add a column prompt, or write chosen and rejected as lists of {role, content}.",
            where=origin,
        )
    return tuple(
        Message(HH_ROLES[mark], _string(content.strip(), f"the turn {mark}", origin))
        for mark, content in zip(rest[::2], rest[1::2], strict=True)
    )


def _same_kind(prompt: Text, responses: tuple[Text, ...]) -> tuple[Text, tuple[Text, ...]]:
    """All strings or all conversations. Responses that repeat the prompt lose it."""
    if all(isinstance(text, str) for text in (prompt, *responses)):
        return prompt, responses
    turns = _as_turns(prompt, "user")
    answers = tuple(_as_turns(response, "assistant") for response in responses)
    if all(answer[: len(turns)] == turns for answer in answers):
        answers = tuple(answer[len(turns) :] for answer in answers)
    return turns, answers


def _as_turns(text: Text, role: str) -> tuple[Message, ...]:
    return (Message(role, text),) if isinstance(text, str) else text


def _check_prompt(prompt: Text, origin: str) -> None:
    if isinstance(prompt, str):
        return
    if not prompt or prompt[-1].role not in ("user", "tool"):
        last = f"a last turn by {prompt[-1].role}" if prompt else "no turn before the answer"
        raise BadRow(
            "prompt does not end with a user turn",
            "a prompt that ends with a user turn",
            last,
            "The answer belongs in the response. If nothing is asked, remove the row.",
            where=origin,
        )


def _check_response(response: Text, name: str, origin: str) -> None:
    if isinstance(response, str):
        return
    if not any(turn.role == "assistant" for turn in response):
        raise BadRow(
            "response without an assistant turn",
            f"an assistant turn in {name}",
            f"turns by {', '.join(turn.role for turn in response)}" if response else "none",
            "A response is what the assistant says: add its turn, or remove the row.",
            where=origin,
        )
    if response[0].role != "assistant":
        raise BadRow(
            "response does not begin with the assistant",
            f"{name} to begin with an assistant turn, or to repeat the whole prompt",
            f"a first turn by {response[0].role}",
            "Move what comes before the answer into the prompt.",
            where=origin,
        )


def _wrong_columns(found: tuple[str, ...], record_type: type[Record], origin: str) -> BadInput:
    wanted = COLUMNS[record_type]
    missing = [name for name in wanted[0] if name not in found]
    spare = [name for name in found if name not in wanted[0]]
    near = [
        (other, name) for name in missing for other in difflib.get_close_matches(name, spare, 1)
    ]
    fitting = [
        other
        for other, sets in COLUMNS.items()
        if other is not record_type
        and any(all(name in found for name in columns) for columns in sets)
    ]
    if near:
        remedy = f"Did you mean {near[0][1]} by {near[0][0]}? Rename the column."
    elif fitting:
        remedy = USE_INSTEAD[fitting[0]]
    else:
        remedy = "Rename the columns of the file to these."
    return BadInput(
        f"the columns {' or '.join(', '.join(columns) for columns in wanted)}",
        ", ".join(found) or "none",
        remedy,
        where=origin or None,
    )


def _empty(name: str, got: str, origin: str) -> BadRow:
    return BadRow(
        "empty field",
        f"text in {name}",
        got,
        "Fill it, remove the row, or set on_bad_row='drop'.",
        where=origin,
    )


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
