"""Makes dpo_trl.json: what TRL's own DPOTrainer computes for random log-probabilities.

    python tests/golden/make_dpo_trl.py

Needs torch and trl, which nothing else here does; their versions are stored inside. The function
called is `DPOTrainer._compute_loss` itself, on a trainer that has only the attributes it reads and
a model that hands out stored log-probabilities. One pair a call, because TRL returns a mean over
pairs. Its `sigmoid` knows no label smoothing; its `aot` is conservative DPO for a single pair.

    pairs   log-probabilities, reference log-probabilities and mask, [2, r] each; 0 off the mask
    cases   of every pair and setting: the loss, what TRL logs, and the loss's gradient, [2, r]
"""

import collections
import json
import types
from pathlib import Path

import numpy as np

TOKENS = 6
SETTINGS = [("sigmoid", 0.1, 0.0), ("sigmoid", 2.0, 0.0), ("aot", 0.3, 0.2)]
SCALES = (0.1, 1.0, 1.0, 4.0)  # of the differences between policy and reference


def pairs() -> list[dict[str, list]]:
    """Random log-probabilities of two responses of unequal length, with a gap in the first."""
    made = []
    for seed, scale in enumerate(SCALES):
        draw = np.random.default_rng(seed)
        mask = np.arange(TOKENS) < draw.integers(2, TOKENS + 1, (2, 1))
        mask[0, 1] = False
        ref = -draw.exponential(2.0, (2, TOKENS))
        policy = -np.abs(ref + scale * draw.standard_normal((2, TOKENS)))
        made.append(
            {
                "logprobs": np.where(mask, policy, 0.0).round(6).tolist(),
                "ref_logprobs": np.where(mask, ref, 0.0).round(6).tolist(),
                "mask": mask.tolist(),
            }
        )
    return made


def main() -> None:
    import torch
    import trl
    from trl.trainer.dpo_trainer import DPOTrainer

    def case(index: int, pair: dict[str, list], loss_type: str, beta: float, smoothing: float):
        logprobs = torch.tensor(pair["logprobs"], dtype=torch.float64, requires_grad=True)
        mask = torch.tensor(pair["mask"])
        nothing = torch.zeros_like(logprobs.detach())

        class Model:
            training = True

            def __call__(self, **_):
                return types.SimpleNamespace(
                    log_probs=logprobs * mask,
                    entropy=nothing,
                    mean_logits=nothing,
                    is_top1=nothing.bool(),
                )

        same = lambda x: x  # noqa: E731
        trainer = types.SimpleNamespace(
            accelerator=types.SimpleNamespace(device="cpu", gather=same, gather_for_metrics=same),
            model=Model(),
            aux_loss_enabled=False,
            ld_alpha=None,
            precompute_ref_logps=True,
            f_divergence_type="reverse_kl",
            loss_types=[loss_type],
            loss_weights=[1.0],
            label_smoothing=smoothing,
            beta=beta,
            use_weighting=False,
            _metrics={"train": collections.defaultdict(list)},
            _total_train_tokens=0,
            _tp_size=1,
        )
        # One prompt token before the responses: log_probs belong to the tokens after the first.
        ids = torch.zeros(2, TOKENS + 1, dtype=torch.int64)
        completion = torch.cat([torch.zeros(2, 1, dtype=torch.bool), mask], dim=1).long()
        ref = torch.tensor(pair["ref_logprobs"], dtype=torch.float64).sum(dim=1)
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "completion_mask": completion,
            "ref_chosen_logps": ref[:1],
            "ref_rejected_logps": ref[1:],
        }
        loss = DPOTrainer._compute_loss(trainer, trainer.model, inputs, False)
        loss.backward()
        logged = trainer._metrics["train"]
        return {
            "pair": index,
            "loss_type": loss_type,
            "beta": beta,
            "label_smoothing": smoothing,
            "loss": loss.item(),
            "metrics": {
                name: logged[name][0]
                for name in (
                    *("rewards/chosen", "rewards/rejected", "rewards/margins"),
                    *("rewards/accuracies", "logps/chosen", "logps/rejected"),
                )
            },
            "gradient": logprobs.grad.tolist(),
        }

    stored = {
        "function": "trl.trainer.dpo_trainer.DPOTrainer._compute_loss, one pair a call, float64",
        "versions": f"torch {torch.__version__}, trl {trl.__version__}",
        "made_by": "tests/golden/make_dpo_trl.py",
        "pairs": pairs(),
    }
    stored["cases"] = [
        case(i, pair, *setting) for i, pair in enumerate(stored["pairs"]) for setting in SETTINGS
    ]
    Path(__file__).with_name("dpo_trl.json").write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
