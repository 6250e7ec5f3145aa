"""A drawing: prompts are answered by a policy, and the answers are given their rewards."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32

from alignax.core import processes
from alignax.core.errors import BadInput
from alignax.core.records import Text
from alignax.core.types import Params
from alignax.data.chat import Renderer
from alignax.data.pipeline import DrawFailed
from alignax.data.prompts import Prompts
from alignax.generate.rewards import Scored
from alignax.generate.rollout import Rollout
from alignax.generate.sampler import Sampler
from alignax.generate.server import Completions, Server, complete

# Metrics of drawings that add up.
COUNTS = ("num_generated_tokens", "rewards/bad", "prompts_drawn", "groups_kept", "groups_dropped")


class Answered(NamedTuple):
    """n prompts, k responses to each, as a sampler gives them.

    Fields:
        logprobs: of the policy that drew them; None where an outside engine did.
    """

    tokens: Int32[np.ndarray, "n k r"]
    lengths: Int32[np.ndarray, "n k"]
    ended: Bool[np.ndarray, "n k"]
    logprobs: Float32[np.ndarray, "n k r"] | None


# (whose parameters, the prompts' ids, a number for each prompt) -> their responses
Answer = Callable[[Params, Sequence[np.ndarray], Sequence[int]], Answered]


class Drawing(NamedTuple):
    """Prompts, their sampled responses, and what these are worth.

    Fields:
        numbers: of the prompts in the data set.
        texts: of the responses, without special tokens.
        scores: rewards. valid: which of them count.
        metrics: of the whole drawing.
        samples: some of it, for people; of a reward that could not be had, None.
    """

    numbers: list[int]
    answered: Answered
    texts: list[list[str]]
    scores: Float32[np.ndarray, "n k"]
    valid: Bool[np.ndarray, "n k"]
    metrics: dict[str, float]
    samples: list[dict[str, Any]]


def draw(
    prompts: Prompts,
    numbers: Sequence[int],
    answered: Answered,
    settings: Rollout,
    decode: Callable[[Sequence[Sequence[int]]], list[str]],
) -> Drawing:
    """Rewards of sampled responses.

    Args:
        numbers: which prompts were answered.
        decode: token ids to texts, special tokens left out.
    """
    n, k = answered.lengths.shape
    ids = [
        [row[:length].tolist() for row, length in zip(rows, lengths, strict=True)]
        for rows, lengths in zip(answered.tokens, answered.lengths, strict=True)
    ]
    ended = answered.ended
    texts, scored, scores = judge(prompts, numbers, ids, ended, settings, decode)
    valid = good = scored.good.reshape(n, k)
    if settings.truncated == "mask":
        valid = valid & ended
    parts = scored.parts.reshape(n, k, -1)
    samples = [
        {
            "prompt": _last(prompts.texts[numbers[i]]),
            "completions": texts[i],
            "rewards": [
                round(float(x), 6) if there else None
                for x, there in zip(scores[i], good[i], strict=True)
            ],
            "ended": ended[i].tolist(),
        }
        for i in range(min(settings.kept, n))
    ]
    return Drawing(
        numbers=list(numbers),
        answered=answered,
        texts=texts,
        scores=scores.astype(np.float32),
        valid=valid,
        metrics=_metrics(answered, scores, valid, parts, scored.names, scored.bad.total),
        samples=samples,
    )


def judge(
    prompts: Prompts,
    numbers: Sequence[int],
    ids: Sequence[Sequence[Sequence[int]]],
    ended: Bool[np.ndarray, "n k"],
    settings: Rollout,
    decode: Callable[[Sequence[Sequence[int]]], list[str]],
) -> tuple[list[list[str]], Scored, Float32[np.ndarray, "n k"]]:
    """The texts of responses, what rewards give them, and that less what a missing end costs.

    Args:
        numbers: of the n prompts that were answered.
        ids: of the k responses to each.

    Raises:
        DrawFailed: a reward fails, in every process.
    """
    k = len(ids[0])
    repeated = [number for number in numbers for _ in range(k)]
    flat = [list(x) for rows in ids for x in rows]
    texts = decode(flat)
    columns = {name: [x[i] for i in repeated] for name, x in prompts.columns.items()}
    scored, failed = None, DrawFailed("rewards", "none", "The first process says why.")
    try:
        scored = settings.rewards.score(
            [prompts.texts[i] for i in repeated], texts, completion_ids=flat, columns=columns
        )
    except BadInput as why:
        failed = DrawFailed.of(why)
    # A reward may be anything, a judge over the network too: the first process asked it. All stop
    # alike where it fails, because they save together first.
    if not processes.agree(scored is not None):
        raise failed
    assert scored is not None
    total, parts, good = processes.told((scored.total, scored.parts, scored.good))
    scored = scored._replace(total=total, parts=parts, good=good)
    scores = scored.total.reshape(ended.shape) - settings.missing_end * ~ended
    apart = [texts[i : i + k] for i in range(0, len(texts), k)]
    return apart, scored, scores.astype(np.float32)


def ask_server(
    server: Server,
    renderer: Renderer,
    sampler: Sampler,
    prompts: Sequence[np.ndarray],
    numbers: Sequence[int],
    *,
    seed: int,
    vocab_size: int,
) -> Completions:
    """What an outside engine answers to prompts, by the sampler's settings.

    A greedy first sample is asked for in a request of its own: one request has one temperature.

    Args:
        numbers: with the seed, one of each prompt decides its draws.
    """
    # What a server says nothing of is taken to be how the template closes a turn.
    end = renderer.end_id if renderer.closing_id is None else renderer.closing_id
    ask = functools.partial(
        complete,
        server,
        [prompt.tolist() for prompt in prompts],
        max_new_tokens=sampler.max_new_tokens,
        top_p=sampler.top_p,
        top_k=sampler.top_k,
        min_p=sampler.min_p,
        seed=seed,
        prompt_ids=numbers,
        end_ids=[end, *sorted(renderer.end_ids - {end})],
        encode=lambda text: renderer.continuation_ids([text])[0],
        vocab_size=vocab_size,
    )
    k, temperature = sampler.num_samples, sampler.temperature
    if not sampler.greedy_first or k == 1:
        return ask(num_samples=k, temperature=0.0 if sampler.greedy_first else temperature)
    greedy = ask(num_samples=1, temperature=0.0)
    others = ask(num_samples=k - 1, temperature=temperature)
    return Completions(
        tokens=[one + more for one, more in zip(greedy.tokens, others.tokens, strict=True)],
        texts=[one + more for one, more in zip(greedy.texts, others.texts, strict=True)],
        ended=[one + more for one, more in zip(greedy.ended, others.ended, strict=True)],
    )


def apart(answered: Answered, trainers: Float32[np.ndarray, "n k r"]) -> float:
    """How far the sampler's own log-probabilities are from the trainer's, in nats.

    The mean over prompts of the mean over the tokens of all responses to a prompt.
    """
    assert answered.logprobs is not None
    there = np.arange(trainers.shape[2]) < answered.lengths[..., None]
    total = np.abs(answered.logprobs - trainers).sum(axis=(1, 2), where=there)
    return float((total / np.maximum(there.sum(axis=(1, 2)), 1)).mean())


def _last(text: Text) -> str:
    return text if isinstance(text, str) else text[-1].content


def _metrics(
    answered: Answered,
    scores: np.ndarray,
    valid: np.ndarray,
    parts: np.ndarray,
    names: Sequence[str],
    bad: int,
) -> dict[str, float]:
    """Means over a drawing, under TRL's names."""
    found = {
        "completions/mean_length": answered.lengths.mean(),
        "completions/max_length": answered.lengths.max(),
        "completions/clipped_ratio": 1.0 - answered.ended.mean(),
        "num_generated_tokens": answered.lengths.sum(),
        "rewards/bad": bad,
    }
    if valid.any():
        found["reward"] = scores[valid].mean()
        spread = np.where(valid, scores, np.nan)[valid.sum(axis=1) > 1]
        if len(spread):
            found["reward_std"] = np.nanstd(spread, axis=1, ddof=1).mean()
            # Of equal rewards the deviation may be 1e-9: their mean is rounded.
            found["frac_reward_zero_std"] = (np.nanmin(spread, 1) == np.nanmax(spread, 1)).mean()
    for i, name in enumerate(names):
        there = ~np.isnan(parts[..., i])
        if there.any():
            found[f"rewards/{name}/mean"] = parts[..., i][there].mean()
            found[f"rewards/{name}/std"] = parts[..., i][there].std()
    return {name: float(x) for name, x in found.items()}


def merged(drawings: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The metrics of several drawings for one round or line: sums of counts, means of the rest."""
    names = dict.fromkeys(name for metrics in drawings for name in metrics)
    found = {name: [m[name] for m in drawings if name in m] for name in names}
    means = {n: sum(x) / (1 if n in COUNTS else len(x)) for n, x in found.items()}
    return means | {n: max(x) for n, x in found.items() if n == "completions/max_length"}
