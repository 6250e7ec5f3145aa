"""The arrays that cross `jit`: a batch, its layout in rows, a model's outputs, the training state.

Axis letters: `b` prompts, `k` responses to a prompt, `p` prompt tokens, `r` response tokens,
`n` rows, `t` tokens of a row, `u` shards of rows, `m` scored tokens of a shard, `v` vocabulary,
`d` width, `h` heads, `c` numbers a response, `s` seeds. Tuples and not dataclasses: `jax.tree.map`
rebuilds them without running shape checks.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Bool, Float, Int, Real

Scalar = float | Float[Array, ""]
Number = int | Scalar | Real[Array, ""]  # a hyperparameter of a pure function; may be traced
ROW_ALIGN = 64  # tokens; the length of rows is a multiple of it
BLOCK = 128  # tokens of a row that are attended from together; plans say how far back each looks
Params = Any  # a pytree of arrays; only `models/` knows its structure
Metrics = Mapping[str, Float[Array, " b"]]
Means = dict[str, Float[Array, ""]]


class Batch(NamedTuple):
    """b prompts and k responses to each, as a method sees them.

    Fields:
        prompts: token ids, padded on the right.
        prompt_lengths: in tokens.
        responses: token ids, padded on the right. A response ends with the end-of-turn token
            unless it was cut.
        mask: True on tokens that are scored: the assistant's, end-of-turn included.
        scores: one number a response; the method says what it means. Higher is better.
        valid: False for responses that only fill the array.
        ref_logprobs: log-probability in nats of each response token under the reference policy;
            0 off the mask.
        old_logprobs: the same under the policy that sampled the responses.
        old_values: the value head's output when they were sampled.
        attributes: further numbers of each response (axis `c`); NaN where one is missing.
        means: `Method.means`, pooled over the whole optimiser step where it has several batches.
    """

    prompts: Int[Array, "b p"]
    prompt_lengths: Int[Array, " b"]
    responses: Int[Array, "b k r"]
    mask: Bool[Array, "b k r"]
    scores: Float[Array, "b k"]
    valid: Bool[Array, "b k"]
    ref_logprobs: Float[Array, "b k r"] | None = None
    old_logprobs: Float[Array, "b k r"] | None = None
    old_values: Float[Array, "b k r"] | None = None
    attributes: Float[Array, "b k c"] | None = None
    means: Means | None = None


class Layout(NamedTuple):
    """How the tokens of a batch lie in rows of one fixed length. Made by the plan.

    A group is a prompt followed by its k responses; groups are packed and never straddle rows.

    Fields:
        tokens: token ids; 0 on padding.
        group: which group of the row a token belongs to; -1 on padding.
        response: 0 for the prompt, 1 to k for the responses.
        position: within prompt + response. A response goes on where its prompt ends.
        source: where the hidden state is that predicts a scored token, counted over the rows of
            one shard laid end to end. The last token of a prompt predicts the first token of each
            of its k responses.
        target: that token's id.
        slot: where its log-probability goes in the flattened [b, k, r]; -1 where unused.

    The rows of a shard (`u` shards, n / u rows each) are on one device, and so is all that
    `source` points to. Scored tokens are gathered by shard and not by row, because rows differ in
    how many they have and shards hardly do.
    """

    tokens: Int[Array, "n t"]
    group: Int[Array, "n t"]
    response: Int[Array, "n t"]
    position: Int[Array, "n t"]
    source: Int[Array, "u m"]
    target: Int[Array, "u m"]
    slot: Int[Array, "u m"]


class Outputs(NamedTuple):
    """What a model says of a batch. A loss sees nothing else of the model.

    Fields:
        logprobs: log-probability in nats of `responses[..., i]`; 0 off the mask; float32.
        entropy: of the next-token distribution, in nats; only where a method declares it.
        values: of the value head, where declared.
        rewards: of the scalar head, where the model has one: its first output for each response,
            float32; 0 for responses that are not valid.
        attributes: the same, all c outputs of the head.

    A model with a scalar head in place of a vocabulary says nothing of tokens: its `logprobs` are
    zeros.
    """

    logprobs: Float[Array, "b k r"]
    entropy: Float[Array, "b k r"] | None = None
    values: Float[Array, "b k r"] | None = None
    rewards: Float[Array, "b k"] | None = None
    attributes: Float[Array, "b k c"] | None = None


class TrainState(NamedTuple):
    """All that a run carries from one update to the next."""

    step: Int[Array, ""]
    params: Params
    opt_state: Any


class Held(NamedTuple):
    """A pytree that is equal to others by what it holds, and so can be a key; by `held`."""

    leaves: tuple[Any, ...]
    structure: Any

    @property
    def tree(self) -> Any:
        """The pytree itself."""
        return jax.tree.unflatten(self.structure, self.leaves)


def held(tree: Any) -> Held:
    """A pytree, whose leaves can be compared, as a key."""
    leaves, structure = jax.tree.flatten(tree)
    return Held(tuple(leaves), structure)
