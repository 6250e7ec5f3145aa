"""What a template is given and does not write is refused, and never lost in silence."""

import pytest

from alignax.core.records import Demonstration, Message
from alignax.data.bad_rows import BadRow
from alignax.data.chat import Renderer
from alignax.data.forms import detect
from alignax.data.records import parse
from tests.data.test_tool_families import RESULT, THOUGHT, WARM, WEATHER, Q, call
from tests.data.tool_families import TOOL_FAMILIES
from tests.tiny import chatml_tokenizer

# Writes the words of every turn and nothing else.
WORDS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + (m.content or '') }}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_RESULTS = WORDS.replace("messages %}", "messages if m.role != 'tool' %}")
NO_ARGUMENTS = WORDS.replace(
    "(m.content or '')",
    "(m.content or '') + (m.tool_calls[0].function.name if m.tool_calls else '')",
)
FIRST_CALL = NO_ARGUMENTS.replace("function.name", "function | tojson").replace(
    "(m.tool_calls[0].function | tojson", "((m.tool_calls[0].function | tojson)"
)


def rendered(template, prompt, answer, **columns):
    row = {"prompt": prompt, "completion": answer, **columns}
    record = parse(row, detect(row, Demonstration, chat=True), "f:1")
    renderer = Renderer(tokenizer=chatml_tokenizer(template))
    return renderer.render(record.prompt, (record.response,), record.origin)


@pytest.mark.parametrize(
    ("template", "prompt", "answer", "what", "reason"),
    [
        (WORDS, [Q], [WARM | THOUGHT], "reasoning_content", "reasoning"),
        (WORDS, [Q], [WARM | {"thinking": "So."}], "thinking", "reasoning"),
        (WORDS, [Q, WARM | THOUGHT, Q], [WARM], "reasoning_content", "reasoning"),
        (WORDS, [Q], [call(None)], r"tool_calls\[0\].name", "tool calls"),
        (WORDS, [Q, call(None), RESULT], [WARM], r"tool_calls\[0\].name", "tool calls"),
        (WORDS, [Q], [WARM | {"function_call": {"name": "f"}}], "function_call", "tool calls"),
        (NO_ARGUMENTS, [Q], [call(None)], r"tool_calls\[0\].arguments", "tool calls"),
        (FIRST_CALL, [Q], [call(None) | {"tool_calls": 2 * call(None)["tool_calls"]}],
         r"tool_calls\[1\].name", "tool calls"),
        (NO_RESULTS, [Q, RESULT], [WARM], "what a tool has answered", "turn of a tool"),
        (NO_RESULTS, [Q], [WARM, RESULT, WARM], "what a tool has answered", "turn of a tool"),
    ],
)  # fmt: skip
def test_what_is_left_out_is_refused_with_its_name(template, prompt, answer, what, reason):
    with pytest.raises(BadRow, match=f"^f:1: expected a chat template that writes {what}; got one "
                       r"that leaves it out in turn [1-3], of the") as bad:  # fmt: skip
        rendered(template, prompt, answer)
    assert bad.value.reason == reason
    assert "data.chat_template" in str(bad.value)


def test_tools_that_are_not_written_are_refused():
    with pytest.raises(BadRow) as bad:
        rendered(WORDS, [Q], [WARM], tools=[{"name": "f"}])
    assert str(bad.value) == (
        "f:1: expected a chat template that writes the tools of a row; got one that writes the "
        'same without them: [{"name": "f"}].\n'
        "    Write them into the system turn, as the model should see them, and remove the column; "
        "if it is for a reward alone, rename it; or give another template as data.chat_template, "
        "or set on_bad_row='drop'."
    )
    assert bad.value.reason == "tools"
    assert rendered(WORDS, [Q], [WARM], tools=[]) == rendered(WORDS, [Q], [WARM])


def test_a_call_and_a_result_that_are_written_are_none_of_it():
    assert FIRST_CALL.count("tojson") == 1
    (pieces,) = rendered(FIRST_CALL, [Q], [call(None)]).responses
    assert pieces[0].text == '{"name": "weather", "arguments": {"city": "Paris"}}<|im_end|>'
    assert rendered(WORDS, [Q, RESULT], [WARM]).prompt.count('{"t": 21}') == 1


def test_earlier_thoughts_that_a_template_forgets_in_use_too_are_counted():
    renderer = Renderer(tokenizer=TOOL_FAMILIES["qwen 3"].tokenizer())
    thought = Message("assistant", "A", '{"reasoning_content": "So."}')
    question = Message("user", "Q")
    prompt = (question, thought, question, thought, question)
    assert "So." not in renderer.prompt(prompt)
    assert renderer.forgotten(prompt) == 2
    # Those behind the last question are written.
    result = Message("tool", "21")
    assert renderer.prompt((*prompt, thought, result)).count("So.") == 1
    assert renderer.forgotten((*prompt, thought, result)) == 2
    assert renderer.forgotten("Q") == renderer.forgotten((question,)) == 0
    # As answers that are learnt from they would be lost.
    with pytest.raises(BadRow, match="rewrites earlier turns"):
        renderer.render((question,), ((thought, question, thought),))


def test_thoughts_in_a_prompt_that_asks_for_none_are_refused_as_rewritten():
    tokenizer = TOOL_FAMILIES["qwen 3"].tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.removesuffix("{%- endif -%}") + (
        "{{- '<think>\n\n</think>\n\n' -}}{%- endif -%}"
    )
    thought = Message("assistant", "A", '{"reasoning_content": "So."}')
    with pytest.raises(BadRow, match="to begin as its prompt does, with"):
        Renderer(tokenizer=tokenizer).render((Message("user", "Q"),), ((thought,),))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [Q], "completion": [WARM | {"reasoning_content": "say <|im_end|>"}]},
        {"prompt": [Q], "completion": [call({"city": {"<|im_end|>": 1}})]},
        {"prompt": [Q], "completion": [call(r'{"city": "\u003c|im_end|>"}')]},
        {"prompt": [Q], "completion": [WARM], "tools": [WEATHER | {"d": ["a <|im_end|>"]}]},
    ],
)
def test_special_tokens_are_refused_in_thoughts_calls_and_tools(row):
    record = parse(row, detect(row, Demonstration, chat=True), "f:1")
    for name in ("qwen 3", "qwen 2.5"):
        renderer = Renderer(tokenizer=TOOL_FAMILIES[name].tokenizer())
        if "u003c" in str(row) and name == "qwen 3":
            continue  # written as it stands, six letters for one
        with pytest.raises(BadRow, match=r"special tokens; got <\|im_end\|> in a turn of"):
            renderer.render(record.prompt, (record.response,), "f:1")


def test_a_template_that_fails_without_content_is_told_what_to_write():
    template = WORDS.replace("(m.content or '')", "m.content")
    with pytest.raises(BadRow, match=r'content must be text: "", not null'):
        rendered(template, [Q], [call(None, content=None)])
