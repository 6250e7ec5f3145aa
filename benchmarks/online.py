"""Do the methods that learn from their own samples learn? Reward and KL over training.

    python benchmarks/online.py                        # all methods, three seeds
    python benchmarks/online.py --only grpo ppo        # some
    python benchmarks/online.py --plot                 # the pictures alone, of what was run

The model is stories260k (260,032 parameters). It goes on with the beginnings of stories, 24 tokens
each; the reward is known: +1 where there are more words of praise than of complaint (the built-in
lexicon), -1 where there are fewer, in between by their share. Every method gets the same prompts,
the same 40 updates of 8 groups with 4 samples (RSO: 4 of 16), and its own default settings but for
those in ROWS. It is asked before and after for two samples to each of 32 held-out beginnings;
intervals are Student's over the seeds (95%, 2 degrees of freedom). Results go to
runs/online/table.md, and the curves to benchmarks/online_reward.png and benchmarks/online_kl.png.
"""

import dataclasses
import json
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", ".cache/jax")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import numpy as np
import tyro

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
    Sampler,
    TokenLimits,
    jobs,
    methods,
)
from alignax.core.method import Method

MODEL = Path(__file__).parents[1] / ".." / "shared" / "data" / "stories260k"
WORK = Path("runs/online")
T_975 = 4.302653  # Student's t, 2 degrees of freedom
BEGINNINGS = ("Once upon a time, there was a", "One day, a", "In the park, a", "Every day, a")
KINDS = ("little", "big", "sad", "red", "brave", "old")
WHO = ("girl", "boy", "dog", "cat", "bird", "bear", "fish", "car")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table."""

    method: Method
    learning_rate: float = 5e-4
    rollout: dict = dataclasses.field(default_factory=dict)


ROWS = {
    "reinforce": Row(methods.REINFORCE(num_samples=4, beta=0.02)),
    "reinforce, batch baseline": Row(methods.REINFORCE(num_samples=4, beta=0.02, baseline="batch")),
    "remax": Row(methods.ReMax(num_samples=5, beta=0.02)),
    "rloo": Row(methods.RLOO(num_samples=4, beta=0.02)),
    "grpo": Row(methods.GRPO(num_samples=4, beta=0.02)),
    "dr_grpo": Row(methods.DrGRPO(num_samples=4, max_length=24)),
    "dapo": Row(methods.DAPO(num_samples=4, refresh=4)),
    "gspo": Row(methods.GSPO(num_samples=4)),
    "ppo": Row(methods.PPO(num_samples=4, beta=0.02)),
    "online_dpo": Row(methods.OnlineDPO(num_samples=4, beta=0.1)),
    "rso": Row(methods.RSO(num_samples=16, num_accepted=4, gamma=0.1, refresh=20)),
    "slic_sample_rank": Row(methods.SLiCSampleRank(num_samples=4, refresh=20)),
    "raft": Row(methods.RAFT(num_samples=4, refresh=5, epochs=1)),
    "rejection_sampling": Row(methods.RejectionSampling(num_samples=4, refresh=5)),
    "rrhf, samples once": Row(
        methods.RRHF(sft_weight=0.01), rollout={"num_samples": 4, "refresh": 40}
    ),
    "rrhf, samples anew": Row(
        methods.RRHF(sft_weight=0.01), rollout={"num_samples": 4, "refresh": 5}
    ),
    "dpo on samples": Row(methods.DPO(beta=0.1), rollout={"num_samples": 4, "refresh": 5}),
    "kto on samples": Row(methods.KTO(beta=0.1), rollout={"num_samples": 4, "refresh": 5}),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to run."""

    only: tuple[str, ...] = ()
    seeds: int = 3
    steps: int = 40
    batch_size: int = 8
    plot: bool = False


def prompts() -> str:
    """Beginnings of stories, a directory of JSON lines; every sixth is held out."""
    folder = WORK / "data"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{a} {b} {c}" for a in BEGINNINGS for b in KINDS for c in WHO]
    for split in ("train", "test"):
        kept = [x for i, x in enumerate(rows) if (i % 6 == 0) == (split == "test")]
        lines = [json.dumps({"prompt": x}) for x in kept]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return str(folder)


