"""Rows to records: what each form means, and what every bad row is told."""

import pytest

from alignax.core.errors import BadInput
from alignax.core.records import Demonstration, Message, Preference, Prompt
from alignax.data.bad_rows import BadRow, Tally
from alignax.data.records import detect, parse

USER, ANSWER = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
OTHER = {"role": "assistant", "content": "B"}


def read(row, record_type):
    return parse(row, detect(row, record_type, "f:1"), "f:1")


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
    ],
)
def test_the_form_is_named(row, record_type, name):
    assert str(detect(row, record_type)).startswith(name)


def test_a_preference_of_strings_is_taken_as_it_stands():
    record = read({"prompt": " p ", "chosen": " c", "rejected": "r\n"}, Preference)
    assert record == Preference(prompt=" p ", chosen=" c", rejected="r\n", origin="f:1")


def test_the_shared_turns_of_two_conversations_are_the_prompt():
    row = {"chosen": [USER, ANSWER, USER, ANSWER], "rejected": [USER, ANSWER, USER, OTHER]}
    record = read(row, Preference)
    assert record.prompt == (Message("user", "Q"), Message("assistant", "A"), Message("user", "Q"))
    assert (record.chosen, record.rejected) == (
        (Message("assistant", "A"),),
        (Message("assistant", "B"),),
    )


def test_a_shared_answer_is_an_answer_and_not_the_prompt():
    # The rejected conversation is the chosen one and two more turns: what is left is not empty.
    record = read({"chosen": [USER, ANSWER], "rejected": [USER, ANSWER, USER, OTHER]}, Preference)
    assert record.prompt == (Message("user", "Q"),)
    assert record.chosen == (Message("assistant", "A"),)
    assert [turn.content for turn in record.rejected] == ["A", "Q", "B"]


def test_hh_strings_are_split_at_the_last_common_assistant_mark():
    shared = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Two\nlines?\n\nAssistant:"
    record = read({"chosen": f"{shared} Yes.", "rejected": f"{shared} No."}, Preference)
    assert record.prompt == (
        Message("user", "Hi"),
        Message("assistant", "Hello."),
        Message("user", "Two\nlines?"),
    )
    assert record.chosen == (Message("assistant", "Yes."),)
    assert record.rejected == (Message("assistant", "No."),)


def test_plain_pairs_without_prompt_are_told_what_would_do():
    with pytest.raises(BadRow, match=r"f:1: expected a prompt column, or conversations .*Human"):
        read({"chosen": "yes", "rejected": "no"}, Preference)


def test_a_string_beside_a_conversation_is_one_turn():
    record = read({"prompt": [USER], "response": "A"}, Demonstration)
    assert record.response == (Message("assistant", "A"),)


def test_responses_that_repeat_the_prompt_lose_it():
    # The layout of ultrafeedback_binarized: a string, and conversations that begin with it.
    record = read({"prompt": "Q", "chosen": [USER, ANSWER], "rejected": [USER, OTHER]}, Preference)
    assert record.prompt == (Message("user", "Q"),)
    assert record.chosen == (Message("assistant", "A"),)


def test_messages_are_split_before_the_first_answer():
    system = {"role": "system", "content": "S"}
    record = read({"messages": [system, USER, ANSWER, USER, OTHER]}, Demonstration)
    assert [turn.role for turn in record.prompt] == ["system", "user"]
    assert [turn.role for turn in record.response] == ["assistant", "user", "assistant"]


def test_the_chosen_response_of_a_pair_can_be_imitated():
    record = read({"prompt": "Q", "chosen": "A", "rejected": "B"}, Demonstration)
    assert record.response == "A"


def test_a_prompt_keeps_its_answer():
    assert read({"prompt": "6 * 7?", "answer": "42"}, Prompt).columns == {"answer": "42"}
    assert read({"prompt": "6 * 7?"}, Prompt).columns == {}


