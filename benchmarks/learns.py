"""Does each method learn? A tiny model on real data, before and after, over three seeds.

    python benchmarks/learns.py                       # all methods
    python benchmarks/learns.py --only rrhf kto       # some
    python benchmarks/learns.py --control             # what a Decision Transformer and SteerLM
                                                      # write when asked for much and for little

The model is stories260k (260,032 parameters, some 2 letters a token). Prompts are their last turn,
of which it reads the last 64 tokens; of responses it reads the first 80; of the twelve responses of
alpaca_eval_ranked, those of four models. Needs ../shared/data.

Each row of the table is the method's own held-out metric; "before" is the model as it comes (for
methods with a reference all pairs are ties then, which count one half). Intervals are Student's
over the seeds (95%, 2 degrees of freedom): they say how much the seed matters, the held-out prompts
being the same. Results go to runs/learns/table.md.
"""

import dataclasses
import gzip
import json
import os
import statistics
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", ".cache/jax")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import numpy as np
import tyro

from alignax import jobs, methods
from alignax.config import Data, Evaluation, Experiment, Model
from alignax.core.method import Method
from alignax.data.tokenise import TokenLimits
from alignax.evaluate.evaluators import Sampled
from alignax.generate.sampler import Sampler
from alignax.models import pretrained
from alignax.models.transformer import Decoder
from alignax.run import Run
from alignax.score import score
from alignax.train.loop import Loop
from alignax.train.optim import Optim

SHARED = Path(__file__).parents[1] / ".." / "shared" / "data"
MODEL, WORK = SHARED / "stories260k", Path("runs/learns")
T_975 = 4.302653  # Student's t, 2 degrees of freedom
SENTIMENT = "Write a sentence about a film."


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table."""

    method: Method
    data: str
    metric: str
    learning_rate: float = 1e-3
    tie: float | None = None  # what "before" is where all are ties
    data_settings: dict = dataclasses.field(default_factory=dict)


ACCURACY = "rewards/accuracies"
MODELS = ("falcon-7b-instruct", "vicuna-13b-v1.5", "gemma-7b-it", "FuseChat-Gemma-2-9B-Instruct")
STRENGTH = {"pairing": "strength", "strength": MODELS}
ROWS = {
    "sft": Row(methods.SFT(), "hh_helpful", "loss"),
    "dpo": Row(methods.DPO(beta=0.1), "hh_helpful", ACCURACY, tie=0.5),
    "robust_dpo": Row(methods.RobustDPO(beta=0.1), "hh_helpful", ACCURACY, tie=0.5),
    "ipo": Row(methods.IPO(tau=0.5), "hh_helpful", ACCURACY, tie=0.5),
    "hinge": Row(methods.Hinge(beta=0.1), "hh_helpful", ACCURACY, tie=0.5),
    "slic": Row(methods.SLiC(), "hh_helpful", ACCURACY),
    "simpo": Row(methods.SimPO(), "hh_helpful", ACCURACY),
    "cpo": Row(methods.CPO(), "hh_helpful", ACCURACY),
    "orpo": Row(methods.ORPO(), "hh_helpful", ACCURACY),
    "kto": Row(methods.KTO(), "hh_helpful", ACCURACY, tie=0.5),
    "curriculum": Row(
        methods.Curriculum(), "alpaca_eval_ranked", ACCURACY, tie=0.5, data_settings=STRENGTH
    ),
    "rrhf": Row(methods.RRHF(sft_weight=0.01), "alpaca_eval_ranked", ACCURACY),
    "pro": Row(methods.PRO(sft_weight=0.001), "alpaca_eval_ranked", ACCURACY),
    "plackett_luce_dpo": Row(methods.PlackettLuceDPO(), "alpaca_eval_ranked", ACCURACY, tie=0.5),
    "rrhf on qa_feedback": Row(methods.RRHF(sft_weight=0.01), "qa_feedback_ranked", ACCURACY),
    "pro on qa_feedback": Row(methods.PRO(sft_weight=0.001), "qa_feedback_ranked", ACCURACY),
    "filtering": Row(methods.Filtering(keep=0.5), "alpaca_eval_ranked", "loss"),
    "reward_weighted": Row(methods.RewardWeighted(), "alpaca_eval_ranked", "logps/weighted"),
    "decision_transformer": Row(methods.DecisionTransformer(), "movie_lengths", "loss"),
    "steerlm": Row(methods.SteerLM(), "movie_attributes", "loss"),
    "reward_model": Row(methods.RewardModel(), "hh_helpful", ACCURACY),
    "attribute_reward_model": Row(
        methods.AttributeRewardModel(), "summeval_attributes", "loss", learning_rate=3e-3
    ),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to run."""

    only: tuple[str, ...] = ()
    control: bool = False
    seeds: int = 3
    steps: int = 80
    batch_size: int = 8


