"""Batches of sampled responses, written as lists."""

import jax
import jax.numpy as jnp
import numpy as np

from alignax.core.types import Batch, Outputs


def batch_of(scores, lengths, *, valid=None, tokens=None, **logprobs) -> Batch:
    """Prompts and their samples.

    Args:
        scores: of each response, [b, k].
        lengths: of each response in tokens, [b, k].
        valid: [b, k]; all where it is not given.
        tokens: how wide the arrays are; as the longest response where it is not given.
        logprobs: old_logprobs (0 where not given), ref_logprobs or old_values, [b, k, r].
    """
    scores, lengths = jnp.asarray(scores, jnp.float32), np.asarray(lengths)
    mask = jnp.asarray(np.arange(tokens or lengths.max()) < lengths[..., None])
    batch = Batch(
        prompts=jnp.ones((len(scores), 2), jnp.int32),
        prompt_lengths=jnp.full(len(scores), 2, jnp.int32),
        responses=mask.astype(jnp.int32),
        mask=mask,
        scores=scores,
        valid=jnp.ones(scores.shape, bool) if valid is None else jnp.asarray(valid),
        old_logprobs=jnp.zeros(mask.shape),
    )
    return batch._replace(**{name: jnp.asarray(x, jnp.float32) for name, x in logprobs.items()})


def outputs_of(logprobs, values=None, entropy=None) -> Outputs:
    """What a model says, written as lists."""
    optional = {"values": values, "entropy": entropy}
    return Outputs(
        logprobs=jnp.asarray(logprobs, jnp.float32),
        **{n: None if x is None else jnp.asarray(x, jnp.float32) for n, x in optional.items()},
    )


def slope(method, outputs: Outputs, batch: Batch) -> Outputs:
    """Gradient of the sum of losses."""
    return jax.grad(lambda x: method.loss(x, batch)[0].sum())(outputs)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-7)


# Two responses of 3 tokens and 1 token. Ratios to the sampling policy: 1.3, 1, 0.7; and 1.3.
RATIOS = np.array([[[1.3, 1.0, 0.7], [1.3, 1.0, 1.0]]])
OLD = np.full((1, 2, 3), -1.0)
NEW = OLD + np.log(RATIOS)
SAMPLES = batch_of([[1.0, 0.0]], [[3, 1]], old_logprobs=OLD)
# 0.5 / (sqrt(0.5) + 1e-4): the advantage of the first of two whose rewards are 1 and 0.
SCALED = 0.7070067953
