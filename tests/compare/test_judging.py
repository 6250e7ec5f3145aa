"""Claims and checks on made-up results whose answer is known."""

import numpy as np
import pytest

from alignax.compare import analysis, judging, markdown
from alignax.compare.claims import Claim
from alignax.compare.results import Results
from alignax.core.errors import BadInput

SEEDS, PROMPTS, STEPS = 8, 24, (0, 20, 40)
MEANS = {
    "good": 2.0,
    "twin": 2.0,
    "fair": 1.0,
    "held": 1.0,
    "wild": 1.0,
    "lost": -1.0,
}  # at the data budget


def line(entry: str, seed: int, step: int, noise: np.ndarray, **about) -> dict:
    """A measurement: the seed's and prompts' own noise, and the entry's gain since the start."""
    gold = noise + MEANS[entry] * step / 40
    proxy = gold + (2.0 * step / 40 if entry == "wild" else 0.0)
    if entry == "wild" and step == 40:
        gold = gold - 2.0
    prompts = {"gold": gold, "proxy": proxy, "kl": 0 * gold + step, "length": 0 * gold + 9,
               "ended": 0 * gold + 1}  # fmt: skip
    cost = {"generated": 10.0 * step, "trained": 20.0 * step, "flops": 1e6 * step,
            "seconds": 0.1 * step + seed / 100, "grad_norm": 1.0, "peak_mib": 100.0}  # fmt: skip
    return {
        "purpose": "final", "entry": entry, "trial": 0, "setting": {"method.beta": 0.1},
        "seed": seed, "step": step, "prompts": {n: x.tolist() for n, x in prompts.items()},
        "diversity": 0.5, "cost": cost if step else None, "parameters": 7,
        "texts": ["a"] * PROMPTS, "text_gold": [0.0] * PROMPTS, "text_proxy": [0.0] * PROMPTS,
    } | about  # fmt: skip


def made_up(*claims: Claim, **changes) -> Results:
    generator = np.random.default_rng(0)
    of_prompts = generator.normal(size=PROMPTS)
    lines = []
    for entry in MEANS:
        for seed in range(1, SEEDS + 1):
            noise = of_prompts + 0.1 * generator.normal() + 0.1 * generator.normal(size=PROMPTS)
            lines += [line(entry, seed, step, noise) for step in STEPS]
            for trial, gain in ((0, 0.0), (1, 0.1 if entry == "held" else 1.0)):
                lines.append(line(entry, seed, 40, noise + gain, purpose="spread", trial=trial))
    lines.append({"purpose": "proxy", "entry": "", "accuracy": {}})
    described = {
        "title": "made up", "seeds": SEEDS, "compute_like": "fair", "again": "", "shuffled": "",
        "answers": 4, "gold_says": "", "proxy_says": "", "data_says": "", "limits": [],
        "train_prompts": 5, "model": "none", "trials": 2, "samples": 1, "data_steps": 40,
        "eval_steps": 20,
        "batch_size": 4, "most_updates": 40, "claims": [vars(claim) for claim in claims],
        "entries": [
            {"name": name, "title": name, "family": "offline", "paper": None, "learns_from": "x",
             "method": {}, "trials": [{"method.beta": 0.1}, {}], "settings": {}, "like": None,
             "after": None, "asks": name == "held", "league": True}
            for name in MEANS
        ],
    } | changes  # fmt: skip
    return Results(described, lines)


def verdict(*entries: str, **about) -> str:
    claim = Claim(name="c", says="s", source="p", entries=entries, **about)
    results = made_up(claim)
    runs = {name: results.runs(name) for name in MEANS}
    (found,) = judging.claims(results, runs, "alignax compare x")
    return found["verdict"]


def test_an_order_holds_where_every_step_of_it_does():
    assert verdict("good", "fair") == "holds"
    assert verdict("fair", "good") == "does not hold here"
    assert verdict("good", "twin") == "inconclusive"
    assert verdict("good", "twin", "fair") == "inconclusive"
    assert verdict("twin", "fair", "good") == "does not hold here"


def test_less_can_be_better():
    assert verdict("fair", "good", higher=False) == "holds"


def test_the_best_is_compared_with_each_of_the_others():
    assert verdict("good", "fair", "held", kind="best") == "holds"
    assert verdict("good", "twin", "fair", kind="best") == "inconclusive"
    assert verdict("fair", "held", "good", kind="best") == "does not hold here"


