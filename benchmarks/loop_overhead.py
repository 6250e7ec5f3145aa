"""What the training loop adds to a step: data, metrics, logs, host syncs.

    python -m benchmarks.loop_overhead --rounds 4

The same compiled update, on the shape `dpo 1:1`, bare (arrays ready on the device, nothing
read back but the wait for its end) and in `train.loop` (Grain pipeline, transfer, metrics read
back and written to JSON lines and TensorBoard), in turn. Prints the median step of each, and the
median over rounds of their ratio.
"""

import dataclasses
import functools
import json
import statistics
import tempfile
import time
from pathlib import Path

import jax
import tyro

from alignax.data.pipeline import Batches
from alignax.data.plan import make_plan
from alignax.methods import DPO
from alignax.models.outputs import outputs
from alignax.train import reference
from alignax.train.checkpoint import Checkpoints
from alignax.train.loop import Loop, train
from alignax.train.metrics import MetricLog
from alignax.train.optim import Optim, make_optimizer, schedule
from alignax.train.step import init_state, make_step
from benchmarks.ours import decoder
from benchmarks.rows import Rows
from benchmarks.shapes import SHAPES

SKIPPED = 2  # first steps, which compile or fill the read-ahead


@dataclasses.dataclass(frozen=True)
class Settings:
    """How long. The shape is `dpo 1:1`."""

    rounds: int = 4
    steps: int = 12


def main(settings: Settings) -> None:
    shape = SHAPES["dpo 1:1"]
    model = decoder(shape.model)
    pairs = Rows(shape.rows(shape.groups * settings.steps))
    plan = make_plan(pairs.lengths, batch_size=shape.groups, num_steps=settings.steps, seed=0)
    optim = Optim(learning_rate=1e-4)
    optimizer = make_optimizer(optim, settings.steps, model.axes())
    model_fn = functools.partial(outputs, model, reach=plan.shape.reach)
    once = make_plan(pairs.lengths, batch_size=shape.groups)
    table = reference.compute(model_fn, jax.jit(model.init)(jax.random.key(0)), pairs, once)
    step = jax.jit(make_step(DPO(), model_fn, optimizer), donate_argnums=0)
    fresh = jax.jit(lambda: init_state(model.init(jax.random.key(0)), optimizer))

    def bare() -> float:
        ready = [jax.device_put(x) for x in Batches(pairs, plan, numbers={"ref_logprobs": table})]
        state, times = fresh(), []
        for arrays in ready:
            began = time.perf_counter()
            state, _ = jax.block_until_ready(step(state, *arrays))
            times.append(time.perf_counter() - began)
        return statistics.median(times[SKIPPED:])

    def looped() -> float:
        with tempfile.TemporaryDirectory() as folder:
            with Checkpoints(folder) as checkpoints, MetricLog(folder) as metrics:
                train(
                    fresh(),
                    step,
                    Batches(pairs, plan, numbers={"ref_logprobs": table}),
                    loop=Loop(batch_size=shape.groups),
                    num_steps=settings.steps,
                    schedule=schedule(optim, settings.steps),
                    put=jax.device_put,
                    checkpoints=checkpoints,
                    metrics=metrics,
                    evaluate=None,
                    experiment={},
                    quiet=True,
                )
            lines = (Path(folder) / "timings.jsonl").read_text().splitlines()
            return statistics.median(json.loads(line)["seconds"] for line in lines[SKIPPED:])

    bare()  # compiles
    rounds = [(bare(), looped()) for _ in range(settings.rounds)]
    found = {
        "bare_step_s": round(statistics.median(a for a, _ in rounds), 4),
        "looped_step_s": round(statistics.median(b for _, b in rounds), 4),
        "looped_over_bare": round(statistics.median(b / a for a, b in rounds), 4),
        "ratios": [round(b / a, 4) for a, b in rounds],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(tyro.cli(Settings))