@pytest.mark.parametrize(
    ("row", "record_type", "message"),
    [
        (
            {"prompt": "p", "response": "r"},
            Preference,
            r"f:1: expected the columns prompt, chosen, rejected or chosen, rejected; "
            r"got prompt, response\.\n    For prompt and response alone, use SFT\.",
        ),
        ({"prompt": "p", "choosen": "c", "rejected": "r"}, Preference, "mean chosen by choosen"),
        ({"chosen": "c", "rejected": "r"}, Demonstration, "use DPO or another method on pairs"),
        ({"text": "t"}, Prompt, r"got text\.\n    Rename the columns"),
    ],
)
def test_missing_columns_are_named_with_what_to_do(row, record_type, message):
    with pytest.raises(BadInput, match=message) as caught:
        read(row, record_type)
    assert not isinstance(caught.value, BadRow)


def test_a_later_row_without_a_column_is_a_structural_fault():
    form = detect({"prompt": "p", "chosen": "c", "rejected": "r"}, Preference)
    with pytest.raises(BadInput, match="f:9: expected the columns") as caught:
        parse({"prompt": "p", "chosen": "c"}, form, "f:9")
    assert not isinstance(caught.value, BadRow)


@pytest.mark.parametrize(
    ("change", "reason", "message"),
    [
        ({"chosen": ""}, "empty field", "text in chosen; got an empty string"),
        ({"chosen": " \n"}, "empty field", r"got only white space ' \\n'"),
        ({"chosen": None}, "empty field", "got null"),
        ({"chosen": []}, "empty field", "got an empty list"),
        ({"chosen": 3}, "not text", "chosen to be text; got int 3"),
        ({"chosen": "B"}, "chosen equals rejected", "got twice 'B'"),
        ({"chosen": ["A"]}, "not a message", r"chosen\[0\] to be a message .* got 'A'"),
        ({"chosen": [{"from": "gpt"}]}, "not a message", "got the keys from"),
        (
            {"chosen": [{"role": "asistant", "content": "A"}]},
            "unknown role",
            r"one of system, user, assistant, tool; got 'asistant'\.\n    Did you mean assistant\?",
        ),
        ({"chosen": [{"role": "human", "content": "A"}]}, "unknown role", "Did you mean user"),
        (
            {"chosen": [{"role": "assistant", "content": [{"type": "text"}]}]},
            "not text",
            r"chosen\[0\].content to be text; got list",
        ),
        (
            {"chosen": [{"role": "assistant", "content": "A", "tool_calls": [1]}]},
            "tool calls",
            "all text; got tool_calls",
        ),
        (
            {"chosen": [{"role": "user", "content": "A"}]},
            "response without an assistant turn",
            "an assistant turn in chosen; got turns by user",
        ),
        (
            {"chosen": [{"role": "user", "content": "Z"}, ANSWER]},
            "response does not begin with the assistant",
            "got a first turn by user",
        ),
        (
            {"prompt": [USER, ANSWER]},
            "prompt does not end with a user turn",
            "got a last turn by assistant",
        ),
    ],
)
def test_a_defect_is_told_with_its_place_and_reason(change, reason, message):
    row = {"prompt": "Q", "chosen": "A", "rejected": "B"}
    form = detect(row, Preference)
    with pytest.raises(BadRow, match=f"(?s)^f:7: expected .*{message}") as caught:
        parse({**row, **change}, form, "f:7")
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([USER], "an assistant turn in messages; got none"),
        ([ANSWER, USER], "a prompt that ends with a user turn; got no turn before the answer"),
    ],
)
def test_messages_need_a_question_and_an_answer(messages, message):
    with pytest.raises(BadRow, match=message):
        read({"messages": messages}, Demonstration)


def test_a_tally_shows_the_first_places_and_survives_json():
    tally = Tally()
    for line in range(1, 6):
        tally.add("empty field", f"f:{line}")
    assert str(tally) == "5 empty field (f:1, f:2, f:3, ...)"
    assert Tally.from_json({"counts": tally.counts, "places": tally.places}) == tally
    assert tally.first == "f:1: empty field"
    assert str(Tally()) == "none"
    assert not Tally()
