"""Held-out means count every group once; samples are measured against the reference exactly."""

import numpy as np
import pytest

from alignax.data.pipeline import InMemory
from alignax.data.plan import make_plan
from alignax.evaluate.evaluators import HeldOut, Sampled
from alignax.evaluate.stats import estimate, wilson
from alignax.generate.sampler import Sampler
from alignax.methods import DPO, SFT
from alignax.train import reference
from tests.models import plain
from tests.tiny_batch import CONFIG, decoder, model_fn, params, random_table

PAIRS = random_table(10, responses=2)
SINGLES = random_table(10, responses=1, seed=1)


def summed(parameters, prompt, tokens, mask=True) -> float:
    return float((np.asarray(plain.logprobs(CONFIG, parameters, prompt, tokens)) * mask).sum())


def by_hand(parameters, table) -> np.ndarray:
    """Summed log-probabilities of each response, [g, k]."""
    return np.array(
        [[summed(parameters, e.prompt, *pair) for pair in e.split()] for e in table.examples]
    )


def test_held_out_means_are_those_of_single_pairs_last_incomplete_batch_included():
    plan = make_plan(PAIRS.lengths, batch_size=4, align=8)  # 4 + 4 + 2
    table = reference.compute(model_fn, params(0), PAIRS, plan)
    look = HeldOut(method=DPO(beta=0.5), model=model_fn, groups=PAIRS, plan=plan,
                   numbers={"ref_logprobs": table})  # fmt: skip
    found = look(params(1))
    policy = by_hand(params(1), PAIRS)
    rewards = 0.5 * (policy - by_hand(params(0), PAIRS))
    margins = rewards[:, 0] - rewards[:, 1]
    expected = {
        "loss": np.log1p(np.exp(-margins)).mean(),
        "rewards/chosen": rewards[:, 0].mean(),
        "rewards/rejected": rewards[:, 1].mean(),
        "rewards/margins": margins.mean(),
        "rewards/accuracies": (margins > 0).mean(),
        "logps/chosen": policy[:, 0].mean(),
        "logps/rejected": policy[:, 1].mean(),
    }
    assert found.keys() == {f"eval_{name}" for name in expected}
    for name, mean in expected.items():
        estimate = found[f"eval_{name}"]
        assert estimate.n == 10
        np.testing.assert_allclose(estimate.mean, mean, rtol=1e-4, atol=1e-4)
        assert estimate.low <= estimate.mean <= estimate.high
    # A share has Wilson's interval.
    share = found["eval_rewards/accuracies"]
    assert (share.low, share.high) == wilson(share.mean, 10)


def test_groups_of_one_prompt_count_as_one_in_every_interval():
    # Of ten pairs, in any order, four share the first one's prompt and three the second one's.
    prompts = [0, 1, 0, 0, 2, 1, 3, 0, 1, 4]
    table = InMemory(
        [e._replace(prompt=PAIRS[i].prompt) for e, i in zip(PAIRS.examples, prompts, strict=True)]
    )
    plan = make_plan(table.lengths, batch_size=4, align=8)
    ref = reference.compute(model_fn, params(0), table, plan)
    fields = {"method": DPO(beta=0.5), "model": model_fn, "groups": table, "plan": plan,
              "numbers": {"ref_logprobs": ref}}  # fmt: skip
    look = HeldOut(**fields)
    found = look(params(1))
    assert look.num_prompts == 5
    assert {x.n for x in found.values()} == {5}
    rewards = 0.5 * (by_hand(params(1), table) - by_hand(params(0), table))
    margins = rewards[:, 0] - rewards[:, 1]
    expected = estimate(margins, prompts=np.array(prompts))
    assert tuple(found["eval_rewards/margins"]) == pytest.approx(expected, abs=1e-4)
    np.testing.assert_allclose(expected.mean, margins.mean())
    expected = estimate((margins > 0).astype(float), prompts=np.array(prompts), share=True)
    assert tuple(found["eval_rewards/accuracies"]) == pytest.approx(expected, abs=1e-6)
    # Which prompt a group is of may be said: here each is of its own.
    apart = HeldOut(**fields, prompts=range(10))(params(1))["eval_rewards/margins"]
    assert tuple(apart) == pytest.approx(estimate(margins), abs=1e-4)


def test_the_reference_itself_is_measured_without_the_model():
    plan = make_plan(PAIRS.lengths, batch_size=4, align=8)
    table = reference.compute(model_fn, params(0), PAIRS, plan)
    look = HeldOut(method=DPO(), model=lambda *_: pytest.fail("the model was called"),
                   groups=PAIRS, plan=plan, numbers={"ref_logprobs": table})  # fmt: skip
    found = look(None)
    assert found["eval_rewards/margins"].mean == 0.0
    np.testing.assert_allclose(found["eval_loss"].mean, np.log(2), rtol=1e-6)
    chosen = by_hand(params(0), PAIRS)[:, 0].mean()
    np.testing.assert_allclose(found["eval_logps/chosen"].mean, chosen, rtol=1e-5)


