"""Feeds of a run: its data set, or responses that it samples, as the method and config say."""

import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from alignax.core import processes
from alignax.core.errors import BadInput
from alignax.core.types import Params
from alignax.data.pipeline import Batches, Drawn, InMemory
from alignax.data.tokenise import Example
from alignax.generate.drawing import Answer, Answered, ask_server
from alignax.generate.engine import Engine
from alignax.generate.reward_models import ModelReward
from alignax.generate.round_files import met_again
from alignax.generate.rounds import Rounds
from alignax.generate.server import ServerFailed
from alignax.run import Run
from alignax.train import sharding
from alignax.train.loop import Feed
from alignax.train.reference import Looking

SAMPLING = 1  # what a key is for: the draws of responses


def make_feed(run: Run, params: Params) -> Feed:
    """The feed of a run.

    Args:
        params: those that the run begins from: the reference's.
    """
    if not run.experiment.rollout:
        return Batches(
            run.train_data,
            run.plan,
            numbers=run.reference(run.train_data, run.policy(params), "train", run.plan.groups),
            shards=sharding.own_shards(run.mesh),
        )
    experiment, settings = run.experiment, run.experiment.rollout
    sampling = settings.sampling(run.method)
    reference = _once(run.initial_policy)
    rounds = Rounds(
        method=run.method,
        settings=settings,
        prompts=run.prompts("train"),
        renderer=run.renderer,
        answer=_ours(run) if settings.server is None else _outside(run),
        look=_look(run, reference),
        reference=reference,
        decode=run.decode_all,
        attributes=_attributes(run),
        pairing=experiment.data.pairing,
        batch_size=experiment.loop.batch_size,
        accumulation=experiment.loop.gradient_accumulation_steps,
        shards=sharding.shards(run.mesh),
        seed=experiment.seed,
        folder=Path(experiment.output_dir) / "rounds",
        anew=anew(run),
    )
    run.say(
        f"[bold]rounds[/]: {run.num_steps} updates of {experiment.loop.batch_size} groups; every "
        f"{sampling.refresh} a drawing of {sampling.num_samples} samples a prompt by the "
        f"{sampling.source}, for {sampling.epochs} passes; rewards: "
        + escape(" + ".join(settings.rewards.names))
    )
    count, size = met_again(
        run.method, settings, groups=rounds.groups, num_steps=run.num_steps,
        prompts=len(run.prompts("train")), longest=run.prompts("train").longest,
    )  # fmt: skip
    if count:
        which = "the best group of each prompt" if sampling.replay == "best" else "all groups"
        run.say(
            f"[bold]met again[/]: {which} of earlier rounds: in the end up to {count:,}, about "
            f"{size / 2**20:,.1f} MiB in a file beside each checkpoint, up to twice that in memory"
        )
    return rounds


def _once(make: Callable[[], Params]) -> Callable[[], Params]:
    """The reference's parameters, read when first asked for and held from then on."""
    return functools.cache(make)


def _ours(run: Run) -> Answer:
    """Answers of the trained model's own sampler."""
    settings = run.experiment.rollout
    engine = Engine(
        model=run.decoder,
        sampler=settings.sampler(run.method),
        end_ids=tuple(sorted(run.renderer.end_ids)),
        slots=max(settings.slots, settings.sampling(run.method).num_samples),
        fitted=settings.shapes == "fitted",
        tempered=run.method.needs().tempered,
        weights=run.decoding_shardings,
    )
    key = jax.random.fold_in(jax.random.key(run.experiment.seed), SAMPLING)
    by_reference = settings.sampling(run.method).source == "reference"

    def answer(params: Params, prompts: Sequence[np.ndarray], numbers: Sequence[int]) -> Answered:
        found = engine(params if by_reference else run.policy(params), key, prompts, numbers)
        return Answered(found.tokens, found.lengths, found.ended, found.logprobs)

    return answer


