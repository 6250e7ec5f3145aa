"""Makes losses.json: what public reference implementations compute for random numbers.

    python tests/golden/make_losses.py

Needs torch, which nothing else here does; its version is stored inside. Each function below states
the formula of one reference anew, in float64, with its provenance and the switches that select
it. Gradients are torch's. Token losses are taken before the reference averages them.

    cases   name in `alignax.losses`, arrays in its order, keywords, the value and the gradient of
            the sum of values for the first array (none for advantages, which are constants)
"""

import json
from pathlib import Path

import torch
from torch.nn.functional import logsigmoid

TRL = "huggingface/trl 1.16.0, trl/trainer/dpo_trainer.py"
CPO = "huggingface/trl 1.16.0, trl/experimental/cpo/cpo_trainer.py"
VERL = "volcengine/verl 26b5d6b2, verl/trainer/ppo/core_algos.py"
GRPO = "huggingface/trl 1.16.0, trl/trainer/grpo_trainer.py"
SOURCES = {
    "ipo": f"{TRL}, loss_type ipo, its delta of averaged log-ratios given",
    "hinge": f"{TRL}, loss_type hinge, f_divergence_type reverse_kl",
    "robust_dpo": f"{TRL}, loss_type robust",
    "cpo": f"{CPO}, loss_type sigmoid, alpha 0, cpo_alpha 0",
    "simpo": "princeton-nlp/SimPO 15c4ff89, scripts/simpo_trainer.py, loss_type sigmoid, "
    "label_smoothing 0, sft_weight 0; gamma_beta_ratio is gamma / beta",
    "orpo": "xfactlab/orpo 56cd032d, src/orpo_trainer.py, without the likelihood term, alpha 1",
    "kto": "huggingface/trl 1.16.0, trl/trainer/kto_trainer.py, loss_type kto, kl given",
    "bradley_terry": "huggingface/trl 1.16.0, trl/trainer/reward_trainer.py, with margin and "
    "center_rewards_coefficient",
    "rrhf": "GanjinZero/RRHF 24ec9e49, train.py, rrhf_loss of one query",
    "pro": "AlibabaResearch/DAMO-ConvAI 64f4da71, PRO/train/utils/process_manager.py, without the "
    "likelihood term and the 1e-10 in its logarithm; it asks for responses sorted by reward",
    "group_advantage": f"{GRPO}, scale_rewards group or none",
    "leave_one_out_advantage": "huggingface/trl 1.16.0, trl/trainer/rloo_trainer.py",
    "clipped_policy_gradient": f"{VERL}, compute_policy_loss; without dual_clip {GRPO}, "
    "importance_sampling_level token, loss_type grpo, beta 0, delta None",
    "sequence_clipped_policy_gradient": f"{GRPO}, importance_sampling_level sequence, loss_type "
    "grpo, beta 0, delta None",
    "clipped_value": f"{VERL}, compute_value_loss",
    "kl_estimate": f"{VERL}, kl_penalty; k3 also {GRPO}, per_token_kl",
}
draw = torch.Generator().manual_seed(0)


def rounded(x: torch.Tensor) -> torch.Tensor:
    """What the file stores: five decimals."""
    return (x * 1e5).round() / 1e5


def numbers(*shape: int, scale: float = 1.0) -> torch.Tensor:
    """Normal numbers."""
    return rounded(scale * torch.randn(*shape, generator=draw, dtype=torch.float64))


def logprobs(*shape: int, scale: float) -> torch.Tensor:
    """Numbers below 0."""
    return -numbers(*shape, scale=scale).abs() - 1e-3


def lengths_mask(b: int, r: int) -> torch.Tensor:
    """True up to a length of at least 1, with a gap."""
    mask = torch.arange(r) < torch.randint(1, r + 1, (b, 1), generator=draw)
    mask[0, 1] = False
    return mask


def margin_of(policy, ref):
    """How much more the chosen response has gained on the reference than the rejected one."""
    return (policy[..., 0] - ref[..., 0]) - (policy[..., 1] - ref[..., 1])


def ipo(policy, ref, *, tau):
    return (margin_of(policy, ref) - 1 / (2 * tau)) ** 2


