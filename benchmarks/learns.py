"""Does each method learn? A small model on real data, before and after, over three seeds.

    python benchmarks/learns.py                       # all methods
    python benchmarks/learns.py --only rrhf kto       # some
    python benchmarks/learns.py --only reward_model --model weights/stories15M --steps 200

The model is stories260k (260,032 parameters, some 2 letters a token), or another by its path.
Prompts are their last turn, of which the last 64 tokens are read, and of responses the first 80,
where a row of the table says nothing else; of the twelve responses of alpaca_eval_ranked, those of
four models. Needs ../shared/data. benchmarks/control.py asks what the trained models write.

Each row of the table is the method's own held-out metric; "before" is the model as it comes (for
methods with a reference all pairs are ties then, which count one half). Intervals are Student's
over the seeds (95%, 2 degrees of freedom): they say how much the seed matters, the held-out prompts
being the same. Results go to runs/learns/table.md.
"""

import dataclasses
import gzip
import json
import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", ".cache/jax")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import tyro

from alignax import jobs, methods
from alignax.config import Data, Evaluation, Experiment, Model
from alignax.core.method import Method
from alignax.data.tokenise import TokenLimits
from alignax.train.loop import Loop
from alignax.train.optim import Optim

SHARED = Path(__file__).parents[1] / ".." / "shared" / "data"
TINY, WORK = SHARED / "stories260k", Path("runs/learns")
T_975 = 4.302653  # Student's t, 2 degrees of freedom
FILM = "A film:"  # what every sentence of movie_sentences answers; short, because it is read often


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Fields:
        tie: what "before" is where all pairs are ties.
        steps, batch_size: of training; groups a step.
        prompt_tokens: how many are read, the last; response_tokens: the first.
    """

    method: Method
    data: str
    metric: str
    learning_rate: float = 1e-3
    tie: float | None = None
    steps: int = 40
    batch_size: int = 8
    prompt_tokens: int = 64
    response_tokens: int = 80
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
    """What to run.

    Fields:
        only: rows by name; all where there are none.
        model: `tiny`, or the path of a model.
        steps, batch_size, learning_rate, response_tokens, prompt_tokens: in place of each row's.
    """

    only: tuple[str, ...] = ()
    model: str = "tiny"
    seeds: int = 3
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    prompt_tokens: int | None = None
    response_tokens: int | None = None

    def of(self, row: Row) -> Row:
        """The row with what is set here in place of its own."""
        names = [x.name for x in dataclasses.fields(Row) if x.name in vars(self)]
        given = {name: value for name in names if (value := vars(self)[name]) is not None}
        return dataclasses.replace(row, **given)


def rows_of(name: str, split: str) -> list[dict]:
    """A set of ../shared/data with prompts as strings: the last turn of each."""
    source = "movie_sentences" if name.startswith("movie_") else name
    with gzip.open(SHARED / source / f"{split}.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    made = []
    for row in rows:
        if "text" in row:  # of a film, good or bad
            row = {"prompt": FILM, "completion": row["text"], "score": float(row["label"])}
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


def experiment(name: str, row: Row, seed: int, model: str = "tiny") -> Experiment:
    """One run of one row."""
    folder, path = written(row.data), TINY if model == "tiny" else Path(model)
    return Experiment(
        method=row.method,
        model=Model(model_name_or_path=str(path), remat="none"),
        data=Data(
            train=folder,
            eval=folder,
            eval_limit=200,
            template="none",
            limits=TokenLimits(
                max_length=row.prompt_tokens + row.response_tokens,
                max_prompt_length=row.prompt_tokens,
                max_completion_length=row.response_tokens,
                overlong="cut",
            ),
            max_dropped_share=1.0,
            cache_dir=str(WORK / "cache"),
            **row.data_settings,
        ),
        optim=Optim(learning_rate=row.learning_rate),
        loop=Loop(batch_size=row.batch_size, max_steps=row.steps, keep=1),
        evaluation=Evaluation(num_prompts=0),
        seed=seed,
        output_dir=str(WORK / path.name / f"{name.replace(' ', '_')}_{row.steps}" / str(seed)),
        tensorboard=False,
    )


def train(made: Experiment) -> tuple[dict[str, float], dict[str, float]]:
    """Trains, unless that is done; what the held-out data gave before and after."""
    jobs.train(made, quiet=True)
    log = Path(made.output_dir) / "metrics.jsonl"
    found = [json.loads(x) for x in log.read_text().splitlines() if "eval_loss" in x]
    return found[0], found[-1]


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and ends of Student's 95% interval of three seeds; the mean alone of fewer."""
    mean = statistics.mean(values)
    half = T_975 * statistics.stdev(values) / len(values) ** 0.5 if len(values) == 3 else math.nan
    return mean, mean - half, mean + half


def line(name: str, row: Row, settings: Settings) -> str:
    """Trains the seeds of one row; its line of the table."""
    befores, afters = [], []
    for seed in range(settings.seeds):
        first, last = train(experiment(name, row, seed, settings.model))
        befores.append(first[f"eval_{row.metric}"] if row.tie is None else row.tie)
        afters.append(last[f"eval_{row.metric}"])
    mean, low, high = interval([y - x for x, y in zip(befores, afters, strict=True)])
    size = f"{Path(settings.model).name}, {row.steps} x {row.batch_size}"
    return (
        f"| {name} | {row.data} | {size} | {row.metric} | {statistics.mean(befores):.3f} | "
        f"{statistics.mean(afters):.3f} | {mean:+.3f} [{low:+.3f}, {high:+.3f}] |"
    )


def main(settings: Settings) -> None:
    WORK.mkdir(parents=True, exist_ok=True)
    for name, row in ROWS.items():
        if settings.only and name not in settings.only:
            continue
        text = line(name, settings.of(row), settings)
        print(text, flush=True)
        with (WORK / "table.md").open("a") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main(tyro.cli(Settings))
