"""Groups to token ids: worked by hand, at and beyond every limit."""

import dataclasses
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from alignax.core.errors import BadInput
from alignax.core.lists import best_first
from alignax.core.pairs import chosen_first
from alignax.core.records import Group, Message, Preference, Ranking
from alignax.data.chat import Renderer
from alignax.data.sources import load_records
from alignax.data.tokenise import TokenLimits, TokenReport, tokenise
from tests.tiny import byte_ids, chatml_tokenizer, llama3_tokenizer

HH = Path(__file__).parents[2] / ".." / "shared" / "data" / "hh_helpful"
# A template short enough to count by hand: [1] content [2] newline, and [1] to ask.
SHORT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
NEWLINE = byte_ids("\n")


def short():
    return Renderer(tokenizer=chatml_tokenizer(SHORT))


def plain():
    return Renderer(tokenizer=llama3_tokenizer(), template="none")


def group(prompt="QQ", responses=("AAA", "B"), origin="f:1"):
    return Group(
        prompt=prompt, responses=responses, scores=(1.0, 0.0)[: len(responses)], origin=origin
    )


def one(group, renderer, **limits):
    examples, report = tokenise([group], renderer, TokenLimits(**limits))
    return (examples[0] if examples else None), report


def test_a_pair_is_worked_by_hand():
    example, report = one(group(), short())
    assert example.prompt.tolist() == [1, *byte_ids("QQ"), 2, *NEWLINE, 1]
    assert example.responses.tolist() == [*byte_ids("AAA"), 2, *byte_ids("B"), 2]
    assert example.response_lengths.tolist() == [4, 2]
    assert example.mask.all()
    assert example.scores.tolist() == [1.0, 0.0]
    assert [array.dtype for array in example[:5]] == [
        np.int32,
        np.int32,
        np.int32,
        bool,
        np.float32,
    ]
    assert (report.prompt_tokens, report.response_tokens, report.scored_tokens) == (6, 6, 6)
    assert report.longest == 10


def test_the_users_turns_in_a_response_are_not_scored():
    turns = (Message("assistant", "A"), Message("user", "B"), Message("assistant", "C"))
    example, _ = one(group(responses=(turns,)), short())
    # A end | newline [1] B end newline [1] | C end
    assert example.responses.tolist() == [
        *[*byte_ids("A"), 2],
        *[*NEWLINE, 1, *byte_ids("B"), 2, *NEWLINE, 1],
        *[*byte_ids("C"), 2],
    ]
    assert example.mask.tolist() == [True] * 2 + [False] * 6 + [True] * 2


def test_split_gives_each_response_its_own():
    example, _ = one(group(), short())
    assert [ids.tolist() for ids, _ in example.split()] == [
        [*byte_ids("AAA"), 2],
        [*byte_ids("B"), 2],
    ]


def test_without_template_eos_is_appended_once():
    example, _ = one(group(responses=("A", "A<|end_of_text|>")), plain())
    assert example.prompt.tolist() == [0, *byte_ids("QQ")]
    assert example.responses.tolist() == [*byte_ids("A"), 4, *byte_ids("A"), 4]
    assert example.mask.all()  # where to stop is learnt


def broken_off(*texts, **changes):
    return dataclasses.replace(group(**changes), cut=frozenset(texts))


def test_a_response_that_broke_off_has_no_end_of_turn_and_is_counted():
    example, report = one(broken_off("AAA"), short())
    assert example.responses.tolist() == [*byte_ids("AAA"), *byte_ids("B"), 2]
    assert example.response_lengths.tolist() == [3, 2]
    assert example.mask.all()
    assert example.ended.tolist() == [False, True]
    assert report.cut_off == 1
    assert str(report).endswith(
        "\n  answers that broke off before they ended: 1; no end of turn is taught behind them"
    )
    whole, report = one(group(), short())
    assert whole.ended is None
    assert "broke off" not in str(report)


def test_of_several_turns_the_last_one_broke_off():
    turns = (Message("assistant", "A"), Message("user", "B"), Message("assistant", "C"))
    example, _ = one(broken_off(turns, responses=(turns,)), short())
    # A end | newline [1] B end newline [1] | C
    assert example.responses.tolist()[-3:] == [*NEWLINE, 1, *byte_ids("C")]
    assert example.mask.tolist() == [True] * 2 + [False] * 6 + [True]


