"""Findings that no run made: every kind of value that a report must show, and hostile text."""

import math
import random
from typing import Any

HOSTILE = "</script><img src=x onerror=\"document.title='pwned'\"><!-- ' \" & {{ 7 * 7 }}"

_ENTRIES = [
    ("dpo", "DPO", "offline"), ("sft", "SFT on the chosen", "baseline"), ("ppo", "PPO", "online"),
    ("raft", "RAFT", "iterated"), ("ipo", "IPO", "offline"), ("rloo", "RLOO", "online"),
    ("kto", "KTO", "offline"), ("rso", "RSO", "iterated"), ("remax", "ReMax", "online"),
    ("simpo", "SimPO", "offline"), ("random", "Random", "baseline"), ("rrhf", "RRHF", "offline"),
    ("pro", "PRO", "offline"), ("grpo", "GRPO", "online"), ("orpo", "ORPO", "offline"),
    ("cpo", "CPO", "offline"), ("slic", "SLiC", "offline"), ("hinge", "Hinge", "offline"),
    ("robust", "Robust DPO", "offline"), ("cdpo", "Conservative DPO", "offline"),
    ("dt", "Decision Transformer", "offline"), ("steerlm", "SteerLM", "offline"),
    ("rwr", "Reward-weighted regression", "offline"), ("filter", "Filtering", "offline"),
    ("online_dpo", "Online DPO", "iterated"), ("rejection", "Rejection sampling", "iterated"),
    ("slic_rank", "SLiC sample-rank", "iterated"), ("boot", "SteerLM bootstrapped", "iterated"),
    ("dapo", "DAPO", "online"), ("gspo", "GSPO", "online"), ("dr_grpo", "Dr. GRPO", "online"),
    ("reinforce", "REINFORCE", "online"), ("remax_code", "ReMax as in its code", "online"),
    ("curriculum", "Contrastive curriculum", "offline"), ("lists", "DPO on lists", "offline"),
]  # fmt: skip


def estimate(mean: float, half: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half}


def best_gold(kl: float) -> float:
    return 0.2 + 0.42 * math.sqrt(kl) - 0.03 * kl


