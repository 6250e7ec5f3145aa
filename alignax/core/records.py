"""Text records: one example as people write it down, before any tokenizer.

A text is either a plain string or a conversation, a tuple of `Message`. A conversation that is a
response holds what comes after the prompt: usually one assistant message, sometimes several turns.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from alignax.core.errors import BadInput

ROLES = ("system", "user", "assistant", "tool")


class Message(NamedTuple):
    """One turn of a conversation.

    Fields:
        content: what is said; "" where a turn only thinks or calls tools.
        more: the keys that a chat template is given beside these, such as `reasoning_content` and
            `tool_calls`, as a JSON object; "" for none.
        tools: of the first turn of a conversation, the tools that the template is told of, as a
            JSON list; "" for none.
    """

    role: str
    content: str
    more: str = ""
    tools: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The turn as rows and templates have it; without `tools`, which are no part of it.

        Example:
            >>> Message("assistant", "Yes.", '{"reasoning_content": "It is so."}').as_dict()
            {'role': 'assistant', 'content': 'Yes.', 'reasoning_content': 'It is so.'}
        """
        more = json.loads(self.more) if self.more else {}
        # A turn without words may have come without content, or with its own blank one.
        said = {"content": self.content} if self.content or not more else {}
        return {"role": self.role, **said, **more}


Text = str | tuple[Message, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """What every record has: a prompt, and where it stood (`file:line`) for messages to people.

    `cut` has those of its responses that broke off before they ended, so no end is learnt.
    """

    prompt: Text
    origin: str = ""
    cut: frozenset[Text] = frozenset()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demonstration(Record):
    """A prompt and the response to imitate. From `prompt` + `completion`, from `messages`, or the
    chosen one of a pair."""

    response: Text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preference(Record):
    """A prompt and two responses, the first preferred. From `prompt` + `chosen` + `rejected`.

    `margin` says by how much, where that is known: a rating, or a difference of scores. `scores`
    are those that a judge gave to the two, chosen first; a judge may not agree with the choice.
    """

    chosen: Text
    rejected: Text
    margin: float | None = None
    scores: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranking(Record):
    """A prompt and two or more responses, each with a score; higher is better, in any order.

    From `prompt` + `completions` + `scores`. `sources` names who wrote each, where that is known.
    """

    responses: tuple[Text, ...]
    scores: tuple[float, ...]
    sources: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored(Record):
    """A prompt, one response and its score; higher is better."""

    response: Text
    score: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attributed(Record):
    """A prompt, one response and what it was rated, by the name of the attribute."""

    response: Text
    attributes: Mapping[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labelled(Record):
    """A prompt, one response, and whether it is one to make more probable.

    `unrelated` is a response to another prompt of the same data set; whoever reads a data set
    fills it in.
    """

    response: Text
    desirable: bool
    unrelated: Text = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt(Record):
    """A prompt alone, with what the reward of its responses is computed from.

    From `prompt`; else from `messages` without their last answer, or from what `chosen` and
    `rejected` share. `columns` holds all other columns of its row, such as the answer that a
    verifier checks.
    """

    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """What a method puts side by side: one prompt, its k responses and a number for each.

    `Method.group` makes it from a record. The order of responses is the order of axis `k`.
    `attributes` has further numbers for each response, as many for all; NaN where one is missing.
    `compared`: whether responses are set against one another, so that equal ones teach nothing.
    `cut`: responses that broke off, as of a record; filled in from it.
    """

    prompt: Text
    responses: tuple[Text, ...]
    scores: tuple[float, ...]
    attributes: tuple[tuple[float, ...], ...] = ()
    origin: str = ""
    compared: bool = False
    cut: frozenset[Text] = frozenset()


def placed(group: Group, record: Record) -> Group:
    """The group, which stands where its record does, unless it says where, and is cut where it is.

    Responses are known by what they say, because a method may put them in any order.
    """
    return dataclasses.replace(
        group, origin=group.origin or record.origin, cut=group.cut | record.cut
    )


class Lacking(BadInput):
    """A record without what a method reads of every one, such as a margin: a defect of its row.

    Where bad rows may be dropped it is, and counted under `reason`.
    """

    def __init__(self, reason: str, expected: str, got: str, remedy: str, *, where: str | None):
        super().__init__(expected, got, remedy, where=where)
        self.reason = reason


class LeftOut(Exception):
    """A sound record that teaches a method nothing, or that it does not want.

    It is left out and counted under `reason`, whatever is done with bad rows.
    """

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason
