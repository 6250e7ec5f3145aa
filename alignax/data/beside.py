"""What stands beside the text: thoughts and calls of tools in a message, tools in a row.

All of it goes to the chat template as it is. Objects are kept as JSON, in the order of their keys,
so that a message can be compared and told apart from others.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from alignax.core.records import Message, Text
from alignax.data.bad_rows import BadRow

CALLS = ("tool_calls", "function_call")
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
OF_A_RESULT = ("name", "tool_call_id")  # which call a turn of a tool answers
TOOLS = "tools"
DEEPEST = 100  # lists and objects within each other


def of_message(turn: Mapping[str, Any], name: str, origin: str) -> dict[str, Any]:
    """The keys of a message that a chat template is given beside `role` and `content`.

    Null, "" and [] are as nothing. Calls may be written as JSON in a string. The same thoughts
    under several names are taken once.

    Args:
        name: of the message, for errors.

    Raises:
        BadRow: thoughts that are no text, calls that are none, or values that JSON cannot hold.
    """
    found: dict[str, Any] = {}
    for key in taken(turn):
        value, where = turn[key], f"{name}.{key}"
        if not value:
            continue
        if key in THOUGHTS and not isinstance(value, str):
            raise _bad("reasoning", f"text in {where}", value, "Write it as a string.", origin)
        if key in THOUGHTS and not value.strip():
            continue
        if other := next((x for x in THOUGHTS if key in THOUGHTS and x in found), None):
            if found[other] == value:
                continue
            remedy = f"Put the thoughts of {name} into one of them."
            raise _bad("reasoning", f"in {where} what {other} says", value, remedy, origin)
        if key == "tool_calls":
            value = _listed(value, where, "tool calls", origin)
            for i, call in enumerate(value):
                _check_call(call, f"{where}[{i}]", origin)
        if value:
            found[key] = value
    return found


def taken(turn: Mapping[str, Any]) -> list[str]:
    """The names of those keys, in the order of the message."""
    more = OF_A_RESULT if turn.get("role") == "tool" else ()
    return [key for key in turn if key in (*CALLS, *THOUGHTS, *more) and turn[key] is not None]


def as_json(value: Any, name: str, origin: str) -> str:
    """A value as JSON, for a message to keep.

    Raises:
        BadRow: it holds what JSON cannot, such as a date, or half of a surrogate pair, or lists
            within lists without end.
    """
    try:
        if any(depth > DEEPEST for _, depth in _within(value)):
            raise ValueError(f"more than {DEEPEST} lists or objects within each other")
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError) as error:
        remedy = "Mend it, remove the row, or set on_bad_row='drop'."
        reason = "not JSON"
        raise BadRow(reason, f"JSON in {name}", f"{error}", remedy, where=origin) from error
    return text


def tools_of(row: Mapping[str, Any], origin: str) -> str:
    """The tools of a row as a JSON list; "" where there are none.

    Some write them as JSON in a string, the whole list or each of them.

    Raises:
        BadRow: what is there is no list of objects.
    """
    tools = row.get(TOOLS)
    if isinstance(tools, str) and tools.strip() in ("", "[]", "{}", "null"):
        return ""
    if not tools:
        return ""
    # Most rows of a data set have the same tools: one string for all.
    return sys.intern(as_json(_listed(tools, TOOLS, "tools", origin), TOOLS, origin))


def given_tools(
    prompt: Text, responses: Sequence[Text], tools: str
) -> tuple[Text, tuple[Text, ...]]:
    """A prompt that tells of tools, as its first turn does, and the responses to it, all as turns.

    Args:
        tools: as `tools_of` gives them.
    """
    if not tools:
        return prompt, tuple(responses)
    turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    told = (turns[0]._replace(tools=tools), *turns[1:]) if turns else turns
    return told, tuple(
        (Message("assistant", x),) if isinstance(x, str) else x for x in responses
    )  # fmt: skip


def loaded(turn: Message) -> dict[str, Any]:
    """The keys of a turn beside its role and its words."""
    return json.loads(turn.more) if turn.more else {}


def strings(value: Any) -> Iterator[str]:
    """Every string in an object of JSON, keys among them."""
    for inner, _ in _within(value):
        if isinstance(inner, str):
            yield inner
        elif isinstance(inner, Mapping):
            yield from inner


def holds_null(text: str) -> bool:
    """Whether an object of JSON, or one within it, holds null."""
    return "null" in text and any(inner is None for inner, _ in _within(json.loads(text)))


def _within(value: Any) -> Iterator[tuple[Any, int]]:
    """An object of JSON and all that is in it, each with how deep it lies."""
    left = [(value, 0)]
    while left:
        inner, depth = left.pop()
        yield inner, depth
        if isinstance(inner, Mapping):
            left += [(one, depth + 1) for one in inner.values()]
        elif isinstance(inner, Sequence) and not isinstance(inner, str):
            left += [(one, depth + 1) for one in inner]


def _listed(value: Any, name: str, reason: str, origin: str) -> list[Any]:
    """A list of objects, which may be written as JSON in a string."""
    value = _parsed(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        objects = [_parsed(one) for one in value]
        if all(isinstance(one, Mapping) for one in objects):
            return objects
    remedy = "Write each as an object, as the chat template takes it."
    raise _bad(reason, f"a list of objects in {name}", value, remedy, origin)


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _check_call(call: Mapping[str, Any], name: str, origin: str) -> None:
    function = call.get("function")
    function = function if isinstance(function, Mapping) else call
    if not isinstance(function.get("name"), str):
        remedy = 'Write {"type": "function", "function": {"name": ..., "arguments": {...}}}.'
        raise _bad("tool calls", f"a function with a name in {name}", call, remedy, origin)


def _bad(reason: str, expected: str, value: Any, remedy: str, origin: str) -> BadRow:
    text = repr(value)
    got = text if len(text) <= 60 else f"{text[:57]}..."
    return BadRow(reason, expected, got, remedy, where=origin)
