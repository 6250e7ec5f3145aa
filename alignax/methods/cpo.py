"""Contrastive preference optimisation: DPO's loss with the reference taken to be uniform.

Xu et al. 2024, arXiv:2401.08417, equation 3.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alignax.core.constant import constant
from alignax.core.types import Number


def cpo(
    logprobs: Float[Array, "*b 2"], *, beta: Number, label_smoothing: Number = 0.0
) -> Float[Array, "*b"]:
    """-log sigmoid(beta (logprobs[..., 0] - logprobs[..., 1])), the preference term of CPO.

    With `label_smoothing` > 0 a pair is taken to be the wrong way round with that probability.
    The paper adds the negative log-likelihood of the chosen response (`nll`).

    Args:
        logprobs: log-probability of each response under the policy, in nats, summed over its
            tokens. The chosen response comes first.
        beta: the scale of the implicit reward. Typical: 0.1.
        label_smoothing: probability, in [0, 0.5), that a pair is mislabelled.

    Returns:
        One loss a pair, in nats, float32. log 2 where both are equally probable.
    """
    logprobs = logprobs.astype(jnp.float32)
    margin = constant(beta) * (logprobs[..., 0] - logprobs[..., 1])
    # (1 - eps) softplus(-m) + eps softplus(m), and softplus(m) = softplus(-m) + m.
    return jax.nn.softplus(-margin) + constant(label_smoothing) * margin
