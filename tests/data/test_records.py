"""Rows to records: what each form means, and what every bad row is told."""

import json

import pytest

from alignax.core.records import Demonstration, Message, Preference, Prompt, Ranking, Scored
from alignax.data.bad_rows import BadRow, Tally
from alignax.data.forms import detect
from alignax.data.records import noted, parse
from alignax.data.responses import to_judge
from alignax.data.sources import load_records

USER, ANSWER = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
OTHER = {"role": "assistant", "content": "B"}


def read(row, record_type):
    return parse(row, detect(row, record_type, "f:1"), "f:1")


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


def test_a_later_row_without_a_column_has_a_defect_of_its_own():
    form = detect({"prompt": "p", "chosen": "c", "rejected": "r"}, Preference)
    with pytest.raises(BadRow) as caught:
        parse({"prompt": "p", "chosen": "c"}, form, "f:9")
    assert str(caught.value) == (
        "f:9: expected the column rejected, as in the first row; got prompt, chosen.\n"
        "    Add it, remove the row, or set on_bad_row='drop'."
    )
    assert caught.value.reason == "missing column rejected"


def test_pairs_that_are_equal_once_read_are_refused_as_equal():
    # The white space around a turn of HH data is its markers', so nothing else differs.
    row = {"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: Q\n\nAssistant: A "}
    with pytest.raises(BadRow, match="expected a chosen response that differs") as caught:
        read(row, Preference)
    assert caught.value.reason == "chosen equals rejected"
    # Keys of a message that are not read make no difference.
    both = {"prompt": [USER], "chosen": [ANSWER], "rejected": [{**ANSWER, "name": "x"}]}
    with pytest.raises(BadRow, match="differs from the rejected"):
        read(both, Preference)


def test_the_chosen_response_of_a_pair_without_a_prompt_can_be_imitated():
    record = read({"chosen": [USER, ANSWER], "rejected": [USER, OTHER]}, Demonstration)
    assert record == Demonstration(
        prompt=(Message("user", "Q"),), response=(Message("assistant", "A"),), origin="f:1"
    )


@pytest.mark.parametrize(
    ("row", "roles"),
    [
        ({"messages": [USER, ANSWER, USER, OTHER]}, ["user", "assistant", "user"]),
        ({"messages": [USER, ANSWER, USER]}, ["user", "assistant", "user"]),
        ({"messages": [USER, ANSWER, {"role": "tool", "content": "3"}]},
         ["user", "assistant", "tool"]),
        # Whatever comes after the last answer is no question.
        ({"messages": [USER, ANSWER, USER, ANSWER, {"role": "system", "content": "S"}]},
         ["user", "assistant", "user"]),
        ({"chosen": [USER, ANSWER], "rejected": [USER, OTHER]}, ["user"]),
        ({"prompt": [USER], "messages": [USER, ANSWER, USER]}, ["user"]),
    ],
)  # fmt: skip
def test_a_prompt_to_sample_from_is_what_comes_before_the_last_answer(row, roles):
    record = read(row, Prompt)
    assert [turn.role for turn in record.prompt] == roles
    assert record.columns == {name: row[name] for name in row if name != "prompt"}


def test_messages_that_nobody_asks_in_are_no_prompt():
    for messages in ([ANSWER], [{"role": "system", "content": "S"}]):
        with pytest.raises(BadRow, match="expected a prompt that ends with a user turn"):
            read({"messages": messages}, Prompt)


@pytest.mark.parametrize("tools", [None, [], "", "[]", " null "])
def test_no_tools_are_no_fault(tools):
    row = {"messages": [USER, ANSWER], "tools": tools}
    record = parse(row, detect(row, Demonstration, chat=True), "f:1")
    assert record.prompt == (Message("user", "Q"),)


