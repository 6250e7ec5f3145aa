"""Makes the demo's preference pairs: prompts from prompts.txt, answers from the model, rule.py.

    python configs/quickstart/make_preferences.py

Each prompt is answered under the model's own system message and under two that ask for one
sentence and for three, because left to itself the model hardly ever stops. The rule scores all
answers that ended by themselves; the best becomes `chosen` and the worst `rejected`, where they
are at least MIN_GAP apart. Pairs are stored without any system message, so training must teach
what the message asked. Same weights and seed, same pairs. It took 27 minutes on 2 cores
with other work beside it.
"""

import dataclasses
import importlib.util
import json
from pathlib import Path

import tyro

from alignax.core.records import Message
from alignax.data.chat import Renderer
from alignax.data.tokenizers import end_ids, load_tokenizer
from alignax.evaluate.evaluators import Sampled
from alignax.generate.sampler import Sampler
from alignax.models import pretrained
from alignax.models.transformer import Decoder

HERE = Path(__file__).parent
HELD_OUT = 90  # the last lines of prompts.txt
MIN_GAP = 1.0
BRIEF = "You are a helpful AI assistant. Answer in one short sentence."
LONGER = "You are a helpful AI assistant. Answer in three sentences."
SYSTEMS = {BRIEF: 2, LONGER: 4, "": 2}  # how many answers are drawn under each


@dataclasses.dataclass(frozen=True)
class Settings:
    """Where the model is, and how its answers are drawn."""

    model: str = "weights/SmolLM2-135M-Instruct"
    max_new_tokens: int = 80
    temperature: float = 0.7
    top_p: float = 0.95
    batch_size: int = 28
    seed: int = 0


def load_rule():
    """The judge, rule.py beside this file."""
    spec = importlib.util.spec_from_file_location("rule", HERE / "rule.py")
    rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)
    return rule


def main(settings: Settings) -> None:
    """Samples, judges and writes train.jsonl and test.jsonl."""
    rule = load_rule()
    directory = pretrained.locate(settings.model)
    model = pretrained.load(directory)
    renderer = Renderer(tokenizer=load_tokenizer(directory), extra_end_ids=end_ids(directory))
    prompts = (HERE / "prompts.txt").read_text().splitlines()
    answers: list[list[tuple[float, str]]] = [[] for _ in prompts]
    for system, count in SYSTEMS.items():
        turns = [
            ((Message("system", system),) if system else ()) + (Message("user", prompt),)
            for prompt in prompts
        ]
        draw = Sampled(
            model=Decoder(config=model.config),
            prompts=renderer.prompt_ids([renderer.prompt(turn) for turn in turns]),
            end_ids=sorted(renderer.end_ids),
            sampler=Sampler(
                num_samples=count,
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                top_p=settings.top_p,
            ),
            batch_size=settings.batch_size,
            seed=settings.seed,
        )
        drawn = draw(model.params, None, progress=report)
        for found, tokens, ended in zip(answers, drawn.tokens, drawn.ended, strict=True):
            for text, whole in zip(map(str.strip, renderer.texts(tokens)), ended, strict=True):
                if whole and text:
                    found.append((rule.score(text, ended=True), text))
    pairs = [pair(prompt, found) for prompt, found in zip(prompts, answers, strict=True)]
    split = len(prompts) - HELD_OUT
    print(f"{sum(map(len, answers))} answers ended by themselves")
    for name, part in (("train", pairs[:split]), ("test", pairs[split:])):
        rows = [row for row in part if row is not None]
        print(f"{name}: {len(rows)} pairs from {len(part)} prompts")
        with (HERE / f"{name}.jsonl").open("w") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def pair(prompt: str, answers: list[tuple[float, str]]) -> dict[str, str] | None:
    """Best against worst; None where they are too close. Of equals the first drawn is taken."""
    if not answers:
        return None
    best = max(answers, key=lambda answer: answer[0])
    worst = min(answers, key=lambda answer: answer[0])
    if best[0] - worst[0] < MIN_GAP:
        return None
    return {"prompt": prompt, "chosen": best[1], "rejected": worst[1]}


def report(steps, total):
    """Says how far the sampling has come."""
    for number, step in enumerate(steps):
        print(f"batch {number + 1} of {total}", flush=True)
        yield step


if __name__ == "__main__":
    main(tyro.cli(Settings))
