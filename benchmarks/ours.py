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
from typing import Any, NamedTuple

import jax
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
from alignax.core.logprobs import keeps_slopes, room
from alignax.core.types import BLOCK, Params
from alignax.data.pipeline import build_step
from alignax.models import pretrained
from alignax.models.config import DecoderConfig
from alignax.models.lora import Adapter, LoRA
from alignax.models.outputs import outputs
from alignax.models.stack import Remat
from alignax.models.transformer import Decoder
from alignax.train import reference, sharding
from alignax.train.compilations import Compilations, update_options
from alignax.train.optim import make_optimizer
from alignax.train.step import Join, init_state, make_step
from benchmarks import flops
from benchmarks.rows import masked_outputs, prepared
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
# What the backward pass computes again: a GPU has room for all that it needs.
REMAT: dict[str, Remat] = {"cpu": "block", "gpu": "none"}
ADAPTER = LoRA(rank=16, alpha=32.0)


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
        tied=model.tied,
    )
    return Decoder(config=config, remat="block")


class Trained(NamedTuple):
    """What a job trains.

    Fields:
        params: it begins with. abstract, axes, places: its shapes, logical axes and shardings.
        join: the whole model's parameters, for an adapter. frozen: the arguments that needs.
    """

    params: Params
    abstract: Params
    axes: Params
    places: Params
    join: Join | None = None
    frozen: tuple[Params, ...] = ()


def adapted(whole: Trained, network: Decoder, mesh: jax.sharding.Mesh) -> Trained:
    """An adapter in place of the whole model, which it is put on."""
    adapter = Adapter(decoder=network, settings=ADAPTER)
    abstract, axes = adapter.abstract(), adapter.axes()
    return Trained(
        params=jax.jit(adapter.init)(jax.random.key(0), whole.params),
        abstract=abstract,
        axes=axes,
        places=sharding.parameters(mesh, abstract, axes),
        join=lambda params, base, key: adapter.attach(base, params, key),
        frozen=(whole.params,),
    )


def from_data(job: dict[str, Any]) -> dict[str, Any]:
    """Updates from the job's rows."""
    raw = json.loads(Path(job["rows"]).read_text())
    method, form = METHODS[job["task"]], job["options"].get("form", "shared")
    mesh = sharding.make_mesh(sharding.Mesh())
    num_scores = int(job["task"] == "reward")
    config = pretrained.read_config(job["model"], num_scores)
    network = Decoder(config=config, dtype=job["dtype"], remat=REMAT[job["platform"]])
    rows, plan, arrange = prepared(raw, job["groups"], form, sharding.shards(mesh))
    model_fn = functools.partial(outputs, network, reach=plan.shape.reach)
    put = lambda arrays: jax.device_put(arrays, sharding.rows(mesh, leading=1))  # noqa: E731

    with jax.set_mesh(mesh), Compilations():
        abstract, axes = network.abstract(), network.axes()
        places = sharding.parameters(mesh, abstract, axes)
        params = pretrained.load(job["model"], shardings=places, num_scores=num_scores).params
        numbers = {}
        if method.needs().reference:
            numbers["ref_logprobs"] = reference.compute(model_fn, params, rows, plan, put=put)
        steps = [arrange(build_step(rows, plan, i, numbers), i) for i in range(len(plan))]
        if form != "shared":
            model_fn = functools.partial(masked_outputs, model_fn)

        trained = Trained(params, abstract, axes, places)
        if job["adapter"]:
            trained = adapted(trained, network, mesh)
        optimizer = make_optimizer(optim(job), len(steps), trained.axes)
        shardings = sharding.state(mesh, trained.places, optimizer, trained.abstract)
        make = jax.jit(
            functools.partial(init_state, optimizer=optimizer),
            out_shardings=shardings,
            donate_argnums=0,
        )
        frozen, state = trained.frozen, make(trained.params)
        step = jax.jit(
            make_step(method, model_fn, optimizer, join=trained.join),
            out_shardings=(shardings, sharding.replicated(mesh)),
            donate_argnums=0,
            compiler_options=update_options(),
        )
        del params, trained  # donated, or no longer needed
        compiled = step.lower(state, *put(steps[0]), *frozen).compile()
        seconds, losses = [], []
        for arrays in steps:
            # Ahead of the clock, as the loop of a run has them: the others' readers do so too.
            arrays = jax.block_until_ready(put(arrays))
            begin = time.perf_counter()
            state, metrics = compiled(state, *arrays, *frozen)
            losses.append(float(metrics["loss"]))
            seconds.append(time.perf_counter() - begin)

    shape = plan.shape
    chunks = flops.vocabulary_chunks(shape.scored, config.vocab_size, room())
    scored = shape.shards * shape.scored
    if keeps_slopes(job["dtype"], scored * config.vocab_size):
        chunks = 1  # nothing is computed again
    work = flops.in_rows(shape.rows, shape.row_length, scored, shape.reach, BLOCK, chunks)
    if job["platform"] == "gpu":  # whose kernels visit what is seen
        work = work._replace(pairs=flops.seen(rows.lengths) / len(plan))
    return {
        "seconds": seconds,
        "losses": losses,
        "work": work._asdict(),
        "recomputed": network.remat == "block",
        "xla_flops": compiled.cost_analysis()["flops"],
    }


def optim(job: dict[str, Any]) -> Optim:
    """AdamW as the other programs have it: a constant rate, no decay, gradients clipped at 1."""
    rate = job["learning_rate"]
    return Optim(learning_rate=rate, lr_scheduler_type="constant", warmup_ratio=0.0)


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
        model=ModelSettings(
            model_name_or_path=job["model"], dtype=job["dtype"], remat=REMAT[job["platform"]]
        ),
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
        optim=optim(job),
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
        found = {"rate": flops.machine_rate(job["platform"], job["dtype"])}
        print(json.dumps(found))
        return
    found = (with_sampling if job["task"] in ("grpo", "remax") else from_data)(job)
    if job["platform"] == "gpu":
        found["device_peak_mib"] = (
            jax.local_devices()[0].memory_stats()["peak_bytes_in_use"] / 2**20
        )
    print(json.dumps(found | {"versions": {"jax": jax.__version__}}))


if __name__ == "__main__":
    main(sys.argv[1])
