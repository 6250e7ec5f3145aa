"""DPO on the comparison's model of 0.3M parameters, in bfloat16: what is a step beside the device?

    alignax train benchmarks/tiny_dpo.py --output-dir runs/one
    alignax train benchmarks/tiny_dpo.py --output-dir runs/eight --seeds 8

A step's seconds, and those of them that waited for the next batch, are in each folder's
timings.jsonl (`seconds`, `seconds_fetching`). RESULTS.md has the medians on a GPU.
"""

from pathlib import Path

from alignax import DPO, Data, Evaluation, Experiment, Loop, Model, Optim, TokenLimits

HERE = Path(__file__).parent.parent / "configs" / "compare_tiny"


def experiment() -> Experiment:
    """300 updates of 32 pairs."""
    return Experiment(
        method=DPO(beta=0.1),
        model=Model(model_name_or_path=str(HERE / "model"), dtype="bfloat16", remat="elementwise"),
        data=Data(
            train=str(HERE / "train.jsonl.gz"),
            template="none",
            limits=TokenLimits(max_length=128),
        ),
        optim=Optim(learning_rate=3e-4),
        loop=Loop(batch_size=32, max_steps=300),
        evaluation=Evaluation(num_prompts=0),
        output_dir="runs/tiny_dpo",
        tensorboard=False,
    )
