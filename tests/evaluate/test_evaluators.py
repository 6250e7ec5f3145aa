"""Held-out means count every group once; samples are measured against the reference exactly."""

import jax
import numpy as np

from alignax.data.plan import make_plan
from alignax.evaluate.evaluators import HeldOut, Sampled
from alignax.generate.sampler import Sampler
from alignax.methods import DPO, SFT
from alignax.train import reference
from tests.tiny_batch import decoder, groups, model_fn, params, plain_logprobs


def by_hand(parameters, made):
    """Summed log-probs of each response, [g, 2]."""
    return np.array(
        [
            [
                float(np.asarray(plain_logprobs(parameters, e.prompt, tokens))[mask].sum())
                for tokens, mask in e.split()
            ]
            for e in made
        ]
    )


def test_held_out_means_are_those_of_single_pairs_last_incomplete_batch_included():
    made = groups(10)
    plan = make_plan(made.lengths, batch_size=4, align=8)  # 4 + 4 + 2
    table = reference.compute(model_fn, params(0), made, plan)
    look = HeldOut(method=DPO(beta=0.5), model=model_fn, groups=made, plan=plan, ref_logprobs=table)
    found = look(params(1))
    ratio = by_hand(params(1), made) - by_hand(params(0), made)
    margins = 0.5 * (ratio[:, 0] - ratio[:, 1])
    assert found["eval_rewards/margins"].n == 10
    np.testing.assert_allclose(found["eval_rewards/margins"].mean, margins.mean(), atol=1e-4)
    np.testing.assert_allclose(found["eval_rewards/accuracies"].mean, (margins > 0).mean())
    np.testing.assert_allclose(found["eval_loss"].mean, np.log1p(np.exp(-margins)).mean(), 1e-4)
    at_reference = look(None)
    assert at_reference["eval_rewards/margins"].mean == 0.0
    np.testing.assert_allclose(at_reference["eval_loss"].mean, np.log(2), rtol=1e-6)


def test_the_held_out_loss_of_a_token_mean_method_is_the_mean_over_all_tokens():
    made = groups(10, responses=1)
    plan = make_plan(made.lengths, batch_size=4, align=8)
    look = HeldOut(method=SFT(), model=model_fn, groups=made, plan=plan, ref_logprobs=None)
    wanted = -by_hand(params(), made).sum() / sum(e.mask.sum() for e in made)
    np.testing.assert_allclose(look(params())["eval_loss"].mean, wanted, rtol=1e-5)


def test_kl_is_the_mean_log_ratio_over_the_policys_own_samples():
    prompts = [e.prompt for e in groups(5)]
    look = Sampled(
        model=decoder(),
        prompts=prompts,
        end_ids=[3],
        sampler=Sampler(max_new_tokens=6),
        batch_size=2,  # 2 + 2 + 1: the last batch is filled up
    )
    same = look(params(0), params(0))
    assert abs(same.estimates["eval_sampled/kl"].mean) < 1e-5
    assert len(same.tokens) == 5
    moved = look(params(1), params(0))
    ratios = [
        float(
            np.sum(
                np.asarray(plain_logprobs(params(1), prompt, np.array(ids[0])))
                - np.asarray(plain_logprobs(params(0), prompt, np.array(ids[0])))
            )
        )
        for prompt, ids in zip(prompts, moved.tokens, strict=True)
    ]
    np.testing.assert_allclose(moved.estimates["eval_sampled/kl"].mean, np.mean(ratios), atol=1e-4)
    lengths = [len(ids[0]) for ids in moved.tokens]
    np.testing.assert_allclose(moved.estimates["eval_sampled/length"].mean, np.mean(lengths))
    assert jax.tree.structure(params(0)) == jax.tree.structure(params(1))
