"""EasyDeL's DPO on the job's rows: the compiled step of its `DPOTrainer`, its own Llama.

    PEER/bin/python -P benchmarks/peer_easydel.py JOB.json

The step is called as the trainer compiles it, without the trainer's data and logging, which can
only favour it: reference and policy, loss, gradients and update in one program. Options of a job:
`chunk`, how many tokens meet the vocabulary together (`lmhead_chunksize`), and `stored`, the
reference's log-probabilities are computed before by the same forward pass and given to the step in
its batch, where it looks for them. One box for the whole run: prompts padded on the left, responses
on the right. With the dtype bfloat16 its parameters stay float32.
"""

import functools
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["WANDB_MODE"] = "disabled"
os.environ["HF_HUB_OFFLINE"] = "1"

import easydel
import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from easydel.trainers.direct_preference_optimization_trainer import _fn
from safetensors.numpy import load_file


def box(lists, left, width):
    """Ids in a box, and where they are."""
    ids, mask = np.zeros((2, len(lists), width), np.int32)
    for i, tokens in enumerate(lists):
        where = slice(width - len(tokens), None) if left else slice(len(tokens))
        ids[i, where], mask[i, where] = tokens, 1
    return ids, mask


def read(directory, chunk, longest, dtype):
    """The model with the job's weights, as a training state."""
    raw = json.loads(Path(f"{directory}/config.json").read_text())
    config = easydel.LlamaConfig(
        **{
            name: raw[name]
            for name in (
                "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps",
                "rope_theta", "tie_word_embeddings", "pad_token_id", "bos_token_id",
                "eos_token_id",
            )
        },
        max_position_embeddings=longest,
        sharding_axis_dims=(1, 1, 1, 1, 1),
    )  # fmt: skip
    if chunk:
        config.lmhead_chunksize = chunk
    model = easydel.LlamaForCausalLM(
        config=config, dtype=jnp.dtype(dtype), param_dtype=jnp.float32, precision=None,
        rngs=flax.nnx.Rngs(0),
    )  # fmt: skip
    stored = load_file(f"{directory}/model.safetensors")
    state = flax.nnx.state(model, flax.nnx.Param)
    for path, leaf in flax.nnx.to_flat_state(state):
        names = [str(name) for name in path]
        kind = names.pop()
        tensor = stored.pop(".".join(names) + ".weight")
        leaf.value = jnp.asarray(tensor.T if kind == "kernel" else tensor, jnp.float32)
    assert not stored, sorted(stored)
    flax.nnx.update(model, state)
    return model.to_state()


def main(path):
    job = json.loads(Path(path).read_text())
    rows, size = json.loads(Path(job["rows"]).read_text()), job["groups"]
    lists = {
        "prompt": [row["prompt"] for row in rows],
        "chosen": [row["responses"][0] for row in rows],
        "rejected": [row["responses"][1] for row in rows],
    }
    width = {name: max(map(len, texts)) for name, texts in lists.items()}
    width["chosen"] = width["rejected"] = max(width["chosen"], width["rejected"])
    arrays = {}
    for name, texts in lists.items():
        ids, mask = box(texts, name == "prompt", width[name])
        arrays |= {f"{name}_input_ids": ids, f"{name}_attention_mask": mask}
    chunk = job["options"].get("chunk", 0)
    longest = width["prompt"] + width["chosen"]
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(job["learning_rate"], weight_decay=0.0)
    )
    state = read(job["model"], chunk, longest, job["dtype"]).init_tx(optimizer)
    reference = read(job["model"], chunk, longest, job["dtype"])
    forward = functools.partial(
        _fn.concatenated_forward, is_encoder_decoder=False, label_pad_token_id=-100,
        padding_value=0, max_length=None, truncation_mode="keep_end", aux_loss_enabled=False,
        loss_type="sigmoid", logprob_vocab_chunk_size=None,
    )  # fmt: skip

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state, batch, reference):
        return _fn.training_step(
            state, batch, reference, optax.constant_schedule(job["learning_rate"]), forward,
            beta=0.1, label_smoothing=0.0, loss_type="sigmoid", reference_free=False,
            loss_config=None, partition_spec=jax.sharding.PartitionSpec(("dp", "fsdp"), "sp"),
            gradient_accumulation_steps=1,
        )  # fmt: skip

    def batch_at(first):
        return {name: jnp.asarray(x[first : first + size]) for name, x in arrays.items()}

    seconds, losses = [], []
    with state.model.mesh:
        if job["options"].get("stored"):
            refer = jax.jit(lambda state, batch: forward(state.model, batch))
            found = [refer(reference, batch_at(first)) for first in range(0, len(rows), size)]
            for name in ("chosen_logps", "rejected_logps"):
                arrays[f"ref_{name}"] = np.concatenate([np.asarray(x[name]) for x in found])
            reference = None
        batches = [jax.block_until_ready(batch_at(n)) for n in range(0, len(rows), size)]
        for batch in batches:
            begin = time.perf_counter()
            state, metrics = update(state, batch, reference)
            losses.append(float(metrics.loss))
            seconds.append(time.perf_counter() - begin)
    versions = {"easydel": easydel.__version__, "jax": jax.__version__}
    found = {"seconds": seconds, "losses": losses, "versions": versions}
    if job["platform"] == "gpu":
        found["device_peak_mib"] = (
            jax.local_devices()[0].memory_stats()["peak_bytes_in_use"] / 2**20
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
