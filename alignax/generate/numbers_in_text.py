"""Numbers as people and models write them, read exactly.

A text is read as a `fractions.Fraction`, so that 0.1 + 0.2 is no trouble and 1/3 is itself.
"""

import decimal
import numbers
import re
from fractions import Fraction
from typing import Any

LONGEST = 100  # characters of a number; a longer one is none, and costs nothing to pass over
STEEPEST = 999  # power of ten of a number, likewise

# Digits with or without thousands separators, what comes after the point, and a power of ten that
# follows at once. What holds the parts apart from one another is that a group of three is not
# followed by a further digit.
_PLAIN = r"(?:(?:\d{1,3}(?:,\d{3})+(?![\d])|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
# A minus after a digit, a letter or a bracket is taken away from something: 5-3, x-3, (2)-3.
_SIGN = r"(?:(?<![\w)\]])[-+])?"
_NUMBER = re.compile(
    rf"(?P<sign>{_SIGN})[$€£]?(?P<second>{_SIGN})"
    rf"(?:(?P<whole>\d+)[ ](?=\d+/\d+))?"
    rf"(?P<top>{_PLAIN})(?:\s?/\s?[$€£]?(?P<bottom>{_PLAIN}))?"
)
_MARK = re.compile(r"####[\s*_]*")
_BOXED = r"\boxed{"
# A sign and its number with a space between them, where nothing can stand before the sign.
_APART = re.compile(r"^([\s$*_]*[-+])\s+(?=[\d.$€£])")
_BEHIND = re.compile(r"[\s$*_.%]*")  # a number that is nothing less for it
# What \frac takes: braces, or without them one digit.
_PART = r"\s*(?:\{\s*((?:-\s*)?[\d.,]+)\s*\}|(\d))"
_FRACTION = re.compile(rf"(-\s*)?\\[dtc]?frac(?![a-z]){_PART}{_PART}")
# Groups of three digits with a space of LaTeX's or a thin one between them.
_APART_GROUPS = re.compile(
    r"(?<![\d.,])\d{1,3}(?:(?:\\[,:; ]|\{\\,\}|[\u2009\u202f])\d{3})+(?![\d])"
)
# A unit with powers: \text{ cm}^2, \mathrm{m/s^2}. Digits in it are powers alone.
_POWER = r"\^\s*(?:\d|\{\s*-?\d+\s*\})"
_UNIT = re.compile(
    rf"\\(?:text|textrm|textbf|mathrm|mbox)\s*\{{[^{{}}\d^]*(?:{_POWER}[^{{}}\d^]*)*\}}"
    rf"(?:\s*{_POWER})?"
)
_BASE = re.compile(r"(?<=\d)_(?:\d\d?(?!\d)|\{\s*\d\d?\s*\})")  # 2516_8 is compared by its digits
_SCIENTIFIC = re.compile(
    rf"(?<![\w.,/^])(?:(?P<times>{_PLAIN})(?:\s*(?:\\times|\\cdot|[\u00d7\u00b7*])\s*| x ))?"
    r"10\s*\^\s*(?:\{\s*(?P<braced>[-+]?\d+)\s*\}|(?P<bare>[-+]?\d+))(?!\.?\d)"
)


def final_number(text: str) -> Fraction | None:
    """The number that a text gives as its answer; None where it holds none.

    It is the number right after the last `####` that has one, or else the last number in the last
    `\\boxed{}`, or else the last number of all. A space may stand between a sign and its number
    where the sign begins a `\\boxed{}`, and where text, or line after `####`, is nothing more.

    Known points: "3 + 4 = 7." gives 7; "$1,234.50" 2469/2; "50%" 50; "-3/4" and
    "-\\frac{3}{4}" -3/4; "2 1/2" 5/2; "5-3" 3; "6e-2" 3/50; "- 5" -5; "3 - 5" and "- 5 eggs" 5;
    "\\frac12" 1/2; "1\\,000" 1000; "12\\text{ cm}^2" 12; "3 \\times 10^4" 30,000. Nothing is worked
    out: of "5\\sqrt{3}" and "2^{10}" it is the last number, too.
    """
    text = _plain(text)
    for mark in reversed(list(_MARK.finditer(text))):
        match = _NUMBER.match(text, mark.end())
        if match and (value := _value(match)) is not None:
            return value
        if (value := _alone(text[mark.end() :].partition("\n")[0])) is not None:
            return value
    value = _last(_APART.sub(r"\1", _boxed(text)))
    value = _alone(text) if value is None else value
    return _last(text) if value is None else value


