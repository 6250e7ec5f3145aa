"""The form of a source: which columns make what, and what is said of columns that do not."""

import pytest

from alignax.core.errors import BadInput
from alignax.core.records import Demonstration, Preference, Prompt, Ranking
from alignax.data.bad_rows import BadRow
from alignax.data.forms import detect, met

USER, ANSWER = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
OTHER = {"role": "assistant", "content": "B"}
HH = {name: f"\n\nHuman: Q\n\nAssistant: {name}" for name in ("chosen", "rejected")}


@pytest.mark.parametrize(
    ("row", "record_type", "name"),
    [
        (
            {"prompt": [USER], "chosen": [ANSWER], "rejected": [OTHER]},
            Preference,
            "preference, conversational, explicit prompt",
        ),
        ({"chosen": "a", "rejected": "b"}, Preference, "preference, plain text, implicit prompt"),
        ({"messages": [USER, ANSWER]}, Demonstration, "demonstration, conversational, implicit"),
        ({"prompt": "a", "response": "b"}, Demonstration, "demonstration, plain text, explicit"),
        ({"prompt": "a"}, Prompt, "prompt, plain text, explicit prompt"),
        ({"messages": [USER]}, Prompt, "prompt, conversational, implicit prompt"),
        ({"chosen": [USER, ANSWER], "rejected": [USER, OTHER]}, Demonstration,
         "demonstration, conversational, implicit prompt"),
        (HH | {"prompt": "p"}, Preference, "preference, plain text, explicit prompt"),
        (HH, Preference,
         "preference, dialogues of Human and Assistant, read as turns, implicit prompt"),
    ],
)  # fmt: skip
def test_the_form_is_named(row, record_type, name):
    assert str(detect(row, record_type)).startswith(name)


def test_strings_that_are_rendered_as_chat_are_said_to_be():
    row = {"prompt": "p", "completion": "c"}
    assert str(detect(row, Demonstration, chat=True)) == (
        "demonstration, plain text, rendered as chat, explicit prompt"
    )
    row = {"prompt": "\n\nHuman: Q\n\nAssistant:", "completion": " c"}
    assert str(detect(row, Demonstration, chat=True)) == (
        "demonstration, dialogues of Human and Assistant, read as turns, explicit prompt"
    )
    assert str(detect(row, Demonstration)) == "demonstration, plain text, explicit prompt"


@pytest.mark.parametrize(
    ("row", "record_type", "message"),
    [
        (
            {"prompt": "p", "response": "r"},
            Preference,
            r"f:1: expected the columns prompt, chosen, rejected or chosen, rejected; "
            r"got prompt, response\.\n    For prompt and response alone, use SFT\.",
        ),
        (
            {"prompt": "p", "choosen": "c", "rejected": "r"},
            Preference,
            r"mean chosen by choosen\? Rename the column, or in a run set "
            r'data.columns={"chosen": "choosen"}\.',
        ),
        (
            {"t": "t"},
            Prompt,
            r"prompt or messages or chosen, rejected; got t\.\n    Rename the columns of "
            r"the file to these, or in a run set data.columns\.",
        ),
    ],
)
def test_missing_columns_are_named_with_what_to_do(row, record_type, message):
    with pytest.raises(BadInput, match=message) as caught:
        detect(row, record_type, "f:1")
    assert not isinstance(caught.value, BadRow)


def hint(row, record_type=Demonstration):
    with pytest.raises(BadInput) as refused:
        detect(row, record_type)
    return str(refused.value).split("\n    ")[1]


def converted(row):
    """What the expression in the hint makes of a row."""
    said = hint(row).split("Make each row ")[1]
    return eval(said[: said.rindex("}") + 1], {"row": row})


def test_layouts_of_other_names_are_told_how_a_row_is_converted():
    turns = [{"from": "system", "value": "S"}, {"from": "human", "value": "Q"},
             {"from": "gpt", "value": "A"}]  # fmt: skip
    assert converted({"conversations": turns, "id": 1}) == {
        "messages": [{"role": "system", "content": "S"}, USER, ANSWER]
    }
    alpaca = {"instruction": "Add.", "input": "1 and 2", "output": "3"}
    assert converted(alpaca) == {"prompt": "Add.\n\n1 and 2", "completion": "3"}
    assert converted(alpaca | {"input": ""}) == {"prompt": "Add.", "completion": "3"}
    assert converted({"instruction": "Add.", "output": "3"}) == {
        "prompt": "Add.", "completion": "3"
    }  # fmt: skip
    assert hint({"conversations": [USER, ANSWER]}) == "Rename conversations to messages."
    assert hint({"text": "t"}).startswith("A text alone does not say where its prompt ends: split")


def test_keys_of_messages_that_nothing_is_made_of_are_met_by_name():
    turns = [USER | {"name": "Bo", "id": None}, ANSWER | {"weight": 1, "tool_calls": []}]
    row = {"messages": turns, "source": [{"name": "x"}]}
    found = list(met(row, detect(row, Demonstration)))
    assert found == ["messages", "source", "messages[].name"]
    row = {"prompt": "Q", "completions": [[ANSWER | {"id": 1}], [OTHER]], "scores": [1, 0]}
    assert list(met(row, detect(row, Ranking)))[3:] == ["completions[][].id"]
