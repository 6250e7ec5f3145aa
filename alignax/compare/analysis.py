"""From raw results to findings: estimates, verdicts, claims, checks. Nothing is trained here."""

import collections
import itertools
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from alignax.compare import judging
from alignax.compare.results import Results, Runs
from alignax.compare.settings import MEASURES
from alignax.core.errors import BadInput
from alignax.evaluate.paired import at_budget, crossed, difference, iqm
from alignax.evaluate.stats import Estimate, estimate, over_seeds
from alignax.evaluate.verdicts import holm, verdict

COSTS = ("generated", "trained", "flops", "seconds", "peak_mib")
BEST_OF = (4, 16)  # of the baselines, which stand in the league
SHOWN = 24  # prompts in the browser of samples


def findings(results: Results, made: Mapping[str, Any]) -> dict[str, Any]:
    """All that the page says, as JSON.

    Args:
        made: how the results came about: command, date, versions, hardware, seconds, git.
    """
    described = results.described
    league = [entry for entry in described["entries"] if entry["league"]]
    runs = {entry["name"]: results.runs(entry["name"]) for entry in described["entries"]}
    reference = runs[described["compute_like"]]
    if reference is None:
        raise BadInput(
            f"two finished runs of {described['compute_like']}, which sets the compute budget",
            "; ".join(results.failed(described["compute_like"])) or "none was run",
            "Mend it, and run alignax compare again: it goes on with what is missing.",
            where="compute_like",
        )
    budget = _compute_budget(reference, described["data_steps"])
    values = {
        "data": _baselines(results, reference)
        | {
            e["name"]: x.at("gold", described["data_steps"])
            for e in league
            if (x := runs[e["name"]]) is not None
        },
        "compute": _baselines(results, reference)
        | {
            e["name"]: found["gold"]
            for e in league
            if (found := _at_compute(runs[e["name"]], budget)) is not None
        },
    }
    seeds = {e["name"]: x.seeds for e in league if (x := runs[e["name"]]) is not None}
    failed = {entry["name"] for entry in league if results.failed(entry["name"])}
    pairs = {name: _pairs(x, seeds, reference.seeds, failed) for name, x in values.items()}
    return {
        "title": described["title"],
        "made": dict(made),
        "world": _world(results, reference, budget),
        "reference": {
            name: _estimate(crossed(reference.at(name, 0))) for name in ("gold", "proxy", "length")
        }
        | {"diversity": float(reference.at("diversity", 0).mean())},
        "entries": [_entry(results, entry, runs[entry["name"]], budget) for entry in league]
        + [
            _baseline(name, results, reference, x)
            for name, x in _baselines(results, reference).items()
        ],
        "pairs": pairs,
        "frontier": _frontier(results),
        "claims": judging.claims(results, runs, made["command"]),
        "checks": judging.checks(results, runs, reference, max(1, len(pairs["data"]))),
        "samples": _samples(results, league, runs, reference),
    }


def _compute_budget(reference: Runs, step: int) -> float:
    """What the entry that sets it has spent within the data budget: its thriftiest seed, less a
    twentieth, so that entries which spend about as much can be read there in every seed."""
    return 0.95 * float(reference.at("flops", step)[:, 0].min())


def _at_compute(runs: Runs | None, budget: float) -> dict[str, np.ndarray] | None:
    """Every measure where the budget is spent, [s, p]; None where some seed never spends it, or
    has spent it before its first update."""
    if runs is None:
        return None
    flops = runs.values["flops"][..., 0]
    if flops[:, -1].min() < budget or flops[:, 0].max() > budget:
        return None
    return {name: at_budget(flops, x.astype(np.float64), budget) for name, x in runs.values.items()}


def _estimate(found: Estimate) -> dict[str, float | None]:
    return {
        name: None if not math.isfinite(x) else round(x, 5)
        for name, x in (("mean", found.mean), ("low", found.low), ("high", found.high))
    }


