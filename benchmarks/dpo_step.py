"""Times one DPO step as the training loop runs it, on random weights and tokens.

    python benchmarks/dpo_step.py                  # 4 layers, d 256, vocabulary 32,000, 4 pairs
    python benchmarks/dpo_step.py --steps 20 --dtype bfloat16

The step is the real one: plan, Grain pipeline, packed rows, stored reference log-probabilities,
loss, gradients, clipping, AdamW, metrics read back. Prints one JSON line.
"""

import dataclasses
import functools
import json
import resource
import statistics
import time
from typing import Literal

import jax
import numpy as np
import tyro

from alignax.data.pipeline import Batches
from alignax.data.plan import Lengths, make_plan
from alignax.data.tokenise import Example
from alignax.methods import DPO
from alignax.models.config import DecoderConfig
from alignax.models.outputs import outputs
from alignax.models.transformer import Decoder, Remat
from alignax.train import reference
from alignax.train.optim import Optim, make_optimizer
from alignax.train.step import init_state, make_step


@dataclasses.dataclass(frozen=True)
class Settings:
    """The shape of the model and of the batch."""

    layers: int = 4
    hidden: int = 256
    intermediate: int = 688
    heads: int = 4
    vocab: int = 32_000
    tie: bool = False
    pairs: int = 4
    prompt: int = 128
    response: int = 128
    warmup: int = 2
    steps: int = 8
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "block"  # as the library's own default
    seed: int = 0


class RandomPairs:
    """Pairs of one length, without padding, like those of the scripts this is compared with."""

    def __init__(self, settings: Settings, count: int):
        generator = np.random.default_rng(settings.seed)
        shape = (count, settings.prompt + 2 * settings.response)
        self._tokens = generator.integers(0, settings.vocab, shape).astype(np.int32)
        self._prompt = settings.prompt
        both = np.full((count, 2), settings.response)
        self.lengths = Lengths(np.full(count, settings.prompt), both, both)

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index: int) -> Example:
        prompt, responses = np.split(self._tokens[index], [self._prompt])
        return Example(
            prompt=prompt,
            responses=responses,
            response_lengths=np.full(2, len(responses) // 2, np.int32),
            mask=np.ones(len(responses), bool),
            scores=np.array([1.0, 0.0], np.float32),
            origin=str(index),
        )


def decoder(settings: Settings) -> Decoder:
    """The model of that shape."""
    config = DecoderConfig(
        vocab_size=settings.vocab,
        width=settings.hidden,
        layers=settings.layers,
        heads=settings.heads,
        kv_heads=settings.heads,
        head_dim=settings.hidden // settings.heads,
        mlp_width=settings.intermediate,
        tied=settings.tie,
    )
    return Decoder(config=config, dtype=settings.dtype, remat=settings.remat)


def main(settings: Settings) -> None:
    total = settings.warmup + settings.steps
    model = decoder(settings)
    params = jax.jit(model.init)(jax.random.key(settings.seed))
    pairs = RandomPairs(settings, settings.pairs * total)
    plan = make_plan(pairs.lengths, batch_size=settings.pairs, num_steps=total, seed=settings.seed)
    model_fn = functools.partial(outputs, model, reach=plan.shape.reach)
    once = make_plan(pairs.lengths, batch_size=settings.pairs)
    table = reference.compute(model_fn, params, pairs, once)
    optimizer = make_optimizer(Optim(learning_rate=1e-4), total, model.axes())
    step = jax.jit(make_step(DPO(), model_fn, optimizer), donate_argnums=0)
    make = jax.jit(functools.partial(init_state, optimizer=optimizer), donate_argnums=0)
    state = make(params)
    times, cpu, losses = [], [], []
    for batch, layout in Batches(pairs, plan, numbers={"ref_logprobs": table}):
        began, cpu_began = time.perf_counter(), time.process_time()
        state, metrics = step(state, *jax.device_put((batch, layout)))
        losses.append(float(metrics["loss"]))
        times.append(time.perf_counter() - began)
        cpu.append(time.process_time() - cpu_began)
    kept = times[settings.warmup :]
    shape = plan.shape
    print(
        json.dumps(
            {
                "library": "alignax",
                "jax": jax.__version__,
                "params_m": round(model.num_params / 1e6, 2),
                "rows": f"{shape.rows} x {shape.row_length}",
                "s_per_step_median": round(statistics.median(kept), 4),
                "s_per_step_min": round(min(kept), 4),
                "s_per_step_max": round(max(kept), 4),
                "cpu_s_per_step_median": round(statistics.median(cpu[settings.warmup :]), 4),
                "first_step_s": round(times[0], 2),
                "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
                "losses": [round(loss, 6) for loss in losses],
            }
        )
    )


if __name__ == "__main__":
    main(tyro.cli(Settings))