def test_the_held_out_loss_of_a_token_mean_method_is_the_mean_over_all_tokens():
    plan = make_plan(SINGLES.lengths, batch_size=4, align=8)
    look = HeldOut(method=SFT(), model=model_fn, groups=SINGLES, plan=plan, numbers={})
    found = look(params())
    sums, counts = by_hand(params(), SINGLES)[:, 0], SINGLES.lengths.scored[:, 0]
    assert len(set(counts.tolist())) > 3
    np.testing.assert_allclose(found["eval_loss"].mean, -sums.sum() / counts.sum(), rtol=1e-5)
    # Its interval is one for sums over sums: lengths alone do not widen it.
    expected = estimate(-sums, weights=counts.astype(float))
    assert tuple(found["eval_loss"]) == pytest.approx(expected, rel=1e-4)
    # The metric is a mean over prompts of each one's own mean.
    mean_token = (sums / counts).mean()
    np.testing.assert_allclose(found["eval_logps/mean_token"].mean, mean_token, rtol=1e-5)


def sampled(**settings):
    fields = {
        "model": decoder(),
        "prompts": [e.prompt for e in PAIRS.examples[:5]],
        "end_ids": [3],
        "sampler": Sampler(max_new_tokens=6),
        "batch_size": 2,  # 2 + 2 + 1: the last batch is filled up
    }
    return Sampled(**(fields | settings))


def test_the_kl_of_a_policy_to_itself_is_0():
    found = sampled()(params(0), params(0)).estimates
    assert found["eval_sampled/kl"].n == 5
    np.testing.assert_allclose(found["eval_sampled/kl"].mean, 0.0, atol=1e-5)


@pytest.mark.parametrize("num_samples", [1, 2])
def test_kl_is_the_mean_log_ratio_over_the_policys_own_samples(num_samples):
    look = sampled(sampler=Sampler(max_new_tokens=6, num_samples=num_samples))
    answers = look(params(1), params(0))
    assert [len(x) for x in answers.tokens] == [num_samples] * 5
    ratios, lengths = [], []
    for prompt, drawn in zip(look.prompts, answers.tokens, strict=True):
        for ids in drawn:
            tokens = np.array(ids)
            ratios.append(summed(params(1), prompt, tokens) - summed(params(0), prompt, tokens))
            lengths.append(len(ids))
    found = answers.estimates
    # One number a prompt, whatever the number of samples.
    assert {e.n for e in found.values()} == {5}
    assert abs(np.mean(ratios)) > 0.1
    np.testing.assert_allclose(found["eval_sampled/kl"].mean, np.mean(ratios), atol=1e-4)
    np.testing.assert_allclose(found["eval_sampled/length"].mean, np.mean(lengths))
    ended = [[ids[-1] == 3 for ids in drawn] for drawn in answers.tokens]
    np.testing.assert_array_equal(answers.ended, ended)
    np.testing.assert_allclose(found["eval_sampled/ended"].mean, np.mean(ended))


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.7}, {"top_p": 0.95}, {"top_k": 3}, {"min_p": 0.1},
                 {"greedy_first": True, "num_samples": 2}], ids=str,
)  # fmt: skip
def test_samples_that_are_not_the_policys_own_have_a_log_ratio_and_no_kl(settings):
    answers = sampled(sampler=Sampler(max_new_tokens=6, **settings))(params(1), params(0))
    assert "eval_sampled/log_ratio" in answers.estimates
    assert "eval_sampled/kl" not in answers.estimates
    assert "log_ratio" in answers.numbers
    assert "kl" not in answers.numbers


def test_answers_that_all_end_have_an_interval_however_many_a_prompt_has():
    # Every token ends a response.
    look = sampled(sampler=Sampler(max_new_tokens=6, num_samples=4), end_ids=list(range(40)))
    found = look(params(0), None).estimates["eval_sampled/ended"]
    assert tuple(found) == (1.0, *wilson(1.0, 5), 5)


def test_a_prompt_that_is_asked_twice_is_one_prompt():
    prompts = [PAIRS[i].prompt for i in (0, 1, 0, 2)]
    rewards = np.array([[1.0], [2.0], [4.0], [np.nan]])
    look = sampled(prompts=prompts, reward=lambda ids, ended: rewards)
    assert look.num_prompts == 3
    found = look(params(0), None).estimates
    assert found["eval_sampled/length"].n == found["eval_sampled/ended"].n == 3
    expected = estimate(np.array([1.0, 2.0, 4.0]), prompts=np.array([0, 1, 0]))
    assert found["eval_sampled/reward"] == expected
    assert expected.n == 2


def test_answers_that_no_reward_was_found_for_are_counted():
    masked = np.array([[1.0], [np.nan], [3.0], [np.nan], [np.nan]])
    found = sampled(reward=lambda ids, ended: masked)(params(0), None).estimates
    assert (found["eval_sampled/reward"].mean, found["eval_sampled/unjudged"].mean) == (2.0, 0.6)
    found = sampled(reward=lambda ids, ended: np.ones((5, 1)))(params(0), None).estimates
    assert "eval_sampled/unjudged" not in found


def test_without_a_reference_there_is_no_kl():
    found = sampled()(params(0), None).estimates
    assert found.keys() == {"eval_sampled/length", "eval_sampled/ended"}


def test_answers_do_not_depend_on_how_prompts_are_batched():
    few, many = (sampled(batch_size=size)(params(0), None) for size in (2, 5))
    assert few.tokens == many.tokens
    assert few.tokens != sampled(seed=1)(params(0), None).tokens
