"""Tunix's DPO on the job's rows, through its `DPOTrainer` and its own Llama.

    PEER/bin/python -P benchmarks/peer_tunix.py JOB.json

A step is what the trainer does with a batch: `_prepare_inputs`, which concatenates and asks the
reference, and the compiled update. With the option `stored` of a job, `_prepare_inputs` is done for
all steps before the clock starts, and a step is the update alone. Shapes are one box for the whole
run, as Tunix's trainer needs them: prompts padded on the left, responses on the right, to the
longest of each. In bfloat16 its parameters and the optimiser's numbers are too, which is less
memory and less exact than what the other programs do.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tunix.models.llama3 import model as llama
from tunix.models.llama3 import params as weights
from tunix.sft.dpo import dpo_trainer


def box(lists, left):
    """Ids in a box, and where they are."""
    width = max(map(len, lists))
    ids, mask = np.zeros((2, len(lists), width), np.int32)
    for i, tokens in enumerate(lists):
        where = slice(width - len(tokens), None) if left else slice(len(tokens))
        ids[i, where], mask[i, where] = tokens, 1
    return ids, mask


def read(directory, dtype):
    config = json.loads(Path(f"{directory}/config.json").read_text())
    shape = llama.ModelConfig(
        num_layers=config["num_hidden_layers"],
        vocab_size=config["vocab_size"],
        embed_dim=config["hidden_size"],
        hidden_dim=config["intermediate_size"],
        num_heads=config["num_attention_heads"],
        head_dim=config["head_dim"],
        num_kv_heads=config["num_key_value_heads"],
        norm_eps=config["rms_norm_eps"],
        rope_theta=int(config["rope_theta"]),
        weight_tying=config["tie_word_embeddings"],
    )
    return weights.create_model_from_safe_tensors(directory, shape, dtype=jnp.dtype(dtype))


def main(path):
    job = json.loads(Path(path).read_text())
    rows, size = json.loads(Path(job["rows"]).read_text()), job["groups"]
    prompts, prompt_mask = box([row["prompt"] for row in rows], left=True)
    chosen, chosen_mask = box([row["responses"][0] for row in rows], left=False)
    rejected, rejected_mask = box([row["responses"][1] for row in rows], left=False)
    width = max(chosen.shape[1], rejected.shape[1])
    chosen, chosen_mask, rejected, rejected_mask = (
        np.pad(x, ((0, 0), (0, width - x.shape[1])))
        for x in (chosen, chosen_mask, rejected, rejected_mask)
    )
    steps = len(rows) // size
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(job["learning_rate"], weight_decay=0.0)
    )
    trainer = dpo_trainer.DPOTrainer(
        model=read(job["model"], job["dtype"]),
        ref_model=read(job["model"], job["dtype"]),
        optimizer=optimizer,
        training_config=dpo_trainer.DPOTrainingConfig(
            algorithm="dpo", beta=0.1, eval_every_n_steps=steps + 1, max_steps=steps
        ),
    )
    update, _ = trainer.jit_train_and_eval_step()

    def example(step):
        part = slice(step * size, (step + 1) * size)
        return trainer._prepare_inputs(
            dpo_trainer.TrainingInput(
                prompt_ids=prompts[part],
                prompt_mask=prompt_mask[part],
                chosen_ids=chosen[part],
                chosen_mask=chosen_mask[part],
                rejected_ids=rejected[part],
                rejected_mask=rejected_mask[part],
            )
        )

    ready = None
    if job["options"].get("stored"):
        ready = jax.block_until_ready([example(step) for step in range(steps)])
        trainer.ref_model = None  # nobody asks it again
    seconds, losses = [], []
    for step in range(steps):
        begin = time.perf_counter()
        loss = update(example(step) if ready is None else ready[step])[0]
        losses.append(float(loss))
        seconds.append(time.perf_counter() - begin)
    versions = {"tunix": importlib.metadata.version("google-tunix"), "jax": jax.__version__}
    found = {"seconds": seconds, "losses": losses, "versions": versions}
    if job["platform"] == "gpu":
        found["device_peak_mib"] = (
            jax.local_devices()[0].memory_stats()["peak_bytes_in_use"] / 2**20
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
