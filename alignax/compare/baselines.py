"""What needs no training: the reference itself, the best of n of its answers, and the optimum.

All are computed from the same answers of the reference, n to each prompt, with their gold and
proxy rewards.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import gammaln, logsumexp

BETAS = np.geomspace(20.0, 0.05, 25)  # of the optimum, in units of the gold reward
LEAST = 10.0  # effective answers a prompt, on average, for a point of the optimum to be shown


def best_of(
    gold: Float[np.ndarray, "p n"], proxy: Float[np.ndarray, "p n"], m: int
) -> Float[np.ndarray, " p"]:
    """The expected gold reward of the answer that the proxy prefers among m drawn ones.

    Over all sets of m of the n answers, each as likely as another: the answer of rank i from below
    (from 1) is the best in C(i - 1, m - 1) of C(n, m). Ties share their ranks.
    """
    n = gold.shape[1]
    rank = np.arange(1, n + 1)
    with np.errstate(invalid="ignore"):
        log_weight = (gammaln(rank) - gammaln(np.maximum(rank - m + 1, 1))
                      - gammaln(n + 1) + gammaln(n - m + 1) + np.log(m))  # fmt: skip
    weight = np.where(rank >= m, np.exp(log_weight), 0.0)
    order = np.argsort(proxy, axis=1, kind="stable")
    sorted_gold = np.take_along_axis(gold, order, axis=1)
    sorted_proxy = np.take_along_axis(proxy, order, axis=1)
    found = np.zeros(len(gold))
    for i, (values, keys) in enumerate(zip(sorted_gold, sorted_proxy, strict=True)):
        _, first, counts = np.unique(keys, return_index=True, return_counts=True)
        shared = np.add.reduceat(weight, first) / counts
        found[i] = np.repeat(shared, counts) @ values
    return found


def best_of_kl(m: int) -> float:
    """The divergence of best-of-m from the reference in nats, at most: log m - (m - 1) / m.

    Exact where answers never tie (Beirami et al. 2024, arXiv:2401.01879).
    """
    return float(np.log(m) - (m - 1) / m)


def optimum(gold: Float[np.ndarray, "p n"]) -> list[dict[str, float]]:
    """The policy that no other beats at its divergence: reference times exp(gold / beta).

    Estimated from the reference's answers by importance weights, so only as far as these reach:
    points at which fewer than `LEAST` answers count on average are left out.

    Returns:
        For each beta: the mean gold reward, and the divergence in nats.
    """
    found = []
    n = gold.shape[1]
    for beta in BETAS:
        scores = gold / beta
        log_weights = scores - logsumexp(scores, axis=1, keepdims=True)
        weights = np.exp(log_weights)
        if np.mean(1.0 / np.sum(weights**2, axis=1)) < LEAST:
            break
        kl = np.sum(weights * (log_weights + np.log(n)), axis=1)
        reward = np.sum(weights * gold, axis=1)
        found.append({"beta": float(beta), "kl": float(kl.mean()), "gold": float(reward.mean())})
    return found


def agreement(
    first: Float[np.ndarray, "p n"], second: Float[np.ndarray, "p n"]
) -> Float[np.ndarray, " _p"]:
    """For each prompt the share of pairs of its answers that the second reward orders as the first.

    Pairs that the first one cannot tell apart do not count, and prompts that have no others are
    left out; where the second cannot, it is right in half of them.
    """
    one, two = (np.sign(x[:, :, None] - x[:, None, :]) for x in (first, second))
    told = (one != 0).sum(axis=(1, 2))
    alike = (one * two).sum(axis=(1, 2)) / np.maximum(told, 1)
    return ((1 + alike) / 2)[told > 0]


def result(
    gold: Float[np.ndarray, "p n"], proxy: Float[np.ndarray, "p n"], texts: Sequence[str]
) -> dict[str, Any]:
    """What the comparison keeps of the reference's answers, as JSON.

    Args:
        texts: one answer to each prompt.
    """
    sizes = [m for m in (1, 2, 4, 8, 16, 32, 64, 128) if m <= gold.shape[1]]
    return {
        "optimum": optimum(gold),
        "best_of_n": [
            {
                "n": m,
                "kl": best_of_kl(m),
                "gold": best_of(gold, proxy, m).round(5).tolist(),
                "proxy": best_of(proxy, proxy, m).round(5).tolist(),
            }
            for m in sizes
        ],
        "agreement": agreement(gold, proxy).round(5).tolist(),
        "texts": list(texts),
        "text_gold": gold[:, 0].round(5).tolist(),
        "text_proxy": proxy[:, 0].round(5).tolist(),
    }
