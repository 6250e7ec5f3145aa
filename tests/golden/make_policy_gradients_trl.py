"""Makes policy_gradients_trl.json: what TRL's own trainers compute for random samples.

    python tests/golden/make_policy_gradients_trl.py

Needs torch and trl, which nothing else here does; their versions are stored inside. The functions
called are `GRPOTrainer._compute_loss` and `RLOOTrainer._compute_loss` themselves, on trainers that
have only the attributes they read and hand out stored log-probabilities. TRL computes advantages
elsewhere, beside the sampling; here they are the ones of its formulas, from the stored rewards.

    groups  rewards [k] of one prompt's samples; mask and log-probabilities of policy, sampling
            policy and reference, [k, r]; 0 off the mask
    cases   of every group and method: its settings here, and TRL's loss, its gradient [k, r] and
            what it logs. TRL's token mean of a group is its sum over the group's tokens
"""

import collections
import json
import types
from pathlib import Path

import numpy as np

SAMPLES, TOKENS, LONGEST = 4, 5, 8
SCALES = (0.05, 0.3, 1.0)  # of the differences between the policies
# The method here, its settings here, TRL's loss and level.
CASES = [
    ("GRPO", {"beta": 0.04, "clip": 0.2}, "grpo", "token"),
    ("GRPO", {"beta": 0.0, "clip": 0.1}, "grpo", "token"),
    ("DrGRPO", {"max_length": LONGEST, "clip": 0.2}, "dr_grpo", "token"),
    ("DAPO", {"clip_low": 0.2, "clip_high": 0.28}, "dapo", "token"),
    ("GSPO", {"clip_low": 0.03, "clip_high": 0.04}, "grpo", "sequence"),
    ("RLOO", {"beta": 0.05, "clip": 0.2}, None, None),
]


def groups() -> list[dict[str, list]]:
    """Random samples of unequal length, further and further from what sampled them."""
    made = []
    for seed, scale in enumerate(SCALES):
        draw = np.random.default_rng(seed)
        mask = np.arange(TOKENS) < draw.integers(1, TOKENS + 1, (SAMPLES, 1))
        old = -draw.exponential(1.0, (SAMPLES, TOKENS))
        policy, ref = (-np.abs(old + scale * draw.standard_normal(old.shape)) for _ in range(2))
        arrays = {"logprobs": policy, "old_logprobs": old, "ref_logprobs": ref}
        made.append(
            {"rewards": draw.standard_normal(SAMPLES).round(6).tolist(), "mask": mask.tolist()}
            | {name: np.where(mask, x, 0.0).round(6).tolist() for name, x in arrays.items()}
        )
    return made


def main() -> None:
    import torch
    import trl
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.rloo_trainer import RLOOTrainer

    def case(index: int, group: dict[str, list], method: str, settings: dict, loss_type, level):
        real = {k: torch.tensor(x, dtype=torch.float64) for k, x in group.items() if k != "mask"}
        mask = torch.tensor(group["mask"]).long()
        logprobs = real["logprobs"].requires_grad_()
        rewards, old, beta = real["rewards"], real["old_logprobs"], settings.get("beta", 0.0)
        same = lambda x, **_: x  # noqa: E731
        trainer = types.SimpleNamespace(
            accelerator=types.SimpleNamespace(
                gather=same, reduce=same, num_processes=1, sync_gradients=True
            ),
            model=types.SimpleNamespace(training=True),
            args=types.SimpleNamespace(
                delta=None, use_bias_correction_kl=False, steps_per_generation=1
            ),
            _get_per_token_logps_and_entropies=lambda *_, **__: (
                logprobs,
                torch.zeros_like(logprobs.detach()),
                None,
            ),
            aux_loss_enabled=False,
            top_entropy_quantile=1.0,
            off_policy_mask_threshold=None,
            importance_sampling_level=level,
            loss_type=loss_type,
            beta=beta,
            epsilon_low=settings.get("clip", settings.get("clip_low")),
            epsilon_high=settings.get("clip", settings.get("clip_high")),
            use_vllm=False,
            current_gradient_accumulation_steps=1,
            max_completion_length=LONGEST,
            _entropy_bonus_enabled=False,
            _metrics={"train": collections.defaultdict(list)},
        )
        nothing = torch.zeros(SAMPLES, 1, dtype=torch.int64)
        inputs = {
            "prompt_ids": nothing,
            "prompt_mask": nothing,
            "completion_ids": torch.zeros_like(mask),
            "completion_mask": mask,
            "old_per_token_logps": old,
            "ref_per_token_logps": real["ref_logprobs"],
            "num_items_in_batch": mask.sum(),
        }
        if method == "RLOO":
            rewards = rewards - beta * ((old - real["ref_logprobs"]) * mask).sum(dim=1)
            others = (rewards.sum() - rewards) / (SAMPLES - 1)
            inputs |= {"advantages": rewards - others, "old_logps": (old * mask).sum(dim=1)}
            loss = RLOOTrainer._compute_loss(trainer, trainer.model, inputs)
        else:
            deviation = rewards.std() + 1e-4 if method != "DrGRPO" else 1.0
            inputs["advantages"] = (rewards - rewards.mean()) / deviation
            loss = GRPOTrainer._compute_loss(trainer, trainer.model, inputs)
        loss.backward()
        logged = trainer._metrics["train"]
        names = ("clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean")
        return {
            "group": index,
            "method": method,
            "settings": settings,
            "loss": loss.item(),
            "gradient": logprobs.grad.tolist(),
            "metrics": {name: logged[name][0] for name in names},
        }

    stored = {
        "function": "trl GRPOTrainer._compute_loss, RLOOTrainer._compute_loss, one group a call, "
        "float64",
        "versions": f"torch {torch.__version__}, trl {trl.__version__}",
        "made_by": "tests/golden/make_policy_gradients_trl.py",
        "groups": groups(),
    }
    stored["cases"] = [case(i, x, *c) for i, x in enumerate(stored["groups"]) for c in CASES]
    path = Path(__file__).with_name("policy_gradients_trl.json")
    path.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
