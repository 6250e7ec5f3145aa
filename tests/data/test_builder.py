"""Prepared data sets: what is written is read back, once made it is found, and never half made."""

import dataclasses
import hashlib
import json
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import grain
import numpy as np
import pytest

from alignax.core import drafts
from alignax.core.errors import BadInput
from alignax.core.records import Demonstration, Group, Preference
from alignax.data import builder
from alignax.data import prepared as stored
from alignax.data.builder import prepare, token_counts
from alignax.data.chat import Renderer, renderer_hash
from alignax.data.preflight import preflight
from alignax.data.prepared import Prepared
from alignax.data.tokenise import Example, TokenLimits, tokenise
from tests.tiny import SMOLLM2_TEMPLATE, chatml_tokenizer

ROWS = [{"prompt": f"Q{i}", "chosen": "A" * (i + 1), "rejected": "B"} for i in range(40)]


def pair(record):
    return Group(
        prompt=record.prompt,
        responses=(record.chosen, record.rejected),
        scores=(1.0, 0.0),
        origin=record.origin,
    )


@pytest.fixture
def make(tmp_path):
    """Prepares the rows, with any setting changed."""
    source = tmp_path / "pairs.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    def make(**changes) -> Prepared:
        settings = {
            "source": str(source),
            "group": pair,
            "record_type": Preference,
            "renderer": Renderer(tokenizer=chatml_tokenizer()),
            "limits": TokenLimits(),
            "grouping": "pair",
            "cache_dir": tmp_path / "cache",
        }
        return prepare(**{**settings, **changes})

    make.source = source
    return make


def same(a: Example, b: Example) -> bool:
    arrays = all(
        x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(a[:5], b[:5], strict=True)
    )
    return arrays and a.origin == b.origin


def expected() -> list[Example]:
    groups = [
        Group(
            prompt=row["prompt"],
            responses=(row["chosen"], row["rejected"]),
            scores=(1.0, 0.0),
            origin=f"pairs.jsonl:{i}",
        )
        for i, row in enumerate(ROWS, start=1)
    ]
    return tokenise(groups, Renderer(tokenizer=chatml_tokenizer()), TokenLimits())[0]


def test_what_is_read_back_is_what_was_tokenised_in_order(make):
    prepared = make()
    assert len(prepared) == len(ROWS)
    assert all(same(prepared[i], example) for i, example in enumerate(expected()))
    assert same(prepared[-1], expected()[-1])
    with pytest.raises(IndexError, match="example 40 of 40"):
        prepared[40]


@pytest.mark.parametrize("room", ["enough", "too little"])
def test_what_was_read_stays_in_memory_where_the_whole_data_set_may(make, monkeypatch, room):
    prepared = make()
    bytes_ = 5 * int(prepared.lengths.total.sum()) + 1536 * len(prepared)
    monkeypatch.setattr(stored, "MOST_BYTES", bytes_ - (room == "too little"))
    first = [prepared[i] for i in range(40)]
    again = [prepared[i] for i in range(40)]
    assert all(same(a, b) for a, b in zip(again, expected(), strict=True))
    assert [a is b for a, b in zip(first, again, strict=True)] == [room == "enough"] * 40
    assert same(pickle.loads(pickle.dumps(prepared))[3], first[3])


def test_which_answers_broke_off_is_read_back_and_passes_the_checks(make):
    rows = [ROWS[0] | {"ended": [True, False]}, *ROWS[1:]]
    make.source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepared = make()
    assert prepared[0].ended.tolist() == [True, False]
    assert prepared[1].ended is None
    assert prepared.tokens.cut_off == 1
    assert "ended" in prepared.records.columns
    renderer = Renderer(tokenizer=chatml_tokenizer())
    preflight(prepared, renderer, vocab_size=300)
    assert prepared[0].responses.tolist()[-1] not in renderer.end_ids


def by_what_it_was_made_from(prepared):
    notes = json.loads((prepared.directory / "notes.json").read_text())["depends_on"]
    return hashlib.sha256(json.dumps(notes, sort_keys=True).encode()).hexdigest()


