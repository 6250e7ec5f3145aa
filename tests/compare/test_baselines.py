"""What needs no training: best-of-n and the optimum, beside enumeration and closed forms."""

import itertools
import json

import numpy as np
import pytest

from alignax import Data, Function
from alignax.compare import baselines, measure


@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_best_of_m_is_the_mean_over_all_sets_of_m_answers(m):
    generator = np.random.default_rng(0)
    gold, proxy = generator.normal(size=(3, 5)), generator.normal(size=(3, 5))
    sets = list(itertools.combinations(range(5), m))
    by_hand = [
        np.mean([gold[i, max(chosen, key=lambda j: proxy[i, j])] for chosen in sets])
        for i in range(3)
    ]
    np.testing.assert_allclose(baselines.best_of(gold, proxy, m), by_hand, rtol=1e-12)


def test_answers_that_the_proxy_cannot_tell_apart_are_as_likely_as_each_other():
    gold, proxy = np.array([[0.0, 3.0, 1.0]]), np.array([[1.0, 1.0, 0.0]])
    # Sets of 2: {0, 1} gives 1.5, {0, 2} gives 0, {1, 2} gives 3.
    np.testing.assert_allclose(baselines.best_of(gold, proxy, 2), [1.5], rtol=1e-12)


def test_the_divergence_of_best_of_m_is_log_m_less_its_share():
    assert baselines.best_of_kl(1) == 0.0
    assert baselines.best_of_kl(4) == pytest.approx(np.log(4) - 0.75)


def test_the_optimum_of_two_kinds_of_answer_is_the_tilted_coin():
    """Answers worth 0 or 1, as many of each: the optimum draws a 1 with sigmoid(1 / beta)."""
    gold = np.tile([0.0, 1.0], (4, 32))
    for point in baselines.optimum(gold):
        p = 1 / (1 + np.exp(-1 / point["beta"]))
        assert point["gold"] == pytest.approx(p, rel=1e-9)
        divergence = np.log(2) + p * np.log(p) + (1 - p) * np.log1p(-p) if p < 1 else np.log(2)
        assert point["kl"] == pytest.approx(divergence, abs=1e-9)


def test_the_optimum_ends_where_the_answers_no_longer_reach():
    """One good answer of 64: weighing it alone is an estimate from one answer, and is not shown."""
    gold = np.zeros((4, 64))
    gold[:, 0] = 10.0
    points = baselines.optimum(gold)
    assert all(point["gold"] < 9.0 for point in points)
    assert points[0]["kl"] < points[-1]["kl"]


def test_agreement_counts_pairs_that_the_first_reward_tells_apart():
    gold = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0], [5.0, 5.0, 5.0]])
    proxy = np.array([[1.0, 3.0, 2.0], [7.0, 2.0, 7.0], [1.0, 2.0, 3.0]])
    # Of three pairs two; of the two that gold tells apart one is a tie for the proxy; none.
    np.testing.assert_allclose(baselines.agreement(gold, proxy), [2 / 3, 3 / 4])


def test_labels_against_the_gold_reward_are_counted_among_the_pairs_that_it_tells_apart(tmp_path):
    rows = [
        {"prompt": "p", "completions": ["aa", "b", "cc"], "scores": [1.0, 2.0, 3.0]},
        {"prompt": "q", "completions": ["a", "bb"], "scores": [0.0, 1.0]},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    gold = Function(function=longest)
    # cc > b is right, b > aa is wrong, cc and aa are equally long; bb > a is right.
    assert measure.labels(Data(train=str(path)), gold) == {
        "told_apart": 3, "wrong": 1, "own_told_apart": 1, "own_wrong": 0,
    }  # fmt: skip
    # Of the best and the worst the first row's are equal to the gold reward, the second's right.


def longest(completions, **_):
    return [float(len(text)) for text in completions]
