"""A policy and a critic of its own, side by side: what a method with a value head trains."""

import dataclasses

import jax

from alignax.core.gathers import take_rows
from alignax.core.types import Batch, Layout, Outputs, Params
from alignax.models.outputs import by_response, outputs
from alignax.models.transformer import Decoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActorCritic:
    """Two decoders with weights of their own, in a dictionary `policy` and `critic`.

    Fields:
        policy: a language model.
        critic: a decoder with a `score` head of one output, its estimate of the rewards to come.
    """

    policy: Decoder
    critic: Decoder

    def abstract(self) -> Params:
        """The parameters' shapes and dtypes, nothing allocated."""
        return {"policy": self.policy.abstract(), "critic": self.critic.abstract()}

    def axes(self) -> Params:
        """The logical axes of every parameter."""
        return {"policy": self.policy.axes(), "critic": self.critic.axes()}


def actor_critic_outputs(
    model: ActorCritic,
    params: Params,
    batch: Batch,
    layout: Layout,
    *,
    reach: tuple[int, ...] | None = None,
    entropy: bool = False,
    temperature: float = 1.0,
) -> Outputs:
    """The policy's log-probabilities, and before each scored token the critic's value.

    The value of a token is read where its log-probability is: at the token before it, so it knows
    nothing of what is chosen.

    Args:
        entropy: give the policy's too, as `outputs` does.
        temperature: divides the policy's logits.
    """
    asked = {"reach": reach, "entropy": entropy, "temperature": temperature}
    found = outputs(model.policy, params["policy"], batch, layout, **asked)  # type: ignore[arg-type]
    prompts, responses = batch.valid.shape
    segments = prompts * (1 + responses)
    hidden = model.critic.packed(params["critic"], layout, reach=reach, segments=segments)
    # All tokens are valued, which costs little; states stay where their rows are.
    values = model.critic.scores(params["critic"], hidden)[..., 0]
    values = values.reshape(layout.source.shape[0], -1)
    values = jax.vmap(take_rows)(values[..., None], layout.source)[..., 0]
    return found._replace(values=by_response(values, batch, layout))
