"""Every family's chat format, token by token as `apply_chat_template` of transformers has it.

What transformers marks as the assistant's (`{% generation %}`) is the reference for the mask.
"""

import itertools

import pytest

from alignax.core.records import Demonstration, Group, Message
from alignax.data.bad_rows import BadRow
from alignax.data.chat import Renderer
from alignax.data.forms import detect
from alignax.data.records import parse
from alignax.data.templates import NAMED
from alignax.data.tokenise import TokenLimits, tokenise
from tests.data.chat_families import FAMILIES, A, Family, Q, byte_level, gpt2
from tests.tiny import chatml_tokenizer, llama3_tokenizer, space_tokenizer

SYSTEM = {"role": "system", "content": "Be brief. the end"}
MORE = ({"role": "user", "content": "and  why is that?\nSay"},
        {"role": "assistant", "content": "Because:\n\n1. on the other hand."})  # fmt: skip
CONVERSATIONS = {
    "a question": ([Q], [A]),
    "after an answer": ([Q, A, MORE[0]], [MORE[1]]),
    "a system message": ([SYSTEM, Q], [A]),
    "a system message and an answer before": ([SYSTEM, Q, A, MORE[0]], [MORE[1]]),
    "an answer of two turns": ([Q], [A, *MORE]),
}
TOKENIZERS = {
    **{name: family.tokenizer for name, family in FAMILIES.items()},
    "gpt 2": gpt2,
    "tiny chatml": lambda: chatml_tokenizer(None),
    "tiny llama 3": lambda: llama3_tokenizer(None),
    "tiny llama 2": space_tokenizer,
}


def renderer_of(family: Family) -> Renderer:
    return Renderer(tokenizer=family.tokenizer(), chat_template_kwargs=family.options)


def messages(turns):
    return tuple(Message(**turn) for turn in turns)


def ours(renderer, prompt, answer):
    """Ids of the prompt, ids and mask of the response, as they are trained on."""
    group = Group(prompt=messages(prompt), responses=(messages(answer),), scores=(0.0,))
    (example,), _ = tokenise([group], renderer, TokenLimits())
    return example.prompt.tolist(), example.responses.tolist(), example.mask.tolist()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_text_is_what_the_models_were_published_with(name):
    family = FAMILIES[name]
    rendered = renderer_of(family).render(messages([Q]), (messages([A]),))
    assert rendered.prompt == family.asked
    assert "".join(part.text for part in rendered.responses[0]) == family.answered


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_and_mask_are_those_of_apply_chat_template(name, conversation):
    family, (prompt, answer) = FAMILIES[name], CONVERSATIONS[conversation]
    renderer = renderer_of(family)
    apply = renderer.tokenizer.apply_chat_template
    if SYSTEM in prompt and not family.system:
        with pytest.raises(BadRow, match="System role not supported"):
            ours(renderer, prompt, answer)
        return
    if len(answer) > 1 and not family.turns:
        with pytest.raises(BadRow, match="rewrites earlier turns"):
            ours(renderer, prompt, answer)
        return
    prompt_ids, response, mask = ours(renderer, prompt, answer)
    asked = apply(prompt, tokenize=True, add_generation_prompt=True, **family.options)
    assert prompt_ids == asked["input_ids"]
    whole = apply(
        prompt + answer,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        **family.options,
    )
    start, stop = len(prompt_ids), len(prompt_ids) + len(response)
    assert prompt_ids + response == whole["input_ids"][:stop]
    assert mask == [bool(x) for x in whole["assistant_masks"][start:stop]]
    assert not any(whole["assistant_masks"][stop:])  # what is left out is nobody's answer
    assert mask[-1]
    assert response[-1] in renderer.end_ids


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if not family.turns])
def test_a_conversation_that_is_rewritten_is_learnt_from_by_its_last_answer(name):
    row, renderer = {"messages": [Q, A, *MORE]}, renderer_of(FAMILIES[name])
    with pytest.raises(BadRow, match=r"for SFT data.scored_turns='last' does"):
        ours(renderer, [Q], [A, *MORE])
    record = parse(row, detect(row, Demonstration, scored_turns="last"), "f:1")
    group = Group(prompt=record.prompt, responses=(record.response,), scores=(0.0,))
    (example,), _ = tokenise([group], renderer, TokenLimits())
    theirs = renderer.tokenizer.apply_chat_template(
        row["messages"], tokenize=True, **FAMILIES[name].options
    )["input_ids"]
    mine = [*example.prompt.tolist(), *example.responses.tolist()]
    assert mine == theirs[: len(mine)]
    assert example.mask.all()


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.turns])
def test_every_answer_of_several_turns_has_its_end_of_turn_scored(name):
    renderer = renderer_of(FAMILIES[name])
    _, response, mask = ours(renderer, [Q], [A, *MORE])
    last_of_run = [i for i, m in enumerate(mask) if m and not (*mask, False)[i + 1]]
    assert len(last_of_run) == 2
    assert all(response[i] in renderer.end_ids for i in last_of_run)


