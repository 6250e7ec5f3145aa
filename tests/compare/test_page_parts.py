"""Ranks, scales, labels and numbers of the report, worked by hand."""

import itertools
import random

import pytest

from alignax.compare.page import axes, charts, league, words
from tests.compare import made_up


def _compared(*won: tuple[str, str]) -> dict:
    """Entries a to d by gold, with a verdict for every pair: `won` are (better, worse)."""
    names = sorted({name for pair in won for name in pair} | {"a", "b", "c", "d"})
    entries = [
        {"name": n, "title": n.upper(), "at": {"data": {"gold": {"mean": 1.0 - i / 10}}}}
        for i, n in enumerate(names)
    ]
    pairs = [
        {
            "a": a,
            "b": b,
            "difference": {"mean": 0.1, "low": -0.2, "high": 0.4},
            "p_holm": 0.5,
            "detectable": 0.3,
            "verdict": "better" if (a, b) in won else "inconclusive",
        }
        for a, b in itertools.combinations(names, 2)
    ]
    return {"entries": entries, "pairs": {"data": pairs}}


def test_a_rank_is_the_range_that_the_verdicts_leave():
    # a beats c and d, b beats d. None is better than a, two are worse: 1 to 4 - 2.
    found = league.ranks(_compared(("a", "c"), ("a", "d"), ("b", "d")), "data")
    assert found == {"a": (1, 2), "b": (1, 3), "c": (2, 4), "d": (3, 4)}


def test_without_a_shown_difference_all_share_all_places():
    assert set(league.ranks(_compared(), "data").values()) == {(1, 4)}
    assert league.headline(_compared(), "data") == (
        "A has the highest mean; 3 others are not told from it. 0 of 6 pairs are told apart."
    )


def test_the_table_is_by_reward_though_an_entry_further_down_may_be_worse_than_none():
    # c varies so much that only a is told from b, and nothing from c.
    found = _compared(("a", "b"))
    rows = league.rows(found | {"entries": found["entries"][::-1]}, "data")
    assert [row["entry"]["name"] for row in rows] == ["a", "b", "c", "d"]
    assert [row["rank"] for row in rows] == [(1, 3), (2, 4), (1, 4), (1, 4)]
    assert league.headline(found, "data") == (
        "A has the highest mean; 2 others are not told from it. 1 of 6 pairs are told apart."
    )


def test_a_pair_turned_round_has_the_other_sign_and_verdict():
    pair = league.verdicts(_compared(("a", "b")), "data")["b", "a"]
    assert pair["difference"] == {"mean": -0.1, "low": -0.4, "high": 0.2}
    assert pair["verdict"] == "worse"


def test_square_root_scale_puts_a_quarter_of_the_range_at_its_middle():
    axis = axes.Axis(0.0, 16.0, 0.0, 100.0, "sqrt")
    assert axis.at(4.0) == pytest.approx(50.0)


def test_logarithmic_scale_has_a_place_for_zero():
    axis = axes.fit([0.0, 1e3, 1e9], 0.0, 500.0, "log")
    assert axis.at(0.0) == 0.0
    assert axis.at(1e3) > 20
    assert (axis.at(1e6) - axis.at(1e3)) == pytest.approx(axis.at(1e9) - axis.at(1e6))
    assert axis.ticks()[0][1] == "0"


def test_ticks_are_round_and_keep_their_distance():
    axis = axes.Axis(0.13, 0.94, 0.0, 300.0)
    assert [text for _, text in axis.ticks(60.0)] == ["0.2", "0.4", "0.6", "0.8"]
    axis = axes.Axis(0.0, 40.0, 0.0, 600.0, "sqrt")
    at = [axis.at(value) for value, _ in axis.ticks(40.0)]
    assert all(b - a >= 40 for a, b in itertools.pairwise(at))


def test_labels_that_collide_become_a_block_around_their_mean():
    # Two at 10 and one at 100, 12 apart: 4 and 16 have the mean 10, the third stays.
    assert axes.spread([10.0, 100.0, 10.0], 12.0, 0.0, 200.0) == [4.0, 100.0, 16.0]


def test_labels_stay_within_their_bounds():
    assert axes.spread([1.0, 2.0], 12.0, 0.0, 50.0) == [0.0, 12.0]
    assert axes.spread([49.0, 50.0], 12.0, 0.0, 50.0) == [38.0, 50.0]


def test_no_two_names_on_a_picture_touch():
    chance = random.Random(1)
    points = [(chance.uniform(0, 400), chance.uniform(0, 300), f"entry {i}") for i in range(40)]
    marks = [(x - 5, y - 5, x + 5, y + 5) for x, y, _ in points]
    before = {"start": 0, "middle": 0.5, "end": 1}  # what of a label lies left of where it hangs
    after = {"start": 1, "middle": 0.5, "end": 0}
    found = axes.place(points, marks, [], (0.0, 0.0, 400.0, 300.0))
    boxes = [
        (
            spot[0] - before[spot[2]] * long,
            spot[1] - 9,
            spot[0] + after[spot[2]] * long,
            spot[1] + 3,
        )
        for (_, _, text), spot in zip(points, found, strict=True)
        if spot is not None
        for long in [axes.width_of(text)]
    ]
    assert 10 < len(boxes) < 40
    assert {spot[2] for spot in found if spot} == set(before)
    for a, b in [*itertools.combinations(boxes, 2), *itertools.product(boxes, marks)]:
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999.4, "999"),
        (999.7, "1 k"),
        (1_234_567, "1.23 M"),
        (-2.5e12, "\N{MINUS SIGN}2.5 T"),
        (0.05, "0.05"),
        (None, "\N{EN DASH}"),
    ],
)
def test_large_numbers_have_three_digits_and_a_prefix(value, text):
    assert words.compact(value) == text


def test_decimals_show_two_digits_of_the_interval():
    # A half width of 0.02: 0.020 has two digits at three decimals; of 3: 3.0 has two at one.
    assert words.places([{"mean": 0.5, "low": 0.48, "high": 0.52}]) == 3
    assert words.places([{"mean": 50.0, "low": 47.0, "high": 53.0}]) == 1
    assert words.places([None]) == 3


def test_a_number_that_rounds_to_zero_has_no_sign():
    assert words.number(-0.0001, 3) == "0.000"
    assert words.number(-0.25, 2) == "\N{MINUS SIGN}0.25"


def test_settings_lose_their_room_where_that_is_not_ambiguous():
    assert words.setting({"optim.rate": 1e-3, "method.beta": 0.1}) == "rate 0.001, beta 0.1"
    assert words.setting({"a.rate": 1, "b.rate": 2}) == "a.rate 1, b.rate 2"


def test_one_value_far_away_does_not_squeeze_the_others():
    assert axes.without_outliers([1, 2, 3, 4, 5, 6, 7, 8, 9, 80]) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert axes.without_outliers([1, 2, 3, 4, 5, 6, 7, 8, 9, 27]) == [*range(1, 10), 27]
    assert axes.without_outliers([80]) == [80]
    assert axes.without_outliers([]) == []


def test_a_point_beyond_the_edge_is_named_there_with_its_distance():
    found = made_up.findings()
    assert "beyond the edge" not in charts.frontier(found, "data", "wide")
    far = found["entries"][0]
    far["at"]["data"]["kl"] = {"mean": 500.0, "low": 400.0, "high": 600.0}
    drawn = charts.frontier(found, "data", "wide")
    assert f"beyond the edge: {words.short(far['title'])} at 500" in drawn
