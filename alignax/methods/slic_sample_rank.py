"""SLiC-HF on ranked samples: a hinge between the first model's samples, and the best as target.

Zhao et al. 2023, arXiv:2305.10425, sample-rank with a pointwise reward. Its other variant, on
pairs as they are (SLiC-direct), is `SLiC`. The samples are the supervised model's and not the
policy's, so they can be drawn once and for all.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from alignax.core.lists import best, list_metrics
from alignax.core.masked import masked_mean, masked_sum
from alignax.core.method import Method, Needs, Sampling
from alignax.core.records import Group, Prompt, Record
from alignax.core.rollouts import prompt_alone, require_samples
from alignax.core.selection import distinct, only_ranked, pairs
from alignax.core.setting_types import setting
from alignax.core.types import Batch, Metrics, Outputs, Scalar
from alignax.methods.slic import slic


@dataclasses.dataclass(frozen=True, kw_only=True)
class SLiCSampleRank(Method):
    """SLiC on pairs of the reference's samples, with the best sample as target.

    A prompt keeps its samples together, so that each is computed once however many pairs it is
    in. Its loss is the mean over its pairs of the calibration term, plus the regularisation.

    Fields:
        delta: the margin from which on a pair is good enough, in nats, at least 0.
        nll_weight: the paper's lambda, of the best sample's negative log-likelihood, summed over
            its tokens; at least 0.
        pairing: tournament plays the samples off two by two, the winners again, m - 1 pairs; all
            takes every pair.
        num_samples: m, of each prompt, at least 2.
        temperature: of the samples.
        top_k: samples are drawn from this many tokens; 0 for all.
        refresh: updates between two drawings. The reference does not change, so that this only
            says how much is drawn at once.
        epochs: passes over what was drawn.
    """

    delta: Scalar = setting(1.0, at_least=0)
    nll_weight: Scalar = setting(0.1, at_least=0)
    pairing: Literal["tournament", "all"] = "tournament"
    num_samples: int = 8
    temperature: float = setting(0.7, at_least=0)
    top_k: int = setting(40, at_least=0)
    refresh: int = setting(16, at_least=1)
    epochs: int = setting(1, at_least=1)

    def __post_init__(self) -> None:
        require_samples(self.num_samples, 2, "A pair takes two.")

    def needs(self) -> Needs:
        """Prompts, a reward and samples of the reference, but not its log-probabilities."""
        return Needs(
            record=Prompt,
            reward=True,
            sampling=Sampling(
                num_samples=self.num_samples,
                temperature=self.temperature,
                top_k=self.top_k,
                source="reference",
                refresh=self.refresh,
                epochs=self.epochs,
            ),
        )

    def group(self, record: Record) -> Group:
        """The prompt alone."""
        return prompt_alone(record)

    def select(self, key: PRNGKeyArray, batch: Batch) -> Batch:
        """All samples but repetitions. None of a prompt whose scores are all the same."""
        del key
        valid = only_ranked(batch.scores, distinct(batch))
        return batch._replace(valid=valid, mask=batch.mask & valid[..., None])

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " b"], Metrics]:
        """Calibration and likelihood; rewards are log-probabilities."""
        logps = masked_sum(outputs.logprobs, batch.mask & batch.valid[..., None])
        # Samples come in no order, so that the tournament needs no shuffle.
        index, useful = pairs(batch.scores, batch.valid, self.pairing)
        b, m = useful.shape
        paired = jnp.take_along_axis(logps, index.reshape(b, 2 * m), axis=1).reshape(b, m, 2)
        calibration = masked_mean(slic(paired, delta=self.delta), useful)
        nll = -best(logps, batch.scores, batch.valid)
        metrics = list_metrics(logps, logps, batch.scores, batch.valid)
        return calibration + self.nll_weight * nll, {**metrics, "nll_loss": nll}