def test_a_newline_that_would_grow_into_the_header_stays_with_the_answer():
    # "assistant\n" and "\nYes": in one text "\n\n" is one token, but a model that is asked has
    # the header's newline before it, and answers with one of its own.
    renderer = renderer_of(FAMILIES["qwen 2.5"])
    newline = renderer.tokenizer.convert_tokens_to_ids("Ċ")
    prompt, response, _ = ours(renderer, [Q], [{"role": "assistant", "content": "\nYes"}])
    assert prompt[-1] == newline
    assert response[0] == newline
    asked = renderer.tokenizer.apply_chat_template([Q], add_generation_prompt=True)["input_ids"]
    assert prompt == asked


# --- BOS and EOS once


@pytest.mark.parametrize(
    ("tokenizer", "name"),
    [*((name, None) for name in FAMILIES), *itertools.product(TOKENIZERS, NAMED)],
)
def test_no_template_and_no_tokenizer_write_bos_or_an_end_twice(tokenizer, name):
    made = TOKENIZERS[tokenizer]()
    options = FAMILIES[tokenizer].options if tokenizer in FAMILIES else {}
    renderer = Renderer(tokenizer=made, chat_template=name, chat_template_kwargs=options)
    prompt, response, mask = ours(renderer, [Q, A, MORE[0]], [MORE[1]])
    ids = prompt + response
    for a, b in itertools.pairwise(ids):
        assert not a == b == made.bos_token_id
        assert not (a in renderer.end_ids and b in renderer.end_ids)
    adds = bool(made("a")["input_ids"][:1] == [made.bos_token_id])
    if adds:
        assert ids[0] == made.bos_token_id
        assert made.bos_token_id not in response
    assert ids[-1] in renderer.end_ids
    assert mask[-1]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("place", ["prompt", "response"])
def test_bos_or_an_end_written_in_a_text_is_refused(place, tokenizer):
    made = TOKENIZERS[tokenizer]()
    own = {} if made.chat_template else {"chat_template": "plain"}
    options = FAMILIES[tokenizer].options if tokenizer in FAMILIES else {}
    renderer = Renderer(tokenizer=made, chat_template_kwargs=options, **own)
    for token in filter(None, (made.bos_token, made.eos_token)):
        bad = {"role": "user", "content": f"{token}Well"}
        turns = ([bad], [A]) if place == "prompt" else ([Q], [bad | {"role": "assistant"}])
        with pytest.raises(BadRow, match="without the tokenizer's special tokens"):
            ours(renderer, *turns)


def test_an_end_of_turn_that_is_not_marked_as_special_is_found_and_refused_in_texts():
    template = "{% for m in messages %}{{ m.role + '\n' + m.content + '<end>\n' }}{% endfor %}"
    template += "{% if add_generation_prompt %}{{ 'assistant\n' }}{% endif %}"
    made = byte_level(("<eos>",), template, eos="<eos>", added=("<end>",))
    renderer = Renderer(tokenizer=made)
    end = made.convert_tokens_to_ids("<end>")
    assert ours(renderer, [Q], [A])[1][-1] == end
    assert end in renderer.end_ids
    with pytest.raises(BadRow, match="got <end> in a turn of the user"):
        ours(renderer, [Q | {"content": "say <end>"}], [A])


@pytest.mark.parametrize(
    ("prompt", "response", "message"),
    [
        ("<|begin_of_text|><|begin_of_text|>A", "B", "twice <|begin_of_text|> at the start"),
        ("A", "<|begin_of_text|>B", "got one that begins with <|begin_of_text|>"),
        ("A", "B<|end_of_text|><|end_of_text|>", "twice <|end_of_text|> at the end"),
    ],
)
def test_plain_strings_with_bos_or_an_end_twice_are_refused(prompt, response, message):
    renderer = Renderer(tokenizer=llama3_tokenizer(), template="none")
    with pytest.raises(BadRow) as caught:
        renderer.render(prompt, (response,), "f:3")
    assert message in str(caught.value)
    assert str(caught.value).startswith("f:3: ")


@pytest.mark.parametrize("prompt", ["A", "<|begin_of_text|>A"])
@pytest.mark.parametrize("response", ["B", "B<|end_of_text|>"])
def test_plain_strings_get_one_bos_and_one_end_whether_they_have_them_or_not(prompt, response):
    renderer = Renderer(tokenizer=llama3_tokenizer(), template="none")
    group = Group(prompt=prompt, responses=(response,), scores=(0.0,))
    (example,), _ = tokenise([group], renderer, TokenLimits())
    # Ids: BOS 0, "A" 70, "B" 71, <|end_of_text|> 4.
    assert (example.prompt.tolist(), example.responses.tolist()) == ([0, 70], [71, 4])
