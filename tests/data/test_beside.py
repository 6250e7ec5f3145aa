"""Keys of messages, and tools of rows, that go to the chat template: as they are, or refused."""

import datetime
import json

import pytest

from alignax.core.records import Demonstration, Message, Preference, Prompt, Ranking
from alignax.data import beside
from alignax.data.bad_rows import BadRow
from alignax.data.fields import as_text, is_blank
from alignax.data.forms import detect, met
from alignax.data.records import noted, parse

USER, ANSWER = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
CALLS = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"z": 1, "a": 2}}}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]


def read(row, record_type):
    return parse(row, detect(row, record_type, chat=True), "f:1")


@pytest.mark.parametrize(
    "turn",
    [
        ANSWER,
        ANSWER | {"reasoning_content": "So.\n"},
        ANSWER | {"tool_calls": CALLS},
        {"role": "assistant", "tool_calls": CALLS},
        {"role": "assistant", "content": "", "tool_calls": CALLS, "thinking": "So."},
        {"role": "assistant", "content": "\n", "reasoning": "So."},
        {"role": "tool", "content": "21", "tool_call_id": "c1", "name": "f"},
    ],
)
def test_a_turn_comes_back_as_its_row_has_it_keys_in_order(turn):
    (found,) = as_text([turn], "messages", "f:1")
    assert json.dumps(found.as_dict()) == json.dumps(turn)
    assert not is_blank((found,))
    assert len({found, as_text([turn], "messages", "f:2")[0]}) == 1


@pytest.mark.parametrize("nothing", [None, "", []])
def test_nothing_is_as_no_key(nothing):
    turn = ANSWER | {"tool_calls": nothing, "reasoning_content": nothing or ""}
    assert as_text([turn], "messages", "f:1") == (Message("assistant", "A"),)
    called = {"role": "assistant", "content": None, "tool_calls": CALLS, "name": nothing}
    (found,) = as_text([called], "messages", "f:1")
    assert found.as_dict() == {"role": "assistant", "tool_calls": CALLS}


def test_calls_and_tools_may_be_json_in_a_string():
    (found,) = as_text([ANSWER | {"tool_calls": json.dumps(CALLS)}], "messages", "f:1")
    assert found.as_dict()["tool_calls"] == CALLS
    for written in (json.dumps(TOOLS), [json.dumps(TOOLS[0])]):
        assert json.loads(beside.tools_of({"tools": written}, "f:1")) == TOOLS


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"reasoning_content": ["So."]}, r"expected text in messages\[1\].reasoning_content; got"),
        ({"reasoning_content": "So.", "thinking": "No."},
         r"expected in messages\[1\].thinking what reasoning_content says; got 'No.'"),
        ({"tool_calls": "f(1)"}, r"a list of objects in messages\[1\].tool_calls; got 'f\(1\)'"),
        ({"tool_calls": {"name": "f"}}, "a list of objects in messages"),
        ({"tool_calls": [3]}, "a list of objects in messages"),
        ({"tool_calls": [{"type": "function"}]}, r"a function with a name in .*tool_calls\[0\]"),
        ({"tool_calls": [{"name": "f", "arguments": {"day": datetime.date(2024, 1, 1)}}]},
         r"expected JSON in messages\[1\]; got Object of type date"),
        ({"tool_calls": [{"name": "f", "arguments": {"x": float("nan")}}]}, "expected JSON in"),
        ({"tool_calls": [{"name": "f", "arguments": json.loads("[" * 200 + "]" * 200)}]},
         "got more than 100 lists or objects within each other"),
        ({"reasoning_content": "\ud800"}, r"expected JSON in messages\[1\]; got 'utf-8'"),
        ({"content": None}, r"expected text in messages\[1\].content; got null"),
    ],
)  # fmt: skip
def test_a_defect_is_told_with_its_place(more, message):
    with pytest.raises(BadRow, match=f"^f:1: .*{message}"):
        as_text([USER, ANSWER | more], "messages", "f:1")


def test_the_same_thoughts_under_two_names_are_taken_once():
    (found,) = as_text([ANSWER | {"reasoning": "So.", "reasoning_content": "So."}], "m", "f:1")
    assert found.as_dict() == ANSWER | {"reasoning": "So."}


@pytest.mark.parametrize("tools", [{"type": "function"}, [3], "weather", 3])
def test_tools_that_are_no_list_of_objects_are_refused(tools):
    with pytest.raises(BadRow, match=r"^f:1: expected a list of objects in tools; got ") as bad:
        read({"messages": [USER, ANSWER], "tools": tools}, Demonstration)
    assert bad.value.reason == "tools"


@pytest.mark.parametrize(
    ("row", "record_type"),
    [
        ({"messages": [USER, ANSWER]}, Demonstration),
        ({"prompt": "Q", "completion": "A"}, Demonstration),
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, Preference),
        ({"chosen": [USER, ANSWER], "rejected": [USER, ANSWER | {"content": "B"}]}, Preference),
        ({"prompt": "Q", "completions": ["A", " "], "scores": [1, 0]}, Ranking),
        ({"prompt": "Q"}, Prompt),
    ],
)
def test_the_tools_of_a_row_go_with_its_prompt_and_strings_become_turns(row, record_type):
    record, told = read(row, record_type), read(row | {"tools": TOOLS}, record_type)
    turns = (Message("user", "Q"),)
    assert record.prompt in ("Q", turns)
    assert told.prompt == (turns[0]._replace(tools=json.dumps(TOOLS)),)
    for name in ("response", "chosen", "rejected"):
        if hasattr(told, name):
            assert getattr(told, name)[0].role == "assistant"
    if record_type is Ranking:
        assert told.responses == ((Message("assistant", "A"),), (Message("assistant", " "),))
    # Strings that are taken as they stand have no template to give tools to.
    assert parse(row | {"tools": TOOLS}, detect(row, record_type), "f:1").prompt == record.prompt


def test_keys_that_templates_are_given_are_not_said_to_be_ignored():
    result = {"role": "tool", "content": "21", "name": "f", "tool_call_id": "c1", "id": 3}
    turns = [ANSWER | {"tool_calls": CALLS, "thinking": "So.", "name": "Bo"}, result]
    row = {"messages": turns}
    found = [name for name in met(row, detect(row, Demonstration)) if "." in name]
    assert found == ["messages[].name", "messages[].id"]


def test_nulls_within_calls_and_tools_are_noted_for_parquet_adds_them():
    function = {"name": "f", "arguments": {"city": "Paris", "day": None}}
    for more, tools in (({"tool_calls": [{"function": function}]}, None),
                        ({}, [{"function": function}])):  # fmt: skip
        row = {"messages": [USER, ANSWER | more], "tools": tools}
        form = detect(row, Demonstration, chat=True)
        found = list(noted(row, form, parse(row, form, "f:1")))
        assert found == [
            "with null in tools or calls, which templates write: Parquet adds it, JSON lines not"
        ]
    row = {"messages": [USER, ANSWER | {"tool_calls": CALLS, "content": None}], "tools": TOOLS}
    form = detect(row, Demonstration, chat=True)
    assert not list(noted(row, form, parse(row, form, "f:1")))
