"""Where the prompt of a row ends: at what two conversations share, or in a dialogue of Anthropic's
HH data, which is one string with the marks Human and Assistant.
"""

import re

from alignax.core.records import Message, Text
from alignax.data.bad_rows import BadRow
from alignax.data.fields import as_string, brief, same_kind

HH_MARK = re.compile(r"\n\n(Human|Assistant):")
HH_OPEN = re.compile(r"(\n\n(Human|Assistant):\s*)+\Z")
HH_ROLES = {"Human": "user", "Assistant": "assistant"}
HH_BEGIN, HH_END = "\n\nHuman:", "\n\nAssistant:"


def common_prompt(chosen: Text, rejected: Text, origin: str) -> tuple[Text, tuple[Text, Text]]:
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


def answered(
    prompt: Text, responses: tuple[Text, ...], origin: str, *, chat: bool
) -> tuple[Text, tuple[Text, ...]]:
    """A prompt and the responses to it, all strings or all conversations.

    Args:
        chat: whether strings are to be rendered as turns of a chat. Then a dialogue of HH data is
            read as its turns, and responses with it; where strings are taken as they stand it is
            left alone.

    Example:
        "\\n\\nHuman: Hi.\\n\\nAssistant:", " Hello."  ->  user "Hi."; assistant "Hello."
    """
    if chat and isinstance(prompt, str) and is_dialogue(prompt):
        asked = _hh_turns(prompt.rstrip().removesuffix(HH_END), origin)
        return same_kind(asked, tuple(_hh_answer(text, origin) for text in responses))
    return same_kind(prompt, responses)


def is_dialogue(prompt: object) -> bool:
    """Whether this is a dialogue of HH data that waits for the assistant."""
    return (
        isinstance(prompt, str) and prompt.startswith(HH_BEGIN) and prompt.rstrip().endswith(HH_END)
    )


def _hh_answer(text: Text, origin: str) -> Text:
    """What answers a dialogue, with or without the dialogue before it."""
    if not isinstance(text, str) or not text.strip():
        return text
    text = HH_OPEN.sub("", text)  # a turn that the answer begins for somebody, and leaves empty
    if not text.strip():
        return ""
    return _hh_turns(text if HH_MARK.match(text) else f"{HH_END}{text}", origin)


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
            brief(text),
            "Add a column prompt, or write chosen and rejected as lists of {role, content}.",
            where=origin,
        )
    return tuple(
        Message(HH_ROLES[mark], as_string(content.strip(), f"the turn {mark}", origin))
        for mark, content in zip(rest[::2], rest[1::2], strict=True)
    )