def _entry(
    results: Results, entry: Mapping[str, Any], runs: Runs | None, budget: float
) -> dict[str, Any]:
    described, name = results.described, entry["name"]
    failed = results.failed(name)
    found = {key: entry[key] for key in ("name", "title", "family", "paper", "learns_from")}
    tried = _tried(results, entry)
    found |= {
        "setting": next((x["setting"] for x in tried if x["chosen"]), {}),
        "tried": tried,
        "at": {"data": None, "compute": None},
        "curve": [],
        "failed": f"{len(failed)} of {described['seeds']} seeds: {failed[0]}" if failed else None,
    }
    if runs is None:
        return found | {"failed": found["failed"] or "no trial ended"}
    data = described["data_steps"]
    found["at"]["data"] = _measured(data, {n: runs.at(n, data) for n in runs.values})
    at_compute = _at_compute(runs, budget)
    if at_compute is not None:
        flops = runs.values["flops"][..., 0].mean(axis=0)
        found["at"]["compute"] = _measured(
            round(float(np.interp(budget, flops, runs.steps))), at_compute
        )
    found["curve"] = [
        {"step": step, "flops": float(runs.at("flops", step).mean())}
        | {n: _estimate(crossed(runs.at(n, step))) for n in ("gold", "proxy", "kl")}
        for step in runs.steps
    ]
    return found


