"""The formats of families whose templates take tools, calls and thoughts, with tiny tokenizers.

As in `chat_families`, the templates are written here, to the formats that the models were published
with: Qwen2.5-7B-Instruct, Qwen3-8B and Llama-3.1-8B-Instruct. On conversations of questions, calls,
results and thoughts their texts were compared with those of the published templates, as TRL 1.16.0
has them, and were the same. DEEPSEEK joins arguments of calls as strings, as DeepSeek-V3.1's does.
"""

from collections.abc import Callable
from typing import NamedTuple

from transformers import PreTrainedTokenizerFast

from tests.data.chat_families import HEADER3, IM, THINK, byte_level, said

_TOOLS = (
    "{{- '# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>' -}}"
    "{%- for tool in tools -%}{{- '\n' + (tool | tojson) -}}{%- endfor -%}"
    "{{- '\n</tools>\n\nFor each function call, return a json object with function name and "
    "arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
    "<|im_end|>\n' -}}"
)
# Results of tools that follow one another are one turn of the user.
_RESULT = (
    "{%- if messages[loop.index0 - 1].role != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}"
    "{{- '\n<tool_response>\n' + m.content + '\n</tool_response>' -}}"
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' -%}"
    "{{- '<|im_end|>\n' -}}{%- endif -%}"
)
_ASK = "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"


def _call(arguments: str, before: str) -> str:
    """The calls of a turn of Qwen's. `before`: when a newline stands before one."""
    return (
        "{%- for call in m.tool_calls or [] -%}{%- set newline = " + before + " -%}"
        "{%- set call = call.function or call -%}{{- '\n' if newline else '' -}}"
        "{{- '<tool_call>\n{\"name\": \"' + call.name + '\", \"arguments\": ' -}}{{- "
        + arguments + " -}}{{- '}\n</tool_call>' -}}{%- endfor -%}"
    )  # fmt: skip


