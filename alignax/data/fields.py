"""One field of a row: text, a conversation, a number or a label, and what makes each defective.

Every text is a string or a list of {role, content}. Defects raise `BadRow`, which a caller may
count and drop.
"""

import contextlib
import difflib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from alignax.core.records import ROLES, Message, Text
from alignax.data import beside
from alignax.data.bad_rows import BadRow

# Role names of other conventions, so that the nearest of ours can be offered.
FOREIGN_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "developer": "system",
    "function": "tool",
}
ASKING = ("user", "tool")  # roles whose turn the assistant answers
LEARNT = {"weight": 1, "train": True}  # keys of a message that is learnt from, and their values
KNOWN_KEYS = {"role", "content", *beside.CALLS, *beside.THOUGHTS, *LEARNT}
A_LIST_OF_OBJECTS = re.compile(r"\s*\[\s*\{")


def as_text(value: Any, name: str, origin: str) -> Text:
    """A field as a string or as a conversation, neither with an empty part."""
    if isinstance(value, str) or value is None or not isinstance(value, Sequence):
        text = as_string(value, name, origin)
        if _is_written_out(text):
            raise BadRow(
                "conversation in a string",
                f"{name} to be a list of {{role, content}}, or plain text",
                f"such a list written as JSON in a string, {brief(text)}",
                "Write the list itself: parse the string before the row is written.",
                where=origin,
            )
        return text
    if not value:
        raise _empty(name, "an empty list", origin)
    return tuple(_message(turn, f"{name}[{i}]", origin) for i, turn in enumerate(value))


def as_answer(value: Any, name: str, origin: str) -> Text:
    """A field as `as_text` has it, or a blank string: what a model says that ends at once."""
    blank = isinstance(value, str) and is_blank(value)
    return value if blank else as_text(value, name, origin)


def is_blank(text: Text) -> bool:
    """Whether nobody says anything in it but white space."""
    return not any(turn.content.strip() or turn.more for turn in as_turns(text, "assistant"))


def _message(turn: Any, name: str, origin: str) -> Message:
    more = beside.of_message(turn, name, origin) if isinstance(turn, Mapping) else {}
    if not isinstance(turn, Mapping) or "role" not in turn or not ("content" in turn or more):
        got = f"the keys {', '.join(map(str, turn))}" if isinstance(turn, Mapping) else brief(turn)
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
    content = _joined(turn.get("content"))
    wordless = content is None or (isinstance(content, str) and not content.strip())
    if more and role == "assistant" and wordless:  # it only thinks, or calls tools
        said = {} if content is None else {"content": content}
        return Message(role, "", beside.as_json(said | more, name, origin))
    silent = role == "tool" and content == ""  # it ran, and printed nothing
    text = "" if silent else as_string(content, f"{name}.content", origin)
    return Message(role, text, beside.as_json(more, name, origin) if more else "")


def _joined(content: Any) -> Any:
    """Content in parts, if all are text, as the string that templates write of it."""
    if isinstance(content, str) or not isinstance(content, Sequence):
        return content
    texts = [
        part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
        for part in content
    ]
    strings = [text for text in texts if isinstance(text, str)]
    return "".join(strings) if texts and len(strings) == len(texts) else content


def _is_written_out(text: str) -> bool:
    """Whether this is a list of messages in JSON."""
    if not A_LIST_OF_OBJECTS.match(text):
        return False
    try:
        turns = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return all(isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in turns)


def check_learnt(value: Any, name: str, origin: str, start: int = 0) -> None:
    """Refuses an answer that is marked as not to be learnt from, and that would be.

    Args:
        value: a field that `as_text` has taken.
        start: where what is learnt begins, if it is a conversation.
    """
    for i, turn in enumerate(() if isinstance(value, str) else value):
        for key, whole in LEARNT.items() if i >= start and turn["role"] == "assistant" else ():
            if turn.get(key) not in (None, whole):
                raise BadRow(
                    f"an answer with {key}",
                    f"{name}[{i}] to be learnt from, as all answers behind the prompt are",
                    f"{key} {brief(turn[key])}",
                    "Set data.scored_turns='last' for SFT on last answers alone, put all turns up "
                    f"to it into a column prompt, or remove {key}.",
                    where=origin,
                )