def experiment(name: str, row: Row, seed: int, settings: Settings) -> Experiment:
    """One run of one row."""
    folder = prompts()
    return Experiment(
        method=row.method,
        model=Model(model_name_or_path=str(MODEL), remat="none"),
        data=Data(
            train=folder,
            eval=folder,
            template="none",
            limits=TokenLimits(max_length=128),
            cache_dir=str(WORK / "cache"),
        ),
        rollout=Rollout(
            rewards=Rewards(parts=(Lexicon(),)), max_new_tokens=24, slots=64, **row.rollout
        ),
        optim=Optim(learning_rate=row.learning_rate),
        loop=Loop(batch_size=settings.batch_size, max_steps=settings.steps),
        evaluation=Evaluation(
            num_prompts=32, sampler=Sampler(num_samples=2, max_new_tokens=24, temperature=1.0)
        ),
        seed=seed,
        output_dir=str(WORK / name.replace(", ", "_").replace(" ", "_") / str(seed)),
        tensorboard=False,
    )


def line(name: str, row: Row, settings: Settings) -> str:
    """Trains the seeds of one row; its line of the table."""
    before, after, kl, generated, seconds = [], [], [], [], []
    for seed in range(settings.seeds):
        made = experiment(name, row, seed, settings)
        begin = time.perf_counter()
        jobs.train(made, quiet=True)
        seconds.append(time.perf_counter() - begin)
        rows = log(made)
        found = [r for r in rows if "eval_sampled/reward" in r]
        before.append(found[0]["eval_sampled/reward"])
        after.append(found[-1]["eval_sampled/reward"])
        kl.append(found[-1]["eval_sampled/kl"])
        generated.append(sum(r.get("num_generated_tokens", 0) for r in rows))
    gain = [a - b for a, b in zip(after, before, strict=True)]
    return (
        f"| {name} | {statistics.mean(before):.2f} | {statistics.mean(after):.2f} | "
        f"{interval(gain)} | {interval(kl)} | {statistics.mean(generated) / 1000:.0f} | "
        f"{statistics.median(seconds):.0f} |"
    )


def log(made: Experiment) -> list[dict]:
    """The metrics of a run."""
    return list(map(json.loads, (Path(made.output_dir) / "metrics.jsonl").read_text().splitlines()))


def interval(values: list[float]) -> str:
    """A mean with its interval over the seeds."""
    mean, half = statistics.mean(values), 0.0
    if len(values) > 1:
        half = T_975 * statistics.stdev(values) / np.sqrt(len(values))
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


def plot(settings: Settings) -> None:
    """Reward of the samples, and their divergence from the reference, over updates."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    for metric, label in (("reward", "mean reward of the samples"),
                          ("kl", "KL to the reference, nats a response")):  # fmt: skip
        names = [n for n, row in ROWS.items() if curves(n, row, settings, metric)]
        columns = 4
        rows = -(-len(names) // columns)
        figure, axes = pyplot.subplots(
            rows, columns, figsize=(12, 2.1 * rows), sharex=True, sharey=True, squeeze=False
        )
        for axis, name in zip(axes.ravel(), names, strict=False):
            for steps, values in curves(name, ROWS[name], settings, metric):
                axis.plot(steps, values, color="tab:blue", linewidth=1.0, alpha=0.8)
            axis.set_title(name, fontsize=9)
            axis.grid(alpha=0.3)
        for axis in axes.ravel()[len(names) :]:
            axis.set_visible(False)
        figure.supxlabel("update", fontsize=9)
        figure.supylabel(label, fontsize=9)
        figure.tight_layout()
        figure.savefig(Path(__file__).with_name(f"online_{metric}.png"), dpi=110)


def curves(name: str, row: Row, settings: Settings, metric: str) -> list[tuple[list, list]]:
    """(updates, values) of each seed that was run."""
    found = []
    for seed in range(settings.seeds):
        made = experiment(name, row, seed, settings)
        if not (Path(made.output_dir) / "metrics.jsonl").exists():
            continue
        # Rewards of drawings: between two, a method logs those of what it has selected.
        rows = [r for r in log(made) if metric in r and (metric == "kl" or "prompts_drawn" in r)]
        # Of the first model's samples, or of one drawing, there is no curve.
        if len(rows) > 2:
            found.append(([r["step"] for r in rows], [r[metric] for r in rows]))
    return found


def main(settings: Settings) -> None:
    WORK.mkdir(parents=True, exist_ok=True)
    table = WORK / "table.md"
    for name, row in ({} if settings.plot else ROWS).items():
        if settings.only and name not in settings.only:
            continue
        text = line(name, row, settings)
        print(text, flush=True)
        with table.open("a") as file:
            file.write(text + "\n")
    plot(settings)


if __name__ == "__main__":
    main(tyro.cli(Settings))
