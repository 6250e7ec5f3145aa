"""From a row, as people write it, to a record, and what makes a row bad.

A defect of one row (an empty field, a column that only others have, a chosen response that equals
the rejected one) is a `BadRow`, which a caller may count and drop.
"""

import dataclasses
import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from alignax.core.records import (
    Attributed,
    Demonstration,
    Labelled,
    Message,
    Preference,
    Prompt,
    Ranking,
    Record,
    Scored,
    Text,
)
from alignax.data import beside, cut_off
from alignax.data.bad_rows import BadRow
from alignax.data.dialogues import answered, common_prompt, is_dialogue
from alignax.data.fields import (
    ASKING,
    as_answer,
    as_label,
    as_list,
    as_number,
    as_text,
    as_turns,
    brief,
    check_learnt,
    check_prompt,
    check_response,
)
from alignax.data.forms import HELPSTEER, JUDGED, Form, optional


def parse(row: Mapping[str, Any], form: Form, origin: str) -> Record:
    """One row as a record of the type that it holds.

    Where one field of a row is a conversation and another a string, the string is one turn.

    Raises:
        BadRow: the content is defective, or a column of the form is not there.
    """
    for name in form.columns:
        if name not in row:
            spare = [other for other in row if other not in form.columns]
            near = difflib.get_close_matches(name, spare, 1)
            raise BadRow(
                f"missing column {name}",
                f"the column {name}, as in the first row",
                ", ".join(row) or "no columns",
                f"Did you mean {name} by {near[0]}? Rename the column."
                if near
                else "Add it, remove the row, or set on_bad_row='drop'.",
                where=origin,
            )
    if more := optional(row, form):
        form = dataclasses.replace(form, columns=form.columns + more)
    record = _PARSERS[form.record](row, form, origin)
    if form.chat and (tools := beside.tools_of(row, origin)):
        told = beside.given_tools(record.prompt, cut_off.responses(record), tools)
        record = cut_off.replaced(record, *told)
    return cut_off.marked(record, row, origin) if form.learnt else record


def noted(row: Mapping[str, Any], form: Form, record: Record) -> Iterator[str]:
    """What a reader of the report should know of a row that was used, in words."""
    if form.chat and not form.dialogues and is_dialogue(row.get("prompt")):
        yield "with a dialogue of Human and Assistant as prompt, read as turns"
    texts = cut_off.responses(record)
    if texts and all(_repeats(text, record.prompt) for text in texts):
        yield "whose responses repeat the prompt, which is then learnt: take it off them"
    turns = (turn for text in (record.prompt, *texts) if not isinstance(text, str) for turn in text)
    if any(beside.holds_null(text) for turn in turns for text in (turn.more, turn.tools)):
        yield "with null in tools or calls, which templates write: Parquet adds it, JSON lines not"


def _repeats(response: Any, prompt: Text) -> bool:
    return isinstance(response, str) and isinstance(prompt, str) and response.startswith(prompt)


def _check_learnt(form: Form, field: Any, response: Text, name: str, origin: str) -> None:
    """Refuses answers of a response that are marked as not to be learnt from; it ends its field."""
    if not form.learnt or isinstance(field, str) or isinstance(response, str):
        return
    start = len(field) - len(response)
    if form.scored_turns == "last":
        start = max(start, *(i for i, turn in enumerate(field) if turn["role"] == "assistant"), 0)
    check_learnt(field, name, origin, start)


def _answered(
    row: Mapping[str, Any], form: Form, origin: str, responses: tuple[Text, ...]
) -> tuple[Text, tuple[Text, ...]]:
    """The column `prompt` and the responses to it, all strings or all conversations."""
    prompt = as_text(row["prompt"], "prompt", origin)
    return answered(prompt, responses, origin, chat=form.chat)


def _pair(row: Mapping[str, Any], form: Form, origin: str) -> tuple[Text, tuple[Text, ...]]:
    """The prompt of a pair, the chosen response and the rejected one."""
    chosen, rejected = (as_text(row[name], name, origin) for name in ("chosen", "rejected"))
    if form.implicit_prompt:
        return common_prompt(chosen, rejected, origin)
    return _answered(row, form, origin, (chosen, rejected))


