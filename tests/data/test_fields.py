"""One field of a row: what text may be written as, and what it may not."""

import json

import pytest

from alignax.core.records import Message
from alignax.data.bad_rows import BadRow
from alignax.data.chat import Renderer
from alignax.data.fields import as_text
from tests.tiny import chatml_tokenizer

USER = {"role": "user", "content": "Q"}
# As templates of models that see images write text: part behind part.
PARTS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}"
    "{{ m['content'] }}{% else %}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("texts", [("hi",), ("Is it", " so?\n", "Say.")])
def test_parts_that_are_all_text_are_joined_as_transformers_renders_them(texts):
    # Parquet has null for the keys that other parts have.
    parts = [{"type": "text", "text": text, "image": None} for text in texts]
    turns = as_text([{"role": "user", "content": parts}], "messages", "f:1")
    assert turns == (Message("user", "".join(texts)),)
    renderer = Renderer(tokenizer=chatml_tokenizer(PARTS))
    theirs = renderer.tokenizer.apply_chat_template(
        [{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True
    )
    assert renderer.prompt(turns) == theirs


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "hi"}, {"type": "image"}],
        [{"type": "image", "text": "hi"}],
        [{"type": "text", "text": None}],
        [{"text": "hi"}],
        ["hi"],
        [],
    ],
)
def test_parts_that_are_not_all_text_are_refused(content):
    with pytest.raises(BadRow, match=r"messages\[0\].content to be text; got list"):
        as_text([{"role": "user", "content": content}], "messages", "f:1")


@pytest.mark.parametrize("indent", [None, 1])
def test_a_conversation_written_as_json_into_a_string_is_refused(indent):
    text = json.dumps([USER, {"role": "assistant", "content": "A"}], indent=indent)
    with pytest.raises(BadRow) as caught:
        as_text(text, "chosen", "f:1")
    assert caught.value.reason == "conversation in a string"
    assert str(caught.value).startswith(
        "f:1: expected chosen to be a list of {role, content}, or plain text; got such a list "
        "written as JSON in a string, '["
    )
    assert str(caught.value).endswith(
        "Write the list itself: parse the string before the row is written."
    )


@pytest.mark.parametrize(
    "text",
    [
        '[{"role": "user"}]',
        '[{"role": "user", "content": "Q"}] is what I wrote',
        '[{"role": "user", "content": "Q"}, 3]',
        "[]",
        "[1, 2]",
        '{"role": "user", "content": "Q"}',
        '[{"a": ' + "[" * 100_000,
    ],
)
def test_other_json_in_a_string_is_text(text):
    assert as_text(text, "chosen", "f:1") == text
