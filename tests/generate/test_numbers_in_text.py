"""Numbers with a power of ten behind them, as computers write them."""

from fractions import Fraction

import pytest

from alignax.generate.numbers_in_text import as_fraction, final_number
from alignax.generate.reward_rules import NumberAnswer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is 6.02e23.", 602 * 10**21),
        ("1e-3", Fraction(1, 1000)),
        ("2.5E+4", 25_000),
        ("-.5e1", -5),
        ("1,234e2", 123_400),
        ("1e3/4e1", 25),
        ("#### 3e2 and 7", 300),
        ("3 e4", 4),  # a variable: only what follows at once belongs to the number
        ("2e", 2),
        ("2e-x", 2),
        ("5e3-2", 2),  # taken away from the first, not of its power
        ("8, not 1e1000", 8),  # none: it would take a thousand digits
        ("8, not 1/1e-1000", 8),
        ("1e999999999999", None),
    ],
)
def test_a_power_of_ten_belongs_to_the_number_that_it_follows_at_once(text, expected):
    assert final_number(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so \boxed{- 5}", -5),
        (r"\boxed{3 - 5}", 5),  # taken away, as in text
        (r"\boxed{- 5 + 3}", 3),
        (r"\boxed{\$ - 5}", -5),
        ("\\boxed{\u2212 \\frac{3}{4}}", Fraction(-3, 4)),
        ("- 5", -5),
        ("**- 1,234.50**.", Fraction(-2469, 2)),
        ("$- 5$", -5),
        ("- 2 1/2", Fraction(-5, 2)),
        ("+ 5", 5),
        ("3 - 5", 5),
        ("- 5 eggs", 5),  # a list
        ("- 5\n- 6", 6),
        ("a - 5", 5),
        ("#### - 5\nThat is all.", -5),
        ("#### - 5 eggs", 5),
        ("- ", None),
    ],
)
def test_a_space_after_a_sign_is_none_where_nothing_stands_before_the_sign(text, expected):
    assert final_number(text) == expected


def test_a_reference_with_a_power_of_ten_is_not_its_last_digits():
    assert as_fraction("1e-3") == Fraction(1, 1000)
    given = NumberAnswer()(["p"] * 3, ["3", "0.001", "1e-3"], answer=["1e-3"] * 3)
    assert given == [0.0, 1.0, 1.0]
