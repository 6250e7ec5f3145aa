"""`sample`: 16 prompts x 4 samples of a model of SmolLM2-135M's shape, beside transformers.

With equal lengths every response has 64 tokens; in the mix each is as long as a real response, 128
tokens at most, and the same ones for both programs. Nothing ends by itself. Weights and tokens are
random: the time does not depend on them.

The bound is the larger of arithmetic over the rate of a large matrix product and of bytes over the
rate of reading memory, both measured in the same process, summed over prefill and steps: of a
step, every response that is still going for arithmetic, and for bytes the weights and their
caches, each prompt's once.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import devices, tables, workload
from benchmarks.peers import HERE, make
from benchmarks.shapes import REAL, SPECIAL, TINY, Model
from benchmarks.timing import Record, Run, run
from benchmarks.train import TIMEOUT

SMOLLM2 = Model(layers=30, width=576, heads=9, kv_heads=3, mlp_width=1536, vocab=49_152)
PROMPTS, SAMPLES, EQUAL, LONGEST = 16, 4, 64, 128


def sample(options: argparse.Namespace, arguments: list[str]) -> None:
    """Draws by this library and by transformers in turn, into RESULTS.md."""
    record = Record.begin(arguments, vars(options))
    programs = {"alignax": [sys.executable, "-m", "benchmarks.sample"]}
    if "trl" in options.against:  # in whose environment transformers is
        python = make("trl", options.environments, options.platform).absolute() / "bin" / "python"
        programs["transformers"] = [str(python), "-P", str(HERE / "peer_transformers.py")]
    with tempfile.TemporaryDirectory(prefix="alignax-") as name:
        folder = Path(name)
        model = TINY if options.tiny else SMOLLM2
        workload.write_model(folder / "model", model, dtype=options.dtype)
        env = devices.surroundings(options.platform, options.dtype)
        env["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/compiled"
        for number in range(options.rounds):
            for lengths in options.lengths:
                prompts, limits = drawn(model, lengths)
                job = {
                    "model": str(folder / "model"),
                    "platform": options.platform,
                    "dtype": options.dtype,
                    "prompts": prompts,
                    "limits": limits.tolist(),
                    "repeats": options.steps,
                    "threads": len(os.sched_getaffinity(0)),
                }
                path = folder / f"{lengths}.json"
                path.write_text(json.dumps(job))
                bounding = {"bound": [*programs["alignax"], "--bound"]}
                for program, command in (programs | bounding).items():
                    found = Run(shape=lengths, program=program, round=number)
                    command = [*command, str(path)]
                    record.add(run(command, found, warmup=0, timeout=TIMEOUT, env=env))
    parts = [tables.heading(record, f"Sampling beside transformers, {record.when[:10]}")]
    for lengths in options.lengths:
        runs = [found for found in record.runs if found.shape == lengths]
        parts += [f"Lengths: {lengths}. A step is a drawing of all {PROMPTS * SAMPLES} samples."]
        drawings = [found for found in runs if found.program != "bound"]
        parts += [tables.comparison(drawings, dtype=options.dtype), bounds(runs)]
    tables.finish(options, *parts)


def bounds(runs: list[Run]) -> str:
    """What the machine allows, in words."""
    found = [run.also for run in runs if "bound" in run.also]
    steps = [
        statistics.median(run.seconds) for run in runs if run.program == "alignax" and run.seconds
    ]
    if not found or not steps:
        return "No bound: a run of this library failed."
    least, rate, bandwidth = (
        statistics.median(x[name] for x in found) for name in ("bound", "rate", "bandwidth")
    )
    return (
        f"The bound is {least:.2f} s at {rate / 1e9:.0f} GFLOP/s and {bandwidth / 1e9:.1f} GB/s; "
        f"alignax is at {least / statistics.median(steps):.0%} of it."
    )


def drawn(model: Model, lengths: str) -> tuple[list[list[int]], np.ndarray]:
    """Prompts as token ids, and the length of each response, [prompts, samples]."""
    real = np.array(json.loads(REAL.read_text()))
    generator = np.random.default_rng(0)
    prompts = [
        generator.integers(SPECIAL, model.vocab, length).tolist() for length in real[:PROMPTS, 0]
    ]
    mix = np.minimum(np.resize(real[:, 1], (PROMPTS, SAMPLES)), LONGEST)
    return prompts, np.full_like(mix, EQUAL) if lengths == "equal" else mix


def ours(path: str) -> None:
    """This library's side, in a process of its own."""
    import jax

    from alignax.generate.engine import Engine
    from alignax.generate.sampler import Sampler
    from alignax.models import pretrained
    from alignax.models.transformer import Decoder

    job = json.loads(Path(path).read_text())
    limits = np.array(job["limits"])
    model = pretrained.load(job["model"])
    engine = Engine(
        model=Decoder(config=model.config, dtype=job["dtype"]),
        sampler=Sampler(num_samples=SAMPLES, max_new_tokens=int(limits.max())),
        end_ids=(-1,),
        slots=PROMPTS * SAMPLES,
    )
    prompts = [np.array(prompt, np.int32) for prompt in job["prompts"]]

    def draw(seed: int) -> float:
        begin = time.perf_counter()
        found = engine(model.params, jax.random.key(seed), prompts, range(PROMPTS), limits=limits)
        assert (found.lengths == limits).all()
        return time.perf_counter() - begin

    draw(0)  # compiles
    seconds = [draw(seed) for seed in range(1, job["repeats"] + 1)]
    said: dict[str, Any] = {"seconds": seconds, "versions": {"jax": jax.__version__}}
    if job["platform"] == "gpu":
        said["device_peak_mib"] = jax.local_devices()[0].memory_stats()["peak_bytes_in_use"] / 2**20
    print(json.dumps(said))


def bound(path: str) -> None:
    """Seconds that the machine needs at least, and the two rates they follow from."""
    import jax
    import jax.numpy as jnp

    from alignax.models import pretrained
    from alignax.models.transformer import Decoder
    from benchmarks.flops import fastest, machine_rate

    job = json.loads(Path(path).read_text())
    config, limits = pretrained.read_config(job["model"]), np.array(job["limits"])
    sizes = np.array([len(prompt) for prompt in job["prompts"]])
    table = jnp.ones((2**27,))
    rate = machine_rate(job["platform"], job["dtype"])
    bandwidth = table.nbytes / fastest(jax.jit(jnp.sum), table, times=5)
    each = jnp.dtype(job["dtype"]).itemsize
    head = config.vocab_size * config.width
    trunk = Decoder(config=config).num_params - 2 * head  # the embedding is only looked up
    kv = 2 * config.layers * config.kv_heads * config.head_dim * each  # bytes a token
    pair = 4 * config.layers * config.heads * config.head_dim  # operations for each token seen
    work = 2 * trunk * sizes.sum() + pair * (sizes * (sizes + 1) / 2).sum()
    total = max(work / rate, each * trunk / bandwidth)
    for step in range(int(limits.max())):
        active = limits > step
        # The first token is drawn from what the prompt's pass gives: it meets the vocabulary alone.
        met = trunk * (step > 0) + head
        pairs = (active * (sizes[:, None] + step)).sum() * (step > 0)
        tokens = (sizes[active.any(axis=1)].sum() + active.sum() * step) * (step > 0)
        work = active.sum() * 2 * met + pair * pairs
        total += max(work / rate, (each * met + kv * tokens) / bandwidth)
    print(json.dumps({"bound": float(total), "rate": rate, "bandwidth": bandwidth}))


if __name__ == "__main__":
    (bound if sys.argv[1] == "--bound" else ours)(sys.argv[-1])
