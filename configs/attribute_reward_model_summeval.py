"""A model of attributes, one output each: what experts would rate a summary.

    alignax train configs/attribute_reward_model_summeval.py

Wang et al. 2023, arXiv:2311.09528; step 1 of SteerLM. `alignax score` annotates data with it.

Cost:    not run yet on these weights.
Expect:  not known yet here. benchmarks/RESULTS.md has what it does with a tiny model.
"""

from alignax import (
    AttributeRewardModel,
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
        method=AttributeRewardModel(),
        model=Model(model_name_or_path="weights/SmolLM2-135M-Instruct"),
        data=Data(
            train="../shared/data/summeval_attributes",
            eval="../shared/data/summeval_attributes",
            limits=TokenLimits(max_length=2048),
        ),
        optim=Optim(learning_rate=1e-5),
        loop=Loop(batch_size=16, num_train_epochs=1.0),
        evaluation=Evaluation(num_prompts=32, sampler=Sampler(max_new_tokens=96, temperature=0.7)),
        output_dir="runs/attribute_reward_model_summeval",
    )
