"""A policy gradient is one of the distribution that drew the samples: logits over temperature."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax import jobs
from alignax.core.method import Method
from alignax.data.pipeline import InMemory, build_step
from alignax.data.plan import make_plan
from alignax.data.tokenise import Example
from alignax.methods import (
    ALL,
    DAPO,
    DPO,
    GRPO,
    GSPO,
    PPO,
    RAFT,
    REINFORCE,
    RLOO,
    RSO,
    DrGRPO,
    OnlineDPO,
    ReMax,
    SLiCSampleRank,
)
from alignax.run import Run
from tests.models import plain
from tests.run_files import updates
from tests.test_online_runs import setup

GRADIENTS = [DAPO, DrGRPO, GRPO, GSPO, PPO, REINFORCE, RLOO, ReMax]


def test_methods_of_the_policy_gradient_are_tempered_and_no_others():
    tempered = {method for method in ALL if method().needs().tempered}
    assert tempered == set(GRADIENTS)


@pytest.mark.parametrize("kind", [*GRADIENTS, OnlineDPO, RAFT, RSO, SLiCSampleRank])
def test_log_probs_of_policy_gradients_alone_are_at_the_temperature_of_the_samples(kind, tmp_path):
    run = Run(setup(tmp_path, kind(), rollout={"temperature": 0.6}))
    expected = 0.6 if kind in GRADIENTS else 1.0
    assert run.model_fn(None).temperature == run.policy_fn().temperature == expected
    assert run.experiment.rollout.sampler(run.method).temperature == 0.6


def test_a_method_for_data_and_one_whose_samples_are_all_greedy_are_at_1(tmp_path):
    made = setup(tmp_path, GRPO(), rollout={"temperature": 0.0})
    assert Run(made).temperature == 1.0
    assert Run(dataclasses.replace(made, method=DPO())).temperature == 1.0


@pytest.mark.parametrize("method", [RLOO(temperature=0.5), PPO(temperature=0.5)], ids=repr)
def test_log_probs_are_those_of_logits_divided_by_it(method: Method, tmp_path):
    run = Run(setup(tmp_path, method), quiet=True)
    tokens, prompt = np.array([5, 9, 300, 2], np.int32), np.array([1, 7, 8], np.int32)
    example = Example(prompt=prompt, responses=tokens, response_lengths=np.array([4], np.int32),
                      mask=np.ones(4, bool), scores=np.zeros(1, np.float32), origin="")  # fmt: skip
    groups = InMemory([example])
    plan = make_plan(groups.lengths, batch_size=1, num_steps=1)
    batch, layout = jax.tree.map(lambda x: jnp.asarray(x[0]), build_step(groups, plan, 0))
    with jax.set_mesh(run.mesh):
        params = run.initial_params()
        found = run.model_fn(plan)(params, batch, layout).logprobs[0, 0, :4]
        alone = run.policy_fn()(run.policy(params), batch, layout).logprobs[0, 0, :4]
    logits = plain.logits(run.decoder.config, run.policy(params), np.concatenate([prompt, tokens]))
    logprobs = jax.nn.log_softmax(logits[2:6] / 0.5)
    expected = np.take_along_axis(np.asarray(logprobs), tokens[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(alone, expected, atol=1e-5)


def of_even_ids(completion_ids, **_):
    return [sum(i % 2 == 0 for i in ids) / len(ids) for ids in completion_ids]


@pytest.mark.parametrize(
    "method",
    [
        GRPO(num_samples=4, temperature=0.6, beta=0.1),
        PPO(num_samples=2, temperature=0.6, beta=0.1, epochs=1, refresh=1),
    ],
    ids=lambda x: type(x).__name__,
)
def test_a_run_at_a_low_temperature_begins_with_ratios_of_1_and_no_divergence(method, tmp_path):
    jobs.train(setup(tmp_path, method, of_even_ids, loop={"max_steps": 2}), quiet=True)
    first, second = updates(tmp_path / "run")
    for line in (first, second):  # samples of each update are fresh
        assert line["sampling/logp_difference"] < 1e-5
    assert first["kl"] == pytest.approx(0.0, abs=1e-5)
