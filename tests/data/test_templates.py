"""Chat templates by name, and templates that do not work."""

import logging

import jinja2
import pytest

from alignax.core.errors import BadInput
from alignax.core.records import Group, Message
from alignax.data.bad_rows import BadRow
from alignax.data.chat import Renderer, renderer_hash
from alignax.data.templates import NAMED, suggestion
from alignax.data.tokenise import TokenLimits, tokenise
from tests.data.chat_families import FAMILIES, IM, PHI, SENTENCE, byte_level, gpt2, spaces
from tests.tiny import chatml_tokenizer, llama3_tokenizer, space_tokenizer

PROMPT = (Message("system", "S"), Message("user", "Q"), Message("assistant", "A"),
          Message("user", "R"))  # fmt: skip
EOS = "<|endoftext|>"
# What each makes of PROMPT, and of the answer "B", for a tokenizer that adds no BOS.
WRITTEN = {
    "chatml": (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n"
        "<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nR<|im_end|>\n"
        "<|im_start|>assistant\n",
        "B<|im_end|>",
    ),
    "llama3": (
        "<|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nR<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "B<|eot_id|>",
    ),
    "gemma": (
        "<start_of_turn>user\nS\n\nQ<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n"
        "<start_of_turn>user\nR<end_of_turn>\n<start_of_turn>model\n",
        "B<end_of_turn>",
    ),
    "phi3": (
        "<|system|>\nS<|end|>\n<|user|>\nQ<|end|>\n<|assistant|>\nA<|end|>\n<|user|>\nR<|end|>\n"
        "<|assistant|>\n",
        "B<|end|>",
    ),
    "llama2": (
        f"[INST] <<SYS>>\nS\n<</SYS>>\n\nQ [/INST] A {EOS}[INST] R [/INST]",
        f" B {EOS}",
    ),
    "mistral": (f"[INST] S\n\nQ [/INST] A{EOS}[INST] R [/INST]", f" B{EOS}"),
    "zephyr": (
        f"<|system|>\nS{EOS}\n<|user|>\nQ{EOS}\n<|assistant|>\nA{EOS}\n<|user|>\nR{EOS}\n"
        "<|assistant|>\n",
        f"B{EOS}",
    ),
    "tulu": (
        f"<|system|>\nS\n<|user|>\nQ\n<|assistant|>\nA{EOS}\n<|user|>\nR\n<|assistant|>\n",
        f"B{EOS}",
    ),
    "plain": (
        f"System:\nS\n\nUser:\nQ\n\nAssistant:\nA{EOS}\n\nUser:\nR\n\nAssistant:\n",
        f"B{EOS}",
    ),
}


def fitting(name):
    """A tokenizer that has the tokens of a named template."""
    return byte_level((EOS, *NAMED[name].tokens), None, bos=EOS, eos=EOS)


@pytest.mark.parametrize("name", NAMED)
def test_a_named_template_writes_its_format(name):
    rendered = Renderer(tokenizer=fitting(name), chat_template=name).render(PROMPT, ("B",))
    text = "".join(part.text for part in rendered.responses[0])
    assert (rendered.prompt, text) == WRITTEN[name]


@pytest.mark.parametrize(
    ("name", "family"),
    [("llama2", "llama 2"), ("llama3", "llama 3"), ("mistral", "mistral"), ("gemma", "gemma 3"),
     ("phi3", "phi 3"), ("chatml", "qwen 2.5"), ("chatml", "smollm 2")],
)  # fmt: skip
def test_a_named_template_renders_as_the_familys_own(name, family):
    tokenizer = FAMILIES[family].tokenizer()
    own = Renderer(tokenizer=tokenizer).render(PROMPT, (" B",))
    assert Renderer(tokenizer=tokenizer, chat_template=name).render(PROMPT, (" B",)) == own


