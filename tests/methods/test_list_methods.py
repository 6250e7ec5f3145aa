"""Methods on ranked lists give the worked numbers of one list, from its tokens on.

The list: three responses of 4, 6 and 2 tokens, of -3, -2.5 and -4 nats a token under the policy, so
-12, -15 and -8 in all; -13, -14.5 and -8 under the reference; scored 1, 0.2 and -0.5 (fixture B).
"""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.records import LeftOut, Preference, Ranking
from alignax.core.types import Batch, Outputs
from alignax.methods import DPO, PRO, RRHF, PlackettLuceDPO

MASK = jnp.arange(6)[None, None] < jnp.array([[[4], [6], [2]]])
POLICY = jnp.where(MASK, jnp.array([[[-3.0], [-2.5], [-4.0]]]), 0.0)
REFERENCE = jnp.where(MASK, jnp.array([[[-13 / 4], [-14.5 / 6], [-4.0]]]), 0.0)
SCORES = jnp.array([[1.0, 0.2, -0.5]])
LISTS = (RRHF, PRO, PlackettLuceDPO)


def loss_and_metrics(method, *, order=(0, 1, 2), valid=(True, True, True), count=3):
    order = jnp.array(order)[:count]
    batch = Batch(
        prompts=jnp.ones((1, 9), jnp.int32),
        prompt_lengths=jnp.full(1, 4, jnp.int32),
        responses=jnp.ones(MASK[:, order].shape, jnp.int32),
        mask=MASK[:, order],
        scores=SCORES[:, order],
        valid=jnp.array([valid])[:, :count],
        ref_logprobs=REFERENCE[:, order] if method.needs().reference else None,
    )
    return method.loss(Outputs(logprobs=POLICY[:, order]), batch)


# The ranking terms of fixture B, with and without temperatures, and 12 nats of the best response.
@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (RRHF(), 0.5 + 12.0),
        (RRHF(sft_weight=0.1), 0.5 + 1.2),
        (RRHF(average_nll=True), 0.5 + 3.0),
        # The prompt of 4 and the longest response of 6: all are divided by 10. -1.2, -1.5 and
        # -0.8: the third is more probable than the first (by 0.4) and the second (by 0.7).
        (RRHF(padded_width=True), 0.4 + 0.7 + 1.2),
        (PRO(), 2.8957328090 + 0.05 * 4 * 12.0),
        (PRO(temperature=False, sft_weight=0.0), 1.3055438833),
        # Rewards 0.1, -0.05 and 0: log(1 + e^-0.15 + e^-0.1) + log(1 + e^0.05).
        (
            PlackettLuceDPO(beta=0.1),
            math.log1p(math.exp(-0.15) + math.exp(-0.1)) + math.log1p(math.exp(0.05)),
        ),
    ],
    ids=repr,
)
def test_loss_of_one_list_worked_by_hand(method, expected):
    np.testing.assert_allclose(loss_and_metrics(method)[0], [expected], rtol=1e-6)
    np.testing.assert_allclose(loss_and_metrics(method, order=(2, 0, 1))[0], [expected], rtol=1e-6)


def test_metrics_of_one_list_worked_by_hand():
    # Of the pairs (1, 2), (1, 3), (2, 3) the average log-probabilities order the last two.
    metrics = loss_and_metrics(RRHF())[1]
    np.testing.assert_allclose(metrics["rewards/accuracies"], [2 / 3], rtol=1e-6)
    np.testing.assert_allclose(metrics["rewards/best"], [-3.0])
    np.testing.assert_allclose(metrics["rewards/mean"], [-9.5 / 3], rtol=1e-6)
    np.testing.assert_allclose(metrics["logps/best"], [-12.0])
    np.testing.assert_allclose(metrics["nll_loss"], [12.0])


@pytest.mark.parametrize("cls", LISTS)
def test_an_invalid_response_counts_in_nothing(cls):
    found = loss_and_metrics(cls(), valid=(True, True, False))
    expected = loss_and_metrics(cls(), count=2)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    for name, x in expected[1].items():
        np.testing.assert_allclose(found[1][name], x, rtol=1e-6)


def test_two_responses_ranked_by_plackett_and_luce_are_a_pair_of_dpo():
    found, _ = loss_and_metrics(PlackettLuceDPO(beta=0.1), count=2)
    expected, _ = loss_and_metrics(DPO(beta=0.1), count=2)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("cls", LISTS)
def test_learns_from_lists_in_any_order_and_puts_the_best_first(cls):
    assert cls().needs().record is Ranking
    assert cls().needs().reference == (cls is PlackettLuceDPO)
    group = cls().group(Ranking(prompt="p", responses=("a", "b", "c"), scores=(0.0, 2.0, 0.0)))
    assert (group.responses, group.scores) == (("b", "a", "c"), (2.0, 0.0, 0.0))


def test_pro_divides_scores_by_their_deviation_over_all_lists_where_it_is_asked_to():
    # 0, 4, 2 and 6: deviations of 3, 1, 1 and 3 from 3, 20 in squares, over n - 1 = 3.
    lists = [Ranking(prompt="p", responses=("a", "b"), scores=x) for x in ((0.0, 4.0), (2.0, 6.0))]
    method = PRO(normalise=True).fit(lists)
    assert method.deviation == pytest.approx(math.sqrt(20 / 3))
    assert method.group(lists[1]).scores == pytest.approx(
        (6 / math.sqrt(20 / 3), 2 / math.sqrt(20 / 3))
    )
    assert method.fit(lists[:1]) is method
    assert [x.fits() for x in (PRO(), PRO(normalise=True), method)] == [False, True, False]
    assert PRO().fit(lists) == PRO()
    assert PRO().group(lists[1]).scores == (6.0, 2.0)


@pytest.mark.parametrize("cls", LISTS)
def test_a_list_of_equal_scores_is_left_out(cls):
    with pytest.raises(LeftOut, match="all scores equal"):
        cls().group(Ranking(prompt="p", responses=("a", "b"), scores=(1.0, 1.0)))


def test_pairs_serve_as_lists_of_two():
    from alignax.data.pair_scores import ranking

    pair = Preference(prompt="p", chosen="a", rejected="b")
    assert RRHF().group(ranking(pair)).responses == ("a", "b")