def as_string(value: Any, name: str, origin: str) -> str:
    """A string that is not empty."""
    if value is None:
        raise _empty(name, "null", origin)
    if not isinstance(value, str):
        raise BadRow(
            "not text",
            f"{name} to be text",
            f"{type(value).__name__} {brief(value)}",
            "Write it as a string, or as a list of {role, content}.",
            where=origin,
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRow(
            "not Unicode",
            f"text in {name}",
            f"half of a surrogate pair at character {error.start}",
            "Write the character as UTF-8, remove the row, or set on_bad_row='drop'.",
            where=origin,
        ) from error
    if not value.strip():
        raise _empty(
            name, "an empty string" if not value else f"only white space {value!r}", origin
        )
    return value


def same_kind(prompt: Text, responses: tuple[Text, ...]) -> tuple[Text, tuple[Text, ...]]:
    """All strings or all conversations. Conversations that all repeat the prompt lose it.

    Strings keep it, for a sentence may begin as its question did; reports count such rows.
    """
    if all(isinstance(text, str) for text in (prompt, *responses)):
        return prompt, responses
    turns = as_turns(prompt, "user")
    answers = tuple(as_turns(response, "assistant") for response in responses)
    if all(answer[: len(turns)] == turns for answer in answers):
        answers = tuple(answer[len(turns) :] for answer in answers)
    return turns, answers


def as_turns(text: Text, role: str) -> tuple[Message, ...]:
    """A conversation; a string is one turn of it."""
    return (Message(role, text),) if isinstance(text, str) else text


def check_prompt(prompt: Text, origin: str) -> None:
    """Refuses a conversation that no one waits for an answer to."""
    if isinstance(prompt, str):
        return
    if not prompt or prompt[-1].role not in ASKING:
        last = f"a last turn by {prompt[-1].role}" if prompt else "no turn before the answer"
        raise BadRow(
            "prompt does not end with a user turn",
            "a prompt that ends with a user turn",
            last,
            "The answer belongs in the response. If nothing is asked, remove the row.",
            where=origin,
        )


def check_response(response: Text, name: str, origin: str) -> None:
    """Refuses a conversation that is no answer."""
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


def _empty(name: str, got: str, origin: str) -> BadRow:
    return BadRow(
        "empty field",
        f"text in {name}",
        got,
        "Fill it, remove the row, or set on_bad_row='drop'.",
        where=origin,
    )


def brief(value: Any) -> str:
    """A value as an error may quote it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def as_number(value: Any, name: str, origin: str) -> float:
    """A finite number."""
    reason = "not a number"
    if isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # a whole number beyond the largest float
            if math.isfinite(value):
                return float(value)
        reason = "not finite"
    raise BadRow(
        f"{reason}: {name.split('[')[0]}",
        f"a finite number in {name}",
        "null" if value is None else brief(value),
        "Mend it, remove the row, or set on_bad_row='drop'.",
        where=origin,
    )


def as_label(value: Any, name: str, origin: str) -> bool:
    """True or false, and nothing that merely looks like it."""
    if isinstance(value, bool):
        return value
    raise BadRow(
        "label that is not boolean",
        f"true or false in {name}",
        "null" if value is None else brief(value),
        "Write desirable responses as true and undesirable ones as false.",
        where=origin,
    )


def as_list(value: Any, name: str, origin: str) -> Sequence[Any]:
    """A list."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return value
    raise BadRow(
        "not a list",
        f"a list in {name}",
        "null" if value is None else brief(value),
        "Write one element for each response.",
        where=origin,
    )
