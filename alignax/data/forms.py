"""Which columns of a source make which record, found from its first row.

A column that is not there is a structural fault: every row would lack it, so it is raised at once,
with what to do about layouts that are known by other names.
"""

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from alignax.core.errors import BadInput
from alignax.core.records import (
    Attributed,
    Demonstration,
    Labelled,
    Preference,
    Prompt,
    Ranking,
    Record,
    Scored,
)
from alignax.data import beside
from alignax.data.convert import CONVERTERS
from alignax.data.cut_off import ENDED
from alignax.data.dialogues import HH_BEGIN, is_dialogue
from alignax.data.fields import KNOWN_KEYS

ScoredTurns = Literal["all", "last"]
JUDGED = ("score_chosen", "score_rejected")
HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
# The column sets of each type of record, the fullest first: the first whose columns are all there
# is taken. Further columns are ignored, but for those of OPTIONAL: of each row the first set whose
# columns all hold something.
COLUMNS: dict[type[Record], tuple[tuple[str, ...], ...]] = {
    Preference: (("prompt", "chosen", "rejected"), ("chosen", "rejected")),
    Ranking: (("prompt", "completions", "scores"), ("prompt", "responses", "scores")),
    Scored: (
        ("prompt", "completion", "score"),
        ("prompt", "response", "score"),
        ("messages", "score"),
    ),
    Attributed: (
        ("prompt", "completion", "attributes"),
        ("prompt", "response", "attributes"),
        ("messages", "attributes"),
        ("prompt", "response", *HELPSTEER),
    ),
    Labelled: (
        ("prompt", "completion", "label"),
        ("prompt", "response", "label"),
        ("messages", "label"),
    ),
    Demonstration: (
        ("messages",),
        ("prompt", "completion"),
        ("prompt", "response"),
        ("prompt", "chosen"),
        ("chosen", "rejected"),
    ),
    Prompt: (("prompt",), ("messages",), ("chosen", "rejected")),
}
OPTIONAL: dict[type[Record], tuple[tuple[str, ...], ...]] = {
    Preference: (("margin", *JUDGED), ("margin",), JUDGED),
    Ranking: (("sources",), ("models",)),
}
USE_INSTEAD: dict[type[Record], str] = {
    Preference: "For chosen and rejected responses, use DPO or another method on pairs.",
    Ranking: "For responses with scores, use RRHF, PRO or another method on ranked lists.",
    Scored: "For single responses with scores, use reward-weighted regression or a Decision "
    "Transformer.",
    Attributed: "For responses with attributes, use SteerLM or a reward model of attributes.",
    Labelled: "For responses labelled true or false, use KTO.",
    Demonstration: "For prompt and response alone, use SFT.",
    Prompt: "For prompts alone, use a method that samples its own responses.",
}
# Layouts that hold what is needed under other names, and how a row of each is converted.
ELSEWHERE = {
    ("conversations",): "This is ShareGPT's layout. Make each row "
    '{"messages": [{"role": {"human": "user", "gpt": "assistant"}.get(t["from"], t["from"]), '
    '"content": t["value"]} for t in row["conversations"]]}, for SFT and methods that sample.',
    ("instruction", "output"): "This is Alpaca's layout. Make each row "
    '{"prompt": "\\n\\n".join(filter(None, (row["instruction"], row.get("input")))), '
    '"completion": row["output"]}, for SFT and methods that sample.',
    ("text",): "A text alone does not say where its prompt ends: split it into prompt and "
    "completion, or into messages, a list of {role, content}, for SFT.",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """How the rows of a source are read, found from its first row.

    Fields:
        record: the type of record that a row holds.
        columns: the columns that every row has; those of OPTIONAL are each row's own.
        conversational: whether the first row holds role/content lists.
        wanted: the type of record that the method learns from, if it is another.
        chat: whether strings are to be rendered as turns of a chat.
        dialogues: whether the first row holds strings of HH data that are read as turns.
        scored_turns: which answers of a demonstration of several turns are imitated.
        learnt: whether responses are learnt from; else they are judged.
    """

    record: type[Record]
    columns: tuple[str, ...]
    conversational: bool
    wanted: type[Record] | None = None
    chat: bool = False
    dialogues: bool = False
    scored_turns: ScoredTurns = "all"
    learnt: bool = True

    @property
    def implicit_prompt(self) -> bool:
        """Whether the prompt is what two conversations, or one's beginning, have in common."""
        return "prompt" not in self.columns

    def __str__(self) -> str:
        if self.conversational:
            kind = "conversational"
        elif self.dialogues:
            kind = "dialogues of Human and Assistant, read as turns"
        else:
            kind = "plain text" + ", rendered as chat" * self.chat
        prompt = "implicit" if self.implicit_prompt else "explicit"
        made = f", made into {self.wanted.__name__.lower()}" if self.wanted else ""
        last = ", last answer alone" * (self.scored_turns == "last")
        return f"{self.record.__name__.lower()}, {kind}, {prompt} prompt{last}{made}"


def detect(
    row: Mapping[str, Any],
    record_type: type[Record],
    origin: str = "",
    *,
    chat: bool = False,
    scored_turns: ScoredTurns = "all",
) -> Form:
    """The form of a source, from its first row.

    Args:
        row: its keys are the columns; its values tell conversations from strings.
        record_type: what the method learns from. Where the columns make no such record, but one
            that can be made into such, the form says so.
        origin: `file:line` of the row.
        chat: whether strings are to be rendered as turns of a chat, and not as they stand. Then a
            prompt that is a dialogue of HH data is read as its turns.
        scored_turns: as `config.Data` has it.

    Returns:
        Printed, for example, "preference, conversational, explicit prompt".

    Raises:
        BadInput: the columns make no record of this type.
    """
    others = (found for found, wanted in CONVERTERS if wanted is record_type)
    for found in (record_type, *others):
        for columns in COLUMNS[found]:
            if not all(name in row for name in columns):
                continue
            conversational = any(_is_conversation(row[name]) for name in columns)
            dialogues = (
                chat and is_dialogue(row["prompt"])
                if "prompt" in columns
                else "chosen" in columns and str(row["chosen"]).startswith(HH_BEGIN)
            )
            return Form(
                record=found,
                columns=columns,
                conversational=conversational,
                wanted=None if found is record_type else record_type,
                chat=chat,
                dialogues=dialogues,
                scored_turns=scored_turns,
            )
    raise _wrong_columns(row, record_type, origin)


def optional(row: Mapping[str, Any], form: Form) -> tuple[str, ...]:
    """The columns of a row that are read because it has them; null is as none."""
    sets = OPTIONAL.get(form.record, ())
    more = next((x for x in sets if all(row.get(name) is not None for name in x)), ())
    tools = (beside.TOOLS,) if form.chat and row.get(beside.TOOLS) else ()
    asks = form.record is Prompt or row.get(ENDED) is None
    return (*more, *tools, *(() if asks else (ENDED,)))


def met(row: Mapping[str, Any], form: Form) -> Iterator[str]:
    """All columns of a row, and of its messages the keys that nothing is made of.

    Example:
        messages: [{role, content, name}], id: 1  ->  "messages", "id", "messages[].name"
    """
    yield from row
    for name in form.columns:
        value = row.get(name)
        for turn in value if isinstance(value, Sequence) and not isinstance(value, str) else ():
            if isinstance(turn, Mapping):
                yield from _unread(turn, f"{name}[]")
            elif isinstance(turn, Sequence) and not isinstance(turn, str):
                for one in turn:
                    if isinstance(one, Mapping):
                        yield from _unread(one, f"{name}[][]")


def _unread(turn: Mapping[str, Any], name: str) -> Iterator[str]:
    known = {*KNOWN_KEYS, *beside.taken(turn)}
    return (f"{name}.{key}" for key in turn if key not in known and turn[key] is not None)


def _is_conversation(value: Any) -> bool:
    """Whether this is a list of messages, or a list of such lists."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return False
    return any(isinstance(x, Mapping) or _is_conversation(x) for x in value)


def _has_roles(value: Any) -> bool:
    """Whether this is a list of messages, by our names."""
    return isinstance(value, list) and all(isinstance(x, Mapping) and "role" in x for x in value)


def _wrong_columns(row: Mapping[str, Any], record_type: type[Record], origin: str) -> BadInput:
    found, wanted = tuple(row), COLUMNS[record_type]
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
    whole = [
        other for other in fitting if any(set(columns) == set(found) for columns in COLUMNS[other])
    ]
    layouts = [how for names, how in ELSEWHERE.items() if all(name in found for name in names)]
    if _has_roles(row.get("conversations")):
        layouts = ["Rename conversations to messages."]
    if whole:
        remedy = USE_INSTEAD[whole[0]]
    elif near:
        remedy = (
            f"Did you mean {near[0][1]} by {near[0][0]}? Rename the column, or in a run set "
            f'data.columns={{"{near[0][1]}": "{near[0][0]}"}}.'
        )
    elif fitting:
        remedy = USE_INSTEAD[fitting[0]]
    elif layouts:
        remedy = layouts[0]
    else:
        remedy = "Rename the columns of the file to these, or in a run set data.columns."
    return BadInput(
        f"the columns {' or '.join(', '.join(columns) for columns in wanted)}",
        ", ".join(found) or "none",
        remedy,
        where=origin or None,
    )
