"""Plackett-Luce: the likelihood of a whole ranking, for reward models.

Plackett 1975; of reward models, the list-wise form of arXiv:2203.02155's pairs.
"""

from jaxtyping import Array, Bool, Float, Real

from alignax.core.ranking import gaps, only_valid, ranking_nll


def plackett_luce(
    rewards: Float[Array, "*b k"],
    scores: Real[Array, "*b k"],
    valid: Bool[Array, "*b k"] | None = None,
) -> Float[Array, "*b"]:
    """-sum_i log(exp(rewards_i) / (exp(rewards_i) + sum_j exp(rewards_j))), over j scored below i.

    The best response is picked from all, the second from the rest, and so on.

    Args:
        rewards: the reward model's of each of the k responses to a prompt. In any order.
        scores: of each response by people, higher is better. Only their order counts; ties are
            not compared, and a response with none below it adds nothing. A constant.
        valid: False for responses that only fill the array. All are valid where it is not given.

    Returns:
        One loss a prompt, in nats, float32. log k! where all rewards are equal and no scores are.
    """
    rewards = only_valid(rewards, valid)
    return ranking_nll(rewards[..., None, :] - rewards[..., :, None], gaps(scores, valid) > 0.0)
