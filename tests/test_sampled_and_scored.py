"""What `alignax sample` writes and `alignax score` scores is learnt from by those very scores."""

import json
from pathlib import Path

import numpy as np
import pytest

from alignax.config import Data
from alignax.core.errors import BadInput
from alignax.data.builder import prepare
from alignax.data.chat import Renderer
from alignax.data.prompts import load_prompts
from alignax.data.tokenise import TokenLimits
from alignax.generate.drawing import Answered, Drawing
from alignax.generate.kept import recorded
from alignax.methods import (
    DPO,
    KTO,
    PRO,
    RRHF,
    SFT,
    DecisionTransformer,
    Filtering,
    PlackettLuceDPO,
    RewardWeighted,
)
from alignax.run import Run
from alignax.sample import sample
from alignax.score import score, score_by
from tests.generate.test_reward_models import reward_model
from tests.tiny import byte_ids, chatml_tokenizer, llama3_tokenizer
from tests.tiny_model import experiment, model_directory

END = 2  # <|im_end|>
EMPTY, BLANK, TIE = 0, 1, 2  # rows with an empty response, one of white space, four alike


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six prompts and four samples of each, scored by a model; and a sample of each, scored."""
    folder = tmp_path_factory.mktemp("flow")
    model, judge = model_directory(folder / "model"), folder / "judge"
    reward_model(judge, chatml_tokenizer())
    prompts = write(folder / "prompts.jsonl", *[{"prompt": f"Is {i} odd?"} for i in range(6)])
    for name, samples in (("lists", 4), ("singles", 1)):
        sampled = folder / f"sampled_{name}.jsonl"
        sample(model, prompts, sampled, num_samples=samples, max_new_tokens=6, temperature=1.0,
               quiet=True)  # fmt: skip
        rows = lines(sampled)
        if samples > 1:
            rows[EMPTY]["completions"][1], rows[BLANK]["completions"][2] = "", " \n"
            rows[EMPTY]["ended"][1] = True
            rows[TIE]["completions"] = ["the same"] * 4
        scored = folder / f"{name}.jsonl"
        score(judge, write(sampled, *rows), scored, quiet=True)
        if samples > 1:  # which a model may score alike to rounding alone
            rows = lines(scored)
            np.testing.assert_allclose(rows[TIE]["scores"], rows[TIE]["scores"][0], rtol=1e-5)
            rows[TIE]["scores"] = rows[TIE]["scores"][:1] * 4
            write(scored, *rows)
    return folder


def run(folder, method, train):
    data = Data(train=str(folder / train), cache_dir=str(folder / "cache"),
                limits=TokenLimits(max_length=256))  # fmt: skip
    return Run(experiment(folder, method=method, data=data), quiet=True)


def learnt(run):
    """By line of the file: the texts of each group's responses and their scores.

    Those that ended have an end of turn, and no others.
    """
    run.preflight()
    data, decode, found = run.train_data, run.renderer.tokenizer.decode, {}
    rows = lines(Path(run.experiment.data.train))
    whole = {text: one for row in rows for text, one in zip(
        row.get("completions", ()), row.get("ended", ()), strict=True)}  # fmt: skip
    for example in (data[i] for i in range(len(data))):
        ids = [one.tolist() for one, _ in example.split()]
        texts = tuple(decode(one[:-1] if one[-1] == END else one) for one in ids)
        assert all(
            (one[-1] == END) == whole.get(x, True) for x, one in zip(texts, ids, strict=True)
        )
        line = int(example.origin.split(":")[1]) - 1
        found.setdefault(line, []).append((texts, example.scores.tolist()))
    return found


def by_score(row):
    order = sorted(range(len(row["scores"])), key=lambda i: -row["scores"][i])
    return tuple(row["completions"][i] for i in order), [row["scores"][i] for i in order]


@pytest.mark.parametrize("cls", [RRHF, PRO, PlackettLuceDPO])
def test_lists_are_ranked_by_their_scores(folder, cls):
    this, rows = run(folder, cls(), "lists.jsonl"), lines(folder / "lists.jsonl")
    found = learnt(this)
    assert sorted(found) == [i for i in range(6) if i != TIE]
    for line, ((texts, scores),) in found.items():
        expected, numbers = by_score(rows[line])
        assert texts == expected
        np.testing.assert_allclose(scores, numbers, rtol=1e-6)
    report = str(this.train_data)
    assert "left out: 1 all scores equal (lists.jsonl:3)" in report
    assert "of them scored; responses without text: 2\n" in report


@pytest.mark.parametrize("train", ["lists.jsonl", "singles.jsonl"])
@pytest.mark.parametrize("cls", [RewardWeighted, DecisionTransformer])
def test_single_responses_have_their_scores_in_deviations_from_the_mean(folder, cls, train):
    rows = lines(folder / train)
    every = np.concatenate([row["scores"] for row in rows])
    found = learnt(run(folder, cls(), train))
    for line, row in enumerate(rows):
        assert [texts for texts, _ in found[line]] == [(text,) for text in row["completions"]]
        np.testing.assert_allclose(
            np.ravel([scores for _, scores in found[line]]),
            (np.array(row["scores"]) - every.mean()) / every.std(ddof=1),
            rtol=1e-4, atol=1e-5,
        )  # fmt: skip


def test_filtering_keeps_the_best_half_and_who_scores_as_the_last_of_it(folder):
    rows = lines(folder / "lists.jsonl")
    every = np.sort(np.concatenate([row["scores"] for row in rows]))[::-1]
    found = [x for line in learnt(run(folder, Filtering(), "lists.jsonl")).values() for x in line]
    kept = sorted((scores[0] for _, scores in found), reverse=True)
    np.testing.assert_allclose(kept, every[every >= every[11]], rtol=1e-6)


@pytest.mark.parametrize("cls", [DPO, KTO])
def test_the_best_and_the_worst_are_a_pair(folder, cls):
    this, rows = run(folder, cls(), "lists.jsonl"), lines(folder / "lists.jsonl")
    found = learnt(this)
    assert sorted(found) == [i for i in range(6) if i != TIE]
    for line, groups in found.items():
        ordered = by_score(rows[line])[0]
        if cls is DPO:
            assert groups == [((ordered[0], ordered[-1]), [1.0, 0.0])]
        else:  # each with a response to another prompt
            assert [(texts[0], scores[0]) for texts, scores in groups] == [
                (ordered[0], 1.0), (ordered[-1], 0.0)
            ]  # fmt: skip
    assert "left out: 1 all scores equal (lists.jsonl:3)" in str(this.train_data)


def test_the_best_of_a_list_is_imitated_and_of_one_alone_that_one(folder):
    for train in ("lists.jsonl", "singles.jsonl"):
        rows, found = lines(folder / train), learnt(run(folder, SFT(), train))
        assert [found[i][0][0][0] for i in range(6)] == [by_score(row)[0][0] for row in rows]


def test_one_response_alone_is_no_list(folder):
    with pytest.raises(BadInput, match=r"singles.jsonl:1: expected two or more completions"):
        _ = run(folder, RRHF(), "singles.jsonl").train_data


def test_scored_pairs_weigh_by_those_scores(folder, tmp_path):
    pairs = [{"prompt": f"Is {i} odd?", "chosen": f"yes, {i}", "rejected": "no"} for i in range(5)]
    scored = folder / "pairs.jsonl"
    score(folder / "judge", write(tmp_path / "pairs.jsonl", *pairs), scored, quiet=True)
    every = np.array([[row["score_chosen"], row["score_rejected"]] for row in lines(scored)])
    assert len(set(every.ravel())) > 5
    found = learnt(run(folder, RewardWeighted(), "pairs.jsonl"))
    np.testing.assert_allclose(
        [[scores[0] for _, scores in found[line]] for line in range(5)],
        (every - every.mean()) / every.std(ddof=1),
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("template", ["chat", "none"])
def test_an_empty_response_has_the_tokens_that_a_round_learns_from(tmp_path, template):
    renderer = Renderer(tokenizer=chatml_tokenizer(), template=template)
    row = {"prompt": "Q", "completions": ["A", ""], "scores": [0.0, 1.0]}
    source = write(tmp_path / "a.jsonl", row)
    prompts = load_prompts(source, renderer, ask=RRHF().ask, max_length=200)
    tokens = np.array([[[*byte_ids("A"), END], [END, 0]]], np.int32)
    answered = Answered(tokens, np.array([[2, 1]], np.int32), np.ones((1, 2), bool), None)
    drawing = Drawing([0], answered, [["A", ""]], np.array([[0, 1]], np.float32),
                      np.ones((1, 2), bool), {}, [])  # fmt: skip
    (drawn,) = recorded(RRHF(), drawing, prompts, renderer).examples
    prepared = prepare(source, RRHF().group, RRHF().needs().record, renderer, TokenLimits(),
                       grouping="RRHF", cache_dir=tmp_path / "cache")  # fmt: skip
    for kept, expected in zip(prepared[0][:5], drawn[:5], strict=True):
        np.testing.assert_array_equal(kept, expected)
    assert prepared.tokens.empty == 1


@pytest.mark.parametrize("template", ["chat", "none"])
def test_an_answer_that_broke_off_has_the_tokens_that_a_round_learns_from(tmp_path, template):
    renderer = Renderer(tokenizer=chatml_tokenizer(), template=template)
    row = {"prompt": "Q", "completions": ["A", "BB"], "ended": [True, False], "scores": [0.0, 1.0]}
    source = write(tmp_path / "a.jsonl", row)
    prompts = load_prompts(source, renderer, ask=RRHF().ask, max_length=200)
    tokens = np.array([[[*byte_ids("A"), END], byte_ids("BB")]], np.int32)
    ended = np.array([[True, False]])
    answered = Answered(tokens, np.array([[2, 2]], np.int32), ended, None)
    drawing = Drawing([0], answered, [["A", "BB"]], np.array([[0, 1]], np.float32),
                      np.ones((1, 2), bool), {}, [])  # fmt: skip
    (drawn,) = recorded(RRHF(), drawing, prompts, renderer).examples
    prepared = prepare(source, RRHF().group, RRHF().needs().record, renderer, TokenLimits(),
                       grouping="RRHF", cache_dir=tmp_path / "cache")  # fmt: skip
    for kept, expected in zip(prepared[0][:5], drawn[:5], strict=True):
        np.testing.assert_array_equal(kept, expected)
    assert prepared.tokens.cut_off == 1


def test_what_a_function_gives_no_number_is_refused_or_left_out(tmp_path, capsys):
    (tmp_path / "rule.py").write_text(
        "def rule(completions):\n"
        "    return [{'x': float('nan'), 'y': None}.get(one, len(one)) for one in completions]\n"
    )
    rule, target = f"{tmp_path}/rule.py:rule", tmp_path / "out.jsonl"
    lists = [["long", "er"], ["x", "longer"], ["a", ""], ["long", "y"]]
    source = write(tmp_path / "a.jsonl", *({"prompt": "p", "completions": x} for x in lists))
    with pytest.raises(BadInput, match="nan for the completion 'x' to the prompt 'p'"):
        score_by(rule, source, target, quiet=True)
    score_by(rule, source, target, on_bad_row="drop")
    assert [row["scores"] for row in lines(target)] == [[4.0, 2.0], [1.0, 0.0]]
    printed = " ".join(capsys.readouterr().out.split())
    assert "rows dropped: 2 no number from rule (a.jsonl:2, a.jsonl:4)" in printed
    assert "out.jsonl, 2 rows" in printed
    nothing = write(tmp_path / "b.jsonl", {"prompt": "p", "completions": ["x", "long"]})
    with pytest.raises(BadInput, match=r"a row whose responses all have a number; got none: 1 ru"):
        score_by(rule, nothing, tmp_path / "none.jsonl", on_bad_row="drop")
    assert not (tmp_path / "none.jsonl").exists()


def test_a_run_s_rewards_do_not_see_the_token_that_ended_a_response(tmp_path):
    run = Run(experiment(tmp_path), quiet=True)
    run.renderer = Renderer(tokenizer=llama3_tokenizer(special_end=False))
    assert run.decode_all([[*byte_ids("YES"), 1], byte_ids("NO")]) == ["YES", "NO"]
