"""Whole-number ratings stay on the scale that the reward model was taught."""

import json
import logging
import math

import numpy as np
import pytest

from alignax import feeds, jobs
from alignax.core.errors import BadInput
from alignax.core.records import Attributed
from alignax.generate.reward_models import ModelReward
from alignax.generate.rewards import Rewards
from alignax.generate.rollout import Rollout
from alignax.generate.scoring import load_scorer, output_ranges
from alignax.methods import AttributeRewardModel
from alignax.models import pretrained
from alignax.run import Run
from alignax.score import score
from tests.generate.test_reward_models import reward_model
from tests.tiny import chatml_tokenizer
from tests.tiny_model import experiment, write_rows

RECORDS = [
    Attributed(prompt="p", response="a", attributes={"wit": 4.0, "depth": 1.0}, origin="f:1"),
    Attributed(prompt="p", response="b", attributes={"wit": 1.67}, origin="f:2"),
    Attributed(prompt="p", response="c", attributes={"wit": math.nan, "depth": 0.0}, origin="f:3"),
]


def config_of(directory):
    return json.loads((directory / "config.json").read_text())


def with_ranges(path, ranges, *, scale=1.0):
    """A classifier of wit and depth with this scale, and weights of its head `scale` times."""
    reward_model(path, chatml_tokenizer(), outputs=2, labels=("wit", "depth"))
    if scale != 1.0:
        found = pretrained.load(path)
        params = found.params | {"score": found.params["score"] * scale}
        pretrained.save(path, params, found.config, source=path, labels=("wit", "depth"))
    config = config_of(path)
    assert "score_ranges" not in config
    if ranges is not None:
        (path / "config.json").write_text(json.dumps(config | {"score_ranges": ranges}))
    return path


def test_the_scale_is_the_lowest_and_the_highest_rating_of_the_training_data():
    fitted = AttributeRewardModel().fit(RECORDS)
    assert fitted.needs().score_ranges == ((0.0, 1.0), (1.67, 4.0))  # of depth, of wit
    told = AttributeRewardModel(
        attributes=("wit", "depth"), lowest_rating=(0.0, 0.0), highest_rating=(5.0, 5.0)
    )
    assert told.fit(RECORDS).needs().score_ranges == ((0.0, 5.0), (0.0, 5.0))
    named = AttributeRewardModel(attributes=("wit", "depth", "rhyme"))
    assert named.fit(RECORDS).needs().score_ranges[2] == (-math.inf, math.inf)  # never rated


def test_a_scale_is_given_for_each_attribute_or_for_none():
    with pytest.raises(BadInput) as refused:
        AttributeRewardModel(attributes=("depth", "wit"), highest_rating=(4.0,))
    assert str(refused.value) == (
        "method.highest_rating: expected one number for each of depth, wit; got 1: 4.\n"
        "    Give as many, or none for those of the training data."
    )


def test_a_trained_model_says_its_scale_and_one_that_begins_from_it_does_not(tmp_path):
    setup = experiment(tmp_path, method=AttributeRewardModel(attributes=("depth", "wit", "rhyme")))
    for path in (setup.data.train, setup.data.eval):
        write_rows(type(tmp_path)(path), 16, Attributed)  # wit 0.5 or 4, depth 1 where it is rated
    exported = jobs.train(setup, quiet=True)
    config = config_of(exported)
    assert config["score_ranges"] == {"depth": [1.0, 1.0], "wit": [0.5, 4.0]}
    assert output_ranges(exported) == ((1.0, 1.0), (0.5, 4.0), (-math.inf, math.inf))
    found = pretrained.load(exported)
    pretrained.save(tmp_path / "again", found.params, found.config, source=exported)
    again = config_of(tmp_path / "again")
    assert config.keys() - again.keys() == {"score_ranges"}


def test_outputs_beyond_the_scale_are_its_ends_and_the_others_are_rounded(tmp_path):
    scorer = load_scorer(with_ranges(tmp_path / "m", {"wit": [0, 4], "depth": [0.6, 2.4]}))
    outputs = np.array([[-3.2, 0.1], [2.6, 9.0], [7.0, 1.4]], np.float32)
    # wit: below 0, 3, above 4. depth: 0.6 and 2.4 are its ends, which round to 1 and 2.
    np.testing.assert_array_equal(scorer.ratings(outputs), [[0, 1], [3, 2], [4, 1]])


def test_an_output_without_a_scale_is_rounded_alone(tmp_path):
    scorer = load_scorer(with_ranges(tmp_path / "m", {"depth": [0, 4]}))
    outputs = np.array([[-3.2, -3.2], [9.4, 9.4]], np.float32)
    np.testing.assert_array_equal(scorer.ratings(outputs), [[-3, 0], [9, 4]])


def test_a_model_without_a_scale_is_rounded_and_the_log_says_so_once(tmp_path, caplog):
    scorer = load_scorer(with_ranges(tmp_path / "m", None))
    with caplog.at_level(logging.WARNING, "alignax"):
        for _ in range(2):
            found = scorer.ratings(np.array([[-3.2, 9.4]], np.float32))
            np.testing.assert_array_equal(found, [[-3, 9]])
    (record,) = [x for x in caplog.records if "no scale" in x.getMessage()]
    assert record.getMessage() == (
        f"{tmp_path / 'm'}: the config.json says no scale of its ratings: whole numbers are "
        "rounded, however high or low"
    )


@pytest.mark.parametrize("said", [{"wit": [4, 0]}, {"wit": 4}, {"wit": [0, None]}, [0, 4], "0-4"])
def test_a_scale_that_is_none_is_refused(said, tmp_path):
    directory = with_ranges(tmp_path / "m", said)
    with pytest.raises(BadInput) as refused:
        output_ranges(directory)
    assert str(refused.value) == (
        f"{directory / 'config.json'}: expected score_ranges with the lowest and the highest "
        f"number of each output; got {said!r}.\n    Mend config.json, or take the key out."
    )


def test_annotations_of_data_and_of_samples_keep_to_the_scale(tmp_path):
    # A head of a thousand times its weights gives hundreds, of either sign.
    directory = with_ranges(tmp_path / "m", {"wit": [0, 4], "depth": [1, 3]}, scale=1000.0)
    prompts, texts = ["Q1", "Q1", "Q2"], ["A", "B and B", "CCC"]
    judge = ModelReward(directory=str(directory))
    raw = judge.attributes(prompts, texts)
    assert (np.abs(raw) > 5).all()
    ends = np.where(raw > 0, [4, 3], [0, 1]).tolist()
    expected = [dict(zip(("wit", "depth"), row, strict=True)) for row in ends]

    run = Run(experiment(tmp_path, rollout=Rollout(rewards=Rewards(parts=(judge,)))))
    assert feeds._attributes(run)(prompts, texts) == expected

    rows = [{"prompt": p, "completion": t} for p, t in zip(prompts, texts, strict=True)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    score(directory, str(tmp_path / "in.jsonl"), tmp_path / "out.jsonl", whole_numbers=True,
          quiet=True)  # fmt: skip
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["attributes"] for line in lines] == expected
