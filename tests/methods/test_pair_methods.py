"""Methods on pairs give the worked numbers of one pair, from its tokens on.

The pair: 4 tokens of -3 nats and 6 of -2.5 under the policy, which sum to -12 and -15; -13 and
-14.5 under the reference. So the log-ratios are 1 and -0.5, h = 1.5, and 1/4 + 1/12 = 1/3 a token.
"""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.records import Preference
from alignax.core.types import Batch, Outputs
from alignax.methods import CPO, DPO, IPO, ORPO, Hinge, RobustDPO, SimPO, SLiC

MASK = jnp.arange(6)[None, None] < jnp.array([[[4], [6]]])
POLICY = jnp.where(MASK, jnp.array([[[-3.0], [-2.5]]]), 0.0)
REFERENCE = jnp.where(MASK, jnp.array([[[-13 / 4], [-14.5 / 6]]]), 0.0)


def loss_and_metrics(method, policy=POLICY):
    batch = Batch(
        prompts=jnp.ones((1, 2), jnp.int32),
        prompt_lengths=jnp.full(1, 2, jnp.int32),
        responses=jnp.ones(MASK.shape, jnp.int32),
        mask=MASK,
        scores=jnp.array([[1.0, 0.0]]),
        valid=jnp.ones((1, 2), bool),
        ref_logprobs=REFERENCE if method.needs().reference else None,
    )
    return method.loss(Outputs(logprobs=policy), batch)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (DPO(beta=0.1), math.log1p(math.exp(-0.15))),
        # 5 x (1 / 4 + 0.5 / 6) = 5 / 3: 0.1730080. And half of 3 nats a token beside it.
        (DPO(beta=5.0, average=True), math.log1p(math.exp(-5 / 3))),
        (DPO(beta=0.1, nll_weight=0.5), math.log1p(math.exp(-0.15)) + 1.5),
        # (0.9 L - 0.1 (L + 0.15)) / 0.8 = L - 0.01875
        (RobustDPO(beta=0.1, label_smoothing=0.1), math.log1p(math.exp(-0.15)) - 0.01875),
        (IPO(tau=0.1, average=False), (1.5 - 5.0) ** 2),
        (IPO(tau=0.1), (1 / 3 - 5.0) ** 2),
        (Hinge(beta=0.1), 1.0 - 0.15),
        # The pair differs by 3 nats: 4 - 3, and a tenth of 12.
        (SLiC(delta=4.0, nll_weight=0.1), 2.2),
        (SLiC(delta=1.0, nll_weight=0.1), 1.2),
        # 2 (-3 + 2.5) - 1 = -2
        (SimPO(beta=2.0, gamma=1.0), math.log1p(math.exp(2.0))),
        # softplus(-0.1 * 3), and 3 nats a token.
        (CPO(beta=0.1), math.log1p(math.exp(-0.3)) + 3.0),
        (CPO(beta=0.1, nll_weight=0.5), math.log1p(math.exp(-0.3)) + 1.5),
        (CPO(beta=0.1, label_smoothing=0.1), math.log1p(math.exp(-0.3)) + 0.03 + 3.0),
        # log odds: -3 - log(1 - e^-3) and -2.5 - log(1 - e^-2.5), their difference -0.5345813.
        (ORPO(weight=0.1), 3.0 + 0.1 * math.log1p(math.exp(0.5345813028))),
    ],
    ids=repr,
)
def test_loss_of_one_pair_worked_by_hand(method, expected):
    np.testing.assert_allclose(loss_and_metrics(method)[0], [expected], rtol=1e-6)


@pytest.mark.parametrize(
    ("method", "chosen", "rejected"),
    [
        (DPO(beta=0.1), 0.1, -0.05),
        (DPO(beta=0.1, average=True), 0.025, -0.05 / 6),
        (RobustDPO(beta=0.1), 0.1, -0.05),
        (Hinge(beta=0.1), 0.1, -0.05),
        (IPO(tau=0.1, average=False), 0.1, -0.05),
        (IPO(tau=0.1), 0.025, -0.05 / 6),
        (SimPO(beta=2.0), -6.0, -5.0),
        (CPO(beta=0.1), -1.2, -1.5),
        (SLiC(), -12.0, -15.0),
        (ORPO(weight=0.1), -0.3, -0.25),
    ],
    ids=repr,
)
def test_implicit_rewards_of_one_pair_worked_by_hand(method, chosen, rejected):
    metrics = loss_and_metrics(method)[1]
    np.testing.assert_allclose(metrics["rewards/chosen"], [chosen], rtol=1e-5)
    np.testing.assert_allclose(metrics["rewards/rejected"], [rejected], rtol=1e-5)
    np.testing.assert_allclose(metrics["rewards/margins"], [chosen - rejected], rtol=1e-5)
    assert metrics["rewards/accuracies"] == float(chosen > rejected)
    np.testing.assert_allclose(metrics["logps/chosen"], [-12.0])
    np.testing.assert_allclose(metrics["logps/rejected"], [-15.0])


@pytest.mark.parametrize("cls", [CPO, IPO, ORPO, Hinge, RobustDPO, SimPO, SLiC])
def test_learns_from_pairs_and_asks_for_a_reference_only_where_it_has_one(cls):
    needs = cls().needs()
    assert needs.record is Preference
    assert needs.reference == (cls in (IPO, Hinge, RobustDPO))
