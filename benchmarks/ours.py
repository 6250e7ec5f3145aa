"""This library's side of `train`: one job in a process of its own, one line of JSON at its end.

    python -m benchmarks.ours JOB.json

An update from data is the real one: plan, packed rows, stored reference log-probabilities, loss,
gradients, clipping, AdamW, metrics read back. The arrays of a step are built before the clock
starts, as the other programs' are. An update that samples is a run of the training loop, timed as
the loop times itself: drawing, scoring, reference and update.
"""

import functools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignax import (
    Data,
    Evaluation,
    Experiment,
    Function,
    Loop,
    Optim,
    Rewards,
    Rollout,
    TokenLimits,
    jobs,
    methods,
)
from alignax import Model as ModelSettings
from alignax.core.types import BLOCK, Batch, Layout, Outputs, Params
from alignax.data.pipeline import build_step
from alignax.data.plan import Lengths, Plan, make_plan
from alignax.data.tokenise import Example
from alignax.models import pretrained
from alignax.models.config import DecoderConfig
from alignax.models.lora import Adapter, LoRA
from alignax.models.outputs import outputs
from alignax.models.transformer import Decoder
from alignax.train import reference, sharding
from alignax.train.optim import make_optimizer
from alignax.train.step import init_state, make_step
from benchmarks import flops
from benchmarks.shapes import Model

METHODS = {
    "dpo": methods.DPO(beta=0.1),
    "sft": methods.SFT(),
    "reward": methods.RewardModel(centre=0.0),
    "rrhf": methods.RRHF(),
    "pro": methods.PRO(),
    "grpo": methods.GRPO(num_samples=4, beta=0.04),
    "remax": methods.ReMax(num_samples=2, beta=0.05),
}
ADAPTER = LoRA(rank=16, alpha=32.0)


class Rows:
    """Rows of tokens as a data set."""

    def __init__(self, rows: Sequence[dict]):
        self._rows = rows
        responses = np.array([[len(r) for r in row["responses"]] for row in rows])
        prompts = np.array([len(row["prompt"]) for row in rows])
        self.lengths = Lengths(prompts, responses, responses)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        row = self._rows[index]
        responses = np.concatenate([np.array(r, np.int32) for r in row["responses"]])
        return Example(
            prompt=np.array(row["prompt"], np.int32),
            responses=responses,
            response_lengths=np.array([len(r) for r in row["responses"]], np.int32),
            mask=np.ones(len(responses), bool),
            scores=np.array(row["scores"], np.float32),
            origin=str(index),
        )


def decoder(model: Model) -> Decoder:
    """The model of that shape, without weights."""
    config = DecoderConfig(
        vocab_size=model.vocab,
        width=model.width,
        layers=model.layers,
        heads=model.heads,
        kv_heads=model.kv_heads,
        head_dim=model.width // model.heads,
        mlp_width=model.mlp_width,
    )
    return Decoder(config=config, remat="block")


def concatenated(rows: Sequence[dict], *, everywhere: bool) -> list[dict]:
    """Each response behind a copy of its prompt, as a row of its own.

    Args:
        everywhere: the prompt's positions meet the vocabulary too: all but its first token is
            counted with the response.
    """
    made = []
    for row in rows:
        for response, score in zip(row["responses"], row["scores"], strict=True):
            kept = 1 if everywhere else len(row["prompt"])
            text = row["prompt"] + response
            made.append({"prompt": text[:kept], "responses": [text[kept:]], "scores": [score]})
    return made


