"""Where a prompt ends in conversations that share it, and in the strings of HH data."""

import pytest

from alignax.core.records import Message
from alignax.data.bad_rows import BadRow
from alignax.data.dialogues import answered, common_prompt

# The layout of Dahoas/full-hh-rlhf: the dialogue is the prompt, and what answers it plain text.
PROMPT = "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: Bye.\n\nAssistant:"
ASKED = (Message("user", "Hi."), Message("assistant", "Hello."), Message("user", "Bye."))


def said(*turns):
    return tuple(Message("assistant" if i % 2 == 0 else "user", x) for i, x in enumerate(turns))


@pytest.mark.parametrize("end", ["", " ", "\n"])
def test_a_dialogue_before_plain_answers_is_read_as_it_is_without_a_column_for_it(end):
    explicit = answered(PROMPT + end, (" Goodbye.", " No."), "f:1", chat=True)
    assert explicit == (ASKED, (said("Goodbye."), said("No.")))
    assert explicit == common_prompt(f"{PROMPT} Goodbye.", f"{PROMPT} No.", "f:1")


def test_answers_that_repeat_the_dialogue_lose_it_and_those_that_go_on_keep_their_turns():
    whole = (f"{PROMPT} Goodbye.", f"{PROMPT} No.\n\nHuman: Why?\n\nAssistant: So.")
    wanted = (ASKED, (said("Goodbye."), said("No.", "Why?", "So.")))
    assert answered(PROMPT, whole, "f:1", chat=True) == wanted
    plain = tuple(text.removeprefix(PROMPT) for text in whole)
    assert answered(PROMPT, plain, "f:1", chat=True) == wanted


def test_a_dialogue_is_left_alone_where_strings_are_taken_as_they_stand():
    assert answered(PROMPT, (" No.",), "f:1", chat=False) == (PROMPT, (" No.",))


@pytest.mark.parametrize(
    "prompt", [PROMPT[2:], PROMPT.removesuffix(":"), "Human: Hi.", "\n\nHuman:"]
)
def test_what_only_looks_like_a_dialogue_is_one_turn(prompt):
    assert answered(prompt, ("No.",), "f:1", chat=True) == (prompt, ("No.",))


def test_conversations_and_empty_answers_to_a_dialogue_stay_what_they_are():
    _, responses = answered(PROMPT, (said("No."), ""), "f:1", chat=True)
    assert responses == (said("No."), said(""))


def test_an_empty_turn_in_a_dialogue_is_told():
    with pytest.raises(BadRow, match="f:1: expected text in the turn Human; got an empty string"):
        answered("\n\nHuman:\n\nAssistant:", ("No.",), "f:1", chat=True)


@pytest.mark.parametrize("end", ["\n\nHuman:", "\n\nHuman: ", "\n\nHuman:\n\nAssistant:\n"])
def test_a_turn_that_an_answer_begins_and_leaves_empty_is_taken_off(end):
    _, responses = answered(PROMPT, (" No." + end, end), "f:1", chat=True)
    assert responses == (said("No."), said(""))
