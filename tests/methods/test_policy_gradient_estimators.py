"""Whose gradient is that of the expected reward: all samples of a tiny policy, counted out.

Two prompts, three tokens of which 0 ends a response, responses of at most two tokens: seven to a
prompt. The mean of a method's gradient over all tuples of samples, each as often as the policy
draws it, is compared with the gradient of the expected reward itself.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignax.core.types import Batch, Outputs
from alignax.methods import GRPO, REINFORCE, RLOO, DrGRPO, ReMax

PROMPTS, VOCABULARY = 2, 3
RESPONSES = [(0,), *itertools.product((1, 2), (0, 1, 2))]  # the last ones are cut
FIRST = jnp.array([y[0] for y in RESPONSES])
SECOND = jnp.array([y[-1] for y in RESPONSES])
MASK = jnp.array([[True, len(y) == 2] for y in RESPONSES])

_draw = np.random.default_rng(0)
as_array = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
# Logits of the first token, and of the second one after each first one.
POLICY, REFERENCE = (
    {
        "first": as_array(_draw.standard_normal((PROMPTS, VOCABULARY))),
        "second": as_array(_draw.standard_normal((PROMPTS, VOCABULARY, VOCABULARY))),
    }
    for _ in range(2)
)
REWARDS = as_array(_draw.standard_normal((PROMPTS, len(RESPONSES))))
BETA = 0.3


def logprobs(policy):
    """Of each token of each response, [prompts, responses, 2]; 0 off the mask."""
    first = jax.nn.log_softmax(policy["first"])[:, FIRST]
    second = jax.nn.log_softmax(policy["second"])[:, FIRST, SECOND]
    return jnp.where(MASK[None], jnp.stack([first, second], axis=-1), 0.0)


def exact(beta=0.0, rewards=REWARDS):
    """Gradient of the mean over prompts of E[reward - beta log(policy / reference)]."""

    def objective(policy):
        total = logprobs(policy).sum(axis=-1)
        ratio = total - logprobs(REFERENCE).sum(axis=-1)
        return jnp.sum(jnp.exp(total) * (rewards - beta * ratio)) / PROMPTS

    return flat(jax.grad(objective)(POLICY))


def flat(gradient):
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in gradient.values()])


def greedy():
    """The response that takes the likeliest token at each place, for each prompt."""
    first = np.argmax(POLICY["first"], axis=-1)
    second = np.argmax(POLICY["second"], axis=-1)
    tokens = [(f,) if f == 0 else (f, second[i, f]) for i, f in enumerate(first)]
    return [RESPONSES.index(tuple(int(t) for t in y)) for y in tokens]


def tuples(method):
    """Every prompt with every tuple of samples: their indices [b, k], and how often each comes."""
    sampling = method.needs().sampling
    free = sampling.num_samples - sampling.greedy_first
    probability = np.exp(np.asarray(logprobs(POLICY), np.float64).sum(axis=-1))
    prompt, picked, weight = [], [], []
    for i in range(PROMPTS):
        for samples in itertools.product(range(len(RESPONSES)), repeat=free):
            prompt.append(i)
            picked.append(([greedy()[i]] if sampling.greedy_first else []) + list(samples))
            weight.append(np.prod(probability[i, list(samples)]) / PROMPTS)
    return np.array(prompt), np.array(picked), np.array(weight)


def slopes(method, rewards=REWARDS):
    """The gradient of minus the loss for each tuple, [b, parameters], and how often each comes."""
    prompt, picked, weight = tuples(method)
    rows = prompt[:, None]
    batch = Batch(
        prompts=jnp.asarray(rows),
        prompt_lengths=jnp.ones(len(rows), jnp.int32),
        responses=jnp.stack([FIRST, SECOND], axis=-1)[picked],
        mask=MASK[picked],
        scores=rewards[rows, picked],
        valid=jnp.ones(picked.shape, bool),
        ref_logprobs=logprobs(REFERENCE)[rows, picked],
        old_logprobs=logprobs(POLICY)[rows, picked],
    )
    batch = method.select(jax.random.key(0), batch)
    picked = picked[:, -batch.valid.shape[1] :]  # without the greedy one, which comes first

    def losses(policy):
        return -method.loss(Outputs(logprobs=logprobs(policy)[rows, picked]), batch)[0]

    by_tuple = jax.jit(jax.jacrev(losses))(POLICY)
    parts = [np.asarray(x, np.float64).reshape(len(rows), -1) for x in by_tuple.values()]
    return np.concatenate(parts, axis=-1), weight


def expected(method, rewards=REWARDS):
    each, weight = slopes(method, rewards)
    return weight @ each


def variance(method, rewards=REWARDS):
    """Of one prompt's gradient, summed over parameters; the prompt is drawn too."""
    each, weight = slopes(method, rewards)
    return weight @ (each**2).sum(axis=-1) - ((weight @ each) ** 2).sum()


def test_probabilities_of_all_responses_add_up_to_1():
    np.testing.assert_allclose(jnp.exp(logprobs(POLICY).sum(axis=-1)).sum(axis=-1), 1.0, rtol=1e-6)
    assert np.abs(exact()).max() > 0.01  # there is something to find