def hinge(policy, ref, *, beta):
    return torch.relu(1 - beta * margin_of(policy, ref))


def robust_dpo(policy, ref, *, beta, label_smoothing):
    margin = beta * margin_of(policy, ref)
    kept, flipped = (
        (1 - label_smoothing) * logsigmoid(margin),
        label_smoothing * logsigmoid(-margin),
    )
    return (flipped - kept) / (1 - 2 * label_smoothing)


def cpo(policy, *, beta, label_smoothing):
    margin = beta * (policy[..., 0] - policy[..., 1])
    return -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)


def simpo(policy, *, beta, gamma):
    gamma_beta_ratio = gamma / beta
    return -logsigmoid(beta * ((policy[..., 0] - policy[..., 1]) - gamma_beta_ratio))


def orpo(policy):
    log_odds = policy - torch.log1p(-torch.exp(policy))
    return -torch.log(torch.sigmoid(log_odds[..., 0] - log_odds[..., 1]))


def kto(policy, ref, desirable, kl, *, beta, desirable_weight, undesirable_weight):
    ratio = policy - ref
    good = desirable_weight * (1 - torch.sigmoid(beta * (ratio - kl)))
    bad = undesirable_weight * (1 - torch.sigmoid(beta * (kl - ratio)))
    return torch.where(desirable, good, bad)


def bradley_terry(rewards, margin, *, centre):
    chosen, rejected = rewards[..., 0], rewards[..., 1]
    return -logsigmoid(chosen - rejected - margin) + centre * (chosen + rejected) ** 2


def rrhf(policy, scores):
    losses = []
    for p, r in zip(policy, scores, strict=True):
        pairs = [(i, j) for i in range(len(p)) for j in range(len(p))]
        losses.append(sum(p[j] - p[i] for i, j in pairs if r[i] > r[j] and p[j] > p[i]))
    return torch.stack([torch.as_tensor(loss, dtype=torch.float64) for loss in losses])


def pro(policy, scores, *, temperature):
    losses = []
    for unsorted, rewards in zip(policy, scores, strict=True):
        order = torch.argsort(rewards, descending=True)
        p, r = unsorted[order], rewards[order]
        loss = 0
        for first in range(len(p) - 1):
            weight = r[first] - r[first + 1 :] if temperature else torch.ones(len(p) - first - 1)
            own = p[first] * weight.max()
            rest = torch.exp(p[first + 1 :] * weight).sum()
            loss = loss + torch.log(torch.exp(own) + rest) - own
        losses.append(loss)
    return torch.stack(losses)


def group_advantage(rewards, *, scale, eps):
    advantages = rewards - rewards.mean(-1, keepdim=True)
    return advantages / (rewards.std(-1, keepdim=True) + eps) if scale else advantages


def leave_one_out_advantage(rewards):
    others = (rewards.sum(-1, keepdim=True) - rewards) / (rewards.shape[-1] - 1)
    return rewards - others


def clipped(ratio, advantages, mask, clip_low, clip_high):
    bounded = torch.clamp(ratio, 1 - clip_low, 1 + clip_high)
    return torch.maximum(-advantages * ratio, -advantages * bounded) * mask


def clipped_policy_gradient(policy, old, advantages, mask, *, clip_low, clip_high, dual_clip=None):
    ratio = torch.exp(torch.clamp(policy - old, -20, 20))
    advantages = advantages[:, None]
    loss = clipped(ratio, advantages, mask, clip_low, clip_high)
    if dual_clip is None:
        return loss
    return torch.where(advantages < 0, torch.minimum(-dual_clip * advantages, loss), loss) * mask


def sequence_clipped_policy_gradient(policy, old, advantages, mask, *, clip_low, clip_high):
    mean = ((policy - old) * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True)
    return clipped(torch.exp(mean), advantages[:, None], mask, clip_low, clip_high)


def clipped_value(values, old, returns, mask, *, clip):
    near = torch.minimum(torch.maximum(values, old - clip), old + clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2) * mask


