"""Thoughts, calls and tools, token by token as `apply_chat_template` of transformers has them."""

import json

import pytest

from alignax.core.records import Demonstration, Group
from alignax.data.bad_rows import BadRow
from alignax.data.chat import Renderer
from alignax.data.forms import detect
from alignax.data.records import parse
from alignax.data.tokenise import TokenLimits, tokenise
from tests.data.tool_families import TOOL_FAMILIES, deepseek

WEATHER = {"type": "function", "function": {
    "name": "weather", "description": "of a <city> & 'day'",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}}  # fmt: skip
Q = {"role": "user", "content": "How warm is Paris?"}
WARM = {"role": "assistant", "content": "21 degrees."}
RESULT = {"role": "tool", "name": "weather", "tool_call_id": "c1", "content": '{"t": 21}'}
THOUGHT = {"reasoning_content": "I need\nthe tool."}


def call(arguments, city="Paris", **beside):
    arguments = arguments or {"city": city}
    one = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    return {"role": "assistant", "content": "", **beside, "tool_calls": [one]}


def several(*calls):
    return {**calls[0], "tool_calls": [one for turn in calls for one in turn["tool_calls"]]}


CASES = {
    "a call": ([Q], [call(None)]),
    "a call without content": ([Q], [call(None, content=None)]),
    "keys in their order": ([Q], [call({"z": [1, None], "a": {"y": True, "b": "é<"}})]),
    "two calls": ([Q], [several(call(None), call(None, "Rome"))]),
    "words and a call": ([Q], [call(None, content="Let me see.")]),
    "a result in the prompt": ([Q, call(None), RESULT], [WARM]),
    "two results in the prompt": ([Q, call(None), RESULT, RESULT], [WARM]),
    "a result in the response": ([Q], [call(None), RESULT, WARM]),
    "a thought": ([Q], [WARM | THOUGHT]),
    "a thought and a call": ([Q], [call(None, **THOUGHT)]),
    "thoughts before and after a result": (
        [Q], [call(None, **THOUGHT), RESULT, WARM | THOUGHT]),
}  # fmt: skip
# What a family's template does not write, or writes otherwise once more turns follow.
REFUSED = {
    ("llama 3.1", "two calls"): "only supports single tool-calls",
    ("llama 3.1", "words and a call"): "writes content beside tool_calls; got one that leaves it",
    ("qwen 3", "a result in the response"): "The template rewrites earlier turns",
    **{
        (family, case): "expected a chat template that writes reasoning_content"
        for family in ("qwen 2.5", "llama 3.1")
        for case in CASES
        if "thought" in case
    },
}


def learnt(renderer, row):
    """Ids of the prompt, ids and mask of the response, as they are trained on."""
    record = parse(row, detect(row, Demonstration, chat=True), "f:1")
    group = Group(prompt=record.prompt, responses=(record.response,), scores=(0.0,), origin="f:1")
    (example,), _ = tokenise([group], renderer, TokenLimits(max_length=4096))
    return example.prompt.tolist(), example.responses.tolist(), example.mask.tolist()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", TOOL_FAMILIES)
def test_tokens_and_mask_are_those_of_apply_chat_template(name, case):
    prompt, answer = CASES[case]
    tokenizer = TOOL_FAMILIES[name].tokenizer()
    renderer = Renderer(tokenizer=tokenizer)
    row = {"prompt": prompt, "completion": answer, "tools": [WEATHER]}
    if why := REFUSED.get((name, case)):
        with pytest.raises(BadRow, match=why):
            learnt(renderer, row)
        return
    ours, response, mask = learnt(renderer, row)
    asked = tokenizer.apply_chat_template(
        prompt, tools=[WEATHER], tokenize=True, add_generation_prompt=True
    )
    assert ours == asked["input_ids"]
    whole = tokenizer.apply_chat_template(
        prompt + answer, tools=[WEATHER], tokenize=True, return_dict=True,
        return_assistant_tokens_mask=True,
    )  # fmt: skip
    start, stop = len(ours), len(ours) + len(response)
    assert ours + response == whole["input_ids"][:stop]
    assert mask == [bool(x) for x in whole["assistant_masks"][start:stop]]
    assert not any(whole["assistant_masks"][stop:])
    assert response[-1] in renderer.end_ids


