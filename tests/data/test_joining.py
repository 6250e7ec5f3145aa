"""Sampled ids as text: what ended a response is no part of it, a space it begins with may be."""

import pytest
from tokenizers import decoders

from alignax.data.chat import Renderer
from alignax.generate.reward_rules import Match
from tests.tiny import byte_ids, llama3_tokenizer, space_tokenizer

EOT = 1  # <|eot_id|>


@pytest.mark.parametrize("special", [True, False])
def test_the_token_that_ended_a_response_is_not_in_its_text(special):
    renderer = Renderer(tokenizer=llama3_tokenizer(special_end=special))
    yes = byte_ids("YES")
    assert EOT in renderer.end_ids
    assert EOT in renderer.continuation_ids(["A<|eot_id|>"])[0]
    texts = renderer.texts([[*yes, EOT], yes, [EOT], []])
    assert texts == ["YES", "YES", "", ""]
    assert Match(pattern="YES", full=True)(["Is it?"], texts[:1]) == [1.0]
    (answer,) = renderer.render("Is it?", texts[:1]).responses  # no special token stands in it
    assert answer[-1].text == "YES<|eot_id|>"


def test_an_end_that_the_generation_config_names_is_not_in_the_text_either():
    (stop,) = byte_ids(";")
    renderer = Renderer(tokenizer=llama3_tokenizer(), extra_end_ids=(stop,))
    # Only the last: a response goes on behind an end where several turns are learnt from.
    assert renderer.texts([[*byte_ids("A;B"), stop], byte_ids("A;B")]) == ["A;B", "A;B"]


@pytest.mark.parametrize(
    "decoder",
    [
        decoders.Sequence([
            decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]),
        decoders.Metaspace(),
    ],
    ids=["llama 2", "metaspace"],
)  # fmt: skip
def test_as_plain_text_a_response_keeps_the_space_that_sets_it_apart_from_its_prompt(decoder):
    tokenizer = space_tokenizer()
    tokenizer.backend_tokenizer.decoder = decoder
    ids = tokenizer.get_vocab()
    apart, joined = [ids["▁b"], ids["a"], 2], [ids["b"], ids["a"]]
    plain = Renderer(tokenizer=tokenizer, template="none")
    assert plain.texts([apart, joined, [2], []]) == [" ba", "ba", "", ""]
    assert plain.continuation_ids([" ba", "ba"]) == [apart[:-1], joined]  # and back again
    chat = Renderer(tokenizer=tokenizer, chat_template="plain")
    assert chat.texts([apart, joined]) == ["ba", "ba"]


def test_bytes_that_are_no_letter_yet_do_not_change_with_what_is_put_before_them():
    tokenizer = llama3_tokenizer()
    half = byte_ids("é")[1:]
    for template in ("chat", "none"):
        renderer = Renderer(tokenizer=tokenizer, template=template)
        assert renderer.texts([[*half, *byte_ids("A")], byte_ids(" É")]) == ["\ufffdA", " É"]