def test_an_answer_marked_as_not_to_be_learnt_is_refused_where_it_would_be():
    unlearnt = [USER, {**ANSWER, "weight": 0}, USER, {**OTHER, "weight": 1, "train": True}]
    with pytest.raises(BadRow) as caught:
        read({"messages": unlearnt}, Demonstration)
    assert str(caught.value) == (
        "f:1: expected messages[1] to be learnt from, as all answers behind the prompt are; "
        "got weight 0.\n"
        "    Set data.scored_turns='last' for SFT on last answers alone, put all turns up to it "
        "into a column prompt, or remove weight."
    )
    for mark in ({"weight": 0.5}, {"train": False}):
        with pytest.raises(BadRow, match=r"completions\[1\]\[0\] to be learnt from"):
            read({"prompt": "Q", "completions": [[ANSWER], [{**OTHER, **mark}]], "scores": [1, 0]},
                 Ranking)  # fmt: skip
    # Of a conversation with a score the last answer alone is learnt; a prompt never is.
    assert read({"messages": unlearnt, "score": 1}, Scored).response[0].content == "B"
    row = {"prompt": unlearnt[:3], "completion": [OTHER]}
    assert read(row, Demonstration).response[0].content == "B"
    # Nobody's turn but the assistant's is learnt.
    asked = {"messages": [{**USER, "weight": 0}, ANSWER]}
    assert read(asked, Demonstration).response[0].content == "A"


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        ({"messages": [USER, {**ANSWER, "weight": 0}, USER, OTHER]}, ["Q", "A", "Q"]),
        ({"messages": [USER, OTHER]}, ["Q"]),
        ({"prompt": "Q", "completion": [ANSWER, USER, OTHER]}, ["Q", "A", "Q"]),
    ],
)
def test_the_last_answer_alone_is_imitated_where_that_is_asked_for(row, asked):
    form = detect(row, Demonstration, scored_turns="last")
    record = parse(row, form, "f:1")
    assert [turn.content for turn in record.prompt] == asked
    assert record.response == (Message("assistant", "B"),)
    assert str(form).endswith("prompt, last answer alone")
    plain = {"prompt": "Q", "completion": "B"}
    form = detect(plain, Demonstration, scored_turns="last")
    assert parse(plain, form, "f:1").response == "B"


def test_rows_whose_responses_all_repeat_the_prompt_are_noted():
    row = {"prompt": "Rain?", "chosen": "Rain? Water.", "rejected": "Rain? Milk."}
    form = detect(row, Preference)
    (found,) = noted(row, form, parse(row, form, "f:1"))
    assert found == "whose responses repeat the prompt, which is then learnt: take it off them"
    # One response may well begin as its question did.
    row["rejected"] = "Milk."
    record = parse(row, form, "f:1")
    assert record.chosen == "Rain? Water."
    assert not list(noted(row, form, record))
    prompt = {"prompt": "Rain?"}
    assert not list(noted(prompt, detect(prompt, Prompt), read(prompt, Prompt)))


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
            r"a list of objects in chosen\[0\].tool_calls; got \[1\]",
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


def test_a_mark_on_an_answer_that_is_not_learnt_refuses_nothing():
    first = {**ANSWER, "weight": 0}
    row = {"prompt": [USER], "completion": [first, USER, OTHER]}
    last = parse(row, detect(row, Demonstration, scored_turns="last"), "f:1")
    assert [turn.content for turn in last.prompt] == ["Q", "A", "Q"]
    with pytest.raises(BadRow, match=r"completion\[0\] to be learnt from"):
        read(row, Demonstration)
    # Shared turns of a pair are its prompt, whether there is a column for it or not.
    shared = [USER, first, USER]
    pair = {"chosen": [*shared, OTHER], "rejected": [*shared, ANSWER]}
    for more in ({}, {"prompt": shared}):
        assert read(pair | more, Preference).chosen == (Message("assistant", "B"),)
    assert len(read(pair, Prompt).prompt) == 3
    with pytest.raises(BadRow, match=r"rejected\[3\] to be learnt from"):
        read(pair | {"rejected": [*shared, {**ANSWER, "train": False}]}, Preference)
    # To judge an answer is not to learn from it.
    judged = to_judge({"messages": [USER, first]}, "f:1")
    assert judged.responses == ((Message("assistant", "A"),),)


def test_of_lists_the_best_ones_last_answer_alone_is_imitated_where_that_is_asked_for(tmp_path):
    row = {"prompt": [USER], "completions": [[ANSWER, USER, OTHER], [ANSWER]], "scores": [1, 0]}
    path = tmp_path / "lists.jsonl"
    path.write_text(json.dumps(row))
    (found,), _ = load_records(str(path), Demonstration, scored_turns="last")
    assert found.response == (Message("assistant", "B"),)
    assert [turn.content for turn in found.prompt] == ["Q", "A", "Q"]
