"""Rows that were dropped as bad count among what is lost; what a method left out does not."""

import json

import pytest

from alignax.core.errors import BadInput
from alignax.core.records import Demonstration, Group, LeftOut
from alignax.data.builder import prepare
from alignax.data.chat import Renderer
from alignax.data.preflight import preflight
from alignax.data.prompts import load_prompts
from alignax.data.tokenise import TokenLimits
from tests.tiny import chatml_tokenizer

GOOD, BAD = {"prompt": "p", "completion": "x"}, {"prompt": "p", "completion": ""}


def demonstration(record):
    if record.response == "useless":
        raise LeftOut("useless")
    return Group(prompt=record.prompt, responses=(record.response,), scores=(0.0,),
                 origin=record.origin)  # fmt: skip


@pytest.fixture
def make(tmp_path):
    def make(*rows, **settings):
        source = tmp_path / "a.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return prepare(
            str(source),
            demonstration,
            Demonstration,
            Renderer(tokenizer=chatml_tokenizer()),
            TokenLimits(max_length=120),
            grouping="demonstration",
            cache_dir=tmp_path / "cache",
            on_bad_row="drop",
            **settings,
        )

    return make


def test_nineteen_bad_rows_of_twenty_are_refused_at_first_and_from_the_cache(make):
    rows = [GOOD] + 19 * [BAD]
    assert len(make(*rows, max_dropped_share=0.95)) == 1
    for _ in range(2):
        with pytest.raises(BadInput) as error:
            make(*rows)
        assert str(error.value) == (
            "expected at most 10.0% of the data to be dropped or cut; got 95.0%: bad rows 19, "
            "dropped 0, cut 0 of 20. First: a.jsonl:2: empty field.\n"
            "    Mend the rows, raise max_length, shorten the data, or raise max_dropped_share."
        )


def test_bad_rows_and_groups_that_are_too_long_are_added_up(make):
    # One bad row and one long group of ten: a fifth is lost, of which neither alone is more than
    # a tenth.
    rows = [BAD, {"prompt": "p", "completion": "x" * 99}, *8 * [GOOD]]
    with pytest.raises(BadInput, match=r"20.0%: bad rows 1, dropped 1, cut 0 of 10. First: a.jsonl:"
                       r"1: empty field; a.jsonl:2 \("):  # fmt: skip
        make(*rows)
    prepared = make(*rows, max_dropped_share=0.2)
    last = preflight(prepared, Renderer(tokenizer=chatml_tokenizer()), vocab_size=1000)[-1]
    assert last.found == "20.0% of 10: bad rows 1, dropped 1, cut 0"


def test_what_a_method_leaves_out_is_not_lost(make):
    rows = [GOOD, *9 * [{"prompt": "p", "completion": "useless"}]]
    assert len(make(*rows, max_dropped_share=0.0)) == 1


def test_bad_rows_among_prompts_are_counted(tmp_path):
    source = tmp_path / "a.jsonl"
    rows = [{"prompt": "p"}, {"prompt": ""}, {"prompt": "q" * 50}, {"prompt": "r"}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def load(share):
        return load_prompts(
            str(source),
            Renderer(tokenizer=chatml_tokenizer()),
            ask=lambda prompt: prompt,
            max_length=120,
            on_bad_row="drop",
            max_dropped_share=share,
        )

    assert len(load(0.5)) == 2
    with pytest.raises(BadInput) as error:
        load(0.49)
    assert str(error.value).startswith(
        f"{source}: expected at most 49.0% of the prompts to be dropped; got 2 of 4: 1 empty field "
        "(a.jsonl:2); 1 prompt longer than 120 tokens (a.jsonl:3 ("
    )
    assert "Mend the rows, or raise data.limits.max_length, lower" in str(error.value)
