"""Rows whose responses are to be judged, in any form, and their columns that describe responses.

To judge takes less than to learn: one response to a prompt is enough, and it may be empty, as what
a model says that ends at once.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from alignax.core.records import Demonstration, Group, Preference, Ranking, Scored, Text
from alignax.data import beside
from alignax.data.bad_rows import BadRow
from alignax.data.cut_off import ENDED
from alignax.data.dialogues import answered
from alignax.data.fields import as_answer, as_list, as_text, check_prompt, check_response
from alignax.data.forms import COLUMNS, HELPSTEER, OPTIONAL, Form, detect
from alignax.data.records import parse

LISTS = ("completions", "responses")
TEXTS = (*LISTS, "completion", "response", "chosen", "rejected", "messages")
# A list of completions is read with these whatever stands beside it.
_OF_LISTS = {name for columns in (*COLUMNS[Ranking], *OPTIONAL[Ranking]) for name in columns}
_OF_PAIRS = {name for columns in OPTIONAL[Preference] for name in columns}
_OF_ALL = {
    name
    for sets in (*COLUMNS.values(), *OPTIONAL.values())
    for columns in sets
    for name in columns
} - {"prompt", *HELPSTEER} | {ENDED}  # fmt: skip


def to_judge(row: Mapping[str, Any], origin: str, *, chat: bool = False) -> Group:
    """A row's prompt and the responses to it, whatever else it has or lacks.

    The scores of the group are 0.

    Args:
        chat: whether strings are to be rendered as turns of a chat, as `forms.detect` has it.

    Raises:
        BadRow: the content is defective.
        BadInput: no columns that hold responses.
    """
    name = next((name for name in LISTS if isinstance(row.get(name), list)), None)
    if name is not None and "prompt" in row:
        prompt, responses = _list(row, name, origin, chat)
    elif "rejected" in row:
        # Whatever an earlier judge has left there, be it no number.
        bare = {name: value for name, value in row.items() if name not in _OF_PAIRS}
        pair = parse(bare, _judged(detect(bare, Preference, origin, chat=chat)), origin)
        assert isinstance(pair, Preference)
        prompt, responses = pair.prompt, (pair.chosen, pair.rejected)
    elif "messages" in row:  # what is judged is the last answer, as of those that have a score
        scored = dict(row) | {"score": 0.0}
        form = detect({"messages": row["messages"], "score": 0.0}, Scored, chat=chat)
        found = parse(scored, _judged(form), origin)
        assert isinstance(found, Scored)
        prompt, responses = found.prompt, (found.response,)
    else:
        form = detect(row, Demonstration, origin)
        prompt, responses = _texts(row, {form.columns[1]: row[form.columns[1]]}, origin, chat)
    return Group(prompt=prompt, responses=responses, scores=(0.0,) * len(responses), origin=origin)


def _judged(form: Form) -> Form:
    return dataclasses.replace(form, learnt=False)


def _list(
    row: Mapping[str, Any], name: str, origin: str, chat: bool
) -> tuple[Text, tuple[Text, ...]]:
    texts = as_list(row[name], name, origin)
    if not texts:
        raise BadRow(
            "no responses",
            f"at least one response in {name}",
            "an empty list",
            "Remove the row, or set on_bad_row='drop'.",
            where=origin,
        )
    return _texts(row, {f"{name}[{i}]": text for i, text in enumerate(texts)}, origin, chat)


def _texts(
    row: Mapping[str, Any], named: Mapping[str, Any], origin: str, chat: bool
) -> tuple[Text, tuple[Text, ...]]:
    """The prompt and the responses, each with the name that an error gives it."""
    found = tuple(as_answer(text, name, origin) for name, text in named.items())
    prompt, found = answered(as_text(row["prompt"], "prompt", origin), found, origin, chat=chat)
    check_prompt(prompt, origin)
    for name, text in zip(named, found, strict=True):
        check_response(text, name, origin)
    return beside.given_tools(prompt, found, beside.tools_of(row, origin) if chat else "")


def check_words(responses: Sequence[Text], origin: str) -> None:
    """Refuses answers that are more than the words which a function is given.

    Raises:
        BadRow: the last answer of a response has thoughts or calls tools.
    """
    for text in responses:
        turns = () if isinstance(text, str) else text
        more = next((x.more for x in reversed(turns) if x.role == "assistant"), "")
        if more:
            raise BadRow(
                "more than words",
                "answers that are all text, which a function is given",
                f"one with {', '.join(key for key in json.loads(more) if key != 'content')}",
                "Write the whole answer into content, or set on_bad_row='drop'.",
                where=origin,
            )


def last_answer(prompt: Text, response: Text) -> tuple[Text, str]:
    """What a function is asked about: the last turn of the assistant, and all that comes before.

    Example:
        user A | assistant B   user C   assistant D   user E  ->  (user A, assistant B, user C), D
    """
    if isinstance(response, str):
        return prompt, response
    assert not isinstance(prompt, str), "`same_kind` made turns of it"
    last = max(i for i, turn in enumerate(response) if turn.role == "assistant")
    return (*prompt, *response[:last]), response[last].content


def without_responses(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that are still true when a row gets new completions.

    Where the row has no responses yet, a column such as `label` is of the prompt, and stays.
    """
    stale = _OF_ALL if any(row.get(name) is not None for name in TEXTS) else _OF_LISTS - {"prompt"}
    if all(row.get(name) is not None for name in ("response", *HELPSTEER)):
        stale = {*stale, *HELPSTEER}
    return {name: value for name, value in row.items() if name not in stale}
