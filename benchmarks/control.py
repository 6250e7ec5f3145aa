"""Do a Decision Transformer and SteerLM write what they are asked for?

    python benchmarks/fetch_stories15m.py --output weights/stories15M
    python benchmarks/control.py                # three seeds of each
    python benchmarks/control.py --seeds 1 --only steerlm

Both learn sentences about films. The Decision Transformer is told their counts of words, SteerLM a
length (0 to 4, eight words each) and praise (0 or 4). Then each is asked for little and for much,
and 200 sentences of each request are measured in three ways: by counting words; by an attribute
reward model trained on the same sentences, whose held-out errors come first; and by a naive Bayes
classifier of single words and pairs of words, which shares nothing with the models.

Intervals are Student's over the seeds (95%, 2 degrees of freedom). Results go to
runs/learns/control.md. Needs ../shared/data.
"""

import collections
import dataclasses
import gzip
import itertools
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import learns  # sets up JAX, so it comes before alignax
import numpy as np
import tyro

from alignax import methods
from alignax.config import Experiment
from alignax.evaluate.evaluators import Sampled
from alignax.generate.sampler import Sampler
from alignax.models import pretrained
from alignax.models.transformer import Decoder
from alignax.run import Run
from alignax.score import score

JUDGE = learns.Row(methods.AttributeRewardModel(), "movie_attributes", "loss")
ASKED = {
    "decision_transformer": {
        "-1.5 (few words)": {"target": -1.5},
        "0.0": {"target": 0.0},
        "+1.5 (many words)": {"target": 1.5},
    },
    "steerlm": {
        "length 0, praise 0": {"target": (0.0, 0.0)},
        "length 0, praise 4": {"target": (0.0, 4.0)},
        "length 4, praise 0": {"target": (4.0, 0.0)},
        "length 4, praise 4": {"target": (4.0, 4.0)},
    },
}
MORE_LESS = {  # of these the difference within each seed is shown too
    "decision_transformer": (("+1.5 (many words)", "-1.5 (few words)"),),
    "steerlm": (
        ("length 4, praise 0", "length 0, praise 0"),
        ("length 4, praise 4", "length 0, praise 4"),
        ("length 0, praise 4", "length 0, praise 0"),
        ("length 4, praise 4", "length 4, praise 0"),
    ),
}
HEADER = (
    "| method | asked for | words | judge: length | judge: praise | Bayes: share of praise |\n"
    "| --- | --- | --- | --- | --- | --- |"
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to run."""

    model: str = "weights/stories15M"
    only: tuple[str, ...] = ()
    seeds: int = 3
    steps: int = 250
    judge_steps: int = 500
    judge_learning_rate: float = 2e-4  # its states are large: at 5e-4 the loss leaps
    batch_size: int = 16
    learning_rate: float = 5e-4
    tokens: int = 48
    count: int = 200


class Bayes:
    """Which of two classes a text's words and pairs of words speak for, each counted once."""

    def __init__(self, texts: Sequence[str], labels: Sequence[int]):
        counts = [collections.Counter[str](), collections.Counter[str]()]
        for text, label in zip(texts, labels, strict=True):
            counts[label].update(self._parts(text))
        sizes = [labels.count(0), labels.count(1)]
        self._odds = {
            part: math.log((counts[1][part] + 1) / (sizes[1] + 2))
            - math.log((counts[0][part] + 1) / (sizes[0] + 2))
            for part in counts[0] | counts[1]
        }

    def __call__(self, text: str) -> bool:
        """Whether it is class 1."""
        return sum(self._odds.get(part, 0.0) for part in self._parts(text)) > 0

    def _parts(self, text: str) -> set[str]:
        words = "".join(x if x.isalnum() or x in "'-" else f" {x} " for x in text.lower()).split()
        return {*words, *(f"{a} {b}" for a, b in itertools.pairwise(words))}


def row_of(row: learns.Row, steps: int, learning_rate: float, settings: Settings) -> learns.Row:
    """A row at this experiment's size."""
    return dataclasses.replace(
        row,
        steps=steps,
        learning_rate=learning_rate,
        batch_size=settings.batch_size,
        prompt_tokens=settings.tokens,
        response_tokens=settings.tokens,
    )


def ask(made: Experiment, target: dict, settings: Settings) -> list[str]:
    """Sentences of a trained model that is asked for something."""
    run = Run(made, quiet=True)
    method = dataclasses.replace(cast(Any, run.method), **target)
    model = pretrained.load(Path(made.output_dir) / "export")
    (prompt,) = run.renderer.prompt_ids([run.renderer.prompt(method.ask(learns.FILM + "\n"))])
    draw = Sampled(
        model=Decoder(config=model.config),
        prompts=[np.asarray(prompt)] * settings.count,
        end_ids=sorted(run.renderer.end_ids),
        sampler=Sampler(max_new_tokens=settings.tokens, temperature=1.0),
        batch_size=settings.count,
        seed=made.seed,
    )
    texts = run.decode_all([tokens[0] for tokens in draw(model.params, None).tokens])
    return [text.strip() or "." for text in texts]


def judged(judge: Experiment, texts: Sequence[str], name: str) -> list[dict[str, float]]:
    """The attributes that the judge gives to each text."""
    source, target = (learns.WORK / f"{name}.{kind}.jsonl" for kind in ("asked", "judged"))
    rows = [{"prompt": learns.FILM + "\n", "completion": text} for text in texts]
    source.write_text("\n".join(map(json.dumps, rows)) + "\n")
    target.unlink(missing_ok=True)
    export = Path(judge.output_dir) / "export"
    score(export, str(source), target, batch_size=50, template="none", quiet=True)
    return [json.loads(x)["attributes"] for x in target.read_text().splitlines()]


def sentences(split: str) -> tuple[list[str], list[int]]:
    """All sentences about films and whether they praise."""
    path = learns.SHARED / "movie_sentences" / f"{split}.jsonl.gz"
    with gzip.open(path, "rt") as file:
        rows = [json.loads(line) for line in file]
    return [row["text"] for row in rows], [row["label"] for row in rows]


def judges(judge: Experiment, bayes: Bayes) -> list[str]:
    """How good the judges are on sentences that neither has seen."""
    texts, labels = sentences("test")
    given = judged(judge, texts, "held_out")
    truth = {
        "length": [min(4, len(text.split()) // 8) for text in texts],
        "praise": [4 * label for label in labels],
    }
    lines = []
    for name, values in truth.items():
        error = statistics.mean((x[name] - y) ** 2 for x, y in zip(given, values, strict=True))
        lines.append(
            f"judge, {name}: mean square error {error:.2f}, of the mean of these "
            f"{len(values)} sentences {statistics.pvariance(values):.2f}"
        )
    right = [(x["praise"] > 2) == y for x, y in zip(given, labels, strict=True)]
    lines.append(f"judge, praise above 2: accuracy {statistics.mean(right):.3f}")
    right = [bayes(text) == label for text, label in zip(texts, labels, strict=True)]
    return [*lines, f"Bayes: accuracy {statistics.mean(right):.3f}"]


def measure(judge: Experiment, bayes: Bayes, texts: list[str], name: str) -> tuple[float, ...]:
    """Means over the texts, in the order of `HEADER`."""
    given = judged(judge, texts, name)
    return (
        statistics.mean(len(text.split()) for text in texts),
        statistics.mean(x["length"] for x in given),
        statistics.mean(x["praise"] for x in given),
        statistics.mean(map(bayes, texts)),
    )


def lines_of(name: str, found: dict[str, list[tuple[float, ...]]]) -> list[str]:
    """The table's lines on one method, from what each seed gave to each request."""

    def line(label: str, columns: Iterable[Sequence[float]], sign: str = "") -> str:
        ends = [learns.interval(column) for column in columns]
        cells = [
            f"{mean:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]" for mean, low, high in ends
        ]
        return f"| {name} | {label} | {' | '.join(cells)} |"

    lines = [line(label, zip(*values, strict=True)) for label, values in found.items()]
    for more, less in MORE_LESS[name]:
        gain = np.array(found[more]) - np.array(found[less])
        lines.append(line(f"{more}, less {less}", gain.T.tolist(), "+"))
    return lines


def main(settings: Settings) -> None:
    learns.WORK.mkdir(parents=True, exist_ok=True)

    def say(text: str) -> None:
        print(text, flush=True)
        with (learns.WORK / "control.md").open("a") as file:
            file.write(text + "\n")

    bayes = Bayes(*sentences("train"))
    judge_row = row_of(JUDGE, settings.judge_steps, settings.judge_learning_rate, settings)
    judge = learns.experiment("judge", judge_row, 100, settings.model)
    learns.train(judge)
    for text in [*judges(judge, bayes), HEADER]:
        say(text)
    for name, targets in ASKED.items():
        if settings.only and name not in settings.only:
            continue
        row = row_of(learns.ROWS[name], settings.steps, settings.learning_rate, settings)
        found: dict[str, list[tuple[float, ...]]] = {label: [] for label in targets}
        for seed in range(settings.seeds):
            made = learns.experiment(f"control {name}", row, seed, settings.model)
            learns.train(made)
            for i, (label, target) in enumerate(targets.items()):
                texts = ask(made, target, settings)
                found[label].append(measure(judge, bayes, texts, f"{name}-{seed}-{i}"))
                print(seed, label, found[label][-1], texts[:2], flush=True)
        for text in lines_of(name, found):
            say(text)


if __name__ == "__main__":
    main(tyro.cli(Settings))