def test_a_run_knows_its_data_by_their_tokens_and_not_by_how_these_are_stored(make, monkeypatch):
    first = make()
    assert first.fingerprint == by_what_it_was_made_from(first)
    monkeypatch.setattr(builder, "FORMAT", builder.FORMAT + 1)
    again = make()
    assert again.directory != first.directory
    assert again.fingerprint == first.fingerprint
    monkeypatch.setattr(builder, "TOKENS", builder.TOKENS + 1)
    assert make().fingerprint != first.fingerprint


def test_where_answers_broke_off_data_are_others_than_those_that_were_taught_an_end(make):
    rows = [ROWS[0] | {"ended": [True, False]}, *ROWS[1:]]
    make.source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepared, found = make(), make()
    assert prepared.fingerprint != by_what_it_was_made_from(prepared)
    assert found == prepared  # from the disk
    judged = make(judged=True)  # whole turns, as a reward model is asked about
    assert judged.fingerprint == by_what_it_was_made_from(judged)
    assert judged.directory != prepared.directory
    assert judged[0].ended is None
    assert judged[0].responses[-1] in Renderer(tokenizer=chatml_tokenizer()).end_ids


def test_a_second_call_tokenises_nothing_and_prints_the_same(make, monkeypatch):
    first = make()
    monkeypatch.setattr(builder, "load_records", None)
    monkeypatch.setattr(builder, "tokenise", None)
    second = make()
    assert second == first
    assert str(second) == str(first)
    assert "rows: 40; records: 40" in str(second)


def test_what_a_killed_process_left_goes_also_where_the_data_are_there_already(make, tmp_path):
    made = make()
    (tmp_path / "cache" / f"{drafts.OWN}left").mkdir()
    make()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [made.directory.name]


def test_nothing_is_printed_and_tensorflow_stays_out(make, capfd):
    make()[0]
    assert capfd.readouterr() == ("", "")
    assert "tensorflow" not in sys.modules


def test_lengths_are_those_of_the_examples(make):
    # 84 prompt tokens would depend on merges; lengths must equal what is stored, hand or not.
    lengths = make().lengths
    assert lengths.response[:3].tolist() == [[2, 2], [3, 2], [4, 2]]
    assert lengths.scored.tolist() == lengths.response.tolist()
    assert lengths.prompt.tolist() == [len(example.prompt) for example in expected()]


def test_absent_responses_count_zero():
    def example(*lengths):
        total = sum(lengths)
        return Example(
            prompt=np.zeros(3, np.int32),
            responses=np.zeros(total, np.int32),
            response_lengths=np.array(lengths, np.int32),
            mask=np.arange(total) > 0,
            scores=np.zeros(len(lengths), np.float32),
            origin="",
        )

    lengths = token_counts([example(2, 5, 1), example(4)])
    assert lengths.prompt.tolist() == [3, 3]
    assert lengths.response.tolist() == [[2, 5, 1], [4, 0, 0]]
    assert lengths.scored.tolist() == [[1, 5, 1], [3, 0, 0]]


def test_threads_may_share_it(make):
    prepared = make()
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(prepared.__getitem__, [*range(40)] * 5))
    assert all(same(a, b) for a, b in zip(read, expected() * 5, strict=True))


def test_a_pickled_copy_reads_the_same_files(make):
    prepared = make()
    prepared[0]
    packed = pickle.dumps(prepared)
    assert len(packed) < 1000  # no open file and no array travels
    assert same(pickle.loads(packed)[7], expected()[7])


def test_grain_reads_it_as_a_source(make):
    data = grain.MapDataset.source(make()).shuffle(seed=0).map(lambda example: example.origin)
    assert sorted(data) == sorted(example.origin for example in expected())


