"""From a row, as people write it, to a record: which columns mean what, and what makes a row bad.

Faults are of two kinds. A structural fault (a column that is not there) is raised at once: every
row would have it. A defect of one row (an empty field, a chosen response that equals the rejected
one) is a `BadRow`, which a caller may count and drop.
"""

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
    Text,
)
from alignax.data.bad_rows import BadRow
from alignax.data.convert import CONVERTERS
from alignax.data.fields import (
    as_answer,
    as_label,
    as_list,
    as_number,
    as_text,
    as_turns,
    brief,
    check_prompt,
    check_response,
    common_prompt,
    same_kind,
)

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
    ),
    Prompt: (("prompt",),),
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """How the rows of a source are read, found from its first row.

    Fields:
        record: the type of record that a row holds.
        columns: the columns that every row has; those of OPTIONAL are each row's own.
        conversational: whether the first row holds role/content lists.
        wanted: the type of record that the method learns from, if it is another.
    """

    record: type[Record]
    columns: tuple[str, ...]
    conversational: bool
    wanted: type[Record] | None = None

    @property
    def implicit_prompt(self) -> bool:
        """Whether the prompt is what two conversations, or one's beginning, have in common."""
        return "prompt" not in self.columns

    def __str__(self) -> str:
        kind = "conversational" if self.conversational else "plain text"
        prompt = "implicit" if self.implicit_prompt else "explicit"
        made = f", made into {self.wanted.__name__.lower()}" if self.wanted else ""
        return f"{self.record.__name__.lower()}, {kind}, {prompt} prompt{made}"


def detect(row: Mapping[str, Any], record_type: type[Record], origin: str = "") -> Form:
    """The form of a source, from its first row.

    Args:
        row: its keys are the columns; its values tell conversations from strings.
        record_type: what the method learns from. Where the columns make no such record, but one
            that can be made into such, the form says so.
        origin: `file:line` of the row.

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
            wanted = None if found is record_type else record_type
            return Form(record=found, columns=columns, conversational=conversational, wanted=wanted)
    raise _wrong_columns(tuple(row), record_type, origin)


def optional(row: Mapping[str, Any], form: Form) -> tuple[str, ...]:
    """The columns of a row that are read because it has them; null is as none."""
    for more in OPTIONAL.get(form.record, ()):
        if all(row.get(name) is not None for name in more):
            return more
    return ()


def _is_conversation(value: Any) -> bool:
    """Whether this is a list of messages, or a list of such lists."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return False
    return any(isinstance(x, Mapping) or _is_conversation(x) for x in value)


def parse(row: Mapping[str, Any], form: Form, origin: str) -> Record:
    """One row as a record of the type that it holds.

    Where one field of a row is a conversation and another a string, the string is one turn.

    Raises:
        BadRow: the content is defective.
        BadInput: a column of the form is not there.
    """
    for name in form.columns:
        if name not in row:
            raise _wrong_columns(tuple(row), form.record, origin)
    if more := optional(row, form):
        form = dataclasses.replace(form, columns=form.columns + more)
    return _PARSERS[form.record](row, form, origin)


def _preference(row: Mapping[str, Any], form: Form, origin: str) -> Preference:
    chosen, rejected = (as_text(row[name], name, origin) for name in ("chosen", "rejected"))
    if chosen == rejected:
        raise BadRow(
            "chosen equals rejected",
            "a chosen response that differs from the rejected one",
            f"twice {brief(chosen)}",
            "A pair of equals teaches nothing: remove the row, or set on_bad_row='drop'.",
            where=origin,
        )
    if form.implicit_prompt:
        prompt, (chosen, rejected) = common_prompt(chosen, rejected, origin)
    else:
        prompt = as_text(row["prompt"], "prompt", origin)
        prompt, (chosen, rejected) = same_kind(prompt, (chosen, rejected))
    check_prompt(prompt, origin)
    check_response(chosen, "chosen", origin)
    check_response(rejected, "rejected", origin)
    margin = scores = None
    if "score_chosen" in form.columns:
        first, second = (as_number(row[name], name, origin) for name in JUDGED)
        margin, scores = first - second, (first, second)
    if "margin" in form.columns:
        margin = as_number(row["margin"], "margin", origin)
    return Preference(prompt=prompt, chosen=chosen, rejected=rejected, margin=margin, scores=scores,
                      origin=origin)  # fmt: skip


