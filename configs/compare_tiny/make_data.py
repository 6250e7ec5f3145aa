"""Makes the data of `alignax compare configs/compare_tiny.py`: the model's own answers, judged.

    python configs/compare_tiny/make_data.py             # after make_model.py

Eight answers of the model to each training prompt are scored by the gold reward and noise: gold +
NOISE * Gumbel. So of any two the better one is preferred with probability sigmoid(difference /
NOISE), as Bradley and Terry have it, and of a list as Plackett and Luce do. All methods learn from
these judgements alone, and so does the proxy. Files, each with a line a prompt but `attributes`:

    train        the model's own answers
    others       answers of the three writers of world.py, by name, judged alike
    shuffled     train with its scores dealt out at random: nothing can be learnt from it
    two, four    the best-scored answer of train and the first 1 or 3 others
    flat         all 8, of which only the best scores more
    attributes   the answers of train, one a line, rated in parts from 0 to 4
    tune, test   prompts alone, to choose settings by and to report
"""

import gzip
import json
import random
from pathlib import Path

import jax
import numpy as np
import world

from alignax import SFT, Data, Evaluation, Experiment, Model, Sampler, TokenLimits
from alignax.generate.engine import Engine
from alignax.run import Run

HERE = Path(__file__).parent
ANSWERS, NOISE, MAX_NEW_TOKENS = 8, 1.0, 48


def main() -> None:
    write("tune", [{"prompt": prompt} for prompt in world.prompts("tune")])
    write("test", [{"prompt": prompt} for prompt in world.prompts("test")])
    asked = world.prompts("train")
    generator = np.random.default_rng(0)

    def judged(prompt: str, completions: list[str]) -> list[float]:
        gold = np.array(world.gold([prompt] * len(completions), completions))
        return (gold + NOISE * generator.gumbel(size=len(gold))).round(3).tolist()

    rows = [
        {"prompt": prompt, "completions": texts, "scores": judged(prompt, texts)}
        for prompt, texts in zip(asked, answers(asked), strict=True)
    ]
    write("train", rows)

    draw = random.Random(0)
    names = ["careless", "careless", "careless", "plain", "plain", "plain", "careful", "careful"]
    others = []
    for prompt in asked:
        texts = [world.note(prompt, world.WRITERS[name], draw) for name in names]
        others.append({"prompt": prompt, "completions": texts, "scores": judged(prompt, texts)}
                      | {"sources": names})  # fmt: skip
    write("others", others)

    scores = generator.permutation(np.concatenate([row["scores"] for row in rows]))
    dealt = scores.reshape(-1, ANSWERS).tolist()
    write("shuffled", [row | {"scores": own} for row, own in zip(rows, dealt, strict=True)])
    for name, count in (("two", 2), ("four", 4)):
        write(name, [fewer(row, count) for row in rows])
    write("flat", [row | {"scores": [float(x == max(row["scores"])) for x in row["scores"]]}
                   for row in rows])  # fmt: skip
    each = [(row["prompt"], text) for row in rows for text in row["completions"]]
    write("attributes", [rated(prompt, text, generator) for prompt, text in each])


def fewer(row: dict, count: int) -> dict:
    """A row with its best-scored answer and the first of the others, in their order."""
    best = row["scores"].index(max(row["scores"]))
    others = [i for i in range(len(row["scores"])) if i != best]
    kept = sorted([best, *others[: count - 1]])
    return row | {name: [row[name][i] for i in kept] for name in ("completions", "scores")}


def rated(prompt: str, completion: str, generator: np.random.Generator) -> dict:
    """A row of `attributes`: every part of the reward as somebody rates it."""
    parts = world.attributes(prompt, completion)
    noisy = {name: x + 0.5 * NOISE * generator.logistic() for name, x in parts.items()}
    return {"prompt": prompt, "completion": completion,
            "attributes": {name: rating(name, x) for name, x in noisy.items()}}  # fmt: skip


def rating(name: str, value: float) -> int:
    """A part of the reward as people rate it, from 0 to 4; 4 is its best."""
    best = {"relevance": 2.0, "kindness": 1.5, "form": 0.0}[name]
    return int(np.clip(round(4 + 1.5 * (value - best)), 0, 4))


def answers(asked: list[str]) -> list[list[str]]:
    """The model's own, at temperature 1."""
    run = Run(
        Experiment(
            method=SFT(),
            model=Model(model_name_or_path=str(HERE / "model")),
            data=Data(train=str(HERE / "test.jsonl.gz"), template="none",
                      limits=TokenLimits(max_length=96)),
            evaluation=Evaluation(num_prompts=0),
            output_dir="runs/compare_tiny_data",
        ),
        quiet=True,
    )  # fmt: skip
    sampler = Sampler(num_samples=ANSWERS, max_new_tokens=MAX_NEW_TOKENS, temperature=1.0)
    engine = Engine(model=run.decoder, sampler=sampler, end_ids=tuple(run.renderer.end_ids),
                    slots=256)  # fmt: skip
    ids = [np.array(run.renderer.tokenizer(text)["input_ids"], np.int32) for text in asked]
    with jax.set_mesh(run.mesh):
        drawn = engine(run.initial_policy(), jax.random.key(0), ids, range(len(ids)))
    return [
        run.decode_all([x[:n].tolist() for x, n in zip(rows, lengths, strict=True)])
        for rows, lengths in zip(drawn.tokens, drawn.lengths, strict=True)
    ]


def write(name: str, rows: list[dict]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    with (HERE / f"{name}.jsonl.gz").open("wb") as file:  # without a time, so the same bytes
        file.write(gzip.compress(text.encode(), mtime=0))
    print(f"{name}: {len(rows)} rows")


if __name__ == "__main__":
    main()
