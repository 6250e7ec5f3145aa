"""DPO on Llama-3 70B, to be planned for a v5p-256.

    alignax plan configs/plans/llama3_70b.py --topology v5p:4x4x8

A v5p-256 has 256 cores: Google counts two to a chip, so it is 128 chips, which lie as 4x4x8.

The folder beside it holds the model's shape and no weights; give `--model.model-name-or-path` a
directory with weights, and `data.train` pairs, to train it.

Cost:    not run: docs/scaling.md has what is planned.
Expect:  nothing is trained here.
"""

from pathlib import Path

from alignax import DPO, Data, Experiment, Loop, Mesh, Model, Optim, TokenLimits


def experiment() -> Experiment:
    return Experiment(
        method=DPO(beta=0.1),
        model=Model(
            model_name_or_path=str(Path(__file__).with_name("llama3_70b")), dtype="bfloat16"
        ),
        data=Data(train="pairs.jsonl", limits=TokenLimits(max_length=1024)),
        optim=Optim(learning_rate=5e-7),
        loop=Loop(batch_size=256, max_steps=1000, save_steps=100),
        mesh=Mesh(data=1, fsdp=-1),
        output_dir="runs/llama3_70b",
    )
