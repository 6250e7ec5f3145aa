"""SteerLM's script between its commands hands on turns, tools and whether an answer ended."""

import json

from configs.steerlm import bootstrap
from tests.run_files import lines

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
PROMPT = [
    {"role": "user", "content": "Rain?"},
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "tool", "content": ""},
    {"role": "user", "content": "So?"},
]


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_prompt_is_asked_for_more_as_it_stands(tmp_path):
    answer = [{"role": "assistant", "content": "No."}]
    row = {"prompt": PROMPT, "completion": answer, "tools": TOOLS, "attributes": {"quality": 4}}
    source = write(tmp_path / "annotated.jsonl", row)
    bootstrap.main(["ask", source, "--to", str(tmp_path / "asked.jsonl")])
    (asked,) = lines(tmp_path / "asked.jsonl")
    assert asked["plain"] == PROMPT
    assert asked["prompt"][:-1] == PROMPT[:-1]
    assert asked["prompt"][-1]["content"] == "So? <attributes>: quality:4"
    assert asked["tools"] == TOOLS


def test_an_answer_is_parted_from_what_was_asked_and_says_whether_it_ended(tmp_path):
    sampled = {"prompt": "q <attributes>: quality:4", "plain": "q", "completions": ["cut", "", "b"],
               "ended": [False, True, True]}  # fmt: skip
    told = {"prompt": PROMPT, "plain": PROMPT, "tools": TOOLS, "completions": ["c"]}
    source = write(tmp_path / "sampled.jsonl", sampled, told)
    bootstrap.main(["part", source, "--to", str(tmp_path / "answers.jsonl")])
    assert lines(tmp_path / "answers.jsonl") == [
        {"prompt": "q", "completion": "cut", "ended": False},
        {"prompt": "q", "completion": "b", "ended": True},
        {"prompt": PROMPT, "completion": "c", "ended": True, "tools": TOOLS},
    ]