def _measured(step: int, values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What the page says of an entry at a budget, from [s, p] of every measure."""
    return (
        {"step": step}
        | {name: _estimate(crossed(values[name])) for name in MEASURES}
        | {
            "diversity": _estimate(over_seeds(values["diversity"][:, 0])),
            "iqm": _estimate(iqm(values["gold"])),
            "seeds": values["gold"].mean(axis=1).round(5).tolist(),
            "cost": {name: _rounded(float(values[name].mean())) for name in COSTS},
        }
    )


def _rounded(x: float) -> float | None:
    return round(x, 3) if math.isfinite(x) else None


def _tried(results: Results, entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The trials, each with its gold reward on the tuning prompts, and how many runs failed."""
    found = []
    failed = collections.Counter(
        x["trial"] for x in results.lines
        if x["entry"] == entry["name"] and x["purpose"] == "tune" and "failed" in x
    )  # fmt: skip
    final = {x["trial"] for x in results.lines if x["entry"] == entry["name"]
             and x["purpose"] == "final"}  # fmt: skip
    for trial, setting in enumerate(entry["trials"]):
        runs = results.runs(entry["name"], "tune", trial)
        gold = None
        if runs is not None:
            one = runs.values["gold"][:, -1]
            # One seed: an interval over the prompts, by taking each prompt for a run.
            gold = _estimate(crossed(one) if len(one) > 1 else over_seeds(one[0]))
        found.append({"setting": setting, "gold": gold, "chosen": trial in final,
                      "failed": failed[trial]})  # fmt: skip
    return found


def _baselines(results: Results, reference: Runs) -> dict[str, np.ndarray]:
    """Gold rewards of what needs no training, [s, p]."""
    s = len(reference.seeds)
    found = {"reference": reference.at("gold", 0)}
    for x in results.one("baselines").get("best_of_n", ()):
        if x["n"] in BEST_OF:
            found[f"best of {x['n']}"] = np.tile(np.array(x["gold"]), (s, 1))
    return found


def _baseline(name: str, results: Results, runs: Runs, gold: np.ndarray) -> dict[str, Any]:
    measured: dict[str, Any] = dict.fromkeys(("proxy", "kl", "length", "ended", "diversity"))
    for x in results.one("baselines").get("best_of_n", ()):
        if name == f"best of {x['n']}":
            proxy = np.tile(np.array(x["proxy"]), (len(gold), 1))
            measured |= {"proxy": _estimate(crossed(proxy)), "kl": _exactly(x["kl"])}
    if name == "reference":  # what every run is before its first update
        measured = _measured(0, {n: runs.at(n, 0) for n in runs.values})
        measured["kl"] = _exactly(0.0)
    measured |= {
        "step": 0,
        "gold": _estimate(crossed(gold)),
        "iqm": _estimate(iqm(gold)),
        "seeds": gold.mean(axis=1).round(5).tolist(),
        "cost": None,
    }
    return {
        "name": name, "title": name, "family": "baseline", "paper": None,
        "learns_from": "nothing", "setting": {}, "tried": [], "curve": [], "failed": None,
        "at": {"data": measured, "compute": measured},
    }  # fmt: skip


def _exactly(x: float) -> dict[str, float]:
    return {"mean": x, "low": x, "high": x}


def _pairs(
    values: Mapping[str, np.ndarray],
    seeds: Mapping[str, tuple[int, ...]],
    all_seeds: tuple[int, ...],
    failed: Collection[str],
) -> list[dict[str, Any]]:
    """Every two entries, on the seeds that both have; p-values adjusted over all pairs.

    Args:
        failed: entries of which some runs failed. They are better than none: the runs that ended
            are not those that were to be made.
    """
    found = []
    for a, b in itertools.combinations(values, 2):
        own = [seeds.get(name, all_seeds) for name in (a, b)]
        common = [seed for seed in own[0] if seed in own[1]]
        if len(common) < 2:
            continue
        first, second = (
            values[name][[mine.index(seed) for seed in common]]
            for name, mine in zip((a, b), own, strict=True)
        )
        found.append((a, b, difference(first.astype(np.float64), second.astype(np.float64))))
    adjusted = holm(np.array([x.p for _, _, x in found]))
    return [
        {
            "a": a,
            "b": b,
            "difference": _estimate(x.estimate),
            "p": x.p,
            "p_holm": float(p),
            "detectable": judging.detectable(x, len(found)),
            "verdict": _deserved(verdict(x, p), a in failed, b in failed),
        }
        for (a, b, x), p in zip(found, adjusted, strict=True)
    ]


def _deserved(found: str, first_failed: bool, second_failed: bool) -> str:
    winner_failed = {"better": first_failed, "worse": second_failed}.get(found, False)
    return "inconclusive" if winner_failed else found


def _frontier(results: Results) -> dict[str, Any]:
    found = results.one("baselines")
    of_n = [
        {"n": x["n"], "kl": x["kl"]}
        | {n: _estimate(over_seeds(np.array(x[n]))) for n in ("gold", "proxy")}
        for x in found.get("best_of_n", ())
    ]
    return {"optimum": found.get("optimum", []), "best_of_n": of_n}


def _world(results: Results, reference: Runs, budget: float) -> dict[str, Any]:
    described, known = results.described, results.one("baselines")
    accuracy, labels = known.get("agreement"), known.get("labels")
    met = described["data_steps"] * described["batch_size"]
    return {
        "model": described["model"],
        "parameters": reference.rows[0][0]["parameters"],
        "train_prompts": described["train_prompts"],
        "eval_prompts": reference.values["gold"].shape[2],
        "samples": described["samples"],
        "seeds": described["seeds"],
        "trials": described["trials"],
        "tuning_seeds": described.get("tuning_seeds", 1),
        "gold": described["gold_says"],
        "proxy": described["proxy_says"],
        "proxy_accuracy": _estimate(estimate(np.array(accuracy))) if accuracy else None,
        "label_noise": _share(labels, "wrong", "told_apart"),
        "pair_noise": _share(labels, "own_wrong", "own_told_apart"),
        "budgets": {
            "data": f"{described['data_steps']} updates of {described['batch_size']} groups: "
            f"{met:,} met. {described['data_says']}",
            "compute": f"{budget:.3g} floating-point operations, drawing and judging included: "
            f"what {described['compute_like']} spends within the data budget; whoever spends less "
            f"goes on, to {described['most_updates']} updates at most",
        },
        "limits": list(described["limits"]),
    }


def _share(counts: Mapping[str, int] | None, some: str, whole: str) -> float | None:
    return counts[some] / counts[whole] if counts and counts.get(whole) else None


def _samples(
    results: Results,
    league: list[Mapping[str, Any]],
    runs: Mapping[str, Runs | None],
    reference: Runs,
) -> list[dict[str, Any]]:
    """Answers of the first seed at the data budget, to the first prompts."""
    prompts = results.one("baselines").get("prompts", [])[:SHOWN]
    if "texts" not in reference.rows[0][0]:
        return []
    step, found = results.described["data_steps"], []
    sides = [("reference", reference.rows[0][0])]
    for entry in league:
        own = runs[entry["name"]]
        if own is not None:
            sides.append((entry["name"], own.rows[0][own.steps.index(step)]))
    for i, prompt in enumerate(prompts):
        answers = [
            {"entry": name, "text": x["texts"][i].strip(), "gold": x["text_gold"][i],
             "proxy": x["text_proxy"][i]}
            for name, x in sides
        ]  # fmt: skip
        found.append({"prompt": prompt, "answers": answers})
    return found
