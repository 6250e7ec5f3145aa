"""GRPO: rounds of a model's own answers, each judged beside the others to its prompt.

    alignax train configs/grpo_quickstart.py

Shao et al. 2024, arXiv:2402.03300. The quickstart's model and prompts; the reward is the rule in
configs/quickstart/rule.py, which the quickstart's pairs were made by: brief, plain, finished. The
configs of the other methods that learn from samples begin from this one.

Cost:    not run yet on these weights.
Expect:  not known yet here. benchmarks/RESULTS.md has what it does to a tiny model.
"""

from pathlib import Path

from alignax import (
    GRPO,
    Data,
    Evaluation,
    Experiment,
    Function,
    Loop,
    Model,
    Optim,
    Rewards,
    Rollout,
    Sampler,
    TokenLimits,
)

RULE = Path(__file__).parent / "quickstart" / "rule.py"


def experiment() -> Experiment:
    return Experiment(
        method=GRPO(num_samples=8, beta=0.0),
        model=Model(model_name_or_path="weights/SmolLM2-135M-Instruct"),
        data=Data(
            train="configs/quickstart/train.jsonl",
            eval="configs/quickstart/test.jsonl",
            limits=TokenLimits(max_length=256),
        ),
        rollout=Rollout(
            rewards=Rewards(parts=(Function(function=f"{RULE}:reward"),)),
            max_new_tokens=64,
            missing_end=4.0,  # what the rule takes off an answer that was cut
        ),
        optim=Optim(learning_rate=1e-5),
        loop=Loop(batch_size=8, max_steps=20),
        evaluation=Evaluation(num_prompts=32, sampler=Sampler(max_new_tokens=64, temperature=1.0)),
        output_dir="runs/grpo_quickstart",
    )
