"""Text records: one example as people write it down, before any tokenizer.

A text is either a plain string or a conversation, a tuple of `Message`. A conversation that is a
response holds what comes after the prompt: usually one assistant message, sometimes several turns.
"""

import dataclasses
from typing import NamedTuple

ROLES = ("system", "user", "assistant", "tool")


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str
    content: str


Text = str | tuple[Message, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """What every record has: a prompt, and where it stood (`file:line`) for messages to people."""

    prompt: Text
    origin: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demonstration(Record):
    """A prompt and the response to imitate. From `prompt` + `completion`, or from `messages`."""

    response: Text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preference(Record):
    """A prompt and two responses, the first preferred. From `prompt` + `chosen` + `rejected`."""

    chosen: Text
    rejected: Text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt(Record):
    """A prompt alone, perhaps with the answer that a verifier checks."""

    answer: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """What a method puts side by side: one prompt, its k responses and a number for each.

    `Method.group` makes it from a record. The order of responses is the order of axis `k`.
    """

    prompt: Text
    responses: tuple[Text, ...]
    scores: tuple[float, ...]
    origin: str = ""