@pytest.mark.parametrize("name", NAMED)
def test_bos_is_written_where_the_tokenizer_would_put_one_and_nowhere_else(name):
    adds = Renderer(tokenizer=llama3_tokenizer(None), chat_template=name).prompt(PROMPT)
    each_pair = name == "llama2"  # its format opens every pair of turns with one
    assert adds.startswith("<|begin_of_text|>")
    assert adds.count("<|begin_of_text|>") == (2 if each_pair else 1)
    # GPT-2 has a BOS too, and yet no text that it learnt from began with one by its tokenizer.
    assert not Renderer(tokenizer=gpt2(), chat_template=name).prompt("Q").startswith(EOS)


@pytest.mark.parametrize("name", NAMED)
def test_a_named_template_gives_the_same_without_trimmed_blocks(name):
    # Engines differ in whether a newline after a block is kept; these templates do not depend on
    # it: what stands between their blocks is cut by the blocks themselves.
    text = Renderer(tokenizer=fitting(name), chat_template=name).text
    assert text is not None
    environment = jinja2.Environment(trim_blocks=False, lstrip_blocks=False)
    turns = [turn.as_dict() for turn in PROMPT]
    rendered = environment.from_string(text).render(
        messages=turns, add_generation_prompt=True, bos_token=EOS, eos_token=EOS
    )
    assert rendered == WRITTEN[name][0]


def test_what_is_between_turns_of_the_wrong_order_is_refused_by_strict_formats():
    twice = (Message("user", "Q"), Message("user", "R"))
    for name in ("gemma", "llama2", "mistral"):
        renderer = Renderer(tokenizer=gpt2(), chat_template=name)
        with pytest.raises(BadRow, match=r"f:3: .*user, user: this template takes turns of user"):
            renderer.prompt(twice, "f:3")
    for name in ("phi3", "zephyr", "tulu", "plain"):
        renderer = Renderer(tokenizer=gpt2(), chat_template=name)
        with pytest.raises(BadRow, match=r"f:3: .*this template has no role tool"):
            renderer.prompt((Message("user", "Q"), Message("tool", "3")), "f:3")


@pytest.mark.parametrize(
    ("tokenizer", "name"),
    [
        (lambda: chatml_tokenizer(None), "chatml"),
        (lambda: llama3_tokenizer(None), "llama3"),
        (FAMILIES["gemma 2"].tokenizer, "gemma"),
        (lambda: spaces((*SENTENCE, *PHI), None, bos="<s>", eos="</s>"), "phi3"),
        (gpt2, "plain"),
        (space_tokenizer, "plain"),
    ],
)
def test_the_vocabulary_speaks_for_a_template(tokenizer, name):
    assert suggestion(tokenizer()) == name
    made = tokenizer()
    made.chat_template = None
    with pytest.raises(BadInput, match=f'Set data.chat_template="{name}"'):
        Renderer(tokenizer=made)


def test_a_template_whose_tokens_are_not_in_the_vocabulary_works_and_says_so(caplog):
    with caplog.at_level(logging.WARNING, "alignax"):
        renderer = Renderer(tokenizer=gpt2(), chat_template="chatml")
    assert "no <|im_start|> <|im_end|>, so the template chatml spends several tokens" in caplog.text
    assert "plain is the better choice" in caplog.text
    group = Group(prompt="Q", responses=("B",), scores=(0.0,))
    (example,), _ = tokenise([group], renderer, TokenLimits())
    # The marker is split to pieces and the answer ends with the one end that there is.
    b, end = (renderer.tokenizer.convert_tokens_to_ids(token) for token in ("B", EOS))
    assert example.responses.tolist() == [b, end]
    assert example.mask.all()
    caplog.clear()
    with caplog.at_level(logging.WARNING, "alignax"):
        Renderer(tokenizer=gpt2(), chat_template="plain")
    assert not caplog.text


def test_a_setting_is_a_name_a_file_or_the_template_itself(tmp_path):
    path, text = tmp_path / "mine.jinja", str(FAMILIES["llama 3"].tokenizer().chat_template)
    path.write_text(text)
    made = [
        Renderer(tokenizer=llama3_tokenizer(None), chat_template=value).render(PROMPT, ("B",))
        for value in (str(path), text, "llama3")
    ]
    assert made[0] == made[1] == made[2]


