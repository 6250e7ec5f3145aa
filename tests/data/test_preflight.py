"""Preflight: every silent token error is found, named and placed."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from alignax.core.errors import BadInput
from alignax.core.records import Group, Message, Preference
from alignax.data.builder import prepare
from alignax.data.chat import Renderer
from alignax.data.preflight import (
    check_prompts,
    check_tokens,
    check_vocabulary,
    preflight,
    show,
    table,
)
from alignax.data.prompts import load_prompts, unanswered
from alignax.data.tokenise import TokenLimits, tokenise
from tests.tiny import byte_ids, chatml_tokenizer, llama3_tokenizer

A, B = byte_ids("AB")
LIMITS = TokenLimits()


def llama():
    return Renderer(tokenizer=llama3_tokenizer())


def good(renderer, responses=("A", "B"), limits=LIMITS):
    group = Group(prompt="Q", responses=responses, scores=(1.0, 0.0), origin="f:7")
    (example,), _ = tokenise([group], renderer, limits)
    return example


def check(example, renderer, limits=LIMITS, vocab_size=300):
    return check_tokens([example], renderer, limits, vocab_size=vocab_size)


def ints(*ids):
    return np.array(ids, np.int32)


def test_good_tokens_pass_every_check():
    for renderer in (llama(), Renderer(tokenizer=chatml_tokenizer())):
        assert len(check(good(renderer), renderer)) == 5


def test_a_second_bos_is_found():
    example = good(llama())
    doubled = example._replace(prompt=np.concatenate([ints(0), example.prompt]))
    with pytest.raises(BadInput, match=r"^f:7: expected exactly one BOS.* two of them in a row: "):
        check(doubled, llama())


def test_a_bos_twice_in_a_row_is_found_where_it_may_open_every_turn():
    example = good(Renderer(tokenizer=chatml_tokenizer()))
    doubled = example._replace(prompt=np.concatenate([ints(1), example.prompt]))
    with pytest.raises(BadInput, match=r"two of them in a row: '<\|im_start\|><\|im_start\|>"):
        check(doubled, Renderer(tokenizer=chatml_tokenizer()))


def test_a_missing_bos_is_found():
    example = good(llama())
    with pytest.raises(BadInput, match=r"got 0 of them where 1 should be: '<\|start_header_id\|>"):
        check(example._replace(prompt=example.prompt[1:]), llama())


def test_a_bos_inside_a_response_is_found():
    example = good(llama())
    stray = example._replace(responses=ints(0, 1, B, 1))
    with pytest.raises(BadInput, match="2 of them where 1 should be"):
        check(stray, llama())


def test_a_bos_that_opens_every_turn_is_said_to_be_unchecked():
    renderer = Renderer(tokenizer=chatml_tokenizer())
    first = check(good(renderer), renderer)[0]
    assert first.found == "none twice in a row; <|im_start|> also opens or ends turns"


@pytest.mark.parametrize(
    ("responses", "mask", "message"),
    [
        ((A, A, B, 1), (1, 1, 1, 1), r"of every response; got none at the end: 'AA'"),
        ((A, 1, B, 1), (1, 0, 1, 1), r"got one that is not scored: 'A<\|eot_id\|>'"),
        ((1, 4, B, 1), (1, 1, 1, 1), r"got more than one: '<\|eot_id\|><\|end_of_text\|>'"),
        ((A, 1, B, 1), (1, 1, 0, 0), r"scored tokens in every response.*got a response without"),
        ((A, 1, B, 1), (1, 1, 1), r"got 4 tokens, 3 of mask, 2 scores"),
    ],
)
def test_a_wrong_end_or_mask_is_found(responses, mask, message):
    example = good(llama())
    bad = example._replace(responses=ints(*responses), mask=np.array(mask, bool))
    with pytest.raises(BadInput, match=rf"^f:7: .*{message}"):
        check(bad, llama())


def test_a_cut_response_may_lack_its_end_and_no_other():
    size = len(good(llama()).prompt)
    limits = TokenLimits(max_length=size + 3, overlong="cut")
    example = good(llama(), ("AAAAAA", "B"), limits)
    assert example.responses.tolist() == [A, A, A, B, 1]
    check(example, llama(), limits)
    with pytest.raises(BadInput, match="none at the end"):
        check(example, llama(), TokenLimits(max_length=size + 4, overlong="cut"))


def test_a_response_that_broke_off_lacks_its_end_and_another_may_not():
    group = Group(prompt="Q", responses=("A", "B"), scores=(1.0, 0.0), origin="f:7",
                  cut=frozenset("B"))  # fmt: skip
    (example,), _ = tokenise([group], llama(), LIMITS)
    assert example.responses.tolist() == [A, 1, B]
    check(example, llama())
    for ended in (None, np.array([False, True])):
        with pytest.raises(BadInput, match="none at the end"):
            check(example._replace(ended=ended), llama())
    assert "response 2, 1 tokens, 1 scored, broke off, score 0" in text_of(show(example, llama()))


def test_a_cut_may_fall_on_the_end_of_a_users_turn():
    answer = (Message("assistant", "A"), Message("user", "B"), Message("assistant", "A"))
    whole = good(llama(), (answer, "B"))
    users = np.flatnonzero(whole.responses == 1)[1] + 1  # tokens up to the end of that turn
    assert not whole.mask[users - 1]
    limits = TokenLimits(max_length=len(whole.prompt) + int(users), overlong="cut")
    cut = good(llama(), (answer, "B"), limits)
    assert cut.response_lengths[0] == users
    check(cut, llama(), limits)
    with pytest.raises(BadInput, match="one that is not scored"):
        check(cut, llama())


def test_ends_inside_a_conversation_are_no_second_ends():
    answer = (Message("assistant", "A"), Message("user", "B"), Message("assistant", "A"))
    check(good(llama(), (answer, "B")), llama())


def test_an_empty_prompt_or_response_is_found():
    example = good(llama())
    empty = example._replace(response_lengths=ints(0, 4))
    with pytest.raises(BadInput, match=r"no empty prompt or response; got 21 and .0, 4. tokens"):
        check(empty, llama())
    renderer = Renderer(tokenizer=chatml_tokenizer(), template="none")
    with pytest.raises(BadInput, match="no empty prompt"):
        check(good(renderer)._replace(prompt=ints()), renderer)


def test_an_id_beyond_the_vocabulary_is_found():
    renderer = Renderer(tokenizer=chatml_tokenizer(), template="none")
    beyond = good(renderer)._replace(prompt=ints(5))  # "B" is 71, one past the last row
    with pytest.raises(
        BadInput, match=r"ids \[71\] for 71 rows: 'B'.\n    Use the model's own tok"
    ):
        check(beyond, renderer, vocab_size=71)


def prompts_of(folder, renderer, *texts):
    source = folder / "p.jsonl"
    source.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return load_prompts(str(source), renderer, ask=lambda prompt: prompt, max_length=99)


def test_every_prompt_is_checked_for_ids_beyond_the_vocabulary(tmp_path):
    renderer = Renderer(tokenizer=chatml_tokenizer(), template="none")
    prompts = prompts_of(tmp_path, renderer, *["A"] * 500, "B", *["A"] * 500)
    check_prompts(prompts, renderer, vocab_size=72)
    with pytest.raises(BadInput) as refused:
        check_prompts(prompts, renderer, vocab_size=71)
    assert str(refused.value) == (
        "p.jsonl:501: expected every token id within the model's vocabulary; got ids [71] for 71 "
        "rows: 'B'.\n    Use the model's own tokenizer, or enlarge its embedding."
    )


def test_an_end_of_turn_beyond_the_vocabulary_is_found_though_no_prompt_has_it():
    ends = {"template": "none", "extra_end_ids": (300,)}
    renderer = Renderer(tokenizer=chatml_tokenizer(), **ends)
    check_vocabulary([unanswered(ints(A))], renderer, vocab_size=301)
    with pytest.raises(BadInput, match=r"^expected every token id within .*; got ids \[300\] for "
                       r"300 rows, which end a turn: '<300\?>'\."):  # fmt: skip
        check_vocabulary([unanswered(ints(A))], renderer, vocab_size=300)


def test_a_bos_inside_a_prompt_is_found_before_it_is_answered(tmp_path):
    renderer = Renderer(tokenizer=llama3_tokenizer(), template="none")
    check_prompts(prompts_of(tmp_path, renderer, "A"), renderer, vocab_size=300)
    prompts = prompts_of(tmp_path, renderer, "A", "A<|begin_of_text|>B")
    with pytest.raises(BadInput, match=r"^p.jsonl:2: expected exactly one BOS .*; got 2 of them "
                       "where 1 should be"):  # fmt: skip
        check_prompts(prompts, renderer, vocab_size=300)


def test_a_prepared_data_set_is_checked_and_tabled(tmp_path):
    source = tmp_path / "pairs.jsonl"
    row = {"prompt": "Q", "chosen": "A", "rejected": "B"}
    source.write_text(f"{json.dumps(row)}\n" * 9)
    prepared = prepare(
        str(source),
        lambda pair: Group(
            prompt=pair.prompt, responses=(pair.chosen, pair.rejected), scores=(1.0, 0.0)
        ),
        Preference,
        llama(),
        LIMITS,
        grouping="pair",
        cache_dir=tmp_path / "cache",
    )
    checks = preflight(prepared, llama(), vocab_size=300, sample=4)
    assert checks[1].found == "4 of 4 examples"
    assert checks[-1].found == "0.0% of 9: dropped 0, cut 0"
    printed = text_of(table(checks))
    assert "✓ no empty prompt or response" in printed
    with pytest.raises(BadInput, match="every token id within the model's vocabulary"):
        preflight(prepared, llama(), vocab_size=100)


def test_an_example_is_shown_token_by_token():
    answer = (Message("assistant", "é"), Message("user", "A"), Message("assistant", "B"))
    printed = text_of(show(good(llama(), (answer, "B")), llama()))
    assert printed.startswith("f:7\nprompt, 21 tokens\n<|begin_of_text|>¦<|start_header_id|>¦")
    # Half of a character is shown in the tokenizer's own letters: é is the bytes C3 A9.
    assert "Ã│©│<|eot_id|>│" in printed
    assert "⏎¦\n" in printed  # the bar ends the token's own line
    assert "response 2, 2 tokens, 2 scored, score 0\nB│<|eot_id|>│" in printed


def test_scored_tokens_have_a_colour_of_their_own():
    answer = (Message("assistant", "A"), Message("user", "B"), Message("assistant", "A"))
    (*_, response) = show(good(llama(), (answer,)), llama()).renderables
    styles = {response.plain[span.start : span.end]: str(span.style) for span in response.spans}
    assert styles["A"] == "bold green"
    assert styles["B"] == "yellow"
    assert styles["<|eot_id|>"] in ("bold green reverse", "yellow reverse")


def text_of(renderable) -> str:
    out = io.StringIO()
    Console(file=out, width=120).print(renderable)
    return out.getvalue()