QWEN25 = (
    "{%- set own = messages[0].role == 'system' -%}"
    "{{- '<|im_start|>system\n' + (messages[0].content if own else 'Be helpful.') -}}"
    "{%- if tools -%}{{- '\n\n' -}}" + _TOOLS + "{%- else -%}{{- '<|im_end|>\n' -}}{%- endif -%}"
    "{%- for m in (messages[1:] if own else messages) -%}"
    "{%- set messages = messages[own | int:] -%}"
    "{%- if m.role == 'tool' -%}" + _RESULT + "{%- elif m.role == 'assistant' -%}"
    "{{- '<|im_start|>assistant\n' -}}{% generation %}{{- m.content or '' -}}"
    + _call("call.arguments | tojson", "m.content or not loop.first")
    + "{{- '<|im_end|>' -}}{% endgeneration %}{{- '\n' -}}{%- else -%}"
    "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' -}}{%- endif -%}{%- endfor -%}"
    + _ASK
)
# Thoughts of the answers after the last question are written, of the last answer if empty too.
QWEN3 = (
    "{%- set own = messages[0].role == 'system' -%}"
    "{%- if own or tools -%}{{- '<|im_start|>system\n' + (messages[0].content if own else '') -}}"
    "{%- if tools -%}{{- '\n\n' if own else '' -}}" + _TOOLS
    + "{%- else -%}{{- '<|im_end|>\n' -}}{%- endif -%}{%- endif -%}"
    "{%- set ns = namespace(last=0) -%}{%- for m in messages -%}{%- if m.role == 'user' -%}"
    "{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}"
    "{%- for m in messages -%}{%- if m.role == 'tool' -%}" + _RESULT
    + "{%- elif m.role == 'assistant' -%}{{- '<|im_start|>assistant\n' -}}{% generation %}"
    "{%- set thought = m.reasoning_content or '' -%}{%- set content = m.content or '' -%}"
    "{%- if loop.index0 > ns.last and (loop.last or thought) -%}"
    "{{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' -}}{%- endif -%}{{- content -}}"
    + _call(
        "call.arguments if call.arguments is string else call.arguments | tojson",
        "content or not loop.first",
    )
    + "{{- '<|im_end|>' -}}{% endgeneration %}{{- '\n' -}}"
    "{%- elif m.role == 'user' or not loop.first -%}"
    "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' -}}{%- endif -%}{%- endfor -%}"
    + _ASK
)  # fmt: skip
# Tools stand in the first question. A turn has one call, and then no words beside it.
LLAMA31 = (
    "{{- bos_token + '<|start_header_id|>system<|end_header_id|>\n\n' -}}"
    "{{- 'Environment: ipython\n' if tools is not none else '' -}}"
    "{{- 'Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>' -}}"
    "{%- for m in messages -%}{%- if 'tool_calls' in m -%}"
    "{%- if m.tool_calls | length != 1 -%}"
    "{{- raise_exception('This model only supports single tool-calls at once!') -}}{%- endif -%}"
    "{%- set call = m.tool_calls[0].function -%}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}{% generation %}"
    "{{- '{\"name\": \"' + call.name + '\", \"parameters\": ' -}}"
    "{{- call.arguments | tojson + '}<|eot_id|>' -}}{% endgeneration %}"
    "{%- elif m.role == 'tool' -%}{{- '<|start_header_id|>ipython<|end_header_id|>\n\n' -}}"
    "{{- (m.content | tojson) + '<|eot_id|>' -}}"
    "{%- else -%}{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' -}}"
    "{%- if loop.first and tools is not none -%}"
    "{{- 'Given the following functions, please respond with a JSON for a function call with its "
    "proper arguments that best answers the given prompt.\n\nRespond in the format "
    '{"name": function name, "parameters": dictionary of argument name and its value}.'
    "Do not use variables.\n\n' -}}{%- for tool in tools -%}{{- tool | tojson(indent=4) -}}"
    "{{- '\n\n' -}}{%- endfor -%}{%- endif -%}"
    "{%- if m.role == 'assistant' -%}" + said("m.content | trim + '<|eot_id|>'")
    + "{%- else -%}{{- m.content | trim + '<|eot_id|>' -}}{%- endif -%}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}{%- endif -%}"
)  # fmt: skip
DEEPSEEK = (
    "{%- for m in messages -%}{{- '<|' + m.role + '|>' -}}{{- m.content or '' -}}"
    "{%- for call in m.tool_calls or [] -%}"
    "{{- '<call>' + call.function.name + '<sep>' + call.function.arguments + '</call>' -}}"
    "{%- endfor -%}{{- '<|im_end|>' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def _qwen(template: str) -> PreTrainedTokenizerFast:
    return byte_level(IM, template, eos="<|im_end|>", pad="<|endoftext|>", added=THINK)


def _llama31() -> PreTrainedTokenizerFast:
    return byte_level(HEADER3, LLAMA31, bos="<|begin_of_text|>", eos="<|eot_id|>", adds_bos=True)


class ToolFamily(NamedTuple):
    """A format that takes tools.

    Fields:
        tokenizer: makes one of the family's kind, with the template in it.
        thinks: whether thoughts are written.
        beside: whether words and calls may stand in one turn.
        several: whether a turn may have several calls.
    """

    tokenizer: Callable[[], PreTrainedTokenizerFast]
    thinks: bool = False
    beside: bool = True
    several: bool = True


TOOL_FAMILIES = {
    "qwen 2.5": ToolFamily(lambda: _qwen(QWEN25)),
    "qwen 3": ToolFamily(lambda: _qwen(QWEN3), thinks=True),
    "llama 3.1": ToolFamily(_llama31, beside=False, several=False),
}


def deepseek() -> PreTrainedTokenizerFast:
    """A tokenizer whose template takes arguments of calls as strings alone."""
    return _qwen(DEEPSEEK)
