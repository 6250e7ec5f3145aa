"""ReMax beside PPO: what each holds in memory, and how long an update takes.

    python benchmarks/remax_ppo.py --rounds 3

A random Llama (12 layers, d 384, 21.5M parameters, the vocabulary of stories260k), 8 prompts an
update, 64 new tokens, one update a drawing, float32, AdamW, a KL in the reward and so a reference.
PPO samples one response a prompt and trains a critic of the policy's size; ReMax samples one and a
greedy one. Each method runs in a process of its own, in turn; the first updates compile and are not
counted. Peak memory is the process's resident set over one without any training.
"""

import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", ".cache/jax")

import tyro

STORIES = Path(__file__).parents[1] / ".." / "shared" / "data" / "stories260k"
NAMES = ("remax", "ppo")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to run; `only` and `folder` are for the processes that this one starts."""

    rounds: int = 3
    steps: int = 8
    only: str | None = None
    folder: str | None = None


def child(name: str, folder: Path, steps: int) -> dict:
    """One run; its parameters, optimiser state, seconds and peak memory."""
    import jax

    from alignax import (
        Data,
        Evaluation,
        Experiment,
        Lexicon,
        Loop,
        Model,
        Optim,
        Rewards,
        Rollout,
        TokenLimits,
        jobs,
        methods,
    )
    from alignax.data.tokenizers import load_tokenizer
    from alignax.models import pretrained
    from alignax.models.transformer import Decoder
    from alignax.run import Run
    from alignax.train import optim

    small = pretrained.read_config(STORIES)
    shape = {"width": 384, "layers": 12, "heads": 6, "kv_heads": 6, "head_dim": 64}
    config = dataclasses.replace(small, **shape, mlp_width=1024)
    if not (folder / "model").exists():
        params = Decoder(config=config).init(jax.random.key(0))
        tokenizer = load_tokenizer(STORIES)
        pretrained.save(folder / "model", params, config, eos=(tokenizer.eos_token_id,))
        tokenizer.save_pretrained(folder / "model")
        rows = [json.dumps({"prompt": f"Once upon a time number {i} was"}) for i in range(400)]
        (folder / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    made = {
        "remax": methods.ReMax(num_samples=2, beta=0.05),
        "ppo": methods.PPO(refresh=1, epochs=1),
    }
    experiment = Experiment(
        method=made[name],
        model=Model(model_name_or_path=str(folder / "model"), remat="block"),
        data=Data(
            train=str(folder / "prompts.jsonl"),
            template="none",
            limits=TokenLimits(max_length=128),
            cache_dir=str(folder / "cache"),
        ),
        rollout=Rollout(rewards=Rewards(parts=(Lexicon(),)), max_new_tokens=64, slots=16),
        optim=Optim(learning_rate=1e-5),
        loop=Loop(batch_size=8, max_steps=steps),
        evaluation=Evaluation(num_prompts=0),
        output_dir=str(Path(tempfile.mkdtemp(dir=folder)) / name),
        tensorboard=False,
    )
    run = Run(experiment, quiet=True)
    abstract = run.network.abstract()
    state = jax.eval_shape(
        optim.make_optimizer(experiment.optim, steps, run.network.axes()).init, abstract
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    jobs.train(experiment, quiet=True)
    lines = (Path(experiment.output_dir) / "timings.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines][3:]
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
    return {
        "trained parameters, millions": count(abstract) / 1e6,
        "optimiser state, millions of numbers": count(state) / 1e6,
        "seconds an update": statistics.median(r["seconds"] for r in rows),
        "of them drawing": statistics.median(r["seconds_fetching"] for r in rows),
        "peak memory, MiB": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }


def main(settings: Settings) -> None:
    if settings.only:
        print(json.dumps(child(settings.only, Path(settings.folder or "."), settings.steps)))
        return
    found: dict[str, list[dict]] = {name: [] for name in NAMES}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(settings.rounds):
            for name in NAMES:
                command = [sys.executable, __file__, "--only", name, "--folder", folder]
                command += ["--steps", str(settings.steps)]
                out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                found[name].append(json.loads(out.splitlines()[-1]))
                print(name, found[name][-1], file=sys.stderr, flush=True)
    print("| | remax | ppo | remax / ppo |\n| --- | --- | --- | --- |")
    for key in found["ppo"][0]:
        remax, ppo = (statistics.median(x[key] for x in found[name]) for name in NAMES)
        print(f"| {key} | {remax:.2f} | {ppo:.2f} | {remax / ppo:.2f} |")


if __name__ == "__main__":
    main(tyro.cli(Settings))
