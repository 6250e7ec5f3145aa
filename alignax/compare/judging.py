"""What the results say of each claim, and whether the analysis passes its own checks."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from alignax.compare.results import Results, Runs
from alignax.evaluate.paired import Difference, crossed, difference
from alignax.evaluate.stats import Estimate
from alignax.evaluate.verdicts import (
    Check,
    aa_check,
    coverage_check,
    halves_check,
    holm,
    rare_failures_limit,
    tail_check,
    verdict,
)

UNITS = {"gold": "gold reward", "proxy": "proxy reward", "kl": "nats", "length": "tokens",
         "flops": "operations", "seconds": "s", "peak_mib": "MiB", "ended": "share",
         "grad_norm": "mean square of the gradient's norm"}  # fmt: skip

# What a claim rests on: a label, the difference, which must be positive, and its unit.
Test = tuple[str, Difference, str]


def claims(results: Results, runs: Mapping[str, Runs | None], command: str) -> list[dict[str, Any]]:
    """The verdict on every claim; p-values are adjusted over all tests of all claims."""
    described = results.described
    tests = [_tests(results, claim, runs) for claim in described["claims"]]
    flat = [test for found in tests for test in found or ()]
    adjusted = iter(holm(np.array([x.p for _, x, _ in flat])).tolist() if flat else ())
    said = []
    for claim, found in zip(described["claims"], tests, strict=True):
        verdicts = [verdict(x, next(adjusted)) for _, x, _ in found or ()]
        failed = [name for name in claim["entries"] if results.failed(name)]
        if failed:  # the runs that ended are not those that were to be made
            verdicts = ["inconclusive" if x == "better" else x for x in verdicts]
        said.append(
            {key: claim[key] for key in ("name", "says", "source")}
            | {
                "verdict": _joined(verdicts),
                "because": _because(found, verdicts, claim["note"])
                + (f" Runs failed of {', '.join(failed)}." if failed else ""),
                "evidence": [
                    {
                        "label": label,
                        "value": _plain(x.estimate),
                        "unit": unit,
                        "detectable": detectable(x, len(flat)),
                    }
                    for label, x, unit in found or ()
                ],
                "command": _alone(command, claim["name"]),
            }
        )
    return said


def _joined(verdicts: list[str]) -> str:
    if not verdicts:
        return "not run"
    if "worse" in verdicts:
        return "does not hold here"
    return "holds" if all(x == "better" for x in verdicts) else "inconclusive"


def _because(found: list[Test] | None, verdicts: list[str], note: str) -> str:
    if not found:
        return "Too few of its runs ended, or could be measured."
    words = {"better": "yes", "worse": "the reverse", "inconclusive": "not separable"}
    parts = [f"{label}: {words[v]}" for (label, _, _), v in zip(found, verdicts, strict=True)]
    return "; ".join(parts) + "." + (f" {note}" if note else "")


def detectable(found: Difference, tests: int) -> float | None:
    """The true difference that is found four times in five, one of so many tests."""
    size = found.detectable(tests)
    return round(size, 5) if math.isfinite(size) else None


def _alone(command: str, claim: str) -> str:
    """What runs the entries of one claim and no others: the same settings, a part of the time.

    Its p-value is adjusted for fewer tests there, so the verdict can be another.
    """
    return f"{command} --claim {claim} --output runs/claim-{claim}" if command else ""


def _plain(found: Estimate) -> dict[str, float | None]:
    numbers = {"mean": found.mean, "low": found.low, "high": found.high}
    return {name: float(x) if math.isfinite(x) else None for name, x in numbers.items()}


def _tests(
    results: Results, claim: Mapping[str, Any], runs: Mapping[str, Runs | None]
) -> list[Test] | None:
    """The differences that are to be positive; None where runs are missing."""
    own = [runs.get(name) for name in claim["entries"]]
    if any(x is None for x in own):
        return None
    there = [x for x in own if x is not None]
    step = results.described["data_steps"] if claim["at"] == "data" else None
    match claim["kind"]:
        case "order" | "best" | "collapses" as kind:
            sign, metric = 1 if claim["higher"] else -1, str(claim["metric"])
            if any(not np.isfinite(x.values[metric]).all() for x in there):
                return None  # memory, where the system does not tell it
            unit = UNITS.get(metric, metric)
            names = claim["entries"]
            left = [0] * len(names) if kind == "best" else range(len(names))
            less = "over" if claim["higher"] else "under"
            found: list[Test] = [
                (f"{names[i]} {less} {b}", _paired(there[i], y, metric, step, sign), unit)
                for i, b, y in zip(left, names[1:], there[1:], strict=False)
            ]
            if kind == "collapses":
                last = there[1]
                began = sign * last.at(metric, last.steps[0]).astype(np.float64)
                end = last.steps[-1] if step is None else step
                fall = difference(began, sign * last.at(metric, end).astype(np.float64))
                found.append((f"{names[1]} falls below where it began", fall, unit))
            return found
        case "spread":
            spreads = [_spread(results, name) for name in claim["entries"]]
            first, second = spreads
            if first is None or second is None or first.shape != second.shape:
                return None
            unit = "standard deviation of the gold reward over trials"
            label = f"{claim['entries'][0]} varies less than {claim['entries'][1]}"
            return [(label, difference(second, first), unit)]
        case "hacked":
            run = there[0]
            first, last = run.steps[0], run.steps[-1]
            proxy = difference(run.at("proxy", last), run.at("proxy", first))
            gold = difference(run.at("gold", first), run.at("gold", last))
            to = f"to update {last}, {run.at('kl', last).mean():.3g} nats away"
            return [
                (f"proxy grows {to}", proxy, UNITS["proxy"]),
                (f"gold falls {to}", gold, UNITS["gold"]),
            ]
    raise ValueError(claim["kind"])


def _paired(first: Runs, second: Runs, metric: str, step: int | None, sign: int) -> Difference:
    """The first less the second, times the sign, on the seeds of both; step None: at their ends."""
    common = [seed for seed in first.seeds if seed in second.seeds]
    a, b = (
        x.at(metric, x.steps[-1] if step is None else step, common).astype(np.float64)
        for x in (first, second)
    )
    return difference(sign * a, sign * b)


def _spread(results: Results, entry: str) -> np.ndarray | None:
    """For each seed the deviation over the entry's trials, twice side by side: [s, 2]."""
    count = len(next(e for e in results.described["entries"] if e["name"] == entry)["trials"])
    runs = [  # the chosen one is among those that are reported
        results.runs(entry, "spread", trial) or results.runs(entry, "final", trial)
        for trial in range(count)
    ]
    if any(x is None for x in runs):
        return None
    there = [x for x in runs if x is not None]
    common = sorted(set.intersection(*(set(x.seeds) for x in there)))
    if len(common) < 2:
        return None
    means = np.stack(
        [x.at("gold", results.described["data_steps"], common).mean(axis=1) for x in there]
    )
    return np.repeat(means.std(axis=0, ddof=1)[:, None], 2, axis=1)