def test_a_call_and_its_result_are_worked_by_hand():
    renderer = Renderer(tokenizer=TOOL_FAMILIES["qwen 3"].tokenizer())
    row = {"prompt": [Q], "completion": [call(None, **THOUGHT), RESULT, WARM | THOUGHT],
           "tools": [{"type": "function", "function": {"name": "f"}}]}  # fmt: skip
    record = parse(row, detect(row, Demonstration, chat=True), "f:1")
    prompt, (pieces,) = renderer.render(record.prompt, (record.response,))
    assert prompt == (
        "<|im_start|>system\n# Tools\n\nYou may call one or more functions to assist with the user "
        "query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n"
        '<tools>\n{"type": "function", "function": {"name": "f"}}\n</tools>\n\nFor each function '
        "call, return a json object with function name and arguments within <tool_call></tool_call>"
        ' XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
        "</tool_call><|im_end|>\n<|im_start|>user\nHow warm is Paris?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert [(piece.scored, piece.text) for piece in pieces] == [
        (True, "<think>\nI need\nthe tool.\n</think>\n\n<tool_call>\n"
               '{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call><|im_end|>'),
        (False, '\n<|im_start|>user\n<tool_response>\n{"t": 21}\n</tool_response><|im_end|>\n'
                "<|im_start|>assistant\n"),
        (True, "<think>\nI need\nthe tool.\n</think>\n\n21 degrees.<|im_end|>"),
    ]  # fmt: skip


# --- arguments, which are an object or JSON in a string


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("qwen 2.5", '"arguments": {"city": "Paris"}}'),  # the object, as the template writes it
        ("llama 3.1", '"parameters": {"city": "Paris"}}'),
        ("qwen 3", '"arguments": {"city":"Paris"}}'),  # the string, which the template takes
    ],
)
def test_arguments_in_a_string_are_written_as_an_object_and_never_in_quotes(name, written):
    renderer = Renderer(tokenizer=TOOL_FAMILIES[name].tokenizer())
    row = {"prompt": [Q], "completion": [call('{"city":"Paris"}')]}
    _, response, _ = learnt(renderer, row)
    assert written in renderer.tokenizer.decode(response)


def test_a_template_that_joins_strings_is_given_arguments_as_one():
    renderer = Renderer(tokenizer=deepseek())
    for arguments in ({"city": "Zürich"}, '{"city": "Zürich"}'):
        _, response, _ = learnt(renderer, {"prompt": [Q], "completion": [call(arguments)]})
        text = renderer.tokenizer.decode(response)
        assert text == '<call>weather<sep>{"city": "Zürich"}</call><|im_end|>'


def test_arguments_that_are_no_object_are_refused_where_an_object_is_written():
    renderer = Renderer(tokenizer=TOOL_FAMILIES["qwen 2.5"].tokenizer())
    for arguments in ("Paris", '["Paris"]', '{"city": '):
        with pytest.raises(BadRow, match=r"^f:1: expected arguments that are an object, or one"):
            learnt(renderer, {"prompt": [Q], "completion": [call(arguments)]})


# --- names and forms of the same thing


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_thoughts_have_any_of_three_names_as_in_transformers(key):
    tokenizer = TOOL_FAMILIES["qwen 3"].tokenizer()
    answer = WARM | {key: "So."}
    ours = learnt(Renderer(tokenizer=tokenizer), {"prompt": [Q], "completion": [answer]})
    assert tokenizer.decode(ours[1]) == "<think>\nSo.\n</think>\n\n21 degrees.<|im_end|>"
    whole = tokenizer.apply_chat_template([Q, answer], tokenize=False)
    assert whole == tokenizer.decode(ours[0] + ours[1]) + "\n"


@pytest.mark.parametrize("written", [json.dumps([WEATHER]), [json.dumps(WEATHER)]])
def test_tools_written_as_json_in_a_string_are_the_tools(written):
    renderer = Renderer(tokenizer=TOOL_FAMILIES["qwen 3"].tokenizer())
    row = {"prompt": "How?", "completion": "So."}
    found = [learnt(renderer, row | {"tools": tools}) for tools in ([WEATHER], written)]
    assert found[0] == found[1]
    assert found[0] != learnt(renderer, row)
