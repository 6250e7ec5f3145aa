"""Numbers as computers write them and as LaTeX does."""

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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{\frac12}", Fraction(1, 2)),
        (r"\boxed{\frac{1}2}", Fraction(1, 2)),
        (r"\boxed{\frac1{20}}", Fraction(1, 20)),
        (r"\boxed{-\dfrac34}", Fraction(-3, 4)),
        (r"\boxed{\tfrac{-3}{4}}", Fraction(-3, 4)),
        (r"\boxed{\frac{- 3}{-4}}", Fraction(3, 4)),
        (r"\boxed{-\frac{-3}{4}}", Fraction(3, 4)),
        (r"\boxed{\displaystyle\frac{-3}{4}}", Fraction(-3, 4)),
        (r"\boxed{x\frac{1}{-2}}", Fraction(-1, 2)),
        (r"\boxed{3\frac12}", Fraction(7, 2)),
        (r"\boxed{3 \frac 1 2}", Fraction(7, 2)),
        (r"\frac123", 3),  # a half times three: the last number
        (r"\boxed{\frac{\pi}{2}}", 2),
    ],
)
def test_fractions_are_read_with_and_without_braces(text, expected):
    assert final_number(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{1\,000}", 1000),
        (r"\boxed{1\;000\;000.5}", Fraction(2000001, 2)),
        (r"\boxed{-1\ 000}", -1000),
        (r"\boxed{1{\,}000}", 1000),
        ("1\u2009000", 1000),
        (r"\boxed{2\,5}", 5),  # no group of three
        (r"\boxed{2024\,100}", 100),
        (r"\boxed{0.5\,123}", 123),
    ],
)
def test_groups_of_three_digits_with_a_space_of_latex_between_them_are_one_number(text, expected):
    assert final_number(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{12\text{ cm}^2}", 12),
        (r"\boxed{12\,\mathrm{cm}^{3}}", 12),
        (r"\boxed{12\mathrm{~m^2/s^{-1}}}", 12),
        (r"The area is $12\text{ cm}^2$.", 12),  # as a reference has it, without a box
        (r"\boxed{\text{12}}", 12),
        (r"\boxed{5\text{ or }7}", 7),
        (r"\boxed{90^{\circ}}", 90),
        (r"\boxed{\$1{,}234.50}", Fraction(2469, 2)),
        (r"\boxed{50\%}", 50),
        (r"\boxed{x = -5}", -5),
        (r"\boxed{2516_8}", 2516),  # by its digits, and not by its base
        (r"\boxed{1000_{2}}", 1000),
        (r"\boxed{x_2}", 2),
    ],
)
def test_units_powers_of_units_and_bases_are_not_the_number(text, expected):
    assert final_number(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{3 \times 10^4}", 30_000),
        (r"\boxed{-6.02\cdot10^{23}}", -602 * 10**21),
        (r"\boxed{1.5 \times 10^{-3}}", Fraction(3, 2000)),
        ("3 x 10^4", 30_000),
        ("3*10^4 m", 30_000),
        ("3 \u00d7 10^4.", 30_000),
        (r"\boxed{10^3}", 1000),
        (r"\boxed{2^{10}}", 10),  # nothing is worked out
        ("110^2", 2),
        ("10^3.5", Fraction(7, 2)),
        ("8, not 10^{1000}", 8),  # none: it would take a thousand digits
        ("8, not 10^" + "9" * 5000, 8),
    ],
)
def test_a_power_of_ten_in_latex_belongs_to_the_number_before_it(text, expected):
    assert final_number(text) == expected