def test_without_template_no_eos_is_appended_to_what_broke_off():
    example, _ = one(broken_off("A", responses=("A", "B")), plain())
    assert example.responses.tolist() == [*byte_ids("A"), *byte_ids("B"), 4]


def test_an_empty_response_that_broke_off_teaches_nothing_and_is_dropped():
    examples, report = tokenise(
        [broken_off("", responses=("", "B"))], short(), TokenLimits(), empty=True
    )
    assert not examples
    assert str(report.dropped) == "1 response without a scored token (f:1 (6 + 2 tokens))"


def test_thoughts_that_a_template_forgets_are_counted():
    forgetful = SHORT.replace(
        "m['content']", "(m.reasoning_content or '' if loop.last else '') + m['content']"
    )
    renderer = Renderer(tokenizer=chatml_tokenizer(forgetful))
    thought = Message("assistant", "A", '{"reasoning_content": "So."}')
    prompt = (Message("user", "Q"), thought, Message("user", "Q"))
    _, report = one(group(prompt=prompt, responses=("A",)), renderer)
    assert report.forgotten == 1
    assert str(report).endswith("\n  earlier turns whose thoughts the chat template leaves out: 1")


def test_a_prompt_alone_is_an_example_without_responses():
    example, report = one(group(responses=()), short())
    assert example.response_lengths.shape == example.responses.shape == (0,)
    assert (report.kept, report.longest) == (1, 6)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_length": 9}, "prompt and response longer than max_length=9"),
        ({"max_prompt_length": 5}, "prompt longer than max_prompt_length=5"),
        ({"max_completion_length": 3}, "response longer than max_completion_length=3"),
    ],
)
def test_beyond_a_limit_a_group_is_dropped_counted_or_refused(limits, reason):
    # The prompt has 6 tokens and the longer response 4.
    example, report = one(group(), short(), **limits)
    assert example is None
    assert str(report.dropped) == f"1 {reason} (f:1 (6 + 4 tokens))"
    with pytest.raises(BadInput, match=rf"^f:1: .*got {reason} \(6 \+ 4 tokens\)"):
        one(group(), short(), overlong="refuse", **limits)


def test_at_the_limits_a_group_is_kept_whole():
    _, report = one(group(), short(), max_length=10, max_prompt_length=6, max_completion_length=4)
    assert (report.kept, report.share_lost) == (1, 0.0)


def test_a_cut_response_keeps_its_start_and_loses_its_end():
    example, report = one(group(), short(), max_length=8, overlong="cut")
    assert example.responses.tolist() == [*byte_ids("AA"), *byte_ids("B"), 2]
    assert example.response_lengths.tolist() == [2, 2]
    assert report.cut.total == 1
    example, _ = one(group(), short(), max_completion_length=1, overlong="cut")
    assert example.responses.tolist() == [*byte_ids("A"), *byte_ids("B")]


def test_a_rendered_prompt_is_never_cut():
    for limits in ({"max_length": 6}, {"max_prompt_length": 5}):
        example, report = one(group(), short(), overlong="cut", **limits)
        assert example is None
        assert "prompt that leaves no room for a response and cannot be cut" in str(report.dropped)


def test_a_plain_prompt_keeps_its_end_and_its_bos():
    # 1 + 8 prompt tokens and 4 of the response in a window of 10 leave the prompt 6: BOS and 5.
    example, report = one(group("ABCDEFGH", ("XYZ",)), plain(), max_length=10, overlong="cut")
    assert example.prompt.tolist() == [0, *byte_ids("DEFGH")]
    assert example.responses.tolist() == [*byte_ids("XYZ"), 4]
    assert report.cut.total == 1
    # A response longer than half the window leaves the prompt that half.
    example, _ = one(group("ABCDEFGH", ("X" * 20,)), plain(), max_length=10, overlong="cut")
    assert example.prompt.tolist() == [0, *byte_ids("EFGH")]
    assert example.responses.tolist() == byte_ids("XXXXX")


def test_a_response_without_a_scored_token_is_dropped_and_counted():
    example, report = one(group(responses=("A", "")), plain())
    assert example is None
    assert report.dropped.counts == {"response without a scored token": 1}