def as_fraction(reference: Any) -> Fraction:
    """A reference's value: of a number the number, of a text its `final_number`.

    Raises:
        ValueError: it holds none.
    """
    value = None
    if isinstance(reference, str):
        value = final_number(reference)
    elif isinstance(reference, decimal.Decimal | float):
        # By its digits: 0.1 means a tenth, and not the binary fraction next to it.
        value = Fraction(str(reference)) if abs(reference) < float("inf") else None
    elif isinstance(reference, numbers.Rational):  # whole numbers too, and NumPy's
        value = Fraction(int(reference.numerator), int(reference.denominator))
    elif isinstance(reference, numbers.Real):  # NumPy's floats
        return as_fraction(float(str(reference)))
    if value is None:
        raise ValueError(f"the reference {reference!r} holds no number")
    return value


def _plain(text: str) -> str:
    """Without what LaTeX and typography put around numbers."""
    text = text.replace("\u2212", "-").replace("{,}", ",").replace("\\$", "$").replace("\\!", "")
    text = _APART_GROUPS.sub(lambda found: re.sub(r"\D", "", found.group()), text)
    text = _BASE.sub("", _UNIT.sub(r"\\text{}", text))
    # 2\frac{1}{2} is two and a half.
    text = re.sub(r"(\d)\s*(\\[dtc]?frac(?![a-z]))", r"\1 \2", text)
    return _SCIENTIFIC.sub(_scientific, _FRACTION.sub(_over, text))


def _over(found: re.Match[str]) -> str:
    """A fraction in one line; what follows is no further digit of it."""
    before, top, bottom = found[1] or "", found[2] or found[3], found[4] or found[5]
    if ("-" in top) != ("-" in bottom):
        # Of two signs nothing is left. Behind a letter a sign would be a subtraction's.
        letter = found.string[: found.start()][-1:].isalpha()
        before = "+" if before else " -" if letter else "-"
    behind = " " if found.string[found.end() : found.end() + 1].isdigit() else ""
    return f"{before}{top.lstrip('- ')}/{bottom.lstrip('- ')}{behind}"


def _scientific(found: re.Match[str]) -> str:
    times = found["times"] or "1"
    if "e" in times.lower():
        return found.group()
    return f"{times}e{found['braced'] or found['bare']}"


def _boxed(text: str) -> str:
    """What stands in the last `\\boxed{}`, braces inside it included; empty where there is none."""
    _, box, after = text.rpartition(_BOXED)
    depth = 1 if box else 0
    for end, character in enumerate(after if box else ""):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if not depth:
            return after[:end]
    return after if box else ""


def _alone(text: str) -> Fraction | None:
    """The number that a text is, with a sign apart from it; None where it is anything else."""
    joined, apart = _APART.subn(r"\1", text)
    match = _NUMBER.search(joined) if apart else None
    return _value(match) if match and _BEHIND.fullmatch(joined, match.end()) else None


def _last(text: str) -> Fraction | None:
    value = None
    for match in _NUMBER.finditer(text):
        found = _value(match)
        value = value if found is None else found
    return value


def _value(match: re.Match[str]) -> Fraction | None:
    if len(match.group()) > LONGEST:
        return None
    whole, top, bottom = match["whole"], match["top"], match["bottom"]
    if any(abs(_power_of_ten(part)) > STEEPEST for part in (top, bottom or "")):
        return None
    value = _digits(top)
    if bottom is not None:
        if not (below := _digits(bottom)):
            return None
        value /= below
    if whole:
        value += _digits(whole)
    return -value if "-" in match["sign"] + match["second"] else value


def _power_of_ten(text: str) -> int:
    return int(text.lower().partition("e")[2] or 0)


def _digits(text: str) -> Fraction:
    return Fraction(text.replace(",", ""))
