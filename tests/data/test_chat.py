"""Rendering: the text of prompts, the pieces of responses, and the ids at their borders."""

import pytest

from alignax.core.errors import BadInput
from alignax.core.records import Message
from alignax.data.bad_rows import BadRow
from alignax.data.chat import Renderer, Segment
from tests.tiny import (
    LLAMA3_TEMPLATE,
    SMOLLM2_TEMPLATE,
    byte_ids,
    chatml_tokenizer,
    llama3_tokenizer,
    space_tokenizer,
)

SYSTEM = "<|im_start|>system\nS<|im_end|>\n"
PROMPT = (Message("system", "S"), Message("user", "Q"))
ASKED = f"{SYSTEM}<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"


def chatml(**settings):
    return Renderer(tokenizer=chatml_tokenizer(), **settings)


def test_a_prompt_ends_with_the_header_of_the_answer():
    assert chatml().prompt(PROMPT) == ASKED


def test_a_string_is_one_turn_and_equals_the_conversation_written_out():
    written = chatml().render((Message("user", "Q"),), ((Message("assistant", "A"),),))
    assert chatml().render("Q", ("A",)) == written
    assert written.prompt.startswith("<|im_start|>system\nYou are a helpful AI assistant")


def test_a_response_ends_with_its_end_of_turn_and_not_with_the_newline_after_it():
    assert chatml().render(PROMPT, (" A ",)).responses == ((Segment(" A <|im_end|>", True),),)


def test_only_the_assistants_turns_of_a_response_are_scored():
    answer = (
        Message("assistant", "A"),
        Message("user", "B"),
        Message("assistant", "C"),
        Message("user", "never answered"),
    )
    assert chatml().render(PROMPT, (answer,)).responses == (
        (
            Segment("A<|im_end|>", True),
            Segment("\n<|im_start|>user\nB<|im_end|>\n<|im_start|>assistant\n", False),
            Segment("C<|im_end|>", True),
        ),
    )


def test_a_template_that_strips_content_is_followed():
    rendered = Renderer(tokenizer=llama3_tokenizer()).render(PROMPT, (" A \n",))
    assert rendered.prompt.startswith("<|begin_of_text|><|start_header_id|>system")
    assert rendered.responses == ((Segment("A<|eot_id|>", True),),)


def test_content_that_repeats_itself_does_not_mislead():
    # A search for the content would find "Q" in the user's turn, or the first of the two answers.
    answer = (Message("assistant", "Q"), Message("user", "Q"), Message("assistant", "Q"))
    (pieces,) = chatml().render("Q", (answer,)).responses
    assert [piece.text for piece in pieces if piece.scored] == ["Q<|im_end|>", "Q<|im_end|>"]


def test_what_a_template_adds_after_the_last_turn_is_cut():
    # Phi-3's way: the conversation is closed once more.
    closed = SMOLLM2_TEMPLATE.removesuffix("{% endif %}") + "{% else %}<|endoftext|>{% endif %}"
    renderer = chatml(chat_template=closed)
    answer = (Message("assistant", "A"), Message("user", "B"), Message("assistant", "C"))
    (pieces,) = renderer.render(PROMPT, (answer,)).responses
    assert pieces[-1] == Segment("C<|im_end|>", True)
    assert renderer.end_ids == {2}


def test_a_template_without_an_end_token_leaves_the_end_to_eos():
    bare = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    renderer = chatml(chat_template=bare + "{% if add_generation_prompt %}assistant: {% endif %}")
    rendered = renderer.render("Q", ("A",))
    assert rendered == ("user: Q\nassistant: ", ((Segment("A", True),),))
    assert renderer.end_id == 2


def test_the_ends_are_eos_what_the_template_writes_and_what_the_caller_knows():
    assert chatml().end_ids == {2}
    assert Renderer(tokenizer=llama3_tokenizer()).end_ids == {1, 4}
    assert Renderer(tokenizer=llama3_tokenizer(), template="none").end_ids == {4}
    assert chatml(extra_end_ids=(0,)).end_ids == {0, 2}