def kl_estimate(policy, ref, *, kind):
    d = policy - ref
    return {"k1": d, "k2": 0.5 * d**2, "k3": torch.exp(-d) + d - 1, "abs": d.abs()}[kind]


def settings():
    """Name, arrays and keywords of every case."""
    for beta, scale in ((0.1, 3.0), (2.0, 1.0)):
        pairs = logprobs(3, 2, scale=8.0)
        ref = rounded(pairs + numbers(3, 2, scale=scale))
        yield "ipo", (pairs, ref), {"tau": beta}
        yield "hinge", (pairs, ref), {"beta": beta}
        yield "robust_dpo", (pairs, ref), {"beta": beta, "label_smoothing": beta / 10}
        yield "cpo", (pairs,), {"beta": beta, "label_smoothing": 0.0}
        yield "cpo", (pairs,), {"beta": beta, "label_smoothing": 0.1}
        yield "simpo", (logprobs(3, 2, scale=1.5),), {"beta": beta, "gamma": 0.3}
        yield "orpo", (logprobs(3, 2, scale=scale),), {}
        desirable = torch.tensor([True, False, False, True])
        policy = logprobs(4, scale=8.0)
        weights = {"desirable_weight": 1.0, "undesirable_weight": 1.5}
        kl = torch.tensor(0.25 * scale, dtype=torch.float64)
        ref = rounded(policy + numbers(4, scale=scale))
        yield "kto", (policy, ref, desirable, kl), {"beta": beta, **weights}
        rewards, margin = numbers(3, 2, scale=scale), numbers(3).abs()
        yield "bradley_terry", (rewards, margin), {"centre": 0.01 * scale}
        candidates, scores = logprobs(3, 5, scale=1.5), numbers(3, 5, scale=scale)
        yield "rrhf", (candidates, scores), {}
        yield "pro", (candidates, scores), {"temperature": True}
        yield "pro", (candidates, scores), {"temperature": False}
        yield "group_advantage", (scores,), {"scale": True, "eps": 1e-4}
        yield "group_advantage", (scores,), {"scale": False, "eps": 1e-4}
        yield "leave_one_out_advantage", (scores,), {}
        mask = lengths_mask(4, 5)
        policy = logprobs(4, 5, scale=2.0)
        old = rounded(policy + numbers(4, 5, scale=0.3 * scale))
        advantages = numbers(4)
        tokens, clips = (policy, old, advantages, mask), {"clip_low": 0.2, "clip_high": 0.28}
        yield "clipped_policy_gradient", tokens, clips
        yield "clipped_policy_gradient", tokens, {**clips, "dual_clip": 1.5}
        yield "sequence_clipped_policy_gradient", tokens, clips
        values = numbers(4, 5), numbers(4, 5), numbers(4, 5), mask
        yield "clipped_value", values, {"clip": 0.4 * scale}
        for kind in ("k1", "k2", "k3", "abs"):
            yield "kl_estimate", (policy[:2], old[:2]), {"kind": kind}


def main() -> None:
    cases = []
    for name, arrays, keywords in settings():
        first = arrays[0].clone().requires_grad_()
        value = globals()[name](first, *arrays[1:], **keywords)
        case = {
            "loss": name,
            "arrays": [x.tolist() for x in arrays],
            "keywords": keywords,
            "value": value.tolist(),
        }
        if not name.endswith("advantage"):
            value.sum().backward()
            case["gradient"] = first.grad.tolist()
        cases.append(case)

    def short(x):  # ten digits are more than float32 has, and make the file small
        if isinstance(x, list):
            return [short(y) for y in x]
        return float(f"{x:.10g}") if isinstance(x, float) else x

    cases = [{name: short(x) for name, x in case.items()} for case in cases]
    lines = ",\n".join("  " + json.dumps(case, separators=(",", ":")) for case in cases)
    head = {"made_by": "tests/golden/make_losses.py", "torch": torch.__version__, "of": SOURCES}
    text = json.dumps(head, indent=1)[:-2] + f',\n "cases": [\n{lines}\n ]\n}}\n'
    json.loads(text)
    Path(__file__).with_name("losses.json").write_text(text)


if __name__ == "__main__":
    main()
