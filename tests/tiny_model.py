"""A tiny random Llama in a Hugging Face directory, and preference pairs it can learn."""

import json
import pathlib

import jax

from alignax.config import Data, Evaluation, Experiment, Model
from alignax.core.records import (
    Attributed,
    Demonstration,
    Labelled,
    Preference,
    Prompt,
    Ranking,
    Record,
    Scored,
)
from alignax.data.tokenise import TokenLimits
from alignax.generate.sampler import Sampler
from alignax.methods import DPO
from alignax.models import pretrained
from alignax.models.config import DecoderConfig
from alignax.models.transformer import Decoder
from alignax.train.loop import Loop
from alignax.train.optim import Optim
from alignax.train.sharding import Mesh
from tests.tiny import chatml_tokenizer


def model_directory(path: pathlib.Path, **changes) -> pathlib.Path:
    """Two layers, grouped heads, tied; every axis divisible by 2, for meshes."""
    tokenizer = chatml_tokenizer()
    shape = {"vocab_size": 320, "width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8,
             "mlp_width": 64, "max_positions": 512, "tied": True, "init_scale": 0.1}  # fmt: skip
    config = DecoderConfig(**(shape | changes))
    params = Decoder(config=config).init(jax.random.key(0))
    pretrained.save(path, params, config, eos=(tokenizer.eos_token_id,))
    tokenizer.save_pretrained(path)
    return path


def write_pairs(path: pathlib.Path, count: int) -> pathlib.Path:
    """Pairs of unequal lengths in which the chosen answer ends in "yes" and the other in "no"."""
    with path.open("w") as file:
        for i in range(count):
            row = {
                "prompt": f"Is {i} a number?" + " Really?" * (i % 4),
                "chosen": "It is, " * (i % 3) + "yes",
                "rejected": "Well, " * (i % 5) + "no",
            }
            file.write(json.dumps(row) + "\n")
    return path


def write_rows(path: pathlib.Path, count: int, record: type[Record]) -> pathlib.Path:
    """Rows of any type of record, about answers that end in "yes" (good) or "no"."""
    good = {"wit": 4.0, "depth": 1.0}
    with path.open("w") as file:
        for i in range(count):
            prompt = f"Is {i} a number?" + " Really?" * (i % 4)
            yes, no = "It is, " * (i % 3) + "yes", "Well, " * (i % 5) + "no"
            one = {"prompt": prompt, "completion": yes if i % 2 else no}
            rows = {
                Demonstration: {"prompt": prompt, "completion": yes},
                Preference: {"prompt": prompt, "chosen": yes, "rejected": no, "margin": i % 3 + 1},
                Ranking: {"prompt": prompt, "completions": [no, yes, "maybe"][: 2 + i % 2],
                          "scores": [0.0, 1.0, 0.5][: 2 + i % 2]},
                Scored: one | {"score": float(i % 2)},
                Labelled: one | {"label": i % 2 == 1},
                Attributed: one | {"attributes": good if i % 2 else {"wit": 0.5}},
                Prompt: {"prompt": prompt, "answer": str(i)},
            }  # fmt: skip
            file.write(json.dumps(rows[record]) + "\n")
    return path


def experiment(folder: pathlib.Path, **changes) -> Experiment:
    """DPO on 24 such pairs, 8 held out, 6 steps of 8."""
    model = folder / "model"
    if not model.exists():
        model_directory(model)
    fields = {
        "method": DPO(beta=0.5),
        "model": Model(model_name_or_path=str(model)),
        "data": Data(
            train=str(write_pairs(folder / "train.jsonl", 24)),
            eval=str(write_pairs(folder / "test.jsonl", 8)),
            limits=TokenLimits(max_length=256),
            cache_dir=str(folder / "cache"),
        ),
        "optim": Optim(learning_rate=1e-2),
        "loop": Loop(batch_size=8, max_steps=6, save_steps=2),
        "evaluation": Evaluation(num_prompts=4, sampler=Sampler(max_new_tokens=8)),
        "mesh": Mesh(data=1),
        "output_dir": str(folder / "run"),
    }
    return Experiment(**(fields | changes))
