"""Pairs of a stronger and a weaker model: in which order, and that each is DPO's."""

import math

import numpy as np

from alignax.core.schedule import Schedule
from alignax.methods import Curriculum
from tests.sampled import batch_of, close, outputs_of


def test_the_order_is_what_the_settings_say():
    method = Curriculum(start=0.25, end=0.75, hard_gap=1.5)
    assert method.needs().schedule == Schedule(start=0.25, end=0.75, hard_gap=1.5)


def test_a_pair_has_dpos_loss_and_says_its_gap():
    # Log-ratios 1 and -0.5: -log sigmoid(0.2 * 1.5).
    reference = np.array([[[-1.0], [-2.0]]])
    batch = batch_of([[2.5, 0.0]], [[1, 1]], ref_logprobs=reference)
    outputs = outputs_of(reference + np.array([[[1.0], [-0.5]]]))
    losses, metrics = Curriculum(beta=0.2).loss(outputs, batch)
    close(losses, [math.log1p(math.exp(-0.3))])
    close(metrics["gap"], [2.5])
