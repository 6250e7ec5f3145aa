"""What a run has spent: tokens, and arithmetic counted by hand.

A multiplication and an addition count two. A forward pass takes 2 for each number of the blocks'
matrices and each token, and 2 for each number of the output matrix and each scored token; a
backward pass twice as much. Attention's own products are left out: they are small where texts are
short. What is not counted is held-out answers: they are the measurement's, not the method's.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignax.data import json_lines
from alignax.feeds import anew
from alignax.generate.reward_models import ModelReward
from alignax.generate.scoring import classifier
from alignax.models.config import DecoderConfig
from alignax.models.transformer import Decoder
from alignax.run import Run


class Cost(NamedTuple):
    """Of a run until an update.

    Fields:
        generated: tokens drawn. trained: tokens of updates, prompts included.
        flops: of drawing, judging by a model, references, critics and updates.
        seconds: of updates and what they wait for, drawing included; one that compiled counts as
            the others of its kind do.
        grad_norm: the mean square of the gradient's norm before clipping.
    """

    generated: float
    trained: float
    flops: float
    seconds: float
    grad_norm: float


class Sizes(NamedTuple):
    """Numbers in matrices: of all blocks, and of the output."""

    blocks: int
    head: int

    def forward(self, tokens: float, scored: float) -> float:
        """Arithmetic of a pass over `tokens`, of which `scored` meet the output matrix."""
        return 2.0 * (self.blocks * tokens + self.head * scored)


def sizes(config: DecoderConfig) -> Sizes:
    """Of a decoder; its input table multiplies nothing. Norms, a thousandth, count as matrices."""
    table, scores = config.vocab_size * config.width, config.num_scores
    tables = table if config.tied or scores else 2 * table
    return Sizes(Decoder(config=config).num_params - tables - scores * config.width, table)


def costs(run: Run) -> dict[int, Cost]:
    """By update, from a finished run's log."""
    experiment, needs = run.experiment, run.method.needs()
    output = Path(experiment.output_dir)
    policy = sizes(run.decoder.config)
    sampled = bool(experiment.rollout)
    if sampled:
        prompt = float(np.mean([len(ids) for ids in run.prompts("train").ids]))
        each = experiment.rollout.sampling(run.method).num_samples
    else:
        prompt, each = float(np.mean(run.train_data.lengths.prompt)), 0
    judges = [x for x in experiment.rollout.rewards.parts if isinstance(x, ModelReward)]
    judge = sum(sizes(classifier(x.directory)).blocks for x in judges)
    critic = needs.head == "value"
    by_it = sampled and experiment.rollout.sampling(run.method).source == "reference"
    again = sampled and anew(run)
    # Samples of the reference bring their log-probabilities along, but where these are not used.
    of_reference = sampled and needs.reference and (again or not by_it)
    # With a critic, below.
    of_policy = again and needs.sampling is not None and not critic
    of_policy = of_policy and not (by_it and needs.reference)
    lines = [row for row in _lines(output / "metrics.jsonl") if "num_tokens" in row]
    drawing = {int(row["step"]) for row in lines if row.get("num_generated_tokens")}
    seconds = elapsed(_lines(output / "timings.jsonl"), drawing)

    found, spent = {}, np.zeros(3)
    norms: list[float] = []
    if needs.reference and not sampled:  # once for all groups that are met, before any update
        met, data = run.plan.groups, run.train_data.lengths
        scored = float(data.scored[met].sum())
        spent[2] += policy.forward(scored + float(data.prompt[met].sum()), scored)
    found[0] = Cost(0.0, 0.0, float(spent[2]), 0.0, 0.0)
    for row in lines:
        drawn = row.get("num_generated_tokens", 0.0)
        asked = row.get("prompts_drawn", 0.0) * prompt
        scored = row["num_tokens"]
        trained = scored + row["num_prompts"] * prompt
        flops = policy.forward(drawn + asked, drawn)
        flops += 2.0 * judge * (drawn + asked * each)
        flops += (of_reference + of_policy) * policy.forward(drawn + asked, drawn)
        if critic:  # the old policy and its values, and then the trained critic
            flops += policy.forward(drawn + asked, drawn) + 2.0 * policy.blocks * (drawn + asked)
            flops += 6.0 * policy.blocks * trained
        flops += 3.0 * policy.forward(trained, scored)
        spent += (drawn, trained, flops)
        norms.append(row.get("grad_norm", math.nan) ** 2)
        generated, tokens, arithmetic = spent.tolist()
        step = int(row["step"])
        found[step] = Cost(generated, tokens, arithmetic, seconds[step], float(np.mean(norms)))
    return found


def elapsed(timings: Sequence[Mapping[str, Any]], drawing: Collection[int]) -> dict[int, float]:
    """Seconds from the begin to the end of every update, had nothing been compiled.

    An update that compiled counts as the mean of those of its kind that did not: that drew, or that
    did not draw. Where all of a kind compiled, by their own time less that of the compiler.

    Args:
        timings: of every update: `step`, `seconds`, `programs_compiled`, `seconds_compiling`.
        drawing: the updates that drew samples first.
    """
    kinds: dict[bool, list[Mapping[str, Any]]] = {True: [], False: []}
    for row in timings:
        kinds[int(row["step"]) in drawing].append(row)
    usual = {}
    for kind, rows in kinds.items():
        ready = [x["seconds"] for x in rows if not x["programs_compiled"]]
        ready = ready or [x["seconds"] - x["seconds_compiling"] for x in rows]
        usual[kind] = float(np.mean(ready)) if ready else 0.0
    found, total = {}, 0.0
    for row in timings:
        step = int(row["step"])
        total += usual[step in drawing] if row["programs_compiled"] else row["seconds"]
        found[step] = total
    return found


def _lines(path: Path) -> list[dict]:
    return json_lines.read(path) if path.is_file() else []