@pytest.mark.parametrize(
    "changes",
    [
        {"grouping": "other"},
        {"limits": TokenLimits(max_length=1000)},
        {"limit": 10},
        {"on_bad_row": "drop"},
        {"scored_turns": "last"},
        {"columns": {"chosen": "rejected", "rejected": "chosen"}},
        {"renderer": Renderer(tokenizer=chatml_tokenizer(), template="none")},
        {"renderer": Renderer(tokenizer=chatml_tokenizer(), extra_end_ids=(0,))},
        {"renderer": Renderer(tokenizer=chatml_tokenizer(SMOLLM2_TEMPLATE.replace("AI ", "")))},
    ],
)
def test_whatever_tokens_depend_on_changes_the_fingerprint(make, changes):
    assert make().fingerprint != make(**changes).fingerprint


def test_the_content_of_the_source_changes_the_fingerprint(make):
    before = make().fingerprint
    make.source.write_text(make.source.read_text() + json.dumps(ROWS[0]) + "\n")
    assert make().fingerprint != before


def test_the_record_type_changes_the_fingerprint(make):
    def demonstration(record):
        return Group(prompt=record.prompt, responses=(record.response,), scores=(0.0,))

    other = make(record_type=Demonstration, group=demonstration)
    assert other.fingerprint != make().fingerprint


def test_earlier_use_of_a_tokenizer_does_not_change_its_hash():
    renderer = Renderer(tokenizer=chatml_tokenizer())
    before = renderer_hash(renderer)
    renderer.tokenizer(["a", "bcd"], padding=True, truncation=True, max_length=2)
    assert renderer_hash(renderer) == before


def test_too_much_lost_is_refused_at_first_and_again_from_the_cache(make):
    limits = TokenLimits(max_completion_length=20)  # 21 of 40 chosen responses are longer
    assert make(limits=limits, max_dropped_share=0.6).tokens.dropped.total == 21
    for _ in range(2):
        with pytest.raises(BadInput, match=r"at most 10.0% .*First: pairs.jsonl:20 \("):
            make(limits=limits)


def test_a_data_set_without_a_group_in_the_limits_is_refused(make):
    with pytest.raises(BadInput, match="at least one group within the limits"):
        make(limits=TokenLimits(max_length=5), max_dropped_share=1.0)


def test_dialogues_are_turns_for_a_template_and_text_without_one(make):
    row = {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": " A", "rejected": " B"}
    make.source.write_text(json.dumps(row) + "\n")
    tokenizer = chatml_tokenizer()
    chat = make(renderer=Renderer(tokenizer=tokenizer))
    assert "dialogues of Human and Assistant, read as turns" in str(chat)
    assert tokenizer.decode(chat[0].prompt).endswith("user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.decode(chat[0].responses) == "A<|im_end|>B<|im_end|>"
    plain = make(renderer=Renderer(tokenizer=tokenizer, template="none"))
    assert "preference, plain text, explicit prompt" in str(plain)
    assert tokenizer.decode(plain[0].prompt) == row["prompt"]


def test_the_report_says_that_plain_text_is_rendered_as_chat(make):
    assert "preference, plain text, rendered as chat, explicit prompt" in str(make())


def test_a_failure_leaves_nothing_behind(make, monkeypatch, tmp_path):
    monkeypatch.setattr(builder, "token_counts", lambda examples: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make()
    assert list((tmp_path / "cache").iterdir()) == []


def test_another_process_may_finish_first(make, monkeypatch):
    done = make()
    is_dir = iter([False])  # what this process saw before it began
    real = type(done.directory).is_dir
    monkeypatch.setattr(
        type(done.directory),
        "is_dir",
        lambda path, **k: next(is_dir, real(path)) if path == done.directory else real(path),
    )
    assert same(make()[3], expected()[3])
    assert [path.name for path in done.directory.parent.iterdir()] == [done.directory.name]


def test_a_folder_that_cannot_be_written_is_refused(make, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"(?s)a folder to keep prepared data in; got .*cache_dir"):
        make(cache_dir=tmp_path / "file" / "cache")


def test_limits_and_reports_come_back_as_they_were(make):
    prepared = make(limits=TokenLimits(max_length=512, overlong="cut"))
    assert prepared.limits == TokenLimits(max_length=512, overlong="cut")
    assert prepared.tokens.kept == prepared.records.records == 40
    assert dataclasses.is_dataclass(prepared.tokens)
