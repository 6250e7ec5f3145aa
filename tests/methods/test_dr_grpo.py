"""Dr. GRPO: no standard deviation, and one length for all."""

import numpy as np

from alignax.methods import RLOO, DrGRPO
from tests.sampled import NEW, OLD, SAMPLES, batch_of, close, outputs_of, slope


def test_value_and_gradient_by_hand():
    # Advantages 0.5 and -0.5; ratios 1.3 (clipped to 1.2), 1, 0.7 and 1.3; sums over tokens
    # 1.45 and -0.65, of which minus the mean, by 4.
    method = DrGRPO(max_length=4)
    close(method.loss(outputs_of(NEW), SAMPLES)[0], [-0.1])
    expected = [[[0.0, -1.0 / 16, -0.7 / 16], [1.3 / 16, 0.0, 0.0]]]
    close(slope(method, outputs_of(NEW), SAMPLES).logprobs, expected)


def test_advantages_of_fixture_d():
    rewards = [[1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]]
    outputs, batch = outputs_of(np.zeros((1, 8, 1))), batch_of(rewards, [[1] * 8])
    found = slope(DrGRPO(max_length=1), outputs, batch).logprobs[0, :, 0]
    close(-8 * found, np.where(np.array(rewards[0]) > 0, 0.625, -0.375))


def test_is_leave_one_out_but_for_a_constant():
    # (k - 1) / k = 1/2 of RLOO's gradient, by the length.
    found = slope(DrGRPO(max_length=10), outputs_of(OLD), SAMPLES).logprobs
    close(20.0 * found, slope(RLOO(beta=0.0), outputs_of(OLD), SAMPLES).logprobs)


def test_a_tokens_weight_does_not_depend_on_its_responses_length():
    short, long = (batch_of([[1.0, 0.0]], [[n, 1]], tokens=5) for n in (1, 5))
    outputs = outputs_of(np.zeros((1, 2, 5)))
    slopes = [slope(DrGRPO(), outputs, batch).logprobs[0, 0, 0] for batch in (short, long)]
    assert slopes[0] == slopes[1] != 0.0
