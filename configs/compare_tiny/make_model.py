"""Trains the language model of `alignax compare configs/compare_tiny.py`, from nothing.

    python configs/compare_tiny/make_model.py            # writes configs/compare_tiny/model

A byte-level BPE tokenizer of 512 tokens and a Llama of 2 layers, on notes of three writers
(world.py). The same command gives the same bytes on the same machine and versions.
"""

import json
import random
import shutil
from pathlib import Path

import jax
import world
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from alignax import SFT, Data, Evaluation, Experiment, Loop, Model, Optim, TokenLimits, jobs
from alignax.models import pretrained
from alignax.models.config import DecoderConfig
from alignax.models.transformer import Decoder

HERE = Path(__file__).parent
WORK = Path("runs/compare_tiny_model")
NOTES, STEPS = 40_000, 1_500


def tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Trained on the notes; <|pad|> is 0 and <|end|> 1."""
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    found.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=512,
            special_tokens=["<|pad|>", "<|end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=found, eos_token="<|end|>", pad_token="<|pad|>", model_max_length=128
    )


def main() -> None:
    draw = random.Random(0)
    asked = world.prompts("train") + world.prompts("tune")  # test prompts are never read
    rows = []
    for _ in range(NOTES):
        prompt = draw.choice(asked)
        writer = draw.choices(list(world.WRITERS.values()), world.SHARES)[0]
        rows.append({"prompt": prompt, "completion": world.note(prompt, writer, draw)})
    WORK.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", rows[:-500]), ("test", rows[-500:])):
        text = "".join(json.dumps(row) + "\n" for row in part)
        (WORK / f"{name}.jsonl").write_text(text)

    words = tokenizer([row["prompt"] + row["completion"] for row in rows])
    config = DecoderConfig(
        vocab_size=len(words), width=96, layers=2, heads=3, kv_heads=3, head_dim=32, mlp_width=256,
        max_positions=128, tied=True, init_scale=0.05,
    )  # fmt: skip
    begin = WORK / "begin"
    params = Decoder(config=config).init(jax.random.key(0))
    pretrained.save(begin, params, config, eos=(words.eos_token_id,))
    words.save_pretrained(begin)
    exported = jobs.train(
        Experiment(
            method=SFT(),
            model=Model(model_name_or_path=str(begin), remat="none"),
            data=Data(
                train=str(WORK / "train.jsonl"),
                eval=str(WORK / "test.jsonl"),
                template="none",
                limits=TokenLimits(max_length=128),
            ),
            optim=Optim(learning_rate=4e-3, lr_scheduler_type="cosine", weight_decay=0.01),
            loop=Loop(batch_size=64, max_steps=STEPS, logging_steps=50),
            evaluation=Evaluation(num_prompts=0, batch_size=64),
            output_dir=str(WORK / "run"),
            tensorboard=False,
        )
    )
    target = HERE / "model"
    target.mkdir(exist_ok=True)
    for path in exported.iterdir():
        if path.name != "README.md":  # the card is written by hand
            shutil.copy(path, target)
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
