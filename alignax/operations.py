"""The arithmetic of an update, counted by hand: products of matrices, two operations a term."""

from alignax.core.logprobs import keeps_slopes, room
from alignax.data.plan import Plan
from alignax.models.config import DecoderConfig


def operations(
    config: DecoderConfig,
    plan: Plan,
    *,
    recomputed: bool,
    parts: int = 1,
    dtype: str = "float32",
) -> float:
    """Of one decoder in one update on groups that are all alike, padding included.

    A token attends to the mean of what its layer lets it see, as kernels do that leave out the
    blocks in which nothing is seen. Where a device's logits are more than `core.logprobs` keeps,
    in one form or another, the backward pass computes them again. (With entropies it keeps no
    slopes; that is not counted.)

    Left out: all that is no product (norms, softmax, the optimiser: one or two operations in a
    hundred), attention weights that a flash kernel or `remat="attention"` computes again, and the
    pass over all micro-batches that comes first where `Method.means` reads the model.

    Args:
        recomputed: the backward pass computes each block again, but for the last matrix of its
            MLP where no gradient needs the result.
        parts: into which the tokens of a row are split, each on its own device.
        dtype: of the arithmetic.
    """
    shape, times = plan.shape, plan.accumulation
    tokens = times * shape.rows * shape.row_length
    attention = config.width * config.head_dim * (2 * config.heads + 2 * config.kv_heads)
    last = config.width * config.mlp_width
    mlp, unneeded = (3 if config.gated else 2) * last, 0
    if config.experts is not None:  # those that a token goes through, and the choice among all
        mlp = config.experts.per_token * mlp + config.width * config.experts.count
    elif config.norms == "before":
        unneeded = last
    matrices = 2.0 * tokens * config.layers
    windows = [config.kind(layer).window for layer in range(config.layers)]
    pairs = times * shape.groups * sum(_pairs(plan, window) for window in windows)
    products = 4.0 * pairs * config.heads * config.head_dim
    blocks = matrices * (attention + mlp) + products
    if config.num_scores:
        heads = 3 * 2.0 * tokens * config.width * config.num_scores
    else:
        scored = times * shape.shards * shape.scored
        chunked = shape.scored // parts > room() // (4 * config.vocab_size)
        again = chunked and not keeps_slopes(dtype, shape.shards * shape.scored * config.vocab_size)
        heads = (4 if again else 3) * 2.0 * scored * config.width * config.vocab_size
    return 3 * blocks + heads + (blocks - matrices * unneeded if recomputed else 0.0)


def _pairs(plan: Plan, window: int | None) -> float:
    """Of a token of a group and one that it sees: all before it in its text, or a window."""

    def within(length: int) -> float:
        seen = length if window is None else min(length, window)
        return seen * seen / 2 + (length - seen) * seen

    prompt = int(plan.lengths.prompt[0])
    responses = [int(length) for length in plan.lengths.response[0]]
    return within(prompt) + sum(within(prompt + x) - within(prompt) for x in responses)