@pytest.mark.parametrize(
    ("value", "remedy"),
    [("chatlm", "Did you mean chatml?"), ("no/such.jinja", "Leave it out")],
)
def test_neither_a_name_nor_a_file_is_refused_with_the_names(value, remedy):
    with pytest.raises(BadInput) as caught:
        Renderer(tokenizer=gpt2(), chat_template=value)
    message = str(caught.value)
    assert message.startswith("data.chat_template: expected a chat template's name (chatml, llama3")
    assert f"got '{value}', which is no name and no file" in message
    assert remedy in message


OPEN = "{% for m in messages %}{{ m.role + ':' + m.content + '<|im_end|>' }}{% endfor %}"
BROKEN = {
    "does not parse": ("{% for m in messages %}{{ m.content }", "line 1 of the template"),
    "reaches into Python": ("{{ messages.__class__.__mro__ }}", "is unsafe"),
    "changes what it is given": ("{{ messages.append(1) }}", "is unsafe"),
    "fails in an operation": ("{{ 'a' + 1 }}", "can only concatenate str"),
    "counts without end": ("{% for i in range(999999999) %}{% endfor %}", "Range too big"),
    "calls what is not there": ("{{ nothing() }}", "'nothing' is undefined"),
    "leaves the answer out": ("{{ messages[0].content }}", "one that leaves it out: 'Question'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_template_that_works_for_nothing_is_refused_before_any_row(name):
    template, reason = BROKEN[name]
    with pytest.raises(BadInput) as caught:
        Renderer(tokenizer=chatml_tokenizer(), chat_template=template)
    assert not isinstance(caught.value, BadRow)  # no row is to blame, and dropping does not help
    message = str(caught.value)
    assert message.startswith("chat template: expected a chat template that renders")
    assert reason in message
    assert "Mend it, or give another as data.chat_template." in message


def test_a_template_that_writes_bos_twice_is_refused():
    doubled = "{{ bos_token }}{{ bos_token }}" + OPEN
    with pytest.raises(BadInput, match=r"BOS once; got <\|begin_of_text\|> twice in a row"):
        Renderer(tokenizer=llama3_tokenizer(doubled))


def test_a_row_that_a_template_fails_on_is_told_by_file_and_line_or_counted():
    # Works for most, and fails in an operation where a turn is long.
    fragile = OPEN + "{{ 1 // (0 if messages[-1].content | length > 20 else 1) and '' }}"
    renderer = Renderer(tokenizer=chatml_tokenizer(), chat_template=fragile)
    rows = [
        Group(prompt=prompt, responses=("B",), scores=(0.0,), origin=f"f:{i + 1}")
        for i, prompt in enumerate(("short", "long, and longer than that"))
    ]
    with pytest.raises(BadRow, match=r"f:2: expected a conversation that .* by user: .*by zero"):
        tokenise(rows, renderer, TokenLimits())
    kept, report = tokenise(rows, renderer, TokenLimits(), on_bad_row="drop")
    assert [example.origin for example in kept] == ["f:1"]
    assert report.dropped.counts == {"refused by the chat template": 1}
    assert report.dropped.places == {"refused by the chat template": ["f:2"]}


def test_what_the_template_is_told_is_part_of_what_prepared_data_depend_on():
    def renderer(**kwargs):
        tokenizer = FAMILIES["qwen 3"].tokenizer()
        return Renderer(tokenizer=tokenizer, chat_template_kwargs=kwargs)

    assert renderer().prompt("Q") + "<think>\n\n</think>\n\n" == renderer(
        enable_thinking=False
    ).prompt("Q")
    assert renderer_hash(renderer()) != renderer_hash(renderer(enable_thinking=False))


def test_one_of_several_templates_of_a_tokenizer_is_the_default_one():
    tokenizer = byte_level(IM, None, eos="<|im_end|>")
    tokenizer.chat_template = {"tool_use": "{{ 'no' }}", "default": OPEN}
    assert Renderer(tokenizer=tokenizer).prompt("Q") == "user:Q<|im_end|>"
