"""A schedule tells easy pairs from hard ones, and how many hard ones each step has."""

import numpy as np
import pytest

from alignax.core.errors import BadInput
from alignax.core.schedule import Schedule


def counts(num_steps, batch_size, **settings) -> list[int]:
    return Schedule(**settings).hard_counts(num_steps=num_steps, batch_size=batch_size).tolist()


def hard(gaps, hard_gap=None) -> list[bool]:
    return Schedule(hard_gap=hard_gap).hard(np.array(gaps, np.float64)).tolist()


# --- Shares


def test_the_share_of_hard_pairs_grows_linearly_from_start_to_end():
    assert [Schedule().share(progress) for progress in (0.0, 0.25, 1.0)] == [0.0, 0.25, 1.0]
    # Half the way from 0.2 to 0.6, and a quarter of the way down from 1 to 0.
    assert Schedule(start=0.2, end=0.6).share(0.5) == pytest.approx(0.4)
    assert Schedule(start=1.0, end=0.0).share(0.25) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("num_steps", "batch_size", "settings", "expected"),
    [
        # Shares 0, 1/4, 1/2, 3/4, 1 of 4 pairs.
        (5, 4, {}, [0, 1, 2, 3, 4]),
        (5, 4, {"start": 1.0, "end": 0.0}, [4, 3, 2, 1, 0]),
        # Shares 1/4, 1/2, 3/4 of 4 pairs.
        (3, 4, {"start": 0.25, "end": 0.75}, [1, 2, 3]),
        # Of 2 pairs 0, 2/3, 4/3, 2, summed up 0, 2/3, 2, 4.
        (4, 2, {}, [0, 0, 2, 2]),
        # 3/2 pairs a step, summed up 3/2, 3, 9/2, 6.
        (4, 3, {"start": 0.5, "end": 0.5}, [1, 2, 1, 2]),
        # One step is the first, at progress 0.
        (1, 4, {"start": 0.5}, [2]),
    ],
)
def test_counts_worked_by_hand(num_steps, batch_size, settings, expected):
    assert counts(num_steps, batch_size, **settings) == expected


def test_shares_are_the_decimal_numbers_they_are_written_as():
    # Summed up 0.3, 0.6, 0.9, 1.2, ..., 2.7, 3. The double nearest to 0.3 is a little less, and
    # ten of them are less than 3.
    assert counts(10, 1, start=0.3, end=0.3) == [0, 0, 0, 1, 0, 0, 1, 0, 0, 1]


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (0.1, 0.7), (0.9, 0.05), (1.0, 1.0)])
@pytest.mark.parametrize(("num_steps", "batch_size"), [(11, 10), (97, 7), (1000, 64)])
def test_no_step_is_off_by_a_whole_pair_and_neither_is_the_run(start, end, num_steps, batch_size):
    schedule = Schedule(start=start, end=end)
    found = np.array(counts(num_steps, batch_size, start=start, end=end))
    wanted = np.array([batch_size * schedule.share(i / (num_steps - 1)) for i in range(num_steps)])
    assert np.abs(found - wanted).max() < 1.0
    assert np.abs(np.cumsum(found) - np.cumsum(wanted)).max() < 1.0
    assert found.min() >= 0
    assert found.max() <= batch_size


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"start": -0.1}, "schedule.start: expected a share of hard pairs in [0, 1]; got -0.1"),
        ({"end": 100.0}, "schedule.end: expected a share of hard pairs in [0, 1]; got 100.0"),
        ({"end": np.nan}, "schedule.end: expected a share of hard pairs in [0, 1]; got nan"),
    ],
    ids=repr,
)
def test_a_share_outside_0_to_1_is_refused(settings, text):
    with pytest.raises(BadInput) as error:
        Schedule(**settings)
    assert str(error.value) == (f"{text}.\n    0 is for easy pairs only, 1 for hard ones only.")


# --- Which pairs are hard


def test_pairs_up_to_the_median_gap_are_hard():
    assert hard([1, 1, 2, 2, 3, 3]) == [True] * 4 + [False] * 2  # the median is 2
    assert hard([4, 1, 3, 2]) == [False, True, False, True]  # it is 2.5
    assert hard([-1, 5]) == [True, False]  # it is 2


def test_where_the_median_is_the_largest_gap_all_others_are_hard():
    assert hard([1, 2, 2, 2]) == [True, False, False, False]
    assert hard([1, 2, 3, 3, 3]) == [True, True, False, False, False]


def test_pairs_up_to_and_at_hard_gap_are_hard():
    assert hard([0.5, 1.0, 1.5], hard_gap=1.0) == [True, True, False]
    assert hard([0.5, 1.0, 1.5], hard_gap=0.5) == [True, False, False]
    assert Schedule(hard_gap=0.1).hard(np.array([0.1, 0.2], np.float32)).tolist() == [True, False]


@pytest.mark.parametrize("levels", [2, 3, 50])
def test_pairs_of_one_gap_are_hard_or_easy_together_and_there_are_some_of_both(levels):
    draw = np.random.default_rng(0)
    for _ in range(50):
        gaps = np.append(draw.integers(0, levels, 30), [0, levels - 1]).astype(np.float64)
        found = Schedule().hard(gaps)
        assert 0 < found.sum() < len(gaps)
        assert gaps[found].max() < gaps[~found].min()


@pytest.mark.parametrize(
    ("gaps", "hard_gap", "text"),
    [
        (
            [2, 2, 2],
            None,
            "expected pairs of at least two gaps, so that some are easier than others; got 3 "
            "pairs, all of gap 2.\n    Add pairs from other sources, or train without a schedule.",
        ),
        (
            [],
            None,
            "expected pairs of at least two gaps, so that some are easier than others; got no "
            "pairs.\n    Add pairs from other sources, or train without a schedule.",
        ),
        (
            [1, 2, 3],
            0.5,
            "schedule.hard_gap: expected a gap from 1, the smallest there is, to less than 3, the "
            "largest; got 0.5, which leaves no pair hard.\n"
            "    Choose a gap between them, or None for the median.",
        ),
        (
            [1, 2, 3],
            3.0,
            "schedule.hard_gap: expected a gap from 1, the smallest there is, to less than 3, the "
            "largest; got 3, which leaves no pair easy.\n"
            "    Choose a gap between them, or None for the median.",
        ),
        (
            [1, np.nan, 3],
            None,
            "expected a gap of every pair that is a finite number; got nan for pair 1.\n"
            "    Look at the strengths of its two sources.",
        ),
    ],
)
def test_gaps_that_do_not_tell_easy_from_hard_are_refused(gaps, hard_gap, text):
    with pytest.raises(BadInput) as error:
        hard(gaps, hard_gap)
    assert str(error.value) == text