def _preference(row: Mapping[str, Any], form: Form, origin: str) -> Preference:
    prompt, (chosen, rejected) = _pair(row, form, origin)
    if chosen == rejected:
        raise BadRow(
            "chosen equals rejected",
            "a chosen response that differs from the rejected one",
            f"twice {brief(chosen)}",
            "A pair of equals teaches nothing: remove the row, or set on_bad_row='drop'.",
            where=origin,
        )
    check_prompt(prompt, origin)
    for name, response in (("chosen", chosen), ("rejected", rejected)):
        check_response(response, name, origin)
        _check_learnt(form, row[name], response, name, origin)
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
    named = {n: as_list(row[n], n, origin) for n in ("sources", "models") if n in form.columns}
    for other, column in {"scores": scores, **named}.items():
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
    prompt, found = _answered(row, form, origin, found)
    for i, (field, text) in enumerate(zip(texts, found, strict=True)):
        _check_learnt(form, field, text, f"{name}[{i}]", origin)
    check_prompt(prompt, origin)
    for i, text in enumerate(found):
        check_response(text, f"{name}[{i}]", origin)
    return Ranking(
        prompt=prompt,
        responses=found,
        scores=tuple(as_number(x, f"scores[{i}]", origin) for i, x in enumerate(scores)),
        sources=tuple(str(name) for column in named.values() for name in column),
        origin=origin,
    )


def _single(row: Mapping[str, Any], form: Form, origin: str) -> tuple[Text, Text]:
    """The prompt and the response of a row that has one of each."""
    if "messages" in form.columns:
        turns = as_turns(as_text(row["messages"], "messages", origin), "user")
        first = next((i for i, turn in enumerate(turns) if turn.role == "assistant"), len(turns))
        if form.record is not Demonstration or form.scored_turns == "last":  # as what is judged
            answers = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
            first = answers[-1] if answers else len(turns)
        prompt, response, name = turns[:first], turns[first:], "messages"
    elif form.implicit_prompt:
        name = "chosen"
        prompt, (response, _) = _pair(row, form, origin)
    else:
        name = form.columns[1]
        prompt, (response,) = _answered(row, form, origin, (as_text(row[name], name, origin),))
    _check_learnt(form, row[name], response, name, origin)
    # A conversation without an answer is told so, before it is told how its prompt should end.
    check_response(response, name, origin)
    check_prompt(prompt, origin)
    return prompt, response


def _demonstration(row: Mapping[str, Any], form: Form, origin: str) -> Demonstration:
    prompt, response = _single(row, form, origin)
    found = Demonstration(prompt=prompt, response=response, origin=origin)
    return last_alone(found) if form.scored_turns == "last" else found


def last_alone(found: Demonstration) -> Demonstration:
    """A demonstration of the last answer, all before it being its prompt."""
    if isinstance(found.prompt, str):
        return found
    turns = as_turns(found.response, "assistant")
    last = max(i for i, turn in enumerate(turns) if turn.role == "assistant")
    response, cut = turns[last:], found.response in found.cut
    return dataclasses.replace(
        found,
        prompt=(*found.prompt, *turns[:last]),
        response=response,
        cut=frozenset((response,) if cut else ()),
    )


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
    if "prompt" in form.columns:
        prompt, _ = _answered(row, form, origin, ())
    elif "messages" in form.columns:
        prompt = _question(as_turns(as_text(row["messages"], "messages", origin), "user"))
    else:
        prompt, _ = _pair(row, form, origin)
    check_prompt(prompt, origin)
    columns = {name: value for name, value in row.items() if name != "prompt"}
    return Prompt(prompt=prompt, columns=columns, origin=origin)


def _question(turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """A conversation without its last answer; all of it where that is still to be given."""
    answers = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
    waits = not answers or turns[-1].role in ASKING
    return turns if waits else turns[: answers[-1]]


_PARSERS: dict[type[Record], Callable[[Mapping[str, Any], Form, str], Record]] = {
    Preference: _preference,
    Ranking: _ranking,
    Scored: _scored,
    Attributed: _attributed,
    Labelled: _labelled,
    Demonstration: _demonstration,
    Prompt: _prompt,
}