def regrouped(
    arrays: tuple[Batch, Layout], groups: np.ndarray, responses: int, prompts: Sequence[int]
) -> tuple[Batch, Layout]:
    """The arrays of texts, one response each, as a batch of prompts with k responses.

    Args:
        groups: which text each place of the batch holds, counted within the step.
        prompts: tokens at the begin of each text that are its prompt's, and no loss counts.
    """
    batch, layout = jax.tree.map(lambda x: x[0], arrays)
    order, width = np.argsort(groups), batch.mask.shape[-1]
    slot = groups[layout.slot // width] * width + layout.slot % width
    batch = Batch(*(None if x is None else x[order].copy() for x in batch))
    for mask, length in zip(batch.mask, prompts, strict=True):
        mask[0, :length] = False
    several = lambda x: x.reshape(-1, responses, *x.shape[2:])  # noqa: E731
    batch = batch._replace(
        prompts=batch.prompts[::responses],
        prompt_lengths=batch.prompt_lengths[::responses],
        **{
            name: several(getattr(batch, name)) for name in ("responses", "mask", "scores", "valid")
        },
    )
    layout = layout._replace(slot=np.where(layout.slot < 0, -1, slot))
    return jax.tree.map(lambda x: x[None], (batch, layout))


def in_order(rows: Rows, size: int, shards: int = 1) -> Plan:
    """The rows as they come, so many to a step: every program meets the same ones together."""
    order = np.arange(len(rows)).reshape(-1, size)
    return make_plan(rows.lengths, batch_size=size, order=order, shards=shards)


def from_data(job: dict[str, Any]) -> dict[str, Any]:
    """Updates from the job's rows."""
    raw = json.loads(Path(job["rows"]).read_text())
    method, size, form = METHODS[job["task"]], job["groups"], job["options"].get("form", "shared")
    mesh = sharding.make_mesh(sharding.Mesh())
    shards = sharding.shards(mesh)
    config = pretrained.read_config(job["model"], num_scores=int(job["task"] == "reward"))
    decoder = Decoder(config=config, remat="block")
    k = len(raw[0]["responses"])
    if form == "shared":
        rows = Rows(raw)
        plan = in_order(rows, size, shards)
    else:
        everywhere = form == "everywhere"
        rows = Rows(concatenated(raw, everywhere=everywhere))
        plan = in_order(rows, size * k, shards)
    model_fn = functools.partial(outputs, decoder, reach=plan.shape.reach)

    with jax.set_mesh(mesh):
        places = sharding.parameters(mesh, decoder.abstract(), decoder.axes())
        params = pretrained.load(
            job["model"], shardings=places, num_scores=config.num_scores
        ).params
        put = lambda arrays: jax.device_put(arrays, sharding.rows(mesh, leading=1))  # noqa: E731
        numbers = {}
        if method.needs().reference:
            numbers["ref_logprobs"] = reference.compute(model_fn, params, rows, plan, put=put)
        steps = [build_step(rows, plan, index, numbers) for index in range(len(plan))]
        if form != "shared":
            prompts = [len(row["prompt"]) - 1 if everywhere else 0 for row in raw for _ in range(k)]
            steps = [
                regrouped(
                    arrays,
                    plan.step(index).group[0] - index * size * k,
                    k,
                    prompts[index * size * k : (index + 1) * size * k],
                )
                for index, arrays in enumerate(steps)
            ]
            model_fn = functools.partial(masked_outputs, model_fn)

        frozen: tuple[Params, ...] = ()
        join, trained, axes = None, decoder.abstract(), decoder.axes()
        if job["adapter"]:
            adapter = Adapter(decoder=decoder, settings=ADAPTER)
            trained, axes, frozen = adapter.abstract(), adapter.axes(), (params,)
            params = jax.jit(adapter.init)(jax.random.key(0), params)
            join = lambda params, base, key: adapter.attach(base, params, key)  # noqa: E731
            places = sharding.parameters(mesh, trained, axes)
        optim = Optim(
            learning_rate=job["learning_rate"], lr_scheduler_type="constant", warmup_ratio=0.0
        )
        optimizer = make_optimizer(optim, len(steps), axes)
        shardings = sharding.state(mesh, places, optimizer, trained)
        make = jax.jit(
            functools.partial(init_state, optimizer=optimizer),
            out_shardings=shardings,
            donate_argnums=0,
        )
        state = make(params)
        del params
        step = jax.jit(
            make_step(method, model_fn, optimizer, join=join),
            out_shardings=(shardings, sharding.replicated(mesh)),
            donate_argnums=0,
        )
        compiled = step.lower(state, *put(steps[0]), *frozen).compile()
        seconds, losses = [], []
        for arrays in steps:
            begin = time.perf_counter()
            state, metrics = compiled(state, *put(arrays), *frozen)
            losses.append(float(metrics["loss"]))
            seconds.append(time.perf_counter() - begin)

    shape = plan.shape
    work = flops.in_rows(shape.rows, shape.row_length, shape.scored, shape.reach, BLOCK)
    return {
        "seconds": seconds,
        "losses": losses,
        "work": work._asdict(),
        "xla_flops": compiled.cost_analysis()["flops"],
    }


def masked_outputs(model_fn: Any, params: Params, batch: Batch, layout: Layout) -> Outputs:
    """What the model says of the tokens that a loss counts, and 0 of others that were scored."""
    found = model_fn(params, batch, layout)
    return Outputs(logprobs=jnp.where(batch.mask, found.logprobs, 0.0))


def reward(completions: Sequence[str], **_: Any) -> list[float]:
    """The share of even words: a rule that costs nothing."""
    return [
        float(np.mean([int(word[1:]) % 2 == 0 for word in text.split()] or [0.0]))
        for text in completions
    ]


def with_sampling(job: dict[str, Any]) -> dict[str, Any]:
    """Updates from samples of the job's prompts, as a run of the training loop."""
    folder = Path(job["rows"]).parent / "alignax"
    folder.mkdir(exist_ok=True)
    rows = json.loads(Path(job["rows"]).read_text())
    texts = [{"prompt": " ".join(f"w{i}" for i in row["prompt"])} for row in rows]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    experiment = Experiment(
        method=METHODS[job["task"]],
        model=ModelSettings(model_name_or_path=job["model"], remat="block"),
        data=Data(
            train=str(folder / "prompts.jsonl"),
            template="none",
            cache_dir=str(folder / "cache"),
            limits=TokenLimits(max_length=job["prompt"] + job["response"]),
        ),
        rollout=Rollout(
            rewards=Rewards(parts=(Function(function=reward),)),
            max_new_tokens=job["response"],
        ),
        optim=Optim(
            learning_rate=job["learning_rate"], lr_scheduler_type="constant", warmup_ratio=0.0
        ),
        loop=Loop(batch_size=job["groups"], max_steps=len(rows) // job["groups"] + 1),
        evaluation=Evaluation(num_prompts=0),
        output_dir=str(folder / f"run-{time.time_ns()}"),
        tensorboard=False,
    )
    jobs.train(experiment, quiet=True)
    lines = (Path(experiment.output_dir) / "timings.jsonl").read_text().splitlines()
    timings = [json.loads(line) for line in lines][:-1]  # after the last update nothing is drawn
    return {
        "seconds": [row["seconds"] for row in timings],
        "drawing": [row["seconds_fetching"] for row in timings],
        "losses": [],
    }


def main(path: str) -> None:
    job = json.loads(Path(path).read_text())
    if job["task"] == "rate":
        found = {"rate": flops.machine_rate()}
    else:
        found = (with_sampling if job["task"] in ("grpo", "remax") else from_data)(job)
    print(json.dumps(found | {"versions": {"jax": jax.__version__}}))


if __name__ == "__main__":
    main(sys.argv[1])