def test_what_collapses_ends_below_where_it_began_and_not_only_below_the_other():
    assert verdict("good", "lost", kind="collapses") == "holds"
    assert verdict("good", "fair", kind="collapses") == "does not hold here"  # it has risen


def test_the_command_of_one_claim_leaves_the_results_of_all_alone():
    claim = Claim(name="c", says="s", source="p", entries=("good", "fair"))
    results = made_up(claim)
    (found,) = judging.claims(results, {n: results.runs(n) for n in MEANS}, "alignax compare x")
    assert found["command"] == "alignax compare x --claim c --output runs/claim-c"


def test_the_spread_over_trials_is_compared_within_seeds():
    assert verdict("held", "fair", kind="spread") == "holds"
    assert verdict("fair", "held", kind="spread") == "does not hold here"


def test_a_reward_model_is_hacked_where_its_reward_grows_and_the_gold_falls():
    assert verdict("wild", kind="hacked") == "holds"
    assert verdict("good", kind="hacked") == "does not hold here"
    claim = Claim(name="c", says="s", source="p", entries=("wild",), kind="hacked")
    results = made_up(claim)
    (found,) = judging.claims(results, {"wild": results.runs("wild")}, "")
    gold = found["evidence"][1]
    assert gold["label"] == "gold falls to update 40, 40 nats away"  # the KL of `line` is the step
    assert gold["value"]["mean"] == pytest.approx(1.0)  # 1 won, 2 lost, since update 0


def test_a_claim_without_runs_was_not_run():
    claim = Claim(name="c", says="s", source="p", entries=("good", "gone"))
    results = made_up(claim)
    (found,) = judging.claims(results, {"good": results.runs("good"), "gone": None}, "")
    assert found["verdict"] == "not run"
    assert found["evidence"] == []


def test_labels_dealt_out_at_random_that_teach_something_are_caught():
    results = made_up(shuffled="good")
    runs = {name: results.runs(name) for name in MEANS}
    checks = {x["name"]: x for x in judging.checks(results, runs, runs["fair"], 21)}
    assert not checks["shuffled labels"]["passed"]
    assert checks["coverage"]["passed"]


def test_entries_whose_every_second_seed_does_better_fail():
    results = made_up()
    runs = {name: results.runs(name) for name in MEANS}
    checks = {x["name"]: x for x in judging.checks(results, runs, runs["fair"], 21)}
    assert checks["A/A of all"]["passed"]
    assert " of 6 entries differ" in checks["A/A of all"]["found"]
    for x in results.lines:
        if x["purpose"] == "final" and x["seed"] % 2:
            x["prompts"]["gold"] = [y + 1.0 for y in x["prompts"]["gold"]]
    runs = {name: results.runs(name) for name in MEANS} | {"lost": None}
    checks = {x["name"]: x for x in judging.checks(results, runs, runs["fair"], 21)}
    assert not checks["A/A of all"]["passed"]
    assert checks["A/A of all"]["found"].startswith("5 of 5 entries differ")
    assert checks["A/A of all"]["found"].endswith("; left out: 1 with fewer than 4 seeds")


def test_a_limit_neither_passes_nor_fails():
    found = analysis.findings(made_up(), {"command": ""})
    (limit,) = (x for x in found["checks"] if x["passed"] is None)
    assert limit["name"] == "rare failures"
    assert " at 0.05 / 21 (" in limit["found"]  # as many pairs: six entries and the reference
    assert f"| rare failures | limit | {limit['found']} |" in markdown.tables(found)


def test_what_begins_elsewhere_is_named_and_what_does_not_begin_as_the_reference_fails():
    results = made_up()
    fair = results.runs("fair")
    alike = dict.fromkeys(("good", "fair", "wild"), fair)
    check = judging.checks(results, {**alike, "held": results.runs("held")}, fair, 21)[-1]
    assert check["passed"]
    assert check["found"].startswith("3 of 3 entries begin at ")
    assert check["found"].endswith("; asked in another way, or begun elsewhere: held")
    check = judging.checks(results, {**alike, "twin": results.runs("twin")}, fair, 21)[-1]
    assert not check["passed"]
    assert check["found"].startswith("3 of 4 entries begin at ")
    assert ", but twin at " in check["found"]
    results.described["entries"][1]["after"] = "good"
    check = judging.checks(results, {**alike, "twin": results.runs("twin")}, fair, 21)[-1]
    assert check["passed"]


@pytest.fixture(scope="module")
def findings():
    return analysis.findings(made_up(), {"command": "alignax compare x"})


