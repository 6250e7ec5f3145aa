"""What differs between two runs of a comparison."""

from benchmarks import against


def entry(name, gold, **setting):
    return {"name": name, "at": {"data": {"gold": {"mean": gold}}}, "setting": setting}


def pair(a, b, verdict):
    return {"a": a, "b": b, "verdict": verdict}


OLD = {
    "entries": [entry("dpo", 2.5, rate=1e-3), entry("ppo", 2.6), entry("pro", 1.9)],
    "pairs": {
        "data": [pair("dpo", "pro", "better"), pair("ppo", "pro", "better"),
                 pair("dpo", "ppo", "inconclusive"), pair("dpo", "gone", "better")],
    },
    "claims": [{"name": "one", "verdict": "holds"}, {"name": "two", "verdict": "holds"}],
}  # fmt: skip
NEW = {
    "entries": [entry("dpo", 2.25, rate=3e-4), entry("ppo", 2.7), entry("pro", 2.3)],
    "pairs": {
        # The same pair the other way round is the same verdict.
        "data": [pair("pro", "dpo", "better"), pair("pro", "ppo", "worse"),
                 pair("dpo", "ppo", "worse")],
    },
    "claims": [{"name": "one", "verdict": "inconclusive"}, {"name": "two", "verdict": "holds"}],
}  # fmt: skip


def test_verdicts_are_compared_by_who_is_better():
    assert against.verdicts(OLD, NEW, "data") == [
        "of 3 pairs at equal data, 2 told apart before, 3 now: 0 lost, 1 gained, 1 turned",
        "gained: ppo over dpo",
        "turned: pro over dpo",
    ]


def test_means_stand_in_the_order_of_how_far_they_moved():
    assert against.moved(OLD, NEW)[2:] == [
        "| pro | 1.90 | 2.30 | +0.40 | 3 | 2 |",
        "| dpo | 2.50 | 2.25 | -0.25 | 2 | 3 |",
        "| ppo | 2.60 | 2.70 | +0.10 | 1 | 1 |",
    ]


def test_settings_and_claims_that_are_others_now():
    assert against.chosen(OLD, NEW) == ["dpo: rate 0.001 before, rate 0.0003 now"]
    assert against.claims(OLD, NEW) == ["one: holds before, inconclusive now"]