def rows_of(name: str, split: str) -> list[dict]:
    """A set of ../shared/data with prompts as strings: the last turn of each."""
    source = "movie_sentences" if name.startswith("movie_") else name
    with gzip.open(SHARED / source / f"{split}.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    made = []
    for row in rows:
        if "text" in row:  # of a film, good or bad
            row = {"prompt": SENTIMENT, "completion": row["text"], "score": float(row["label"])}
            words = len(row["completion"].split())
            if name == "movie_lengths":
                row["score"] = float(words)
            if name == "movie_attributes":
                row["attributes"] = {"praise": 4 * row.pop("score"), "length": min(4, words // 8)}
        if "models" in row:
            kept = [i for i, model in enumerate(row["models"]) if model in MODELS]
            if len(kept) < 2:
                continue
            row |= {x: [row[x][i] for i in kept] for x in ("models", "responses", "scores")}
        plain = lambda x: x[-1]["content"] if isinstance(x[0], dict) else x  # noqa: E731
        for key in ("prompt", "chosen", "rejected", "response"):
            if key in row:
                row[key] = plain(row[key])
        row["prompt"] = row["prompt"].split("\n\n")[-1] + "\n"
        made.append(row)
    return made


def written(name: str) -> str:
    """The same as a directory of JSON lines."""
    folder = WORK / "data" / name
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        path = folder / f"{split}.jsonl"
        if not path.exists():
            lines = [json.dumps(row) for row in rows_of(name, split)]
            path.write_text("\n".join(lines) + "\n")
    return str(folder)


def experiment(name: str, row: Row, seed: int, settings: Settings) -> Experiment:
    """One run of one row."""
    folder = written(row.data)
    return Experiment(
        method=row.method,
        model=Model(model_name_or_path=str(MODEL), remat="none"),
        data=Data(
            train=folder,
            eval=folder,
            eval_limit=200,
            template="none",
            limits=TokenLimits(
                max_length=144, max_prompt_length=64, max_completion_length=80, overlong="cut"
            ),
            max_dropped_share=1.0,
            cache_dir=str(WORK / "cache"),
            **row.data_settings,
        ),
        optim=Optim(learning_rate=row.learning_rate),
        loop=Loop(batch_size=settings.batch_size, max_steps=settings.steps),
        evaluation=Evaluation(num_prompts=0),
        seed=seed,
        output_dir=str(WORK / name.replace(" ", "_") / str(seed)),
        tensorboard=False,
    )


def line(name: str, row: Row, settings: Settings) -> str:
    """Trains the seeds of one row; its line of the table."""
    befores, afters = [], []
    for seed in range(settings.seeds):
        made = experiment(name, row, seed, settings)
        jobs.train(made, quiet=True)
        log = (Path(made.output_dir) / "metrics.jsonl").read_text().splitlines()
        values = [r[f"eval_{row.metric}"] for r in map(json.loads, log) if "eval_loss" in r]
        befores.append(values[0] if row.tie is None else row.tie)
        afters.append(values[-1])
    gains = [after - before for before, after in zip(befores, afters, strict=True)]
    half = T_975 * statistics.stdev(gains) / np.sqrt(len(gains))
    gain = statistics.mean(gains)
    return (
        f"| {name} | {row.data} | {row.metric} | {statistics.mean(befores):.3f} | "
        f"{statistics.mean(afters):.3f} | {gain:+.3f} [{gain - half:+.3f}, {gain + half:+.3f}] |"
    )


def ask(name: str, row: Row, seed: int, target: dict, settings: Settings, count: int = 200):
    """Sentences of a trained model that is asked for something."""
    made = experiment(name, row, seed, settings)
    run = Run(made, quiet=True)
    method = dataclasses.replace(run.method, **target)
    model = pretrained.load(Path(made.output_dir) / "export")
    (prompt,) = run.renderer.prompt_ids([run.renderer.prompt(method.ask(SENTIMENT + "\n"))])
    draw = Sampled(
        model=Decoder(config=model.config),
        prompts=[np.asarray(prompt)] * count,
        end_ids=sorted(run.renderer.end_ids),
        sampler=Sampler(max_new_tokens=96, temperature=1.0),
        batch_size=count,
        seed=seed,
    )
    answers = draw(model.params, None).tokens
    return [run.decode(tokens[0]).strip() or "." for tokens in answers]


def control(settings: Settings) -> list[str]:
    """What is asked for, and what a judge trained on the same sentences gives what is written."""
    judge_row = Row(methods.AttributeRewardModel(), "movie_attributes", "loss", 3e-3)
    judge = experiment("judge", judge_row, 100, dataclasses.replace(settings, steps=250))
    jobs.train(judge, quiet=True)
    log = (Path(judge.output_dir) / "metrics.jsonl").read_text().splitlines()
    errors = [json.loads(x) for x in log if "eval_loss" in x]
    lines = [
        "the judge's held-out mean square errors: "
        + ", ".join(
            f"{n} {errors[0][f'eval_mse/{n}']:.2f} -> {errors[-1][f'eval_mse/{n}']:.2f}"
            for n in ("length", "praise")
        )
    ]
    asked = {
        "decision_transformer": {
            "score -1.5 (few words)": {"target": -1.5},
            "score +1.5 (many words)": {"target": 1.5},
        },
        "steerlm": {
            "length 0, praise 0": {"target": (0.0, 0.0)},
            "length 0, praise 4": {"target": (0.0, 4.0)},
            "length 4, praise 0": {"target": (4.0, 0.0)},
            "length 4, praise 4": {"target": (4.0, 4.0)},
        },
    }
    long = dataclasses.replace(settings, steps=250)
    for name, targets in asked.items():
        row = ROWS[name]
        found: dict[str, list] = {label: [] for label in targets}
        for seed in range(settings.seeds):
            jobs.train(experiment(f"{name}_long", row, seed, long), quiet=True)
            for label, target in targets.items():
                texts = ask(f"{name}_long", row, seed, target, long)
                found[label].append(judged(judge, texts))
                print(label, seed, found[label][-1], texts[:2], file=sys.stderr)
        for label, values in found.items():
            cells = []
            for column in np.array(values).T:
                half = T_975 * column.std(ddof=1) / np.sqrt(len(column))
                cells.append(f"{column.mean():.2f} [{column.mean() - half:.2f}, "
                             f"{column.mean() + half:.2f}]")  # fmt: skip
            lines.append(f"| {name} | {label} | {' | '.join(cells)} |")
    return lines


def judged(judge: Experiment, texts: list[str]) -> tuple[float, float, float]:
    """Mean praise and length that the judge gives, and the mean count of words."""
    source, target = WORK / "asked.jsonl", WORK / "judged.jsonl"
    rows = [{"prompt": SENTIMENT + "\n", "completion": text} for text in texts]
    source.write_text("\n".join(map(json.dumps, rows)) + "\n")
    target.unlink(missing_ok=True)
    score(
        Path(judge.output_dir) / "export",
        str(source),
        target,
        batch_size=50,
        template="none",
        quiet=True,
    )
    found = [json.loads(x)["attributes"] for x in target.read_text().splitlines()]
    return (
        statistics.mean(x["praise"] for x in found),
        statistics.mean(x["length"] for x in found),
        statistics.mean(len(text.split()) for text in texts),
    )


def main(settings: Settings) -> None:
    WORK.mkdir(parents=True, exist_ok=True)
    table = WORK / "table.md"
    if settings.control:
        for text in control(settings):
            print(text)
            with table.open("a") as file:
                file.write(text + "\n")
        return
    for name, row in ROWS.items():
        if settings.only and name not in settings.only:
            continue
        text = line(name, row, settings)
        print(text, flush=True)
        with table.open("a") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main(tyro.cli(Settings))