def test_pairs_are_told_apart_by_how_far_they_are(findings):
    verdicts = {(x["a"], x["b"]): x["verdict"] for x in findings["pairs"]["data"]}
    assert verdicts["good", "fair"] == "better"
    assert verdicts["good", "twin"] == "inconclusive"
    assert verdicts["fair", "held"] == "inconclusive"
    assert verdicts["reference", "good"] == "worse"
    assert len(verdicts) == 21


def test_the_compute_budget_is_what_its_entry_has_spent(findings):
    good = next(x for x in findings["entries"] if x["name"] == "good")
    assert good["at"]["compute"]["step"] == 38  # a twentieth less than all of it
    data, compute = (good["at"][x]["gold"]["mean"] for x in ("data", "compute"))
    assert compute == pytest.approx(data - 0.05 * 2.0, abs=1e-4)
    assert [x["step"] for x in good["curve"]] == list(STEPS)


def test_what_was_not_measured_is_null_and_never_nan(findings):
    import json

    text = json.dumps(findings, allow_nan=False)
    assert "Infinity" not in text
    by_name = {x["name"]: x["at"]["data"] for x in findings["entries"]}
    assert by_name["reference"]["cost"] is None
    # What every run is before its first update was measured.
    assert by_name["reference"]["proxy"] == findings["reference"]["proxy"]


def test_the_tables_count_whom_each_is_better_and_worse_than(findings):
    assert markdown.against(findings, "data")["good"] == (5, 0)
    assert markdown.against(findings, "data")["reference"] == (2, 4)
    line = next(x for x in markdown.tables(findings).splitlines() if x.startswith("| good |"))
    assert line.endswith("| 40 | 0 | 5 | 0 | beta 0.1 |")


def test_a_compute_budget_that_nobody_set_is_refused():
    results = made_up()
    kept = [x for x in results.lines if x["entry"] != "fair"]
    failed = {"purpose": "final", "entry": "fair", "trial": 0, "seed": 3, "failed": "diverged"}
    with pytest.raises(BadInput, match=r"two finished runs of fair, .*; got diverged"):
        analysis.findings(Results(results.described, [*kept, failed]), {"command": ""})


def test_seeds_that_failed_are_counted_and_the_others_compared():
    results = made_up()
    kept = [x for x in results.lines if (x.get("entry"), x.get("seed")) != ("twin", 3)]
    failed = {"purpose": "final", "entry": "twin", "trial": 0, "seed": 3, "failed": "diverged"}
    found = analysis.findings(Results(results.described, [*kept, failed]), {"command": ""})
    twin = next(x for x in found["entries"] if x["name"] == "twin")
    assert twin["failed"] == "1 of 8 seeds: diverged"
    assert len(twin["at"]["data"]["seeds"]) == 7
    assert any({x["a"], x["b"]} == {"twin", "fair"} for x in found["pairs"]["data"])
    assert "| twin (failed: 1 of 8 seeds) |" in markdown.tables(found)


def test_a_claim_does_not_hold_by_the_runs_that_were_left():
    claim = Claim(name="c", says="s", source="p", entries=("good", "fair"))
    whole = made_up(claim)
    failed = {"purpose": "final", "entry": "good", "trial": 0, "seed": 99, "failed": "diverged"}
    some = Results(whole.described, [*whole.lines, failed])
    for results, verdict in ((whole, "holds"), (some, "inconclusive")):
        runs = {name: results.runs(name) for name in claim.entries}
        (found,) = judging.claims(results, runs, "")
        assert found["verdict"] == verdict
        assert ("Runs failed of good." in found["because"]) == (results is some)


def test_what_failed_may_be_worse_than_others_and_is_better_than_none():
    results = made_up()
    whole = analysis.findings(results, {"command": ""})["pairs"]["data"]
    told = next(x for x in whole if x["verdict"] != "inconclusive")
    names = told["a"], told["b"]
    better, worse = names if told["verdict"] == "better" else names[::-1]
    for name, expected in ((better, "inconclusive"), (worse, told["verdict"])):
        failed = {"purpose": "final", "entry": name, "trial": 0, "seed": 99, "failed": "diverged"}
        found = analysis.findings(Results(results.described, [*results.lines, failed]),
                                  {"command": ""})  # fmt: skip
        pair = next(x for x in found["pairs"]["data"] if (x["a"], x["b"]) == names)
        assert pair["verdict"] == expected
