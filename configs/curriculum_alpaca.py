"""Contrastive post-training: a stronger model's answer against a weaker one's, easy pairs first.

    alignax train configs/curriculum_alpaca.py

Xu et al. 2023, arXiv:2310.02263. The pairs are made of lists whose responses name their sources;
nobody judges them, only the order of the sources is given.

Cost:    not run yet on these weights.
Expect:  not known yet here. benchmarks/RESULTS.md has what it does with a tiny model.
"""

from alignax import (
    Curriculum,
    Data,
    Evaluation,
    Experiment,
    Loop,
    Model,
    Optim,
    Sampler,
    TokenLimits,
)


def experiment() -> Experiment:
    return Experiment(
        method=Curriculum(beta=0.1),
        model=Model(model_name_or_path="weights/SmolLM2-135M-Instruct"),
        data=Data(
            train="../shared/data/alpaca_eval_ranked",
            eval="../shared/data/alpaca_eval_ranked",
            limits=TokenLimits(max_length=2048),
            pairing="strength",
            strength=(
                "alpaca-7b",
                "vicuna-13b-v1.5",
                "OpenHermes-2.5-Mistral-7B",
                "FuseChat-Gemma-2-9B-Instruct",
            ),
        ),
        optim=Optim(learning_rate=1e-5),
        loop=Loop(batch_size=16, num_train_epochs=1.0),
        evaluation=Evaluation(num_prompts=32, sampler=Sampler(max_new_tokens=96, temperature=0.7)),
        output_dir="runs/curriculum_alpaca",
    )
