"""GRPO on what a reward model says: the last of three steps, after SFT and the reward model.

    alignax train --method sft
    alignax train --method reward_model --model runs/sft_quickstart/export
    alignax train configs/grpo_reward_model.py

Ouyang et al. 2022, arXiv:2203.02155, with GRPO in place of PPO. The policy begins from the first
export, and the second judges its answers; `--model.model-name-or-path` and
`--rollout.rewards.parts.0.directory` name others.

Cost:    not run yet on these weights; about grpo_quickstart's, and the reward model's passes.
Expect:  not known yet here. The KL to the SFT model costs reward: what follows a reward model too
         far leaves what it was learnt from behind (docs/choosing.md).
"""

import dataclasses
from pathlib import Path

from alignax import GRPO, Experiment, ModelReward, Rewards
from alignax.config import load


def experiment() -> Experiment:
    made = load(Path(__file__).with_name("grpo_quickstart.py"))
    return dataclasses.replace(
        made,
        method=GRPO(num_samples=8, beta=0.04),
        model=dataclasses.replace(made.model, model_name_or_path="runs/sft_quickstart/export"),
        rollout=dataclasses.replace(
            made.rollout,
            rewards=Rewards(parts=(ModelReward(directory="runs/reward_model_quickstart/export"),)),
            missing_end=1.0,  # it judges an answer that was cut as one that ended there
        ),
        output_dir="runs/grpo_reward_model",
    )