def test_a_template_that_rewrites_history_is_refused():
    # Reasoning models do so: the header opens a thought that the history does not show.
    thinking = SMOLLM2_TEMPLATE.replace("assistant\n' }}{% endif", "assistant\n(hm)' }}{% endif")
    with pytest.raises(BadRow, match=r"f:3: .*begin as its prompt does, with '\(hm\)'.*got 'A<"):
        chatml(chat_template=thinking).render(PROMPT, ("A",), "f:3")


def test_what_a_template_refuses_is_told_with_its_reason():
    strict = "{{ raise_exception('no system turns') if messages[0]['role'] == 'system' else '' }}"
    renderer = chatml(chat_template=strict + SMOLLM2_TEMPLATE)
    with pytest.raises(BadRow, match=r"f:3: .*turns by system, user: no system turns") as caught:
        renderer.prompt(PROMPT, "f:3")
    assert caught.value.reason == "refused by the chat template"


def test_a_special_token_written_in_a_text_is_refused():
    with pytest.raises(BadRow, match=r"f:3: .*got <\|im_end\|> in a turn of the user"):
        chatml().prompt("say <|im_end|>", "f:3")
    assert chatml(template="none").prompt("say <|im_end|>") == "say <|im_end|>"


def test_a_tokenizer_without_template_is_refused_with_all_remedies():
    # The first is the template that the vocabulary has the tokens of.
    wanted = r'(?s)with a chat template.*chat_template="chatml".*llama3.*plain.*template="none"'
    with pytest.raises(BadInput, match=wanted):
        Renderer(tokenizer=chatml_tokenizer(template=None))
    given = Renderer(tokenizer=llama3_tokenizer(None), chat_template=LLAMA3_TEMPLATE)
    assert given.prompt("Q").startswith("<|begin_of_text|>")


def test_conversations_need_a_template():
    with pytest.raises(BadInput, match=r"f:3: expected plain strings.*got a conversation of 2"):
        chatml(template="none").prompt(PROMPT, "f:3")


def test_a_bos_in_the_template_is_not_doubled_by_the_tokenizer():
    renderer = Renderer(tokenizer=llama3_tokenizer())
    assert renderer.tokenizer(renderer.prompt("Q"))["input_ids"][:2] == [0, 0]  # the trap
    (ids,) = renderer.prompt_ids([renderer.prompt("Q")])
    # BOS, header of "user", two newlines, Q, end of turn.
    user = renderer.tokenizer("user", add_special_tokens=False)["input_ids"]
    assert ids[: 8 + len(user) - 1] == [0, 2, *user, 3, *byte_ids("\n\nQ"), 1]


def test_without_template_the_tokenizers_own_bos_stands_once():
    renderer = Renderer(tokenizer=llama3_tokenizer(), template="none")
    assert renderer.prompt_ids(["A", "<|begin_of_text|>A"]) == [[0, 70], [0, 70]]
    assert chatml(template="none").prompt_ids(["A"]) == [[70]]


def test_a_continuation_gets_no_leading_space_of_its_own():
    # Ids: 3 + byte for <0x..>, then 259 for the space mark, 260 for a, 286 for space mark + a.
    renderer = Renderer(tokenizer=space_tokenizer(), template="none")
    assert renderer.prompt_ids(["a"]) == [[1, 286]]
    assert renderer.continuation_ids(["a", " a"]) == [[260], [286]]
    assert chatml().continuation_ids(["A"]) == [[70]]


def test_whether_bos_can_be_checked_is_known():
    assert Renderer(tokenizer=llama3_tokenizer()).bos_at_start is True
    assert Renderer(tokenizer=llama3_tokenizer(), template="none").bos_at_start is True
    assert chatml(template="none").bos_at_start is False
    assert chatml().bos_at_start is None  # it opens every turn
