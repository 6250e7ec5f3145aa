"""What a loss needs of all prompts together is of the whole held-out set, however it is batched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.types import Outputs
from alignax.data.pipeline import InMemory
from alignax.data.plan import make_plan
from alignax.evaluate.evaluators import HeldOut
from alignax.methods import KTO, AttributeRewardModel, RewardWeighted
from alignax.train import reference
from tests.evaluate.test_evaluators import PAIRS, SINGLES, by_hand
from tests.tiny_batch import model_fn, params

sizes = pytest.mark.parametrize("batch_size", [2, 4, 8, 10])  # of 10 groups
MIXED = [i % 3 == 0 for i in range(10)]


def having(table, name, rows):
    """The table with other scores or attributes, a row of numbers for each group."""
    rows = [np.array(row, np.float32) for row in rows]
    pairs = zip(table.examples, rows, strict=True)
    return InMemory([example._replace(**{name: row}) for example, row in pairs])


LABELLED = having(PAIRS, "scores", [(float(good), 0.0) for good in MIXED])
SCORED = having(SINGLES, "scores", [(0.5 * i - 2.0,) for i in range(10)])


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


@sizes
def test_the_divergence_is_a_mean_over_all_prompts_before_it_is_clamped(batch_size):
    plan = make_plan(LABELLED.lengths, batch_size=batch_size, align=8)
    table = reference.compute(model_fn, params(0), LABELLED, plan)
    look = HeldOut(method=KTO(beta=0.1), model=model_fn, groups=LABELLED, plan=plan,
                   numbers={"ref_logprobs": table})  # fmt: skip
    ratio = by_hand(params(1), LABELLED) - by_hand(params(0), LABELLED)
    assert ratio[:, 1].min() < 0.0 < ratio[:, 1].max()  # a clamp of a part is another number
    kl = max(ratio[:, 1].mean(), 0.0)
    margin = 0.1 * (ratio[:, 0] - kl)
    found = look(params(1))
    loss = np.where(MIXED, sigmoid(-margin), sigmoid(margin)).mean()
    np.testing.assert_allclose(found["eval_loss"].mean, loss, rtol=1e-4)
    np.testing.assert_allclose(found["eval_kl"].mean, kl, rtol=1e-4, atol=1e-5)
    # Of the reference itself all ratios are 0, and the model need not be asked.
    assert look(None)["eval_loss"].mean == 0.5


@sizes
def test_weights_are_over_the_mean_weight_of_all_responses(batch_size):
    plan = make_plan(SCORED.lengths, batch_size=batch_size, align=8)
    look = HeldOut(method=RewardWeighted(), model=model_fn, groups=SCORED, plan=plan, numbers={})
    weights = np.exp([0.5 * i - 2.0 for i in range(10)])  # e^-2 to e^2.5, none above the clip
    weights /= weights.mean()
    found = look(params())
    loss = -weights * by_hand(params(), SCORED)[:, 0]
    np.testing.assert_allclose(found["eval_loss"].mean, loss.mean(), rtol=1e-5)
    np.testing.assert_allclose(found["eval_weight"].mean, 1.0, rtol=1e-6)
    assert found["eval_loss"].n == 10


def test_another_number_of_the_loss_is_of_the_whole_set_too():
    plan = make_plan(SCORED.lengths, batch_size=4, align=8)
    look = HeldOut(method=RewardWeighted(), model=model_fn, groups=SCORED, plan=plan, numbers={})
    found = look(params(), method=RewardWeighted(beta=1e6))  # which weighs all alike
    expected = -by_hand(params(), SCORED)[:, 0].mean()
    np.testing.assert_allclose(found["eval_loss"].mean, expected, rtol=1e-4)


@sizes
def test_an_attributes_error_is_a_mean_over_the_responses_that_were_rated_for_it(batch_size):
    # Depth is known of 2 of 10: (2 - 1)^2 each. Wit of all: (2 - 5)^2. Rhyme of none.
    depth = [1.0 if i in (3, 4) else np.nan for i in range(10)]
    table = having(SINGLES, "attributes", [[[x, 5.0, np.nan]] for x in depth])

    def model(params, batch, layout):
        del params, layout
        told = jnp.full(batch.attributes.shape, 2.0)
        return Outputs(jnp.zeros(batch.mask.shape), rewards=told[..., 0], attributes=told)

    plan = make_plan(table.lengths, batch_size=batch_size, align=8)
    method = AttributeRewardModel(attributes=("depth", "wit", "rhyme"))
    found = HeldOut(method=method, model=model, groups=table, plan=plan, numbers={})(params())
    for name, error in (("depth", 1.0), ("wit", 9.0), ("rhyme", 0.0)):
        np.testing.assert_allclose(found[f"eval_mse/{name}"].mean, error, rtol=1e-6)


def test_the_model_sees_each_prompt_once():
    plan, seen = make_plan(SCORED.lengths, batch_size=4, align=8), []

    def model(params, batch, layout):
        jax.debug.callback(lambda valid: seen.append(int(valid.any(axis=-1).sum())), batch.valid)
        return model_fn(params, batch, layout)

    HeldOut(method=RewardWeighted(), model=model, groups=SCORED, plan=plan, numbers={})(params())
    jax.effects_barrier()
    assert sum(seen) == 10