def _ranking(row: Mapping[str, Any], form: Form, origin: str) -> Ranking:
    name = form.columns[1]
    texts = as_list(row[name], name, origin)
    scores = as_list(row["scores"], "scores", origin)
    sources = tuple(as_list(row[n], n, origin) for n in ("sources", "models") if n in form.columns)
    for other, column in (("scores", scores), *((form.columns[-1], x) for x in sources)):
        if len(column) != len(texts):
            raise BadRow(
                "lists of unequal length",
                f"as many {other} as {name}",
                f"{len(column)} {other} for {len(texts)} {name}",
                "Give one for each response, remove the row, or set on_bad_row='drop'.",
                where=origin,
            )
    alone = form.wanted in (Scored, Demonstration)  # where one needs no other beside it
    if len(texts) < (1 if alone else 2):
        raise BadRow(
            "no responses" if alone else "fewer than two responses",
            f"one or more {name}" if alone else f"two or more {name} to compare",
            str(len(texts)),
            "Remove the row, or set on_bad_row='drop'.",
            where=origin,
        )
    found = tuple(as_answer(text, f"{name}[{i}]", origin) for i, text in enumerate(texts))
    prompt, found = same_kind(as_text(row["prompt"], "prompt", origin), found)
    check_prompt(prompt, origin)
    for i, text in enumerate(found):
        check_response(text, f"{name}[{i}]", origin)
    return Ranking(
        prompt=prompt,
        responses=found,
        scores=tuple(as_number(x, f"scores[{i}]", origin) for i, x in enumerate(scores)),
        sources=tuple(map(str, sources[0])) if sources else (),
        origin=origin,
    )


def _single(row: Mapping[str, Any], form: Form, origin: str) -> tuple[Text, Text]:
    """The prompt and the response of a row that has one of each."""
    if form.implicit_prompt:
        turns = as_turns(as_text(row["messages"], "messages", origin), "user")
        first = next((i for i, turn in enumerate(turns) if turn.role == "assistant"), len(turns))
        if form.record is not Demonstration:  # what is judged is the last answer
            answers = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
            first = answers[-1] if answers else len(turns)
        prompt, response, name = turns[:first], turns[first:], "messages"
    else:
        name = form.columns[1]
        prompt = as_text(row["prompt"], "prompt", origin)
        prompt, (response,) = same_kind(prompt, (as_text(row[name], name, origin),))
    # A conversation without an answer is told so, before it is told how its prompt should end.
    check_response(response, name, origin)
    check_prompt(prompt, origin)
    return prompt, response


def _demonstration(row: Mapping[str, Any], form: Form, origin: str) -> Demonstration:
    prompt, response = _single(row, form, origin)
    return Demonstration(prompt=prompt, response=response, origin=origin)


def _scored(row: Mapping[str, Any], form: Form, origin: str) -> Scored:
    prompt, response = _single(row, form, origin)
    score = as_number(row["score"], "score", origin)
    return Scored(prompt=prompt, response=response, score=score, origin=origin)


def _labelled(row: Mapping[str, Any], form: Form, origin: str) -> Labelled:
    prompt, response = _single(row, form, origin)
    label = as_label(row["label"], "label", origin)
    return Labelled(prompt=prompt, response=response, desirable=label, origin=origin)


def _attributed(row: Mapping[str, Any], form: Form, origin: str) -> Attributed:
    prompt, response = _single(row, form, origin)
    given = row.get("attributes", {name: row.get(name) for name in HELPSTEER})
    if not isinstance(given, Mapping):
        raise BadRow(
            "attributes that have no names",
            "attributes as an object, such as {'helpfulness': 3}",
            brief(given),
            "Name each attribute, remove the row, or set on_bad_row='drop'.",
            where=origin,
        )
    found = {
        str(name): as_number(value, f"attributes.{name}", origin)
        for name, value in given.items()
        if value is not None  # not rated
    }
    if not found:
        raise BadRow(
            "no attributes",
            "at least one attribute with a number",
            brief(given),
            "Rate the response, remove the row, or set on_bad_row='drop'.",
            where=origin,
        )
    return Attributed(prompt=prompt, response=response, attributes=found, origin=origin)


def _prompt(row: Mapping[str, Any], form: Form, origin: str) -> Prompt:
    prompt = as_text(row["prompt"], "prompt", origin)
    check_prompt(prompt, origin)
    columns = {name: value for name, value in row.items() if name != "prompt"}
    return Prompt(prompt=prompt, columns=columns, origin=origin)


_PARSERS: dict[type[Record], Callable[[Mapping[str, Any], Form, str], Record]] = {
    Preference: _preference,
    Ranking: _ranking,
    Scored: _scored,
    Attributed: _attributed,
    Labelled: _labelled,
    Demonstration: _demonstration,
    Prompt: _prompt,
}


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
    whole = [
        other for other in fitting if any(set(columns) == set(found) for columns in COLUMNS[other])
    ]
    if whole:
        remedy = USE_INSTEAD[whole[0]]
    elif near:
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