def checks(
    results: Results, runs: Mapping[str, Runs | None], reference: Runs, pairs: int
) -> list[dict[str, Any]]:
    """A/A, shuffled labels, and intervals and false verdicts on synthetic data; a stated limit.

    Args:
        pairs: of which verdicts are given together.

    Returns:
        Each with `passed`, which is None where it is no check but says what cannot be seen.
    """
    described, found = results.described, []
    step = described["data_steps"]
    again = results.runs(described["again"], "again") if described["again"] else None
    first = runs.get(described["again"])
    if again is not None and first is not None:
        found.append(
            _check(
                "A/A",
                f"{described['again']} with {len(first.seeds)} seeds, and with others",
                aa_check(np.concatenate([first.at("gold", step), again.at("gold", step)]))
                if len(first.seeds) == len(again.seeds)
                else Check(False, f"{len(first.seeds)} runs against {len(again.seeds)} ended"),
            )
        )
    prompts = reference.values["gold"].shape[2]
    league = {e["name"]: runs.get(e["name"]) for e in described["entries"] if e["league"]}
    found.append(
        _check(
            "A/A of all",
            "each trained entry of the league against itself: every second of its seeds, and the"
            " others",
            halves_check(
                {
                    name: np.empty((0, prompts)) if x is None else x.at("gold", step)
                    for name, x in league.items()
                }
            ),
        )
    )
    shuffled = runs.get(described["shuffled"])
    if shuffled is not None:
        gain = difference(
            shuffled.at("gold", step).astype(np.float64),
            shuffled.at("gold", 0).astype(np.float64),
        )
        passed = not (gain.p < 0.05 and gain.estimate.mean > 0)
        found.append(
            _check(
                "shuffled labels",
                "learning from labels that were dealt out at random gains nothing",
                Check(passed, f"gain over the reference: {gain.estimate}, p = {gain.p:.2g}"),
            )
        )
    found.append(
        _check(
            "coverage",
            "intervals hold the truth as often as they say, on synthetic data with normal effects",
            coverage_check(described["seeds"], prompts),
        )
    )
    found.append(
        _check(
            "false verdicts",
            "no more verdicts are false than should be, on synthetic data with normal effects and"
            " without differences",
            tail_check(described["seeds"], prompts, pairs),
        )
    )
    found.append(
        _check(
            "rare failures",
            "what cannot be seen: a method that fails seldom, in no run that was made",
            rare_failures_limit(described["seeds"], pairs),
        )
    )
    gold = crossed(reference.at("gold", 0))
    found.append(
        _check(
            "same start",
            "before the first update every entry is the reference",
            _same_start(described, runs, gold),
        )
    )
    return found


def _same_start(
    described: Mapping[str, Any], runs: Mapping[str, Runs | None], gold: Estimate
) -> Check:
    """Whether all that is asked alike, and begins there, answers as the reference does."""
    other = {x["name"] for x in described["entries"] if x.get("asks") or x.get("after") is not None}
    starts = {
        n: float(x.at("gold", 0).mean())
        for n, x in runs.items()
        if x is not None and n not in other
    }
    wrong = [f"{n} at {x:.3f}" for n, x in starts.items() if abs(x - gold.mean) >= 1e-6]
    said = f"{len(starts) - len(wrong)} of {len(starts)} entries begin at {gold.mean:.3f}"
    if wrong:
        said += ", but " + ", ".join(wrong)
    if left := [n for n in runs if n in other]:
        said += "; asked in another way, or begun elsewhere: " + ", ".join(left)
    return Check(not wrong, said)


def _check(name: str, says: str, found: Check) -> dict[str, Any]:
    passed = None if found.passed is None else bool(found.passed)
    return {"name": name, "says": says, "passed": passed, "found": found.found}
