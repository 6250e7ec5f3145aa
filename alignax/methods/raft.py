"""RAFT: sample, keep the best by reward, imitate them, and again.

Dong et al. 2023, arXiv:2304.06767, reward-ranked fine-tuning.
"""

import dataclasses
from typing import Literal

from jaxtyping import Array, Float, PRNGKeyArray

from alignax.core.likelihood import imitation
from alignax.core.lists import best
from alignax.core.masked import masked_sum
from alignax.core.method import Method, Needs, Sampling
from alignax.core.records import Group, Prompt, Record
from alignax.core.rollouts import prompt_alone
from alignax.core.selection import take_best
from alignax.core.setting_types import setting
from alignax.core.types import Batch, Metrics, Outputs


@dataclasses.dataclass(frozen=True, kw_only=True)
class RAFT(Method):
    """Supervised fine-tuning on the best of the policy's own samples.

    Fields:
        num_samples: K, the samples of each prompt. The paper: 8 to 32.
        temperature: of the samples. The paper: 0.85 and 1.
        beta: keeps the samples with the highest reward less beta times their log-ratio with the
            reference, in nats; at least 0. It has no part in the loss. The paper: 0 to 0.1.
        selection: per_prompt keeps the best sample of each prompt, as the paper does; global the
            best share 1 / K of all samples of a stage, as the authors' code does by default,
            which learns more from prompts that are easy to answer well.
        refresh: updates of a stage, that is between two drawings. At 64 prompts a step the
            default is the paper's 2,048 prompts a stage, twice.
        epochs: passes over what a stage has kept.
    """

    num_samples: int = setting(8, at_least=1)
    temperature: float = setting(1.0, at_least=0)
    beta: float = setting(0.0, at_least=0)
    selection: Literal["per_prompt", "global"] = "per_prompt"
    refresh: int = setting(64, at_least=1)
    epochs: int = setting(2, at_least=1)

    def needs(self) -> Needs:
        """Prompts, a reward, and the reference only where it has a part in the ranking."""
        return Needs(
            record=Prompt,
            reward=True,
            reference=self.beta != 0.0,
            mean_over="tokens",
            sampling=Sampling(
                num_samples=self.num_samples,
                temperature=self.temperature,
                refresh=self.refresh,
                epochs=self.epochs,
            ),
        )

    def group(self, record: Record) -> Group:
        """The prompt alone."""
        return prompt_alone(record)

    def select(self, key: PRNGKeyArray, batch: Batch) -> Batch:
        """b responses of the b k, each alone with its prompt. Their scores stay as they are."""
        del key
        scores = batch.scores
        if self.beta != 0.0:
            assert batch.old_logprobs is not None
            assert batch.ref_logprobs is not None
            ratio = masked_sum(batch.old_logprobs - batch.ref_logprobs, batch.mask)
            scores = scores - self.beta * ratio
        return take_best(batch, scores, over=self.selection)

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """The summed negative log-likelihood of each response that was kept."""
        loss, metrics = imitation(outputs, batch)
        return loss, {**metrics, "rewards/best": best(batch.scores, batch.scores, batch.valid)}
