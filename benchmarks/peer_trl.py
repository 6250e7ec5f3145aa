"""TRL's trainers on the job's rows: DPO, SFT, reward model, GRPO; whole model or PEFT's LoRA.

    PEER/bin/python -P benchmarks/peer_trl.py JOB.json

Options of a job: `stored`, TRL's own `precompute_ref_log_probs`, and `checkpointing`, TRL's default
of computing blocks again, which is slower and takes less memory. `best`, for GPUs: FlashAttention 2
and Liger's kernels where they are installed, and for SFT no padding where FlashAttention is; DPO's
`padding_free` does nothing in TRL 1.16.0, says its documentation. A step is from the trainer's
`on_step_begin` to its `on_step_end`, so reading the data is left out; what GRPO draws is in it.
"""

import importlib.util
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import datasets
import numpy
import peft
import torch
import transformers
import trl


class Clock(transformers.TrainerCallback):
    """Seconds and loss of every step."""

    def __init__(self, gpu):
        self.gpu = gpu
        self.seconds, self.losses = [], []

    def now(self):
        if self.gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_step_begin(self, args, state, control, **_):
        self.begin = self.now()

    def on_step_end(self, args, state, control, **_):
        self.seconds.append(self.now() - self.begin)

    def on_log(self, args, state, control, logs=None, **_):
        if "loss" in (logs or {}):
            self.losses.append(float(logs["loss"]))


def text(ids):
    """A text that the job's tokenizer takes to these ids."""
    return " ".join("</s>" if i == 2 else f"w{i}" for i in ids)


def columns(row, task):
    """A row as TRL's data sets have it; TRL ends a completion by itself where it has no end."""
    prompt = text(row["prompt"])
    if task == "grpo":
        return {"prompt": prompt}
    completions = [" " + text(ids) for ids in row["responses"]]
    if task == "sft":
        return {"prompt": prompt, "completion": completions[0]}
    return {"prompt": prompt, "chosen": completions[0], "rejected": completions[1]}


def reward(completions, **_):
    """The share of even words: a rule that costs nothing."""
    return [
        float(numpy.mean([int(word[1:]) % 2 == 0 for word in completion.split()] or [0.0]))
        for completion in completions
    ]


def best(task):
    """What makes TRL fast on a GPU, as far as it is installed: of the model, of the trainer."""
    flash, liger = (
        importlib.util.find_spec(name) is not None for name in ("flash_attn", "liger_kernel")
    )
    trainer = {"use_liger_kernel": liger}
    if task == "sft":
        trainer["padding_free"] = flash
    return {"attn_implementation": "flash_attention_2" if flash else "sdpa"}, trainer


def main(path):
    job = json.loads(Path(path).read_text())
    torch.set_num_threads(job["threads"])
    task, options, size = job["task"], job["options"], job["groups"]
    rows = json.loads(Path(job["rows"]).read_text())
    data = datasets.Dataset.from_list([columns(row, task) for row in rows])
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["model"])
    kind = "SequenceClassification" if task == "reward" else "CausalLM"
    read = getattr(transformers, f"AutoModelFor{kind}").from_pretrained
    gpu = job["platform"] == "gpu"
    how_model, how_trainer = best(task) if options.get("best") else ({}, {})
    model = read(job["model"], dtype=torch.float32, **how_model)
    lora = None
    if job["adapter"]:
        lora = peft.LoraConfig(
            r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
        )
    clock = Clock(gpu)
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "output_dir": folder,
            "per_device_train_batch_size": size,
            "max_steps": len(rows) // size,
            "learning_rate": job["learning_rate"],
            "lr_scheduler_type": "constant",
            "gradient_checkpointing": options.get("checkpointing", False),
            "bf16": job["dtype"] == "bfloat16",
            "use_cpu": not gpu,
            "logging_steps": 1,
            "report_to": "none",
            "save_strategy": "no",
            "train_sampling_strategy": "sequential",
            "disable_tqdm": True,
            "dataloader_pin_memory": gpu,
            **how_trainer,
        }
        how = {
            "model": model,
            "train_dataset": data,
            "processing_class": tokenizer,
            "callbacks": [clock],
            "peft_config": lora,
        }
        if task == "dpo":
            stored = options.get("stored", False)
            args = trl.DPOConfig(
                **settings, max_length=None, beta=0.1, precompute_ref_log_probs=stored
            )
            if not stored and lora is None:
                how["ref_model"] = read(job["model"], dtype=torch.float32)
            trainer = trl.DPOTrainer(args=args, **how)
        elif task == "sft":
            trainer = trl.SFTTrainer(args=trl.SFTConfig(**settings, max_length=None), **how)
        elif task == "reward":
            args = trl.RewardConfig(**settings, max_length=None)
            trainer = trl.RewardTrainer(args=args, **how)
        else:
            settings["per_device_train_batch_size"] = size * job["responses"]
            settings.pop("train_sampling_strategy")
            args = trl.GRPOConfig(
                **settings,
                shuffle_dataset=False,
                num_generations=job["responses"],
                max_completion_length=job["response"],
                beta=0.04,
                loss_type="grpo",
                temperature=1.0,
            )
            trainer = trl.GRPOTrainer(args=args, reward_funcs=reward, **how)
        trainer.train()
    versions = {module.__name__: module.__version__ for module in (trl, torch, transformers, peft)}
    found = {"seconds": clock.seconds, "losses": clock.losses, "versions": versions}
    if gpu:
        found["device_peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps(found | {"settings": how_model | how_trainer}))


if __name__ == "__main__":
    main(sys.argv[1])