def compared(*responses, origin="f:1"):
    return dataclasses.replace(group(responses=responses, origin=origin), compared=True)


def test_responses_that_a_template_makes_equal_are_no_pair():
    llama = Renderer(tokenizer=llama3_tokenizer())  # its template trims
    pairs = [compared("yes", "yes\n"), compared("yes", "yes.", origin="f:2")]
    for overlong in ("drop", "cut", "refuse"):
        examples, report = tokenise(pairs, llama, TokenLimits(overlong=overlong))
        assert [example.origin for example in examples] == ["f:2"]
        assert report.dropped.counts == {"responses of the same tokens": 1}
        assert report.cut.total == 0


def test_responses_whose_difference_is_cut_off_are_no_pair():
    limits = TokenLimits(max_completion_length=2, overlong="cut")
    rows = [compared("AAB", "AAC"), compared("ABB", "ACC", origin="f:2")]
    examples, report = tokenise(rows, short(), limits)
    assert [example.origin for example in examples] == ["f:2"]
    assert report.dropped.counts == {"responses of the same tokens": 1}
    assert report.cut.counts == {"response longer than max_completion_length=2": 1}


def test_equal_responses_are_kept_beside_another_and_where_they_are_not_compared():
    three = dataclasses.replace(compared("A", "A", "B"), scores=(2.0, 1.0, 0.0))
    for kept in (three, group(responses=("A", "A")), compared("A")):
        assert tokenise([kept], short(), TokenLimits())[1].kept == 1


def test_pairs_and_lists_are_compared():
    pair = Preference(prompt="p", chosen="a", rejected="b")
    ranking = Ranking(prompt="p", responses=("a", "b"), scores=(1.0, 0.0))
    assert chosen_first(pair).compared
    assert best_first(ranking).compared


def test_what_cannot_be_rendered_is_refused_or_counted():
    groups = [group(), group("<|im_end|>", origin="f:2")]
    with pytest.raises(BadInput, match="f:2: expected text without the tokenizer's special"):
        tokenise(groups, short(), TokenLimits())
    examples, report = tokenise(groups, short(), TokenLimits(), on_bad_row="drop")
    assert len(examples) == 1
    assert str(report.dropped) == "1 special token in the text (f:2)"


def test_order_is_kept_over_chunks(monkeypatch):
    monkeypatch.setattr("alignax.data.tokenise.CHUNK", 3)
    groups = [group(prompt=letter, origin=letter) for letter in "ABCDEFGH"]
    examples, _ = tokenise(iter(groups), short(), TokenLimits())
    assert [example.origin for example in examples] == list("ABCDEFGH")
    assert [example.prompt[1] for example in examples] == byte_ids("ABCDEFGH")


def test_above_the_stated_share_the_report_refuses():
    groups = [group(), group(responses=("A" * 9, "B"), origin="f:2")]
    _, report = tokenise(groups, short(), TokenLimits(max_length=10))
    report.check(max_dropped_share=0.5)
    with pytest.raises(BadInput, match=r"50.0%: dropped 1, cut 0 of 2. First: f:2 \(6 \+ 10 tok"):
        report.check()


def test_a_report_survives_json():
    _, report = one(group(), short(), max_length=9)
    assert TokenReport.from_json(json.loads(json.dumps(dataclasses.asdict(report)))) == report
    assert "dropped: 1 prompt and response longer" in str(report)


@pytest.mark.skipif(not HH.is_dir(), reason="needs ../shared/data/hh_helpful")
def test_real_dialogues_decode_to_what_was_written():
    records, _ = load_records(str(HH), Preference, split="test")
    groups = [
        Group(prompt=pair.prompt, responses=(pair.chosen, pair.rejected), scores=(1.0, 0.0))
        for pair in records
    ]
    renderer = Renderer(tokenizer=chatml_tokenizer())
    examples, report = tokenise(groups, renderer, TokenLimits(max_length=8192))
    with gzip.open(HH / "test.jsonl.gz") as lines:
        rows = [json.loads(line) for line in lines]
    assert report.kept == len(rows) == 296
    for row, example in zip(rows, examples, strict=True):
        said = [renderer.tokenizer.decode(ids) for ids, _ in example.split()]
        assert said == [row[name][0]["content"] + "<|im_end|>" for name in ("chosen", "rejected")]
        assert example.mask.all()