def _outside(run: Run) -> Answer:
    """Answers of a server, whose log-probabilities are computed here. The first process asks it."""
    settings = run.experiment.rollout
    server, sampler = settings.server, settings.sampler(run.method)
    assert server is not None

    def answer(params: Params, prompts: Sequence[np.ndarray], numbers: Sequence[int]) -> Answered:
        del params  # the server has weights of its own
        n, k, r = len(prompts), sampler.num_samples, sampler.max_new_tokens
        tokens, lengths = np.zeros((n, k, r), np.int32), np.zeros((n, k), np.int32)
        ended, failed = np.zeros((n, k), bool), None
        if processes.is_first():
            try:
                found = ask_server(
                    server, run.renderer, sampler, prompts, numbers,
                    seed=run.experiment.seed, vocab_size=run.decoder.config.vocab_size,
                )  # fmt: skip
            except BadInput as why:
                failed = ServerFailed.of(why)
            else:
                ended[:] = found.ended
                for i, one in enumerate(found.tokens):
                    for j, ids in enumerate(one):
                        tokens[i, j, : len(ids)], lengths[i, j] = ids, len(ids)
        # All stop alike, because they save together first.
        if not processes.agree(failed is None):
            raise failed or ServerFailed(
                "an answer from the server", "none", "The first process says why.", where=server.url
            )
        tokens, lengths, ended = processes.told((tokens, lengths, ended))
        return Answered(tokens, lengths, ended, None)

    return answer


def _look(run: Run, reference: Callable[[], Params]) -> Any:
    """What the method needs to know of drawn tokens, by the model as the update calls it."""
    settings, needs = run.experiment.rollout, run.method.needs()
    shards = sharding.shards(run.mesh)
    shape = {
        "batch_size": -(-run.experiment.evaluation.batch_size // shards) * shards,
        "shards": shards,
        "prompt": run.prompts("train").longest,
        "response": settings.max_new_tokens,
        "put": run.put,
    }
    by_reference = settings.sampling(run.method).source == "reference"
    # Who learns through records has no use for what drew the samples.
    old = anew(run) and needs.sampling is not None
    policy = Looking(run.policy_fn(), **shape)
    whole = Looking(run.model_fn(None), **shape)

    def look(params: Params, examples: Sequence[Example]) -> dict[str, list[np.ndarray]]:
        groups, found = InMemory(examples), {}
        if needs.reference:
            found["ref_logprobs"] = policy(reference(), groups)[0]
        if by_reference and old and needs.head != "value":
            found["old_logprobs"] = found.get("ref_logprobs") or policy(reference(), groups)[0]
        elif needs.head == "value" or settings.server is not None or old:
            logprobs, values = whole(params, groups)
            found["old_logprobs"] = logprobs
            if values is not None:
                found["old_values"] = values
        return found

    return look


def anew(run: Run) -> bool:
    """Whether what the sampler says of its tokens will not do for a loss.

    In bfloat16 decoding and the update round at different places, by more than some clips of the
    policies' ratio (GSPO: 3e-4), which is 1 where nothing has moved. The update's own function in
    rows of another shape still rounds otherwise, but less: of a tiny model on a CPU an eighth of
    the first update's responses were clipped so, in place of three eighths.
    """
    needs = run.method.needs()
    ratio = needs.tempered and not needs.on_policy
    return run.experiment.model.dtype != "float32" and (ratio or needs.reference)


def _attributes(run: Run) -> Any:
    """What a reward model of attributes says of responses, where the method learns from those."""
    models = [x for x in run.experiment.rollout.rewards.parts if isinstance(x, ModelReward)]
    if not models:
        return None
    model = models[0]

    def attributes(prompts: Any, texts: Any) -> list[dict[str, float]]:
        # Whole numbers, as where data are annotated: they become text.
        table = model.ratings(prompts, texts)
        return [dict(zip(model.names, row.tolist(), strict=True)) for row in table]

    return attributes


def show(run: Run) -> Callable[[int, Drawn], None] | None:
    """Prints a table of what was drawn, now and then."""
    settings = run.experiment.rollout
    if not settings or not settings.show_every:
        return None
    drawings = itertools.count()  # and not updates: a round may have fewer than others

    def look(step: int, drawn: Drawn) -> None:
        if next(drawings) % settings.show_every:
            return
        rows = Table("prompt", "answer", "reward", title=f"drawn for step {step}", show_lines=True)
        for sample in drawn.samples[:3]:
            text = sample["completions"][0].strip()
            said = (Text(_short(x)) for x in (sample["prompt"], text))  # and not markup
            reward = sample["rewards"][0]
            rows.add_row(*said, "masked" if reward is None else f"{reward:.3f}")
        run.say(rows)

    return look


def _short(text: str, most: int = 300) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