@pytest.mark.parametrize(
    "method",
    [
        REINFORCE(beta=0.0),
        REINFORCE(beta=BETA, kl="full-step"),
        REINFORCE(beta=BETA, kl="sequence"),
        REINFORCE(beta=BETA, num_samples=2),
        ReMax(beta=0.0),
        ReMax(beta=BETA, kl="full-step"),
        ReMax(beta=BETA, kl="sequence"),
        ReMax(beta=BETA, num_samples=3),
        RLOO(beta=0.0, num_samples=2),
        RLOO(beta=BETA, num_samples=2),
        RLOO(beta=BETA, num_samples=3),
        RLOO(beta=BETA, num_samples=2, clip=0.2),
    ],
    ids=repr,
)
def test_is_unbiased(method):
    beta = float(method.beta)
    np.testing.assert_allclose(expected(method), exact(beta), atol=1e-6)


@pytest.mark.parametrize("samples", [2, 3])
def test_dr_grpo_is_unbiased_up_to_its_constant(samples):
    method = DrGRPO(num_samples=samples, max_length=2)
    constant = (samples - 1) / samples / 2.0
    np.testing.assert_allclose(expected(method), constant * exact(), atol=1e-6)


def test_a_batch_baseline_shrinks_the_gradient_because_it_is_in_its_own_mean():
    # Steps of two prompts: 1 - 1/2 of the gradient.
    method, half = REINFORCE(beta=0.0, baseline="batch"), len(RESPONSES)
    total = logprobs(POLICY)
    probability = jnp.exp(total.sum(axis=-1))

    def step(policy, samples):
        rows = jnp.arange(PROMPTS)
        batch = Batch(
            prompts=jnp.ones((PROMPTS, 1), jnp.int32),
            prompt_lengths=jnp.ones(PROMPTS, jnp.int32),
            responses=jnp.zeros((PROMPTS, 1, 2), jnp.int32),
            mask=MASK[samples][:, None],
            scores=REWARDS[rows, samples][:, None],
            valid=jnp.ones((PROMPTS, 1), bool),
            old_logprobs=total[rows, samples][:, None],
        )
        outputs = Outputs(logprobs=logprobs(policy)[rows, samples][:, None])
        weight = jnp.prod(probability[rows, samples])
        return -weight * method.loss(outputs, batch)[0].mean()

    pairs = jnp.array(list(itertools.product(range(half), repeat=PROMPTS)))
    every = lambda policy: jax.vmap(lambda y: step(policy, y))(pairs).sum()  # noqa: E731
    np.testing.assert_allclose(flat(jax.grad(every)(POLICY)), exact() / 2.0, atol=1e-6)


def test_one_step_kl_is_biased():
    found = expected(ReMax(beta=BETA, kl="one-step"))
    assert np.abs(found - exact(BETA)).max() > 0.01


def test_the_standard_deviation_makes_every_prompt_count_alike():
    # Ten times the reward of one prompt is ten times its part of the gradient, but not to GRPO.
    louder = REWARDS * jnp.array([[10.0], [1.0]])
    method = GRPO(num_samples=3, beta=0.0, eps=0.0)
    np.testing.assert_allclose(expected(method, louder), expected(method), atol=1e-6)
    assert np.abs(exact(rewards=louder) - exact()).max() > 0.1
    plain = DrGRPO(num_samples=3, max_length=1)
    np.testing.assert_allclose(expected(plain, louder), 2 / 3 * exact(rewards=louder), atol=1e-5)


def test_grpo_points_elsewhere_than_the_gradient():
    cosine = lambda x, y: x @ y / np.linalg.norm(x) / np.linalg.norm(y)  # noqa: E731
    louder = REWARDS * jnp.array([[10.0], [1.0]])
    found = expected(GRPO(num_samples=3, beta=0.0), louder)
    assert cosine(found, exact(rewards=louder)) < 0.95
    plain = expected(DrGRPO(num_samples=3), louder)
    np.testing.assert_allclose(cosine(plain, exact(rewards=louder)), 1.0, atol=1e-6)


def test_the_greedy_baseline_lowers_the_variance_where_it_foretells_the_reward():
    # A prompt is easy or hard: rewards are around 5 and -3, the greedy answer's too.
    rewards = REWARDS + jnp.array([[5.0], [-3.0]])
    plain, against_greedy = REINFORCE(beta=0.0), ReMax(beta=0.0)
    np.testing.assert_allclose(
        expected(plain, rewards), expected(against_greedy, rewards), atol=5e-6
    )
    assert variance(against_greedy, rewards) < variance(plain, rewards) / 2


def test_paying_for_later_tokens_only_lowers_the_variance():
    # Rewards of 0 leave the log-ratio alone.
    rewards = jnp.zeros_like(REWARDS)
    full, whole = (
        variance(REINFORCE(beta=1.0, kl=kl), rewards) for kl in ("full-step", "sequence")
    )
    assert full < whole