def findings(count: int = 12, seeds: int = 5) -> dict[str, Any]:
    """A comparison of `count` entries: the third failed, the fourth has one budget only."""
    chance = random.Random(0)
    entries = [_entry(chance, *named, seeds) for named in _ENTRIES[:count]]
    entries[2] |= {"failed": "loss was not finite at step 12", "curve": [], "at": {"data": None}}
    entries[3]["at"]["compute"] = None
    entries[4]["curve"] = entries[4]["curve"][:1]
    entries[5]["tried"] = []
    entries[6]["at"]["data"]["diversity"] = entries[6]["at"]["data"]["length"] = None
    return {
        "title": "Thirty-five ways to learn from preferences, on the same terms",
        "made": {
            "command": "alignax compare configs/compare/stories.py --seeds 5",
            "date": "2026-11-25",
            "versions": {"alignax": "0.1.0", "jax": "0.10.2", "flax": "0.12.8"},
            "hardware": "one NVIDIA H100, 80 GB",
            "seconds": 5241.0,
            "git": "51de19f",
        },
        "world": {
            "model": "stories15M",
            "parameters": 15_191_712,
            "train_prompts": 2048,
            "eval_prompts": 256,
            "samples": 4,
            "seeds": seeds,
            "tuning_seeds": 3,
            "trials": 6,
            "gold": "A known function of the text: how positive its words are, less repetition.",
            "proxy": "A reward model trained on 2048 pairs that the gold reward labelled.",
            "proxy_accuracy": estimate(0.78, 0.02),
            "label_noise": 0.1,
            "pair_noise": 0.02,
            "budgets": {
                "data": "All see the same 2048 prompts, and learn from two answers to each.",
                "compute": "All stop at the same arithmetic, that of DPO for one epoch.",
            },
            "limits": [
                "That an order found at 15 million parameters holds at 7 billion.",
                "That a known function of the text behaves as people's judgements do.",
                "That six trials find any method's best setting.",
            ],
        },
        "reference": {
            "gold": estimate(0.21, 0.02),
            "proxy": estimate(-0.4, 0.05),
            "length": estimate(41.0, 2.0),
            "diversity": 0.82,
        },
        "entries": entries,
        "pairs": {budget: _pairs(entries, budget) for budget in ("data", "compute")},
        "frontier": {
            "optimum": [
                {"beta": 1 / (kl + 0.1), "kl": kl, "gold": best_gold(kl) + 0.08}
                for kl in [i * i / 100 for i in range(80)]
            ],
            "best_of_n": [
                {
                    "n": n,
                    "kl": math.log(n) - (n - 1) / n,
                    "gold": estimate(best_gold(math.log(n) - (n - 1) / n) - 0.02 * n**0.5, 0.02),
                    "proxy": estimate(0.3 * math.log(n), 0.02),
                }
                for n in (2, 4, 8, 16)
            ],
        },
        "claims": [
            {
                "name": "rloo_beats_ppo",
                "says": "RLOO gains at least as much reward as PPO, with one model fewer.",
                "source": "Ahmadian et al. 2024, arXiv:2402.14740",
                "verdict": "holds",
                "because": "The interval of the difference lies above the margin.",
                "evidence": [
                    {
                        "label": "RLOO minus PPO",
                        "value": estimate(0.06, 0.04),
                        "unit": "gold reward",
                    },
                    {
                        "label": "RLOO minus REINFORCE",
                        "value": estimate(0.02, 0.05),
                        "unit": "gold reward",
                    },
                    {"label": "Memory saved", "value": estimate(310.0, 12.0), "unit": "MiB"},
                ],
                "command": "alignax compare configs/compare/stories.py --only rloo ppo",
            },
            {
                "name": "remax_variance",
                "says": "The greedy answer as a baseline lowers the variance of the gradient.",
                "source": "Li et al. 2023, arXiv:2310.10505",
                "verdict": "does not hold here",
                "because": "The variance was larger in four of five seeds.",
                "evidence": [
                    {
                        "label": "Ratio of variances, log",
                        "value": estimate(0.3, 0.2),
                        "unit": "nats",
                    }
                ],
                "command": "alignax compare configs/compare/stories.py --only remax",
            },
            {
                "name": "ipo_noise",
                "says": "IPO suffers less from noisy labels than DPO.",
                "source": "Azar et al. 2023, arXiv:2310.12036",
                "verdict": "inconclusive",
                "because": "The interval holds zero.",
                "evidence": [
                    {"label": "IPO minus DPO", "value": estimate(0.01, 0.06), "unit": "gold reward"}
                ],
                "command": "alignax compare configs/compare/stories.py --only ipo dpo",
            },
            {
                "name": "kto_halves",
                "says": "KTO needs half the data.",
                "source": "Ethayarajh et al. 2024",
                "verdict": "not run",
                "because": "No budget was left.",
                "evidence": [{"label": "KTO minus DPO", "value": None, "unit": "gold reward"}],
                "command": "",
            },
        ],
        "checks": [
            {
                "name": "A/A",
                "says": "One entry against itself: no difference may be shown.",
                "passed": True,
                "found": "0 of 20 comparisons showed a difference.",
            },
            {
                "name": "Shuffled labels",
                "says": "Labels without information must not raise gold.",
                "passed": False,
                "found": "+0.05 [0.01, 0.09] over the reference.",
            },
            {
                "name": "Rare failures",
                "says": "What cannot be seen.",
                "passed": None,
                "found": "Two in five verdicts are false.",
            },
        ],
        "samples": [
            {
                "prompt": f"Once upon a time there was a {animal} who",
                "answers": [
                    {
                        "entry": name,
                        "text": _story(chance, animal, name),
                        "gold": chance.gauss(0.5, 0.3),
                        "proxy": chance.gauss(0.4, 0.5),
                    }
                    for name in ["reference", *(e["name"] for e in entries if not e["failed"])]
                ],
            }
            for animal in ("fox", "hen", "small dragon", "whale", "mole", "robin", "goat", "newt")
        ],
    }


