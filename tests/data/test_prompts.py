"""Prompts to sample from, of rows in any of the forms that have one."""

import json

import pytest

from alignax.core.errors import BadInput
from alignax.data.chat import Renderer
from alignax.data.prompts import load_prompts
from tests.data.tool_families import TOOL_FAMILIES
from tests.tiny import chatml_tokenizer

USER, ANSWER = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
PAIR = {"chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "B"}]}
HH = "\n\nHuman: Q\n\nAssistant:"


@pytest.fixture
def load(tmp_path):
    def load(row, template="chat", tokenizer=None):
        (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
        renderer = Renderer(tokenizer=tokenizer or chatml_tokenizer(), template=template)
        return load_prompts(
            str(tmp_path / "a.jsonl"), renderer, ask=lambda prompt: prompt, max_length=200
        )

    return load


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [USER]},
        {"messages": [USER, ANSWER]},
        {"messages": [USER]},
        PAIR,
        {"prompt": HH},
        {"chosen": f"{HH} A", "rejected": f"{HH} B"},
    ],
)
def test_all_forms_of_one_question_are_asked_alike(load, row):
    assert load(row).ids[0].tolist() == load({"prompt": "Q"}).ids[0].tolist()


def test_a_prompt_that_is_taken_as_it_stands_keeps_its_marks(load):
    tokenizer = chatml_tokenizer()
    assert tokenizer.decode(load({"prompt": HH}, "none").ids[0]) == HH


def test_tools_that_the_template_does_not_write_are_refused(load):
    with pytest.raises(BadInput, match=r"a.jsonl:1: .* template that writes the tools of a row"):
        load({"prompt": "Q", "tools": [{"name": "f"}]})


def test_earlier_thoughts_that_the_template_forgets_are_noted(load):
    tokenizer = TOOL_FAMILIES["qwen 3"].tokenizer()
    prompt = [USER, ANSWER | {"reasoning_content": "So."}, USER]
    found = load({"prompt": prompt}, tokenizer=tokenizer)
    assert "So." not in tokenizer.decode(found.ids[0])
    assert (
        "noted: 1 with thoughts in earlier turns, which the chat template leaves out (a.jsonl:1)"
        in str(found)
    )
    assert "noted" not in str(load({"prompt": [USER, ANSWER, USER]}, tokenizer=tokenizer))