def _entry(chance: random.Random, name: str, title: str, family: str, seeds: int) -> dict[str, Any]:
    reach = {"offline": 5, "iterated": 9, "online": 22, "baseline": 1.5}[family]
    final = reach * chance.uniform(0.2, 1.4)
    loss = chance.uniform(0.0, 0.5)
    samples = family in ("iterated", "online")

    def gold(kl: float) -> float:
        return best_gold(kl) - loss * min(1.0, kl / 4) - 0.0007 * loss * kl * kl

    def measured(share: float, scale: float) -> dict[str, Any]:
        kl = final * share
        mean = gold(kl)
        return {
            "step": int(160 * share),
            "gold": estimate(mean, 0.03),
            "proxy": estimate(0.6 * math.sqrt(kl), 0.05),
            "kl": estimate(kl, 0.06 * kl + 0.05),
            "length": estimate(40 + 4 * kl, 2.0),
            "ended": estimate(0.93, 0.02),
            "diversity": estimate(0.8 / (1 + kl / 20), 0.02),
            "iqm": estimate(mean + 0.01, 0.03),
            "seeds": [mean + chance.gauss(0, 0.03) for _ in range(seeds)],
            "cost": {
                "generated": chance.uniform(2e5, 2e6) * scale if samples else 0,
                "trained": chance.uniform(1e5, 4e5) * scale,
                "flops": (chance.uniform(6e13, 2e14) if samples else chance.uniform(8e12, 2e13))
                * scale,
                "seconds": chance.uniform(8, 140) * scale,
                "peak_mib": chance.uniform(500, 1900),
            },
        }

    curve = [
        {"step": 16 * i, "flops": i * 2e12 * (8 if samples else 1)}
        | {
            "gold": estimate(gold(final * (i / 10) ** 0.7) + chance.gauss(0, 0.01), 0.03),
            "proxy": estimate(0.6 * math.sqrt(final * (i / 10) ** 0.7), 0.05),
            "kl": estimate(final * (i / 10) ** 0.7, 0.1),
        }
        for i in range(11)
    ]
    tried = [
        {
            "setting": {"optim.learning_rate": rate, "method.beta": beta},
            "gold": estimate(gold(final) - chance.uniform(0, 0.4), 0.05),
            "chosen": False,
        }
        for rate in (3e-4, 1e-3)
        for beta in (0.05, 0.1, 0.3)
    ]
    chosen = max(tried, key=lambda trial: trial["gold"]["mean"])
    chosen["chosen"] = True
    return {
        "name": name,
        "title": title,
        "family": family,
        "paper": "arXiv:2305.18290" if family == "offline" else None,
        "learns_from": "its own samples" if samples else "pairs",
        "setting": chosen["setting"],
        "tried": tried,
        "curve": curve,
        "failed": None,
        "at": {"data": measured(1.0, 1.0), "compute": measured(0.6, 0.6)},
    }


def _pairs(entries: list[dict[str, Any]], budget: str) -> list[dict[str, Any]]:
    found = []
    known = [e for e in entries if e["at"].get(budget)]
    for i, a in enumerate(known):
        for b in known[i + 1 :]:
            apart = a["at"][budget]["gold"]["mean"] - b["at"][budget]["gold"]["mean"]
            shown = abs(apart) > 0.08
            found.append(
                {
                    "a": a["name"],
                    "b": b["name"],
                    "difference": estimate(apart, 0.06),
                    "p": 0.002 if shown else 0.4,
                    "p_holm": 0.0004 if shown else 1.0,
                    "detectable": 0.09,
                    "verdict": ("better" if apart > 0 else "worse") if shown else "inconclusive",
                }
            )
    return found


def _story(chance: random.Random, animal: str, name: str) -> str:
    words = (
        f"the {animal} ran to the river and found a shiny stone which made everybody smile".split()
    )
    return " ".join(chance.sample(words, 12)) + f". ({name})"
